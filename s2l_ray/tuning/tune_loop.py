"""Ray Tune's loop over the trials of a study, quiet, and ended cleanly by signals."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ray import tune
from ray.tune import Callback, CheckpointConfig, ResumeConfig
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler

from s2l_ray.algorithm import S2LPO
from s2l_ray.machine.ending import held, is_watching
from s2l_ray.tuning.own_actors import keeping_own_actors
from s2l_ray.tuning.place import StudyPlace
from s2l_ray.tuning.restoring import restoring_study_trials
from s2l_ray.tuning.searching import StudyTrials
from s2l_ray.tuning.steward import Steward

POINTERS = 3
"""How many of a trial's checkpoints Tune can go back to with pbt: the others of the population take the newest."""


@dataclass(frozen=True)
class Loop:
    """One start of Tune's loop.

    It is `tune.run`, which takes search, scheduler and callbacks anew when a study is resumed: `Tuner.restore` takes
    those that were pickled when the study began, with nothing of what they have learnt since.
    """

    name: str
    place: StudyPlace
    search: StudyTrials
    scheduler: TrialScheduler
    callbacks: Sequence[Callback]
    check: Callable[[], None]
    """Raises if another driver has taken the study over."""
    max_failures: int
    at_once: int
    exploits: bool
    """Whether trials go on from others' checkpoints (pbt)."""
    retries_failed: bool = False
    """Whether trials that failed in an earlier start go on from their last checkpoints."""
    trainable: type[tune.Trainable] = S2LPO

    def run(self) -> None:
        """Run all trials, or those that are left; returns when they are over, or a signal has ended the loop.

        Raises:
            S2LError: what `Steward` and `StudyTrials` raise.
            TuneError: an error within Tune.
        """
        filesystem, path = self.place.for_tune
        experiment = Experiment(
            name=self.place.name,
            run=self.trainable,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=POINTERS if self.exploits else None),
            trial_name_creator=TrialNames(self.name),
            trial_dirname_creator=TrialNames(self.name),
            max_failures=self.max_failures,
        )
        self.search.adopt(experiment)
        resumes = self.place.has_tunes_state
        errored = ResumeConfig.ResumeType.RESUME if self.retries_failed else ResumeConfig.ResumeType.SKIP
        steward = Steward(self.search, self.scheduler, resumes=resumes, check=self.check)
        with self._quiet(), _environment(self.at_once), self._ours(), _usual_signals(), held():
            tune.run(
                experiment,
                search_alg=self.search,
                scheduler=self.scheduler,
                callbacks=[steward, *self.callbacks],
                resume_config=ResumeConfig(errored=errored) if resumes else None,
                reuse_actors=True,  # the next trial gets the engines of the one before, see S2LPO.reset_config
                raise_on_failed_trial=False,
                verbose=0,
            )

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        """What of Tune's is done in another way."""
        with keeping_own_actors(), restoring_study_trials(self.search):
            yield

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep what Tune says of itself in the study's directory, and off the screen."""
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        handler.addFilter(lambda record: not record.name.startswith("ray.tune.analysis"))  # it misses Tune's own files
        handler.setFormatter(LogFormat("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
        before = [(logger, logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
            logger.setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            for logger, level, propagate in before:
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate
            if text := said.getvalue():
                with contextlib.suppress(Exception):  # what is lost is a log
                    self.place.storage.put("tune.log", text.encode())


class LogFormat(logging.Formatter):
    """Lines of tune.log, without Tune's advice on how to resume: only `s2l tune --resume` does it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return super().format(record).partition("\nResume experiment with:")[0]


@dataclass(frozen=True)
class TrialNames:
    """Names trials after the study: NAME_00003. Tune pickles it."""

    study: str

    def __call__(self, trial: Trial) -> str:
        """The name of a trial."""
        return f"{self.study}_{trial.trial_id}"


@contextlib.contextmanager
def _environment(at_once: int) -> Iterator[None]:
    """Tune's settings, which it reads from the environment."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each run writes its own files, and MLflow has the metrics
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # some metrics are not measured in the first steps
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the table, without tracebacks
        "TUNE_MAX_PENDING_TRIALS_PG": str(at_once),
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a heading even where it is to be silent
        "TUNE_DISABLE_SIGINT_HANDLER": "1" if is_watching() else "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _usual_signals() -> Iterator[None]:
    """Tune leaves a handler of its own behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
