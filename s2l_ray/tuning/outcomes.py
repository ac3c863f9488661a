"""How the trials of a study stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from s2l_ray.kinds import TrialStatus
from s2l_ray.results import finite

OVER: tuple[TrialStatus, ...] = ("finished", "pruned", "failed", "stopped")
"""Statuses of a trial that does nothing more."""


@dataclass(frozen=True)
class Exploit:
    """PBT gave a trial the weights, the optimizer and the changed values of a better one."""

    step: int
    """Steps that the donor had done: where this trial goes on."""
    own_step: int
    """Steps that this trial had done."""
    donor: str
    """Name of the trial that it was given from."""
    changed: Mapping[str, tuple[Any, Any]]
    """Dotted key -> (this trial's value before, and now), for the values that differ."""

    def is_in(self, exploits: Sequence[Exploit]) -> bool:
        """Whether the last of `exploits` is this one."""
        return bool(exploits) and (exploits[-1].donor, exploits[-1].step) == (self.donor, self.step)


@dataclass(frozen=True)
class TrialOutcome:
    """One trial of a study."""

    name: str
    """NAME_00003: also the name of its directory and of its MLflow run."""
    values: Mapping[str, Any]
    """The values of the keys that the study varies, by dotted key; PBT changes them."""
    steps: int
    """schedule.steps of the trial."""
    status: TrialStatus = "waiting"
    step: int = 0
    """Steps that are done."""
    metric: float | None = None
    """The newest value of the study's metric; None: not measured yet."""
    metric_step: int | None = None
    """Step at which that was measured."""
    interval: tuple[float, float] | None = None
    """Its confidence interval over held-out problems, where the metric is pass@k."""
    history: tuple[tuple[int, float], ...] = ()
    """(step, value) of every measurement of the metric, by ascending step."""
    interval_before: tuple[float, float] | None = None
    """The confidence interval of the measurement at step 0, before training."""
    seconds: float = 0.0
    """Wall-clock time of its steps, without starts of engines."""
    directory: str = ""
    """Its run directory: a path, or a URL where the storage is an object store."""
    mlflow_run_id: str | None = None
    """None: it is not tracked, or its last start did not reach the server; `s2l track` logs it then."""
    error: str | None = None
    """Why it failed, in one message."""
    failures: int = 0
    """How often it failed, those after which it was tried again included."""
    exploits: tuple[Exploit, ...] = ()

    @property
    def number(self) -> int:
        """From 1, as its name ends."""
        return int(self.name.rpartition("_")[2])

    @property
    def before(self) -> float | None:
        """The metric before training; None: not measured, or not yet."""
        return dict(self.history).get(0)

    @property
    def has_done_all(self) -> bool:
        """Whether all of its steps are done."""
        return self.step >= self.steps

    @property
    def directory_name(self) -> str:
        """The last part of its run directory."""
        return PurePosixPath(self.directory).name

    @property
    def is_over(self) -> bool:
        """Whether the trial does nothing more."""
        return self.status in OVER

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values, for tune.json."""
        row: dict[str, Any] = finite(asdict(self))
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TrialOutcome:
        """The outcome that `to_json` made `row` of."""
        exploits = tuple(
            Exploit(**{**one, "changed": {key: tuple(pair) for key, pair in one["changed"].items()}})
            for one in row["exploits"]
        )
        history = tuple((step, value) for step, value in row["history"])
        intervals = {key: tuple(row[key]) for key in ("interval", "interval_before") if row.get(key)}
        return cls(**{**row, **intervals, "history": history, "exploits": exploits})


@dataclass(frozen=True)
class StudyFacts:
    """What a study cost and what it was run with, for tune.json."""

    seconds: float
    """Wall-clock time from its first start; where it was resumed, without the time in which it did not run."""
    bank: Mapping[str, Any] = field(default_factory=dict)
    """Numbers about the shared bank, JSON values; empty: nothing was shared."""
    mlflow_run_id: str | None = None
    """MLflow's id of the study's own run, the parent of its trials'."""
    mlflow_uri: str | None = None


def study_files(directory: Path) -> dict[str, Path]:
    """Where the results of a study are, by what they are."""
    return {
        "table": directory / "tune.json",
        "best": directory / "best.yaml",
        "figure": directory / "figures" / "study.png",
    }
