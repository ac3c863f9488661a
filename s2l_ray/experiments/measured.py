"""What the runs of an experiment left on disk: held-out evaluations, and what had been spent before each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2l_ray.errors import DataError, S2LError
from s2l_ray.experiments.arms import PlannedRun
from s2l_ray.experiments.experiment_file import AXES, COMMON, AtSection, Axis
from s2l_ray.kinds import TrialStatus
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.machine.storage import Storage
from s2l_ray.results import EvaluationRecord, Spent
from s2l_ray.tuning.measured import EVALUATION
from s2l_ray.tuning.outcomes import TrialOutcome

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Point:
    """One held-out evaluation of the learner."""

    step: int
    values: Mapping[str, float]
    """The evaluation's metrics, by name: eval/learner/pass_at_1 and so on."""
    spent: Spent | None = None
    """What training had spent before it; None of a run by an earlier version."""

    @property
    def at(self) -> dict[Axis, float]:
        """Where it is on each axis; not a number where that is not known."""
        at: dict[Axis, float] = dict.fromkeys(AXES, float("nan")) | {"steps": float(self.step)}
        if self.spent is not None:
            at["seconds"] = self.spent.seconds
            if (compute := self.spent.compute) is not None:
                at |= {"prompts": compute.prompts, "tokens": compute.sampled_tokens, "flops": compute.flops}
        return at


@dataclass(frozen=True)
class MeasuredRun:
    """One run of an experiment."""

    run: PlannedRun
    status: TrialStatus
    directory: str
    error: str | None = None
    points: tuple[Point, ...] = ()
    """By ascending step; none of a run that did not get to its end."""
    spent: Spent | None = None
    """On training."""

    def end(self, axis: Axis) -> float:
        """How much of what an axis counts the run had spent at its last evaluation."""
        return self.points[-1].at[axis]

    def value(self, metric: str, at: AtSection | None, common: float) -> float | None:
        """The metric where arms are compared.

        Args:
            metric: its name.
            at: where; None: at the end.
            common: what `common` stands for.

        Returns:
            The value; between two evaluations it is interpolated. None: the run did not get there.
        """
        known = [(point, value) for point in self.points if (value := point.values.get(metric)) is not None]
        if not known:
            return None
        if at is None:
            return known[-1][1]
        return interpolated(
            [point.at[at.axis] for point, _ in known],
            [value for _, value in known],
            common if at.value == COMMON else float(at.value),
        )


def interpolated(places: Sequence[float], values: Sequence[float], place: float) -> float | None:
    """The value at a place between the first and the last, linear between its neighbours; None beyond them."""
    for left, right, before, after in zip(places, places[1:], values, values[1:], strict=False):
        if left <= place <= right:
            share = (place - left) / (right - left) if right > left else 1.0
            return before + share * (after - before)
    return values[-1] if place == places[-1] else None


def measured_runs(runs: Sequence[PlannedRun], outcomes: Sequence[TrialOutcome], study: Storage) -> list[MeasuredRun]:
    """What each run came to.

    Args:
        runs: of the experiment.
        outcomes: of the trials that were begun, by number in their names.
        study: where the study that ran them is kept.

    Raises:
        DataError: runs have finished, and what they left can be read of none of them.
        StorageError: the store does not answer.
    """
    by_number = {outcome.number: outcome for outcome in outcomes}
    found = [_measured(run, by_number.get(run.number), study) for run in runs]
    unread = [one for one in found if one.status == "failed" and by_number[one.run.number].status == "finished"]
    if unread and not any(one.status == "finished" for one in found):
        which = "the run that finished" if len(unread) == 1 else f"any of the {len(unread)} runs that finished"
        first = unread[0]
        raise DataError(f"the results of {which} cannot be read; of {first.run.label} {first.error}")
    return found


def _measured(run: PlannedRun, outcome: TrialOutcome | None, study: Storage) -> MeasuredRun:
    if outcome is None:
        return MeasuredRun(run, "waiting", "")
    if outcome.status != "finished":
        return MeasuredRun(run, outcome.status, outcome.directory, outcome.error)
    # The run's own path is one on the machine that ran it, or where the study was before it was moved.
    is_kept = study.exists(kept := f"{outcome.directory_name}/{SUMMARY}")
    try:
        text = study.read(kept) if is_kept else Storage(outcome.directory, "the directory of a run").read(SUMMARY)
        summary = json.loads(text)
        evaluation = summary["evaluation"]
        records = [evaluation["before"], *evaluation["during"], evaluation["after"]]
        points = [point_of(EvaluationRecord.from_json(record)) for record in records if record is not None]
        spent = Spent.from_json(summary["spent"])
    except S2LError as error:
        return MeasuredRun(run, "failed", outcome.directory, f"its {SUMMARY} cannot be read: {error}")
    except MISREAD as error:
        reason = f"its {SUMMARY} in {outcome.directory} is damaged ({misread(error)})"
        return MeasuredRun(run, "failed", outcome.directory, reason)
    return MeasuredRun(run, outcome.status, outcome.directory, None, tuple(points), spent)


def point_of(record: EvaluationRecord) -> Point:
    """An evaluation as a point of a curve."""
    values = {f"{EVALUATION}pass_at_{k}": value for k, value in record.pass_at.items()}
    return Point(record.step, values | {f"{EVALUATION}reward": record.reward}, record.spent)
