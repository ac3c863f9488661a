"""The study that runs an experiment: a trial for each arm and seed, with explicit values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.config import Config, load_config
from s2l_ray.config.dotted import flat
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.keys import OF_THE_STUDY, check_keys, value_of
from s2l_ray.tuning.measured import EVALUATION, check_metric
from s2l_ray.tuning.ranking import SEED
from s2l_ray.tuning.study_file import StudyFile

EXPLORER_SEED = "rollout.explorer_seed"


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    number: int
    """From 1: the number of its trial."""
    arm: str
    seed: int

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.arm}, seed {self.seed}"


def runs_of(file: ExperimentFile) -> list[PlannedRun]:
    """The runs of an experiment in their order: all arms with the first seed, then with the next.

    An experiment that is stopped early has whole seeds to compare.
    """
    pairs = [(arm, seed) for seed in file.seed_list for arm in file.arms]
    return [PlannedRun(number, arm, seed) for number, (arm, seed) in enumerate(pairs, 1)]


def study_of(file: ExperimentFile, overrides: Sequence[str] = ()) -> StudyFile:
    """The study that runs an experiment.

    Args:
        file: of the experiment.
        overrides: `key=value` of the configuration.

    Raises:
        ConfigError: a key or value of an arm is impossible, or two arms are alike.
    """
    check_keys(file.values, "values")
    config = load_config(file.config, dict(file.values), list(overrides))
    for place, metric in [("metric", file.metric), *(("also", metric) for metric in file.also)]:
        _check_metric(place, metric, config)
    if SEED in file.values:
        raise ConfigError(f"values.{SEED}: seeds are those of the experiment (seeds)")
    base = flat(config.model_dump(mode="json"))
    keys = list(dict.fromkeys(key for arm in file.arms.values() for key in arm))
    for key in (override.partition("=")[0] for override in overrides):
        if key in (*keys, SEED):
            raise ConfigError(f"{key}: the arms and seeds of the experiment say what it is; change it in the file")
    arms = {name: _values(name, arm, keys, base) for name, arm in file.arms.items()}
    _refuse_equal_arms(arms)
    fixed_explorer_seed = file.share_explorer_rollouts or base.get(EXPLORER_SEED) is not None
    rows = []
    for run in runs_of(file):
        seeds = {SEED: run.seed} if fixed_explorer_seed else {SEED: run.seed, EXPLORER_SEED: run.seed}
        rows.append(arms[run.arm] | seeds)
    space = {key: Domain(choice=_distinct(row[key] for row in rows)) for key in rows[0]}
    return StudyFile(
        name=file.name,
        space=space,
        runs=tuple(rows),
        config={key: value for key, value in file.values.items() if key not in space},
        metric=file.metric,
        nodes_per_trial=file.nodes_per_trial,
        cpus_per_trial=file.cpus_per_trial,
        storage=file.storage,
        max_failures=file.max_failures,
    )


def _check_metric(place: str, metric: str, config: Config) -> None:
    """Refuse a metric that evaluations do not measure: what a step measures is of other weights in every arm."""
    known = [*(f"{EVALUATION}pass_at_{k}" for k in config.evaluation.k), f"{EVALUATION}reward"]
    if metric not in known:
        raise ConfigError(f"{place}: {metric} is not what arms are compared by; there are {', '.join(known)}")
    check_metric(metric, config)


def _values(name: str, arm: Mapping[str, Any], keys: Sequence[str], base: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an arm for every key in which any arm differs, as the configuration has them."""
    found = {}
    for key in keys:
        if key not in arm:
            continue
        if key in (SEED, EXPLORER_SEED):
            raise ConfigError(f"arms.{name}.{key}: seeds are those of the experiment (seeds)")
        for fixed, reason in OF_THE_STUDY.items():
            if key == fixed or key.startswith(f"{fixed}."):
                raise ConfigError(f"arms.{name}.{key}: arms cannot differ in it: {reason}")
        try:
            found[key] = value_of(key, arm[key])
        except ConfigError as error:
            raise ConfigError(f"arms.{name}.{error}") from None
    return {key: found.get(key, base.get(key)) for key in keys}


def _refuse_equal_arms(arms: Mapping[str, Mapping[str, Any]]) -> None:
    names = list(arms)
    for at, name in enumerate(names):
        for other in names[:at]:
            if arms[name] == arms[other]:
                raise ConfigError(f"arms.{name}: has the same values as arms.{other}")


def _distinct(values: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return tuple(found)
