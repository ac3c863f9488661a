"""The MLflow run of a study, under which those of its trials are nested.

Who writes what: the process of a trial writes its own MLflow run, and how that ended; the driver tells it before its
end if it was pruned (`S2LPO.mark_pruned`). The driver alone writes to this run. When all trials are over, it ends the
runs that MLflow still believes to go on: their processes were killed, and nobody writes to them any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import ConfigError, DiskError, TrackingError
from s2l_ray.kinds import TrackedStatus, TrialEvent, TrialStatus
from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.run.description import git_commit, ray_job_id
from s2l_ray.run.tracking import where_it_was_tracked
from s2l_ray.tracking.mlflow_store import locate, sqlite_file
from s2l_ray.tracking.nested import end_nested
from s2l_ray.tracking.tracker import Tracker, open_tracker
from s2l_ray.tracking.undelivered import UNDELIVERED, read_undelivered
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.observer import Listener
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.place import StudyPlace
from s2l_ray.tuning.ranking import best_of, ranked

TABLE = "trials.json"
"""File in the study's directory, and artifact: the trials as a table that MLflow's pages show."""
ENDINGS: dict[TrialStatus, TrackedStatus] = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
"""How the MLflow run of a trial is to end; others are KILLED."""


class ParentRun:
    """The MLflow run of a study. Nothing but `finish` waits for a server.

    Args:
        config: tracking, of the configuration that the study varies.
        about: the study.
        tracker: of the study's run.
    """

    def __init__(self, config: TrackingConfig, about: StudyAbout, tracker: Tracker) -> None:
        self.run_id = tracker.run_id
        """MLflow's id, for the study's state; None if nothing is tracked."""
        self.uri = tracker.uri
        """Tracking URI without passwords, for the study's state."""
        self.tracking = config.model_copy(update={"uri": _for_trials(config, about), "parent_run": self.run_id})
        """What the trials are to track with: the same store and experiment, under this run."""
        self._config, self._about, self._tracker = config, about, tracker
        self._outcomes: dict[str, TrialOutcome] = {}

    @classmethod
    def open(
        cls, config: TrackingConfig, about: StudyAbout, run_id: str | None = None, uri: str | None = None
    ) -> ParentRun:
        """Start the study's run, or go on with the one that the study's state remembers.

        Args:
            config: tracking, of the configuration that the study varies.
            about: the study. Beside its directory is the default store; in it is what MLflow has not taken yet.
            run_id: of the run to go on with.
            uri: of the store that has it, as the study's state remembers it.

        Raises:
            TrackingError: the store cannot be used, or does not answer in time (tracking.timeout_s).
            DiskError: the directory cannot be written to.
        """
        config = where_it_was_tracked(config, uri)
        in_store = "://" in about.place  # whose directory here does not say which study it is of
        sent_by = f"s2l track {redact(about.place)} sends them, and so does a resume" if in_store else None
        tracker = open_tracker(config, about.directory, about.name, run_id, sent_by)
        tracker.log_params({"study": about.study, "config": about.config, "run_dir": str(about.directory.resolve())})
        tags = {
            "s2l.study": about.name,
            "metric": about.metric,
            "search": about.search,
            "scheduler": about.scheduler,
            "mlflow.source.name": "s2l-ray",
            "mlflow.source.type": "JOB",
            "mlflow.source.git.commit": git_commit(Path.cwd()),
            "ray_job_id": ray_job_id(),
            "mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}]),
        }
        tracker.set_tags({key: value for key, value in tags.items() if value is not None})
        return cls(config, about, tracker)

    @property
    def problem(self) -> str | None:
        """Why something is not delivered, in a line; None when everything is, or is on its way."""
        return self._tracker.problem

    def heard(self, event: TrialEvent, outcome: TrialOutcome) -> None:
        """A listener of `StudyObserver`: log the table when a trial ends or changes."""
        self._outcomes[outcome.name] = outcome
        if event in ("ended", "exploited", "failed"):
            self._log(list(self._outcomes.values()))

    def problems(self, note: Callable[[str], None]) -> Listener:
        """A listener of `StudyObserver` that says when MLflow stops taking what is logged, and when it takes it again.

        Args:
            note: shows a line.
        """
        said: list[str | None] = [None]

        def heard(event: TrialEvent, outcome: TrialOutcome) -> None:
            if self.problem != said[-1]:
                said.append(self.problem)
                note(self.problem or "MLflow answers again; everything was delivered")

        return heard

    def finish(
        self, status: TrackedStatus, outcomes: Sequence[TrialOutcome], facts: StudyFacts, files: Sequence[Path]
    ) -> str | None:
        """Log the table, the best trial and files, and end the run; the wait for a server is bounded.

        Metrics are logged when all trials are over, so that a study that was stopped and resumed has one value of each.

        Args:
            status: FINISHED: all trials are over; KILLED: the study was stopped; FAILED.
            outcomes: of all of its trials; none: it ended before they began, and the table of an earlier start stays.
            facts: what it cost.
            files: what was written, see `report.write_report`.

        Returns:
            What MLflow did not take, and what sends it; None if it has everything.
        """
        if outcomes:
            self._log(outcomes)
        best = best_of(self._about, outcomes)
        if best is not None:
            self._tag_best(best)
        if status == "FINISHED":
            self._tracker.log_metrics(self._numbers(best, facts), len(outcomes))
        for path in files:
            self._tracker.log_artifact(path, "figures" if path.suffix == ".png" else None)
        said = []
        for end in (partial(self._tracker.finish, status), partial(self._end_trials, outcomes)):
            try:
                end()
            except TrackingError as undelivered:
                said.append(str(undelivered))
        lacking = [outcome.directory for outcome in outcomes if self.run_id and _is_lacking(outcome)]
        if lacking:
            which = "one trial" if len(lacking) == 1 else f"{len(lacking)} trials"
            said.append(f"MLflow lacks part of {which}; s2l track sends it: {' '.join(lacking)}")
        return "\n".join(said) or None

    def _log(self, outcomes: Sequence[TrialOutcome]) -> None:
        """Log how the trials stand."""
        # A file is sent as it is then: a table that a server was away for cannot take the place of a later one.
        if self.run_id is not None:
            path = self._about.directory / TABLE
            with suppress(DiskError):  # the report, which comes at the end, says so
                write_whole(path, json.dumps(table_of(self._about, outcomes)))
                self._tracker.log_artifact(path)

    def _numbers(self, best: TrialOutcome | None, facts: StudyFacts) -> dict[str, float]:
        """What the study came to and cost, as metrics, to compare studies by."""
        numbers = {f"bank/{key}": value for key, value in facts.bank.items()} | {"study/seconds": facts.seconds}
        if best is not None:
            metric = self._about.metric
            low, high = best.interval or (None, None)
            numbers |= {f"best/{key}": value for key, value in best.values.items()}
            numbers |= {f"best/{metric}": best.metric, f"best/{metric}_low": low, f"best/{metric}_high": high}
        return {key: float(value) for key, value in numbers.items() if _is_number(value)}

    def _tag_best(self, best: TrialOutcome) -> None:
        """The best trial so far, and all of its values."""
        tags = {f"best/{key}": v if isinstance(v, str) else json.dumps(v) for key, v in best.values.items()}
        self._tracker.set_tags(tags | {"best_trial": best.name, "best_trial_run": best.mlflow_run_id or ""})

    def _end_trials(self, outcomes: Sequence[TrialOutcome]) -> None:
        if self.run_id is None:
            return
        endings = {outcome.name: ENDINGS.get(outcome.status, "KILLED") for outcome in outcomes}
        try:
            end_nested(self._config, self._about.directory, self.run_id, endings)
        except TrackingError as error:
            raise TrackingError(f"{error}. It may show trials that were killed as running") from None


def check_store(config: TrackingConfig, place: StudyPlace, known: str | None, nodes: int) -> None:
    """Refuse a database file of this machine for trials on others, which would each find an empty one.

    Args:
        config: tracking, of the configuration that the study varies.
        place: of the study. Where it is a directory, the nodes share it, and the database beside it.
        known: the tracking URI that the study's state remembers.
        nodes: how many the cluster has.

    Raises:
        ConfigError: it is such a file.
    """
    if place.is_local or nodes == 1 or not config.enabled:
        return
    uri, _ = locate(where_it_was_tracked(config, known).uri, place.directory.parent)
    if sqlite_file(uri) is not None:
        raise ConfigError(
            f"tracking: {redact(uri)} is a file of this machine, and trials run on {nodes} nodes, which share the "
            "storage alone. Several nodes need an MLflow server: set MLFLOW_TRACKING_URI, or tracking.enabled=false"
        )


def table_of(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """The trials, best first, as the table that `mlflow.load_table` reads."""
    columns = ["trial", *about.keys, about.metric, "low", "high", "at_step", "steps_done", "status", "steps_seconds"]
    data = []
    for outcome in ranked(about, outcomes):
        low, high = outcome.interval or (None, None)
        row: Sequence[Any] = (
            *(outcome.name, *(outcome.values.get(key) for key in about.keys), outcome.metric, low, high),
            *(outcome.metric_step, outcome.step, outcome.status, round(outcome.seconds, 1), outcome.mlflow_run_id),
        )
        data.append(list(row))
    return {"columns": [*columns, "run_id"], "data": data}


def _for_trials(config: TrackingConfig, about: StudyAbout) -> str | None:
    """The tracking URI for trials, whose directories are elsewhere; one with a password stays in the environment."""
    if not config.enabled:
        return config.uri
    uri, _ = locate(config.uri, about.directory.resolve().parent)
    return uri if redact(uri) == uri else config.uri


def _is_lacking(outcome: TrialOutcome) -> bool:
    """Whether a trial was not tracked, or its directory, if on this machine, has something MLflow has not taken."""
    file = Path(outcome.directory) / UNDELIVERED
    return (outcome.step > 0 and outcome.mlflow_run_id is None) or (file.is_file() and bool(read_undelivered(file)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
