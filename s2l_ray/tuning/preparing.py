"""A study before Ray is asked: its files are read, its trials drawn and checked, and an unfinished one is found."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s2l_ray.bank.date import dated
from s2l_ray.config import BankConfig, Config, load_config
from s2l_ray.config.dotted import flat
from s2l_ray.config.extension_points import check_extensions
from s2l_ray.config.loading import parse_config
from s2l_ray.errors import ConfigError
from s2l_ray.machine.places import output_path
from s2l_ray.run.set_up import refuse_password
from s2l_ray.tasks.sources import SOURCES, FetchWatcher, Pin, fetch_sources
from s2l_ray.tuning.keys import refuse_overrides
from s2l_ray.tuning.measured import check_metric
from s2l_ray.tuning.optuna_source import check_optuna
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.place import RESULTS, StudyPlace, StudyState, next_free, refuse_differences, within
from s2l_ray.tuning.reading import overridden, parse_study, split_overrides
from s2l_ray.tuning.samples import (
    Sample,
    StudyConfigs,
    drawn_samples,
    number_of_trials,
    probes,
    settings_of,
    with_values,
)
from s2l_ray.tuning.schedulers import with_defaults
from s2l_ray.tuning.space import Space, Values
from s2l_ray.tuning.study_file import StudyFile


@dataclass(frozen=True)
class PreparedStudy:
    """A study that can be run, as far as that is known without Ray."""

    place: StudyPlace
    state: StudyState
    file: StudyFile
    """With every default."""
    base: Config
    """What is not varied."""
    space: Space
    samples: list[Sample]
    """The trials; where values are suggested while the study runs, samples from all over the space."""
    before: StudyState | None
    """What the study remembered of itself when it was read; None of a new one."""

    @property
    def resumed(self) -> bool:
        """Whether the study was begun before."""
        return self.before is not None

    @property
    def drawn(self) -> bool:
        """Whether `samples` are the trials."""
        return self.state.trials is not None

    def as_given(self, trial: TrialOutcome | None) -> Config:
        """The configuration of a trial with paths as they were given, for other machines too.

        Args:
            trial: its values may have been changed since it began. None: the configuration that the study varies.
        """
        given = {key: value for key, value in self.state.given.items() if key not in self.space.domains}
        settings = {**self.settings_of(trial.number, dict(trial.values)), **trial.values} if trial else {}
        return with_values(self.base, given | settings)

    @property
    def steps(self) -> int:
        """The most steps of a trial."""
        return max(sample.config.schedule.steps for sample in self.samples)

    def settings_of(self, number: int, values: Values) -> Values:
        """All values in which a trial's configuration differs from the base, by dotted key."""
        return self.state.trials[number - 1] if self.state.trials else values


def prepare(config: str, file: StudyFile, overrides: Sequence[str], watcher: FetchWatcher) -> PreparedStudy:
    """A new study, or the unfinished one that the same command has begun.

    Args:
        config: CONFIG.
        file: TUNE.yaml.
        overrides: `key=value` of the configuration.
        watcher: told of downloads.

    Raises:
        ConfigError: a key or value is impossible; or an unfinished study has the same name and other settings.
        S2LError: a model or data set cannot be fetched, or the storage cannot be used.
    """
    place, before = next_free(file.storage, file.name)
    pins: dict[str, list[str]] = {}
    given: Values = {}

    def resolve(read: Config) -> Values:
        known = {key: Pin(*pin) for key, pin in before.pins.items()} if before else {}
        found, fetched = fetch_sources(read, watcher, known)
        given.update(_paths(found))
        pins.update({key: [pin.asked, pin.pinned] for key, pin in fetched.items()})
        return _resolved(found, file, before)

    configs = StudyConfigs.read(config, overrides, file, resolve)
    refuse_password(configs.base.tracking.uri)
    check_metric(file.metric, configs.base)
    file = with_defaults(file.model_copy(update={"space": dict(configs.space.domains)}), configs.base)
    samples = _samples(configs, file)
    trials = [settings_of(sample, configs.base) for sample in samples] if file.search == "random" else None
    now = StudyState(
        config,
        configs.base.model_dump(mode="json"),
        file.model_dump(mode="json", exclude_none=True),
        trials,
        given,
        pins,
    )
    if before is not None:
        refuse_differences(place, before, now)
        now = _going_on(before, now)
    return PreparedStudy(place, now, file, configs.base, configs.space, samples, before)


def prepare_again(place: StudyPlace, overrides: Sequence[str]) -> PreparedStudy:
    """A study that is to be resumed from what it remembers of itself: it is unfinished, or its results are damaged.

    Args:
        place: of the study.
        overrides: of keys that have no influence on results, such as `cluster.address=auto` or `tune.max_failures=3`.

    Raises:
        ConfigError: it is finished and its results are whole, or an override changes it.
    """
    before = place.read()
    if before is None or (before.finished and place.has_results):
        raise ConfigError(f"{place}: this study is finished; its results are in {place.directory}/tune.json")
    if before.finished and not place.has_tunes_state:
        raise ConfigError(
            f"{place}: this study is finished, and {RESULTS}, with its results, is damaged or not there. Put a copy of "
            "it back: it cannot be made again, since Ray Tune's own state (experiment_state-*.json) is not there either"
        )
    of_config, of_study = split_overrides(overrides)
    base = _overridden(parse_config(before.config, str(place)), of_config, str(place))
    refuse_password(base.tracking.uri)
    file = with_defaults(parse_study(overridden(before.study, of_study), str(place)), base)
    now = StudyState(
        before.configuration,
        base.model_dump(mode="json"),
        file.model_dump(mode="json", exclude_none=True),
        before.trials,
        before.given,
        before.pins,
    )
    refuse_differences(place, before, now)
    configs = StudyConfigs.of(base, file)
    refuse_overrides([word.partition("=")[0] for word in of_config], file)
    samples = _samples(configs, file) if before.trials is None else _remembered(place, configs, file, before.trials)
    return PreparedStudy(place, _going_on(before, now), file, base, configs.space, samples, before)


def _remembered(place: StudyPlace, configs: StudyConfigs, file: StudyFile, trials: list[Values]) -> list[Sample]:
    """The trials as they were drawn when the study began.

    Raises:
        ConfigError: they are not all there, or are not whole.
    """
    if len(trials) != number_of_trials(file, configs.space):
        raise place.damaged(f"it has {len(trials)} trials")
    try:
        return [
            Sample(number, {key: values[key] for key in configs.keys}, with_values(configs.base, values))
            for number, values in enumerate(trials, 1)
        ]
    except KeyError as error:
        raise place.damaged(f"the values of a trial: {error}") from None


def _samples(configs: StudyConfigs, file: StudyFile) -> list[Sample]:
    if file.search == "optuna":
        check_optuna()
    samples = probes(configs, file) if file.search == "optuna" else drawn_samples(configs, file)
    for sample in samples:
        check_extensions(sample.config)
    return samples


def _going_on(before: StudyState, now: StudyState) -> StudyState:
    kept = ("seconds", "mlflow_run_id", "mlflow_uri", "bank", "held")
    return replace(now, **{name: getattr(before, name) for name in kept})


def _overridden(base: Config, overrides: Sequence[str], where: str) -> Config:
    """The configuration with overrides, read as those of a file; `where` names it in error messages."""
    if not overrides:
        return base
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(base.to_yaml())
        file.flush()
        try:
            return load_config(file.name, list(overrides))
        except ConfigError as error:
            raise ConfigError(str(error).replace(file.name, where)) from None


def _paths(config: Config) -> Values:
    """The paths of a configuration that trials have as absolute ones, by dotted key."""
    values = flat(config.model_dump(mode="json"))
    return {key: values[key] for key in (*SOURCES, "bank.path") if values[key] is not None}


def _resolved(config: Config, file: StudyFile, before: StudyState | None) -> Values:
    """What trials must have alike, wherever and whenever they run: absolute paths, commits, a date.

    Args:
        config: with commits.
        file: of the study.
        before: the state of the study that is resumed, whose date stays.
    """
    values = flat(config.model_dump(mode="json"))
    found = {
        key: str(Path(values[key]).resolve()) if Path(values[key]).exists() else values[key]
        for key in SOURCES
        if values[key] is not None
    }
    path = config.bank.path
    if path == BankConfig().path and "://" in file.storage:
        path = within(file.storage, "bank")  # so that the store is all that nodes share
    config = config.model_copy(update={"bank": config.bank.model_copy(update={"path": path})})
    found["bank.path"] = path if "://" in path else str(output_path(path))
    day = before.config["data"]["date"] if before else dated(config, bank=file.share_bank).data.date
    if day is not None:
        found["data.date"] = str(day)
    if file.share_bank and "seed" in file.space and config.rollout.explorer_seed is None:
        found["rollout.explorer_seed"] = config.explorer_seed  # one bank for all seeds of the learner
    return found | {"run_dir": None, "resume": "auto"}
