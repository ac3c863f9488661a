"""What the Ray operator (KubeRay 1.7.0, features at their defaults) refuses about a cluster, beyond its schema."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.kubernetes.names import is_label_key, is_label_value
from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems, rows
from tests.support.kubernetes.pods import autoscaling, cluster_spec, token_authentication

Found = Iterator[tuple[str, str]]

# Alpha features, off unless the operator was started with their gate.
OFF = {"networkPolicy": "RayClusterNetworkPolicy", "tlsOptions": "RayClusterMTLS"}
OFF |= {"historyServerOptions": "RayClusterHistoryServer"}
RESOURCE_PARAMETERS = ("num-cpus", "num-gpus", "memory", "resources")
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"


def ray_cluster_problems(obj: Object) -> list[Problem]:
    """Refusals of a RayCluster, or of the cluster that a RayJob describes."""
    if not (cluster := cluster_spec(obj)):
        return []
    path, spec = cluster
    found = [*_groups(spec), *_fault_tolerance(obj, spec), *_autoscaler(spec), *_authentication(spec)]
    found += [(field, f"needs the feature gate {gate}, which is off") for field, gate in OFF.items() if spec.get(field)]
    found += _upgrade(obj, spec)
    return problems(obj, [(f"{path}.{field}", reason) for field, reason in found])


def environment(container: Object | None) -> dict[str, str | None]:
    """The variables of a container; None for a value from elsewhere."""
    return {variable["name"]: variable.get("value") for variable in rows(container, "env")}


def _head(spec: Object) -> Object:
    return mapping(spec, "headGroupSpec")


def _variables(spec: Object) -> dict[str, str | None]:
    return environment(get(_head(spec), "template", "spec", "containers", 0))


def ray_groups(spec: Object) -> Iterator[tuple[str, Object]]:
    """Path and body of the head's group and each worker group."""
    yield "headGroupSpec", _head(spec)
    for index, group in enumerate(rows(spec, "workerGroupSpecs")):
        yield f"workerGroupSpecs[{index}]", group


def _groups(spec: Object) -> Found:
    for path, group in ray_groups(spec):
        parameters = mapping(group, "rayStartParams")
        if mapping(group, "resources") and any(parameters.get(key) for key in RESOURCE_PARAMETERS):
            yield f"{path}.resources", "excludes num-cpus, num-gpus, memory and resources in rayStartParams"
        if "labels" in parameters:
            yield f"{path}.rayStartParams.labels", "use the group's own labels"
        for key, value in mapping(group, "labels").items():
            if not is_label_key(key) or not is_label_value(value):
                yield f"{path}.labels", f"{key}={value} is no Kubernetes label"
    for index, group in enumerate(rows(spec, "workerGroupSpecs")):
        for field, reason in _worker_group(spec, group):
            yield f"workerGroupSpecs[{index}].{field}", reason


def _worker_group(spec: Object, group: Object) -> Found:
    least, most, replicas = (group.get(key) for key in ("minReplicas", "maxReplicas", "replicas"))
    for field, count in (("minReplicas", least), ("maxReplicas", most)):
        if count is not None and count < 0:
            yield field, "is negative"
    if least is not None and most is not None and least > most:
        yield "minReplicas", f"{least} is more than maxReplicas, {most}"
    # The operator clips replicas to these bounds without a word.
    if replicas is not None and most is not None and replicas > most:
        yield "replicas", f"{replicas} is more than maxReplicas, {most}"
    if replicas is not None and least is not None and replicas < least:
        yield "replicas", f"{replicas} is less than minReplicas, {least}"
    if group.get("suspend") and autoscaling(spec):
        yield "suspend", "excludes autoscaling"
    if (group.get("idleTimeoutSeconds") or 0) < 0:
        yield "idleTimeoutSeconds", "is negative"
    for field in ("idleTimeoutSeconds", "priority"):
        if group.get(field) and not _version_2(spec):
            yield field, "needs autoscaler v2"


def _version_2(spec: Object) -> bool:
    asked = get(spec, "autoscalerOptions", "version") == "v2"
    return asked or _variables(spec).get(AUTOSCALER_V2) in ("1", "true")


def _autoscaler(spec: Object) -> Found:
    options, variables = mapping(spec, "autoscalerOptions"), _variables(spec)
    if not autoscaling(spec):
        if variables.get(AUTOSCALER_V2) in ("1", "true"):
            yield "headGroupSpec", f"{AUTOSCALER_V2} without enableInTreeAutoscaling"
    else:
        if options.get("version") and AUTOSCALER_V2 in variables:
            yield "autoscalerOptions.version", f"excludes {AUTOSCALER_V2} in the head's environment"
        for path, group in ray_groups(spec) if options.get("version") == "v2" else []:
            policy = get(group, "template", "spec", "restartPolicy")
            if policy not in (None, "", "Never"):
                yield f"{path}.template.spec.restartPolicy", f"autoscaler v2 needs Never or none, not {policy}"
    if (options.get("idleTimeoutSeconds") or 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds", "is negative"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in environment(options):
        yield "autoscalerOptions.env", "KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's own"


def _fault_tolerance(obj: Object, spec: Object) -> Found:
    options, variables = get(spec, "gcsFaultToleranceOptions"), _variables(spec)
    annotations = mapping(obj, "metadata", "annotations")
    parameters = mapping(_head(spec), "rayStartParams")
    enabled = options is not None or str(annotations.get("ray.io/ft-enabled")).lower() == "true"
    if not enabled and "RAY_REDIS_ADDRESS" in variables:
        yield "headGroupSpec", "RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions"
    if parameters.get("redis-username") or "REDIS_USERNAME" in variables:
        yield "headGroupSpec", "the Redis user goes into gcsFaultToleranceOptions.redisUsername"
    if options is None:
        return
    if annotations.get("ray.io/ft-enabled"):
        yield "gcsFaultToleranceOptions", "excludes the annotation ray.io/ft-enabled"
    if annotations.get("ray.io/external-storage-namespace"):
        yield "gcsFaultToleranceOptions", "excludes the annotation ray.io/external-storage-namespace"
    if parameters.get("redis-password"):
        yield "headGroupSpec.rayStartParams.redis-password", "goes into gcsFaultToleranceOptions.redisPassword"
    for name, field in (("REDIS_PASSWORD", "redisPassword"), ("RAY_REDIS_ADDRESS", "redisAddress")):
        if name in variables:
            yield "headGroupSpec", f"{name} goes into gcsFaultToleranceOptions.{field}"
    if options.get("backend") == "rocksdb":
        yield (
            "gcsFaultToleranceOptions.backend",
            "needs the feature gate GCSFaultToleranceEmbeddedStorage, which is off",
        )
    elif options.get("storage") is not None:
        yield "gcsFaultToleranceOptions.storage", "is for the rocksdb backend only"


def _authentication(spec: Object) -> Found:
    delegated = get(spec, "authOptions", "enableK8sTokenAuth")
    if not token_authentication(spec):
        if delegated:
            yield "authOptions.enableK8sTokenAuth", "needs mode: token"
        return
    version = _version(spec.get("rayVersion"))
    if version is None:
        yield "rayVersion", "token authentication needs a version, 2.52.0 or later"
    elif version < (2, 52):
        yield "rayVersion", f"token authentication needs 2.52.0 or later, not {spec['rayVersion']}"
    if delegated and version and version < (2, 55):
        yield "rayVersion", f"enableK8sTokenAuth needs 2.55.0 or later, not {spec['rayVersion']}"
    if delegated and get(spec, "authOptions", "secretName"):
        yield "authOptions.secretName", "excludes enableK8sTokenAuth"


def _version(text: object) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in str(text).split(".")[:3])
    except ValueError:
        return None


def _upgrade(obj: Object, spec: Object) -> Found:
    strategy = get(spec, "upgradeStrategy", "type")
    if strategy is not None and obj["kind"] == "RayJob":
        yield "upgradeStrategy", "is for a RayCluster of its own, not under a RayJob"
    elif strategy not in (None, "Recreate", "None"):
        yield "upgradeStrategy.type", f"is Recreate or None, not {strategy}"
