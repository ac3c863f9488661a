"""The records of a simulated run: steps, activities, and figures over them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from s2l_ray.kinds import ActivityKind, PhaseName


@dataclass(frozen=True)
class Activity:
    """What one actor did, from `start` to `end`, in seconds since the run began."""

    actor: str
    """Such as "trainer 0", "explorer 1", "verifier 0"."""
    kind: ActivityKind
    step: int
    start: float
    end: float


@dataclass(frozen=True)
class SimulatedStep:
    """One step; the same names as in a run's StepRecord."""

    step: int
    phase: PhaseName
    start: float
    """Seconds since the run began."""
    seconds: dict[str, float]
    """"rollout", "sleep_wake" (where engines sleep), "update", "weight_sync" and "total"."""
    spans: dict[str, float]
    """Seconds from the first request of a source to its last verdict: "explore", "learner_generate"."""


@dataclass(frozen=True)
class Simulation:
    """A simulated run."""

    steps: tuple[SimulatedStep, ...]
    activities: tuple[Activity, ...]
    """What every actor did, in no particular order."""
    left_out: tuple[str, ...] = ()
    """What the run has and the simulation has not, in words."""

    @cached_property
    def run_seconds(self) -> float:
        """From the beginning of the first step to the end of the last."""
        last = self.steps[-1]
        return last.start + last.seconds["total"]

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step."""
        return float(np.mean([step.seconds["total"] for step in self.steps]))

    def phase_seconds(self) -> dict[PhaseName, float]:
        """Mean step of each phase, in the order of the run."""
        names = dict.fromkeys(step.phase for step in self.steps)
        return {name: float(np.mean([s.seconds["total"] for s in self.steps if s.phase == name])) for name in names}

    def busy(self, phase: PhaseName) -> dict[str, float]:
        """Share of the phase's time in which actors of each kind work: "trainer", "learner", "explorer", "verifier".

        The mean over those actors that do anything in the phase.
        """
        steps = [step for step in self.steps if step.phase == phase]
        begin, end = steps[0].start, steps[-1].start + steps[-1].seconds["total"]
        worked: dict[str, float] = defaultdict(float)
        actors: dict[str, set[str]] = defaultdict(set)
        for activity in self.activities:
            inside = min(activity.end, end) - max(activity.start, begin)
            if inside > 0 and activity.kind not in ("start", "sleep_wake"):
                kind = activity.actor.split()[0]
                worked[kind] += inside
                actors[kind].add(activity.actor)
        return {kind: seconds / len(actors[kind]) / (end - begin) for kind, seconds in worked.items()}

    def to_json(self) -> dict[str, Any]:
        """The means of each phase and every step, without the activities, as JSON types."""
        phases = [
            {"name": name, "step_seconds": seconds, "busy": self.busy(name)}
            for name, seconds in self.phase_seconds().items()
        ]
        return {"step_seconds": self.step_seconds, "phases": phases, "steps": [asdict(step) for step in self.steps]}
