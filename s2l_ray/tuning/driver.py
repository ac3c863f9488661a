"""Running a study: Ray, the trials' plans, the shared bank, Tune's loop, and the report.

result = run_study("quickstart", "tune_schedule", ["tune.trials=4"])
result = resume_study("outputs/tune_schedule")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from rich.console import RenderableType

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.config import Config
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.display.text import print_line, with_short_paths
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.kinds import BankMode, TrackedStatus
from s2l_ray.machine.console import CommandConsole
from s2l_ray.machine.disk import writing
from s2l_ray.machine.ending import parting_words
from s2l_ray.machine.places import refuse_session_directory
from s2l_ray.run.directory import LOCK
from s2l_ray.run.lock import RunLock
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.final import FinalTable
from s2l_ray.tuning.last_words import last_words, resume_command
from s2l_ray.tuning.live import StudyDisplay
from s2l_ray.tuning.observer import StudyObserver
from s2l_ray.tuning.optuna_source import Suggested
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.parent_run import ParentRun, check_store
from s2l_ray.tuning.place import RESULTS, StudyPlace
from s2l_ray.tuning.preparing import PreparedStudy, prepare, prepare_again
from s2l_ray.tuning.ranking import best_of
from s2l_ray.tuning.reading import load_study, split_overrides
from s2l_ray.tuning.report import write_report
from s2l_ray.tuning.room import Room
from s2l_ray.tuning.samples import nested_with
from s2l_ray.tuning.schedulers import build_scheduler, rungs_of
from s2l_ray.tuning.searching import Drawn, Source, StudyTrials, trial_id
from s2l_ray.tuning.sharing import with_bank
from s2l_ray.tuning.slices import sliced
from s2l_ray.tuning.space import Values
from s2l_ray.tuning.store_lock import StoreLock
from s2l_ray.tuning.study_bank import record_bank
from s2l_ray.tuning.study_file import StudyFile
from s2l_ray.tuning.trial_plans import planned_trials
from s2l_ray.tuning.tune_loop import Loop


@dataclass(frozen=True)
class StudyResult:
    """What a study came to."""

    about: StudyAbout
    outcomes: list[TrialOutcome]
    """Of all trials that were begun."""
    facts: StudyFacts
    problems: Sequence[S2LError] = ()
    """Why some of it could not be written; none if everything was."""

    @property
    def table(self) -> RenderableType:
        """The results for a terminal, from the best trial to the worst."""
        return FinalTable(self.about, self.outcomes, self.facts)

    @property
    def first_error(self) -> str | None:
        """Why no trial got to an end: the message of the first one; None if one did."""
        failed = [outcome for outcome in self.outcomes if outcome.status == "failed"]
        return failed[0].error if failed and len(failed) == len(self.outcomes) else None


@dataclass(frozen=True)
class Ending:
    """What a start of a study leaves, and what it says."""

    begins: Callable[[StudyPlace], None] = lambda place: None
    """Called once all trials are known to be possible, before anything is written."""
    report: Callable[[StudyAbout, Sequence[TrialOutcome], StudyFacts, Config], list[Path]] = write_report
    """Writes the results into the study's directory, and returns the files (`report.write_report`)."""
    resume_command: Callable[[StudyPlace], str] = resume_command
    """The command that goes on with it."""
    retries_failed: bool = False
    """Whether the study is unfinished while trials have failed: the next start tries them again."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """What people call each trial, by its number; empty: by its number and values."""


def run_study(
    config: str, study: str | StudyFile, overrides: Sequence[str] = (), ending: Ending | None = None
) -> StudyResult:
    """Run a study, or go on with the unfinished one that the same call has begun. What `s2l tune` does.

    Args:
        config: a configuration: a file, or the name of one that s2l-ray ships.
        study: a study's file or the name of one that s2l-ray ships; or its content.
        overrides: `key=value` of the configuration, and `tune.key=value` of the study's file.
        ending: of what is more than a study.

    Raises:
        S2LError: anything that a user can correct; if possible before anything is started.
    """
    with TaskDisplay() as display:
        prepared = _prepared(config, study, overrides, display)
    return _run(prepared, ending or Ending())


def resume_study(directory: str, overrides: Sequence[str] = ()) -> StudyResult:
    """Go on with an unfinished study: the same trials, each from its last checkpoint. What `s2l tune --resume` does.

    Args:
        directory: of the study, or its URI in an object store.
        overrides: of keys without influence on results, such as `cluster.address=auto` or `tune.max_failures=3`.

    Raises:
        S2LError: there is no study or it is finished; or as `run_study`.
    """
    return _run(prepare_again(StudyPlace.existing(directory), overrides), Ending())


def _prepared(config: str, study: str | StudyFile, overrides: Sequence[str], display: TaskDisplay) -> PreparedStudy:
    of_config, of_study = split_overrides(overrides)
    if isinstance(study, StudyFile):
        if of_study:
            raise ConfigError(f"override tune.{of_study[0]}: the study is given as it is; change it there")
        file = study
    else:
        file = load_study(study, of_study)
    return prepare(config, file, of_config, FetchDisplay(display))


# ---- one start of a study -------------------------------------------------------------------------------------------


def _run(prepared: PreparedStudy, ending: Ending) -> StudyResult:
    place = prepared.place
    with ExitStack() as stack:
        refuse_session_directory("storage" if place.is_local else None, place.directory)
        stack.callback(_locked(place, prepared.base.cluster.lock_timeout_s))
        if not place.is_local:
            place.lock = StoreLock.acquire(place.storage, print)
            stack.callback(place.lock.close)
        _refuse_another_state(prepared)
        with TaskDisplay() as display:
            ready = _ready(prepared, display, stack, ending)
        return _tuned(prepared, ready)


def _locked(place: StudyPlace, timeout_s: float) -> Callable[[], None]:
    """Lock the study's directory on this machine; what unlocks it, and removes a directory that has got nothing."""
    with writing(place.directory):
        place.directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunLock.acquire(place.directory / LOCK, timeout_s, print)
    except ConfigError as error:
        raise ConfigError(str(error).replace("choose another run_dir", "choose another name")) from None

    def unlock() -> None:
        lock.close()
        with suppress(OSError):
            if [file.name for file in place.directory.iterdir()] == [LOCK]:
                (place.directory / LOCK).unlink()
                place.directory.rmdir()

    return unlock


def _refuse_another_state(prepared: PreparedStudy) -> None:
    """Refuse to write over what another start has done since this one read the study's state.

    Raises:
        ConfigError: the state is another one now.
    """
    if prepared.place.read() != prepared.before:
        raise ConfigError(
            f"{prepared.place}: another start of this study has gone on with it since this one began; give the same "
            "command again"
        )


@dataclass
class _Ready:
    """A study whose trials can begin."""

    about: StudyAbout
    at_once: int
    parent: ParentRun
    bank_mode: BankMode | None
    """Of the trials; None: as the configuration says."""
    began: float
    """`time.monotonic()` of this start."""
    ending: Ending


def _ready(prepared: PreparedStudy, display: TaskDisplay, stack: ExitStack, ending: Ending) -> _Ready:
    """Connect to Ray, plan every trial, open MLflow and record the bank. Nothing is written before all are possible."""
    where = with_short_paths(str(prepared.place))
    if prepared.before is not None and prepared.before.finished:
        display.say(
            f"{where}/{RESULTS} is damaged or not there: it is made again from what Ray Tune keeps of the trials"
        )
    elif prepared.resumed:
        display.say(f"going on with the study in {where}")
    if connect(prepared.base.cluster, display.say):
        stack.callback(end_private_ray)
    planned = planned_trials(prepared, display)
    at_once, state = planned.at_once, prepared.state
    nodes = max(len(planned.inventory.specs), sum(node["Alive"] for node in ray.nodes()))
    check_store(prepared.base.tracking, prepared.place, state.mlflow_uri, nodes)
    began = time.monotonic()
    ending.begins(prepared.place)
    prepared.place.write(state)
    goes_on = last_words([], ending.resume_command(prepared.place))
    stack.enter_context(parting_words("".join(f"{line}\n" for line in goes_on)))
    about = _about(prepared, at_once, ending.labels)
    parent = ParentRun.open(prepared.base.tracking, about, state.mlflow_run_id, state.mlflow_uri)
    bank_mode = None
    try:
        _remember(prepared, mlflow_run_id=parent.run_id, mlflow_uri=parent.uri)
        if prepared.file.share_bank:
            bank_mode, numbers = record_bank(prepared, display)
            _remember(prepared, bank=numbers)
    except BaseException as error:
        status: TrackedStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        said = parent.finish(status, [], StudyFacts(time.monotonic() - began), [])
        for line in last_words([said], ending.resume_command(prepared.place)):
            display.say(line)
        with suppress(S2LError):  # the error itself is what is to be shown
            _remember(prepared, seconds=prepared.state.seconds + time.monotonic() - began)
        raise
    return _Ready(about, at_once, parent, bank_mode, began, ending)


def _remember(prepared: PreparedStudy, **changes: object) -> None:
    """Change the study's state, here and where it is kept."""
    for name, value in changes.items():
        setattr(prepared.state, name, value)
    prepared.place.write(prepared.state)


def _about(prepared: PreparedStudy, at_once: int, labels: Mapping[int, str]) -> StudyAbout:
    file, place = prepared.file, prepared.place
    space = prepared.space
    is_grid = bool(space.runs) or all(domain.grid for domain in space.domains.values())
    return StudyAbout(
        name=place.name,
        keys=prepared.space.keys,
        trials=len(prepared.samples) if prepared.drawn else file.trials or 1,
        steps=prepared.steps,
        directory=place.directory,
        place=str(place) if place.is_local else place.storage.url,
        metric=file.metric,
        mode=file.mode,
        at_once=at_once,
        search="grid" if is_grid else file.search,
        scheduler=file.scheduler.kind,
        rungs=rungs_of(file.scheduler, prepared.steps),
        reduction=float(file.scheduler.reduction_factor or 1),
        seed=file.seed,
        confidence=prepared.base.evaluation.confidence,
        study=prepared.state.study,
        config=prepared.state.configuration,
        labels={f"{place.name}_{trial_id(number)}": label for number, label in labels.items()},
    )


def _tuned(prepared: PreparedStudy, ready: _Ready) -> StudyResult:
    """Run the trials; whatever happens then, report what they have done."""
    display = StudyDisplay(ready.about, spent=_seconds(prepared, ready))
    parent = ready.parent
    observer = StudyObserver(ready.about, parent.heard, display.heard, parent.problems(display.note))
    status: TrackedStatus = "FAILED"
    try:
        with display:
            room = Room(prepared.base.cluster.start_timeout_s, display.note)
            _loop(prepared, ready, observer, room).run()
        if any(outcome.status == "stopped" for outcome in observer.outcomes):  # by a signal that only Tune has seen
            raise KeyboardInterrupt
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        result = _reported(prepared, ready, observer, status)
    return result


def _loop(prepared: PreparedStudy, ready: _Ready, observer: StudyObserver, room: Room) -> Loop:
    file, is_pbt = prepared.file, prepared.file.scheduler.kind == "pbt"
    source: Source
    if prepared.drawn:
        source = Drawn([sample.values for sample in prepared.samples])
    else:
        source = Suggested(prepared.space, file.metric, file.mode, file.seed)
    total = ready.about.trials
    unfinished = total if is_pbt else ready.at_once  # pbt needs all of them: it pauses those that have to wait
    search = StudyTrials(
        ready.about.name,
        total,
        source,
        lambda number, values: _trial(prepared, ready, number, values),
        unfinished,
        keeps_actors=is_pbt,
    )
    return Loop(
        name=ready.about.name,
        place=prepared.place,
        search=search,
        scheduler=build_scheduler(file, prepared.space, prepared.base, prepared.steps, ready.at_once),
        callbacks=[observer, room],
        check=prepared.place.check,
        max_failures=file.max_failures,
        at_once=ready.at_once,
        exploits=is_pbt,
        retries_failed=ready.ending.retries_failed,
    )


def _trial(prepared: PreparedStudy, ready: _Ready, number: int, values: Values) -> dict[str, Any]:
    """The whole configuration of a trial, with what the study gives it; not checked."""
    base = with_bank(sliced(prepared.base, prepared.file), ready.bank_mode)
    base = base.model_copy(update={"name": ready.about.name, "tracking": ready.parent.tracking})
    return nested_with(base.model_dump(mode="json"), prepared.settings_of(number, values))


# ---- the end --------------------------------------------------------------------------------------------------------


def _reported(prepared: PreparedStudy, ready: _Ready, observer: StudyObserver, status: TrackedStatus) -> StudyResult:
    """Write the results, end the MLflow run and say how to go on; what cannot be written is said and hides nothing."""
    place, outcomes = prepared.place, observer.outcomes
    seconds = _seconds(prepared, ready)
    facts = StudyFacts(seconds, prepared.state.bank, ready.parent.run_id, ready.parent.uri)
    files: list[Path] = []
    said: list[str | None] = []
    problems: list[S2LError] = []
    with _collected(problems):
        place.check()
        if outcomes:
            best = prepared.as_given(best_of(ready.about, outcomes))
            files = ready.ending.report(ready.about, outcomes, facts, best)
    with _collected(problems):
        place.upload(files)
    with _collected(problems):
        said.append(ready.parent.finish(status, outcomes, facts, files))
    failed = sum(outcome.status == "failed" for outcome in outcomes) if ready.ending.retries_failed else 0
    with _collected(problems):
        _remember(prepared, seconds=seconds, finished=status == "FINISHED" and not failed and not problems)
    goes_on = None if prepared.state.finished and not problems else ready.ending.resume_command(place)
    console = CommandConsole()
    for line in last_words([*map(str, problems), *said], goes_on, failed if status == "FINISHED" else 0):
        print_line(console, line)
    return StudyResult(ready.about, outcomes, facts, problems)


@contextmanager
def _collected(problems: list[S2LError]) -> Iterator[None]:
    """Add what is raised in here to `problems`: the error that ended a study is not to be lost over it."""
    try:
        yield
    except S2LError as error:
        problems.append(error)


def _seconds(prepared: PreparedStudy, ready: _Ready) -> float:
    """For how long the study has run, all starts together."""
    return prepared.state.seconds + time.monotonic() - ready.began
