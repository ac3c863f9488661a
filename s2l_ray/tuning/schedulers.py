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
    key = "grace" if section.kind == "asha" else "interval"
    first = getattr(section, key) or base.evaluation.every
    if not first:
        raise ConfigError(
            f"scheduler.kind: {section.kind} compares trials while they run; set evaluation.every in the study's "
            f"config, or scheduler.{key} where the metric is measured at every step"
        )
    _check_comparisons(f"scheduler.{key}", first, file.metric, base)
    if section.kind == "asha":
        defaults: dict[str, float] = {"reduction_factor": section.reduction_factor or REDUCTION}
    else:
        resample = RESAMPLE if section.resample is None else section.resample
        defaults = {"quantile": section.quantile or QUANTILE, "resample": resample}
    return file.model_copy(update={"scheduler": section.model_copy(update={key: first, **defaults})})


def _check_comparisons(key: str, first: int, metric: str, base: Config) -> None:
    if first >= base.schedule.steps:
        raise ConfigError(f"{key} ({first}) must be less than schedule.steps ({base.schedule.steps})")
    if not is_measured_at(metric, first, base):
        every = base.evaluation.every
        now = (
            f"every {every} steps (evaluation.every)" if every else "only before and after a run (evaluation.every: 0)"
        )
        raise ConfigError(
            f"{key}: trials are compared every {first} steps, but {metric} is measured {now}. Set evaluation.every in "
            f"the study's config to {first} or a divisor of it"
        )


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
