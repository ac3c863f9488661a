"""What the plan predicted of each phase of a run, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from s2l_ray.report.reading import RunFiles

SKIPPED = 2
"""Steps at the beginning of a run that are not compared: engines compile and caches fill in them."""


@dataclass(frozen=True)
class PlannedPhase:
    """One phase: explore, mix or on-policy."""

    name: str
    steps: str
    """Such as "1 to 12"."""
    predicted_s: float
    """Seconds of an average step."""
    measured_s: float | None
    """Median seconds of the phase's steps, evaluations and checkpoints left out; None if none was done."""

    @property
    def ratio(self) -> float | None:
        """Measured by predicted."""
        return self.measured_s / self.predicted_s if self.measured_s is not None and self.predicted_s else None


@dataclass(frozen=True)
class PlannedDevice:
    """The memory of a device, at its fullest."""

    name: str
    used_gib: float
    """Predicted."""
    capacity_gib: float
    roles: str


def phases_of(run: RunFiles) -> list[PlannedPhase]:
    """The phases of the plan; none without one."""
    return [_phase(run, phase) for phase in (run.plan or {}).get("phases", [])]


def _phase(run: RunFiles, phase: dict[str, float | str | int]) -> PlannedPhase:
    first, last = int(phase["first_step"]), int(phase["last_step"])
    own = [record for record in run.records if first <= record.step <= last and record.step > SKIPPED]
    seconds = [
        record.seconds["total"] - record.seconds.get("evaluate", 0.0) - record.seconds.get("checkpoint", 0.0)
        for record in own
    ]
    measured = median(seconds) if seconds else None
    steps = f"{first} to {last}" if last > first else str(first)
    return PlannedPhase(str(phase["name"]), steps, float(phase["step_seconds"]), measured)


def devices_of(run: RunFiles) -> list[PlannedDevice]:
    """The devices of the plan; none without one. Of many alike one is shown, and how many there are."""
    found: dict[tuple[int, int, str], list[str]] = {}
    for device in (run.plan or {}).get("gpus", []):
        roles = sorted({role.partition(":")[0] for own in device["roles"].values() for role in own})
        key = (device["used_bytes"], device["capacity_bytes"], ", ".join(roles))
        place = f"node {device['node']}" + ("" if device["gpu"] is None else f", GPU {device['gpu']}")
        found.setdefault(key, []).append(place)
    return [
        PlannedDevice(
            places[0] if len(places) == 1 else f"{len(places)} devices, such as {places[0]}",
            used / 2**30,
            capacity / 2**30,
            roles,
        )
        for (used, capacity, roles), places in found.items()
    ]
