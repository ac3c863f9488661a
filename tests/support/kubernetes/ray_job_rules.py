"""What the Ray operator (KubeRay 1.7.0) refuses about a RayJob, and how its ways of submission break."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import yaml

from tests.support.kubernetes.objects import Object, Problem, duplicates, get, mapping, problems, rows
from tests.support.kubernetes.pods import autoscaling

Found = Iterator[tuple[str, str]]

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def ray_job_problems(obj: Object) -> list[Problem]:
    """Refusals of a RayJob's own fields; its cluster has rules of its own."""
    if obj.get("kind") != "RayJob":
        return []
    spec = mapping(obj, "spec")
    found = [*_lifetime(spec), *_selector(spec), *_submission(spec), *_deletion(spec)]
    return problems(obj, [(f"spec.{path}".removesuffix("."), reason) for path, reason in found])


def _lifetime(spec: Object) -> Found:
    if not spec.get("shutdownAfterJobFinishes"):
        if spec.get("suspend"):
            yield "suspend", "needs shutdownAfterJobFinishes"
        if (spec.get("ttlSecondsAfterFinished") or 0) > 0:
            yield "ttlSecondsAfterFinished", "needs shutdownAfterJobFinishes"
    for field in ("ttlSecondsAfterFinished", "backoffLimit"):
        if (spec.get(field) or 0) < 0:
            yield field, "is negative"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if field in spec and spec[field] <= 0:
            yield field, "must be positive"


def _selector(spec: Object) -> Found:
    selector = spec.get("clusterSelector")
    if not selector:
        if not spec.get("rayClusterSpec"):
            yield "", "needs rayClusterSpec or clusterSelector"
        return
    if not selector.get("ray.io/cluster"):
        yield "clusterSelector", "must name the cluster under ray.io/cluster"
    if spec.get("suspend"):
        yield "suspend", "excludes clusterSelector"
    if spec.get("submissionMode") == "SidecarMode":
        yield "submissionMode", "SidecarMode excludes clusterSelector"
    if (spec.get("backoffLimit") or 0) > 0:
        yield "backoffLimit", "excludes clusterSelector"


def _submission(spec: Object) -> Found:
    mode = spec.get("submissionMode") or "K8sJobMode"
    if mode not in MODES:  # the schema takes any text
        yield "submissionMode", f"must be one of {', '.join(MODES)}, not {mode}"
    if mode == "InteractiveMode" and (spec.get("backoffLimit") or 0) > 0:
        yield "backoffLimit", "excludes InteractiveMode"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig"):
            if spec.get(field):
                yield field, "excludes SidecarMode"
        if get(spec, "rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy") not in (None, "", "Never"):
            yield "rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "SidecarMode needs Never or none"
    if get(spec, "rayClusterSpec", "authOptions", "enableK8sTokenAuth"):
        yield "rayClusterSpec.authOptions.enableK8sTokenAuth", "is not for a RayJob"
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError:
        yield "runtimeEnvYAML", "is no YAML"
        return
    if not isinstance(environment, dict):
        yield "runtimeEnvYAML", "is no mapping"
    elif mode == "HTTPMode" and str(environment.get("working_dir", "")).startswith((".", "/")):
        yield "runtimeEnvYAML", "HTTPMode uploads nothing: working_dir must not be a local folder"


def _deletion(spec: Object) -> Found:
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules = rows(strategy, "deletionRules")
    legacy = {key: get(strategy, key, "policy") for key in ("onSuccess", "onFailure") if key in strategy}
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "deletionStrategy.deletionRules", "excludes shutdownAfterJobFinishes"
    if not rules and len(legacy) != 2:
        yield "deletionStrategy", "needs onSuccess and onFailure, or deletionRules"
    for key, policy in legacy.items():
        if policy is None:
            yield f"deletionStrategy.{key}.policy", "is missing"
        if policy == "DeleteNone" and spec.get("shutdownAfterJobFinishes"):
            yield f"deletionStrategy.{key}.policy", "DeleteNone excludes shutdownAfterJobFinishes"
        yield from _policy(spec, f"deletionStrategy.{key}", policy)
    for index, rule in enumerate(rules):
        yield from _policy(spec, f"deletionStrategy.deletionRules[{index}]", rule.get("policy"))
        if (get(rule, "condition", "ttlSeconds") or 0) < 0:
            yield f"deletionStrategy.deletionRules[{index}].condition.ttlSeconds", "is negative"
    yield from _order(rules)


def _policy(spec: Object, path: str, policy: str | None) -> Found:
    if spec.get("clusterSelector") and policy in ("DeleteCluster", "DeleteWorkers"):
        yield path, f"{policy} excludes clusterSelector"
    if policy == "DeleteWorkers" and autoscaling(mapping(spec, "rayClusterSpec")):
        yield path, "DeleteWorkers excludes autoscaling"


def _order(rules: list[Object]) -> Found:
    """Workers must go no later than the cluster, and the cluster no later than the RayJob."""
    keys = []
    for rule in rules:
        condition = mapping(rule, "condition")
        keys.append((condition.get("jobStatus"), condition.get("jobDeploymentStatus"), rule.get("policy")))
    for index, key in duplicates(keys):
        yield f"deletionStrategy.deletionRules[{index}]", f"repeats {key[2]} for {key[0] or key[1]}"
    times = {key: get(rule, "condition", "ttlSeconds") or 0 for key, rule in zip(keys, rules, strict=True)}
    for status in {key[:2] for key in keys}:
        present = [policy for policy in DELETION_ORDER if (*status, policy) in times]
        for earlier, later in pairwise(present):
            if times[*status, later] < times[*status, earlier]:
                yield "deletionStrategy.deletionRules", f"{later} comes before {earlier} for {status[0] or status[1]}"
