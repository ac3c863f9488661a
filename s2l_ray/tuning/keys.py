"""Which keys of the configuration a study may vary, and whether values can be theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from s2l_ray.config import Config
from s2l_ray.config.loading import type_at
from s2l_ray.config.problems import problem_of_value
from s2l_ray.config.reference import as_yaml
from s2l_ray.config.section import no_number
from s2l_ray.config.text import entry_type_of, section_of
from s2l_ray.errors import ConfigError
from s2l_ray.trials.changeable import CHANGEABLE
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.study_file import StudyFile

OF_THE_STUDY = {
    "name": "trials have the names NAME_00001, NAME_00002, ... of the study",
    "run_dir": "each trial's directory is in the study's",
    "resume": "trials begin at step 1, and resume from their own checkpoints",
    "evaluation": "trials that are measured in different ways cannot be compared",
    "data.eval": "trials that are measured in different ways cannot be compared",
    "checkpoint": "it has no influence on what a trial learns",
    "tracking": "it has no influence on what a trial learns",
    "cluster": "all trials are on one cluster",
    "recovery": "it has no influence on what a trial learns",
    "placement.nodes": "nodes_per_trial and cpus_per_trial say what each trial gets",
    "placement.cpus": "nodes_per_trial and cpus_per_trial say what each trial gets",
    "placement.inventory": "all trials are on one cluster",
    "bank": "the trials of a study share one bank",
}
"""Keys and sections that cannot be varied, and why."""

SET_BY_THE_STUDY = {
    "name": "they have that of the study; use tune.name",
    "run_dir": "they are in the directory of the study; use tune.storage",
    "resume": OF_THE_STUDY["resume"],
    "placement.nodes": "use tune.nodes_per_trial",
    "placement.cpus": "use tune.cpus_per_trial",
    "tracking.parent_run": "it is the MLflow run of the study",
}
"""Keys whose values in all trials are the study's, and what to use instead."""


def checked_space(file: StudyFile) -> dict[str, Domain]:
    """The domains of a study with each value as the configuration has it (`off`, which YAML reads as false).

    Raises:
        ConfigError: a key is unknown or cannot be varied, or a value cannot be its value.
    """
    problems: list[str] = []
    found: dict[str, Domain] = {}
    for key, domain in file.space.items():
        try:
            found[key] = _checked(key, domain)
        except ConfigError as error:
            problems.append(f"space.{error}")
    if file.scheduler.kind == "pbt" and (fixed := [key for key in found if key not in CHANGEABLE]):
        problems.append(
            f"space: with scheduler.kind: pbt the keys of the space are changed while a trial runs, which is "
            f"impossible for {', '.join(fixed)}. Possible are {', '.join(sorted(CHANGEABLE))}"
        )
    if file.scheduler.kind == "pbt" and _may_need_a_reference(found.get("objective.kl")):
        problems.append(
            "space.objective.kl: with scheduler.kind: pbt either all of its values are above 0 or none is: the "
            "reference model, which a coefficient above 0 needs, is loaded when a trial begins"
        )
    if problems:
        raise ConfigError("\n  ".join(problems))
    return found


def checked_run(run: Mapping[str, Any], domains: Mapping[str, Domain], number: int) -> dict[str, Any]:
    """The values of one of the study's `runs` as the configuration has them, in the order of the space.

    Raises:
        ConfigError: a value is not one of its key's.
    """
    found = {key: value_of(key, run[key]) for key in domains}
    for key, value in found.items():
        if domains[key].values and value not in domains[key].values:
            raise ConfigError(f"runs: number {number} has {key}={as_yaml(value)}, which is not in space.{key}")
    return found


def _may_need_a_reference(kl: Domain | None) -> bool:
    """Whether some values of objective.kl are 0 and others are not: an exploit cannot lead from one to the other."""
    return kl is not None and 0 in kl.corners and any(value != 0 for value in kl.corners)


def _checked(key: str, domain: Domain) -> Domain:
    for fixed, reason in OF_THE_STUDY.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise ConfigError(f"{key} cannot be varied: {reason}")
    _refuse_section(key)
    if domain.values:
        values = tuple(value_of(key, value) for value in domain.values)
        if any(value in values[:place] for place, value in enumerate(values)):  # 1 and "1", say
            raise ConfigError(f"{key}: {domain.kind} has a value twice")
        return domain.model_copy(update={domain.kind: values})
    for bound in domain.bounds or ():
        value_of(key, bound)
    if domain.kind != "randint" and _is_integer(key):
        raise ConfigError(f"{key} is an integer; use randint: [a, b]")
    return domain


def _refuse_section(key: str) -> None:
    """Refuse a key that has keys of its own, whose values would be merged with others."""
    kind = _type_of(key)
    if section_of(kind) or entry_type_of(kind):
        raise ConfigError(f"{key} is a section; vary the keys in it")


def _type_of(key: str) -> Any:
    """The type of a key's value, which may be a section.

    Raises:
        ConfigError: there is no such key; the nearest one is named, whole.
    """
    try:
        return type_at(key)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("override ")) from None


def check_keys(keys: Iterable[str], of: str) -> None:
    """Refuse what is no key of the configuration.

    Args:
        keys: of a mapping in a file.
        of: the key that has the mapping.

    Raises:
        ConfigError: there is no such key; the nearest one is named.
    """
    for key in keys:
        try:
            _type_of(key)
        except ConfigError as error:
            raise ConfigError(f"{of}.{error}") from None


def value_of(key: str, value: Any) -> Any:
    """A value of a key as the configuration has it, as a JSON value.

    Raises:
        ConfigError: there is no such key, or it cannot have this value.
    """
    _refuse_section(key)
    adapter = _adapter(key)
    if said := no_number(value, _checked_type_of(key)):
        raise ConfigError(f"{key}: {said} (got {as_yaml(value)})")
    try:
        return adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as error:
        raise ConfigError(f"{key}: {problem_of_value(error)} (got {as_yaml(value)})") from None


def default_of(key: str) -> Any:
    """The value of a key that a configuration leaves out, as a JSON value.

    Raises:
        ConfigError: there is no such key, or every configuration must give it a value.
    """
    field = _field(key)
    if field.is_required():
        raise ConfigError(f"{key} has no default")
    return value_of(key, field.get_default(call_default_factory=True))


def _is_integer(key: str) -> bool:
    try:
        _adapter(key).validate_python(1.5)
    except ValidationError as error:
        return error.errors()[0]["type"] == "int_from_float"
    return False


def _adapter(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(_checked_type_of(key), config=ConfigDict(coerce_numbers_to_str=True))


def _checked_type_of(key: str) -> Any:
    """The type of a key's value, with the range that the key has."""
    section = key.rpartition(".")[0]
    if section and entry_type_of(_type_of(section)):
        return _type_of(key)
    field = _field(key)
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def refuse_overrides(keys: Sequence[str], file: StudyFile) -> None:
    """Refuse a key that is given a fixed value, and is varied or set by the study itself.

    Args:
        keys: of overrides, and of the file's `config`.
        file: of the study.

    Raises:
        ConfigError: it names the key.
    """
    for key in keys:
        if key in file.space:
            raise ConfigError(f"{key} is in the study's space and is also given a value; leave one of them out")
        if key in SET_BY_THE_STUDY:
            raise ConfigError(f"{key} cannot be given to the trials of a study: {SET_BY_THE_STUDY[key]}")


def refuse_interpolated(interpolations: Mapping[str, Sequence[str]], file: StudyFile) -> None:
    """Refuse keys that interpolate varied ones, where values are chosen or changed while the study runs.

    CONFIG is read before: from then on a trial's configuration takes the values of the space's keys alone.

    Args:
        interpolations: keys of CONFIG -> the keys that each refers to, see `config.loading.interpolations`.
        file: of the study.

    Raises:
        ConfigError: it names both keys.
    """
    if file.search != "optuna" and file.scheduler.kind != "pbt":
        return
    kind = "search: optuna" if file.search == "optuna" else "scheduler.kind: pbt"
    for key in interpolations:
        if key in SET_BY_THE_STUDY or any(_overlap(key, varied) for varied in file.space):
            continue
        if varied := _varied_source(key, interpolations, file.space):
            raise ConfigError(
                f"{key} interpolates {varied}, which the study varies: with {kind} it would keep its value while that "
                f"of {varied} changes. Give {key} a value in the study's config, or vary it too"
            )


def _varied_source(key: str, interpolations: Mapping[str, Sequence[str]], varied: Iterable[str]) -> str | None:
    """The varied key that a key's value comes from, directly or by way of others; None if there is none."""
    left, seen = [key], {key}
    while left:
        for named in interpolations[left.pop()]:
            if found := next((other for other in varied if _overlap(named, other)), None):
                return found
            further = [other for other in interpolations if other not in seen and _overlap(named, other)]
            seen.update(further)
            left += further
    return None


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one is in the other: a section, or a list with its elements."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _field(key: str) -> FieldInfo:
    section, _, name = key.rpartition(".")
    owner = section_of(_type_of(section)) if section else Config
    if owner is None or name not in owner.model_fields:
        raise ConfigError(f"{key}: unknown key")
    return owner.model_fields[name]
