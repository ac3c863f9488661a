"""All checks of a build: of each object by itself, and of the objects together."""

from __future__ import annotations

from pathlib import Path

from tests.support.kubernetes.claims import ownership_problems
from tests.support.kubernetes.core_rules import core_rule_problems
from tests.support.kubernetes.core_schemas import core_problems, is_custom
from tests.support.kubernetes.custom_schemas import schema_problems
from tests.support.kubernetes.kueue_rules import admission_problems, kueue_problems
from tests.support.kubernetes.names import name_problems
from tests.support.kubernetes.network_policies import policy_rule_problems
from tests.support.kubernetes.objects import Object, Problem
from tests.support.kubernetes.pod_security import security_problems
from tests.support.kubernetes.ray_cluster_rules import ray_cluster_problems
from tests.support.kubernetes.ray_job_rules import ray_job_problems
from tests.support.kubernetes.ray_pod_rules import ray_pod_problems
from tests.support.kubernetes.references import reference_problems


def malformed(obj: Object, definitions: Path | None) -> list[Problem]:
    """What an API server refuses about an object.

    Args:
        obj: Of any kind.
        definitions: The folder of custom resource definitions; without it their schemas and CEL rules are not checked.
    """
    custom = schema_problems(obj, definitions) if definitions is not None and is_custom(obj) else []
    return [*core_problems(obj), *core_rule_problems(obj), *policy_rule_problems(obj), *custom]


def accepted(obj: Object, definitions: Path | None) -> list[Problem]:
    """What an API server, the Ray operator or Kueue would refuse about an object; arguments as for `malformed`."""
    if found := malformed(obj, definitions):  # the others expect the types that schemas demand
        return found
    return _rules(obj)


def _rules(obj: Object) -> list[Problem]:
    return [*name_problems(obj), *ray_cluster_problems(obj), *ray_job_problems(obj), *kueue_problems(obj)]


def object_problems(obj: Object, definitions: Path | None, ray_version: str) -> list[Problem]:
    """What is wrong with an object of ours by itself.

    Args:
        obj: Of any kind.
        definitions: As for `malformed`.
        ray_version: Ray's version in the lock files.
    """
    if found := malformed(obj, definitions):
        return found
    return [*_rules(obj), *security_problems(obj), *ownership_problems(obj), *ray_pod_problems(obj, ray_version)]


def joint_problems(objects: list[Object], given: frozenset[str] = frozenset()) -> list[Problem]:
    """What is wrong between the objects of a build, but for its network's flows.

    Args:
        objects: All of a build, each of them well formed.
        given: `Kind/name` of what the user makes.
    """
    return [*reference_problems(objects, given), *admission_problems(objects)]


def build_problems(
    objects: list[Object], definitions: Path | None, ray_version: str, given: frozenset[str] = frozenset()
) -> list[Problem]:
    """Both; arguments as for each."""
    found = [problem for obj in objects for problem in malformed(obj, definitions)]
    if not found:
        found = [problem for obj in objects for problem in object_problems(obj, None, ray_version)]
        found += joint_problems(objects, given)
    return found
