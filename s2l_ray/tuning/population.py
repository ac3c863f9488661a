"""Population based training (arXiv 1711.09846) of a study: synchronous, within the space's bounds, and repeatable."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from s2l_ray.config import Config
from s2l_ray.config.dotted import flat
from s2l_ray.errors import ConfigError
from s2l_ray.tuning.samples import nested_with, with_values
from s2l_ray.tuning.space import Space, Values

FACTORS = (0.8, 1.2)
"""By one of these a number is multiplied, see `Domain.scaled`."""
TRIES = 20
"""How often values are drawn that cannot go together, before the donor's are kept."""
KEPT = ("last_score", "last_result", "last_train_time", "last_perturbation_time")
"""What is remembered of a trial. The result goes with its checkpoint to a trial that goes on from it."""


@dataclass(frozen=True)
class PopulationSettings:
    """Keys of the study's file, resolved."""

    metric: str
    mode: str
    interval: int
    """Steps."""
    quantile: float
    resample: float
    seed: int
    at_once: int
    """How many trials run at the same time; the others are paused."""


class Population(PopulationBasedTraining):  # type: ignore[misc]  # Ray has no types
    """Tune's scheduler, with values that stay in the space, draws that depend on the seed only, and a state that lasts.

    Args:
        settings: of the study.
        space: what is varied, and by what values.
        base: what is not.
    """

    def __init__(self, settings: PopulationSettings, space: Space, base: Config) -> None:
        super().__init__(
            time_attr="step",
            metric=settings.metric,
            mode=settings.mode,
            perturbation_interval=settings.interval,
            quantile_fraction=settings.quantile,
            resample_probability=settings.resample,
            custom_explore_fn=lambda config: config,  # Tune wants mutations or this; `_get_new_config` does the work
            log_config=False,
            require_attrs=False,
            synch=True,
        )
        self._settings = settings
        self._space = space
        self._base = base
        self._remembered: dict[str, dict[str, Any]] = {}

    # ---- state, which Tune does not keep ----------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """When the population was compared last, and each trial's score."""
        trials = {trial.trial_id: {key: getattr(s, key) for key in KEPT} for trial, s in self._trial_state.items()}
        return {"next": self._next_perturbation_sync, "trials": {**self._remembered, **trials}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` gave, before trials are added."""
        self._next_perturbation_sync = state["next"]
        self._remembered = state["trials"]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial is new, restored, or tried again after a failure."""
        if trial in self._trial_state:  # after a failure: Tune would begin to count its steps anew
            return
        super().on_trial_add(tune_controller, trial)
        for key, value in self._remembered.pop(trial.trial_id, {}).items():
            setattr(self._trial_state[trial], key, value)
        if len(self._trial_state) == 1:
            # Tune keeps one actor of paused trials for those that come next; this study needs all that run at once.
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._settings.at_once)
        if trial.status == Trial.PENDING:
            trial.set_status(Trial.PAUSED)  # `choose_trial_to_run` starts as many as may run at once

    # ---- who runs ---------------------------------------------------------------------------------------------------

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose the paused trial that is furthest behind, if one more may run.

        Tune's own choice can be one whose actor is about to start: then no other trial begins before it is up.
        """
        trials = [trial for trial in tune_controller.get_trials() if not trial.is_finished()]
        if sum(trial.status != Trial.PAUSED for trial in trials) >= self._settings.at_once:
            return None
        if trials and all(self._waits(trial) for trial in trials):
            self._go_on_unchanged(trials)
        paused = [trial for trial in trials if trial.status == Trial.PAUSED and not self._waits(trial)]
        return min(paused, key=lambda trial: self._trial_state[trial].last_train_time, default=None)

    def _waits(self, trial: Trial) -> bool:
        return bool(
            trial.status == Trial.PAUSED and self._trial_state[trial].last_train_time >= self._next_perturbation_sync
        )

    def _go_on_unchanged(self, trials: list[Trial]) -> None:
        """The trial that all others waited for has failed for good: nobody would tell them to go on."""
        self._next_perturbation_sync += self._perturbation_interval
        for trial in trials:
            self._trial_state[trial].last_perturbation_time = self._trial_state[trial].last_train_time
        self._keep_to_the_interval()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause the trial at each interval; compare all when the last one has got there."""
        before = random.getstate()
        random.seed(f"{self._settings.seed}/{result.get('step')}")  # Tune draws donors with the global generator
        try:
            decision: str = super().on_trial_result(_WithoutTheFinished(tune_controller), trial, result)
            return decision
        finally:
            random.setstate(before)
            self._keep_to_the_interval()

    def _keep_to_the_interval(self) -> None:
        """Count on from a multiple of the interval: there the metric is measured.

        A trial that goes on from its own checkpoint after the driver was killed may report a later step first.
        """
        for state in self._trial_state.values():
            state.last_perturbation_time -= state.last_perturbation_time % self._perturbation_interval

    # ---- new values -------------------------------------------------------------------------------------------------

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The trial's configuration with the donor's values, changed a little; and nothing for Tune's log."""
        donor = flat(trial_to_clone.config)
        step = self._trial_state[trial_to_clone].last_train_time
        generator = random.Random(f"{self._settings.seed}/{trial.trial_id}/{step}")
        values = explored(
            {key: donor[key] for key in self._space.keys}, self._space, self._base, self._settings.resample, generator
        )
        return nested_with(trial.config, values), {}


class _WithoutTheFinished:
    """Tune's controller, whose live trials are those that will still have results.

    Tune counts failed trials among them: all others would wait for ever.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)

    def get_live_trials(self) -> set[Trial]:
        return {trial for trial in self._controller.get_live_trials() if not trial.is_finished()}


def explored(values: Values, space: Space, base: Config, resample: float, generator: random.Random) -> Values:
    """A donor's values, changed a little: each number times 0.8 or 1.2, each choice one place further, or drawn anew.

    Args:
        values: of the donor.
        space: the domains; numbers stay within their bounds.
        base: the configuration that values have to go with; where they do not in `TRIES` draws, the donor's stay.
        resample: probability that a value is drawn anew.
        generator: of the draws.
    """
    for _ in range(TRIES):
        new = {key: _perturbed(key, value, space, resample, generator) for key, value in values.items()}
        try:
            with_values(base, new)
        except ConfigError:
            continue
        return new
    return values


def _perturbed(key: str, value: Any, space: Space, resample: float, generator: random.Random) -> Any:
    domain = space.domains[key]
    if generator.random() < resample or (domain.values and value not in domain.values):
        return domain.draw(generator)
    if not domain.values:
        return domain.scaled(value, generator.choice(FACTORS))
    place = domain.values.index(value) + generator.choice((-1, 1))
    return domain.values[min(max(place, 0), len(domain.values) - 1)]
