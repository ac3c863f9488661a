"""The scheduler of a study: Ray Tune's, made from the study's file, and what it needs of the configuration."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.tuning.about import asha_rungs
from s2l_ray.tuning.measured import is_measured_at
from s2l_ray.tuning.population import Population, PopulationSettings
from s2l_ray.tuning.space import Space
from s2l_ray.tuning.study_file import SchedulerSection, StudyFile

REDUCTION, QUANTILE, RESAMPLE = 2, 0.25, 0.25
"""Defaults of asha's reduction_factor, and of pbt's quantile and resample."""
STEP = "step"
"""What a trial's results call the number of steps that are done."""


def with_defaults(file: StudyFile, base: Config) -> StudyFile:
    """The study's file with the scheduler's defaults filled in, which depend on the configuration.

    Raises:
        ConfigError: trials would be compared at steps at which the metric is not measured.
    """
    section = file.scheduler
    if section.kind == "none":
        return file
    every = base.evaluation.every or None
    if section.kind == "asha":
        steps = {"grace": section.grace or every, "reduction_factor": section.reduction_factor or REDUCTION}
    else:
        resample = RESAMPLE if section.resample is None else section.resample
        steps = {"interval": section.interval or every, "quantile": section.quantile or QUANTILE, "resample": resample}
    key = "grace" if section.kind == "asha" else "interval"
    first = steps[key]
    if first is None:
        raise ConfigError(
            f"scheduler.kind: {section.kind} compares trials while they run; set evaluation.every in the study's "
            f"config, or scheduler.{key}"
        )
    if first >= base.schedule.steps:
        raise ConfigError(f"scheduler.{key} ({first}) must be less than schedule.steps ({base.schedule.steps})")
    if not is_measured_at(file.metric, int(first), base):
        every = base.evaluation.every
        now = f"which is {every}" if every else "which is 0: only before and after the run"
        raise ConfigError(
            f"scheduler.{key}: trials are compared every {first} steps, but {file.metric} is measured every "
            f"evaluation.every steps, {now}. Set evaluation.every in the study's config to {first} or a divisor of it"
        )
    return file.model_copy(update={"scheduler": section.model_copy(update=steps)})


def rungs_of(section: SchedulerSection, steps: int) -> tuple[int, ...]:
    """Steps at which asha compares trials; none with another scheduler."""
    if section.kind != "asha":
        return ()
    return asha_rungs(section.grace or 1, section.reduction_factor or REDUCTION, steps)


def build_scheduler(file: StudyFile, space: Space, base: Config, steps: int, at_once: int) -> TrialScheduler:
    """Tune's scheduler.

    Args:
        file: of the study, `with_defaults`.
        space: what is varied.
        base: what is not.
        steps: the most steps of a trial.
        at_once: how many trials run at the same time.
    """
    section = file.scheduler
    if section.kind == "asha":
        return Halving(file.metric, file.mode, section.grace or 1, section.reduction_factor or REDUCTION, steps)
    if section.kind == "pbt":
        settings = PopulationSettings(
            metric=file.metric,
            mode=file.mode,
            interval=section.interval or 1,
            quantile=section.quantile or QUANTILE,
            resample=RESAMPLE if section.resample is None else section.resample,
            seed=file.seed,
            at_once=at_once,
        )
        return Population(settings, space, base)
    return FIFOScheduler()


class Halving(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray has no types
    """Asynchronous successive halving whose state outlives the driver.

    Tune does not keep a scheduler's state with that of a study: after a restore its own would have forgotten every
    result of the rungs.
    """

    def __init__(self, metric: str, mode: str, grace: int, reduction: int, steps: int) -> None:
        super().__init__(
            time_attr=STEP, metric=metric, mode=mode, max_t=steps, grace_period=grace, reduction_factor=reduction
        )

    def get_state(self) -> dict[str, Any]:
        """What was measured at each rung, by trial."""
        return {"rungs": [[milestone, dict(recorded)] for milestone, recorded in self._brackets[0]._rungs]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` gave."""
        self._brackets[0]._rungs = [(milestone, dict(recorded)) for milestone, recorded in state["rungs"]]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the last result, also of a trial that began before a restore."""
        if trial.trial_id in self._trial_info:
            super().on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Forget a trial that is ended before it ran."""
        self._trial_info.pop(trial.trial_id, None)
