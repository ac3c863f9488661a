"""Values that Optuna suggests from the results so far (needs the extra tune).

Ray's own OptunaSearch keeps its state as a pickle and draws from one generator, so that a restored study would draw its
first values again. Here each suggestion is a function of the seed, its number and the results so far.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial

from s2l_ray.errors import ConfigError
from s2l_ray.seeds import generator
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.measured import measured_after, step_of
from s2l_ray.tuning.space import Space, Values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STARTUP = 5
"""Trials whose values are drawn at random, before there is something to learn from."""


def check_optuna() -> None:
    """Refuse a study that needs Optuna where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("search: optuna needs the package optuna: pip install '.[tune]' in a checkout of s2l-ray")


class Suggested:
    """Values by Optuna's tree-structured Parzen estimator.

    Args:
        space: without grids.
        metric: name of the result.
        mode: max or min.
        seed: any integer.
    """

    def __init__(self, space: Space, metric: str, mode: str, seed: int) -> None:
        self._space, self._metric, self._seed = space, metric, seed
        self._direction = "maximize" if mode == "max" else "minimize"
        self._distributions = {key: _distribution(domain) for key, domain in space.domains.items()}

    def next(self, number: int, trials: Sequence[Trial]) -> Values:
        """The values of the trial with this number."""
        study = self._study(number)
        for trial in trials:
            study.add_trial(self._told(trial))
        suggested = study.ask(fixed_distributions=self._distributions).params
        return {key: _value(domain, suggested[key]) for key, domain in self._space.domains.items()}

    def _study(self, number: int) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = int(generator(self._seed, number).integers(2**31))
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
        return optuna.create_study(direction=self._direction, sampler=sampler)

    def _told(self, trial: Trial) -> FrozenTrial:
        """A trial of Tune's as one of Optuna's.

        Only a trial that has done all of its steps is complete. TPE takes those that were pruned for worse, ordered by
        the step that they got to and their value there, and what still runs for bad, so that trials at the same time
        differ. It passes over trials that failed, or whose newest value is that of the model before training.
        """
        from optuna.trial import TrialState, create_trial

        state, value, values = TrialState.FAIL, None, {}
        if not trial.is_finished():
            state = TrialState.RUNNING
        elif trial.status == Trial.TERMINATED and (found := self._measured(trial.last_result)) is not None:
            step, newest = found
            if step_of(trial.last_result) >= trial.config["schedule"]["steps"]:
                state, value = TrialState.COMPLETE, newest
            else:
                state, values = TrialState.PRUNED, {step: newest}
        return create_trial(
            state=state,
            value=value,
            intermediate_values=values,
            params={key: _parameter(self._space.domains[key], trial.evaluated_params[key]) for key in self._space.keys},
            distributions=self._distributions,
        )

    def _measured(self, result: Mapping[str, Any]) -> tuple[int, float] | None:
        """The step after which the newest value of the metric was measured, and the value; None before training."""
        value, step = result.get(self._metric), measured_after(self._metric, result)
        if not step or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return step, float(value)


def _distribution(domain: Domain) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.randint:
        return IntDistribution(*domain.randint)
    if domain.bounds:
        return FloatDistribution(*domain.bounds, log=domain.loguniform is not None)
    return CategoricalDistribution(range(len(domain.values)))  # their places, since values may be lists


def _parameter(domain: Domain, value: Any) -> Any:
    return domain.values.index(value) if domain.values else value


def _value(domain: Domain, parameter: Any) -> Any:
    return domain.values[parameter] if domain.values else domain.within(parameter)
