"""The pod templates of head and workers, which satisfy Pod Security `restricted`."""

from __future__ import annotations

from typing import Any

from s2l_ray.cluster.carried import DATA, FOLDER, MODELS, OUTPUTS
from s2l_ray.cluster.infra import Infra, Pods, Toleration
from s2l_ray.cluster.node_groups import MB, WorkerGroup, check_shm
from s2l_ray.cluster.quantities import quantity
from s2l_ray.placement.inventory import GB
from s2l_ray.version import VERSION

Object = dict[str, Any]

USER = 1000
"""Uid and gid of the images."""
HEAD_STORE = GB
"""The head's object store by default: refs and numbers pass the driver, not rollouts."""
MARGIN_S = 30
"""Seconds of a pod's grace period after its preStop hook, for Ray's own processes."""
EVERY_INTERFACE = "0.0.0.0"  # of the pod alone: network policies say who may reach it  # nosec B104
SHARED_MEMORY = "/dev/shm"  # a volume of the pod's own  # nosec B108
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


def common_labels(infra: Infra, run: str) -> Object:
    """Labels of every object and pod."""
    return {
        "app.kubernetes.io/part-of": "s2l-ray",
        "app.kubernetes.io/version": VERSION,
        "s2l-ray/run": run,
        **infra.labels,
    }


def head_pod(infra: Infra, run: str, image: str) -> tuple[Object, Object]:
    """The head's rayStartParams and pod template."""
    head = infra.head
    memory = int(head.memory_gb * GB)
    store = int(head.object_store_gb * GB) if head.object_store_gb else min(HEAD_STORE, memory // 4)
    shm = int(head.shm_gb * GB) if head.shm_gb else store + 250 * MB
    check_shm("head", store, shm, memory)
    # No GPUs either: a head on a GPU node may see that node's (NVIDIA_VISIBLE_DEVICES), and Ray would count them.
    params = {"dashboard-host": EVERY_INTERFACE, "num-cpus": "0", "num-gpus": "0", "object-store-memory": str(store)}
    container = _container(
        "ray-head", image, infra, head, resources={"cpu": str(head.cpus), "memory": quantity(memory)}
    )
    container["ports"] = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
    return params, _template(infra, run, head, container, shm)


def worker_pod(infra: Infra, run: str, image: str, group: WorkerGroup) -> tuple[Object, Object]:
    """A worker group's rayStartParams and pod template."""
    params = {"object-store-memory": str(group.object_store)}
    resources = {"cpu": str(group.cpus), "memory": quantity(group.memory)}
    gpu_resource = infra.workers.gpu_resource
    if group.gpus and not group.logical:
        resources[gpu_resource] = str(group.gpus)
    if group.logical or not group.gpus or not gpu_resource.endswith("gpu"):
        # The operator counts no others; and without GPUs of its own a pod may see those of its node, as the head may.
        params["num-gpus"] = str(group.gpus)
    container = _container("ray-worker", image, infra, group.pods, resources)
    return params, _template(infra, run, group.pods, container, group.shm)


def _container(name: str, image: str, infra: Infra, pods: Pods, resources: Object) -> Object:
    extra = {key: str(count) for key, count in sorted(pods.extra_resources.items())}
    amounts = resources | extra
    role = name.removeprefix("ray-")
    hook = ["python", "-m", "s2l_ray.cluster.pre_stop", role, str(infra.stop_grace_s)]
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": infra.image_pull_policy,
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "env": environment(infra),
        "volumeMounts": _mounts(infra),
        "lifecycle": {"preStop": {"exec": {"command": hook}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},  # and none added, which no process of a user other than root would get
        },
    }


def environment(infra: Infra) -> list[Object]:
    """The variables of every container; what is secret comes from Secrets."""
    values = {
        "S2L_OUTPUTS": OUTPUTS,
        "HF_HOME": f"{MODELS if infra.claims.models else OUTPUTS}/huggingface",
        "RAY_JOB_STOP_WAIT_TIME_S": str(infra.stop_grace_s),
        "RAY_USAGE_STATS_ENABLED": "0",
        **({"MLFLOW_TRACKING_URI": infra.mlflow_uri} if infra.mlflow_uri else {}),
        **infra.environment,
    }
    plain: list[Object] = [{"name": name, "value": values[name]} for name in values if name not in infra.secrets]
    places = {name: place.split("/") for name, place in infra.secrets.items()}
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for name, (secret, key) in places.items()
    ]


def _mounts(infra: Infra) -> list[Object]:
    mounts: list[Object] = [
        {"name": "shared-mem", "mountPath": SHARED_MEMORY},
        {"name": "run", "mountPath": FOLDER, "readOnly": True},
        {"name": "outputs", "mountPath": OUTPUTS},
    ]
    if infra.claims.models:
        mounts.append({"name": "models", "mountPath": MODELS})
    if infra.claims.data:
        mounts.append({"name": "data", "mountPath": DATA, "readOnly": True})
    return mounts


def _volumes(infra: Infra, run: str, shm: int) -> list[Object]:
    claims = infra.claims
    volumes: list[Object] = [
        {"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(shm)}},
        {"name": "run", "configMap": {"name": config_map_name(run)}},
    ]
    named = {"outputs": claims.outputs, "models": claims.models, "data": claims.data}
    return volumes + [
        {"name": name, "persistentVolumeClaim": {"claimName": claim} | ({"readOnly": True} if name == "data" else {})}
        for name, claim in named.items()
        if claim
    ]


def config_map_name(run: str) -> str:
    """The name of the ConfigMap with the configuration and the inventory that travel with a job."""
    return f"{run}-run"


def _template(infra: Infra, run: str, pods: Pods, container: Object, shm: int) -> Object:
    spec: Object = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Else the pod's first process is Ray, which does not collect a driver whose shell ended before it, so that a
        # job which is stopped runs on, for Ray, until RAY_JOB_STOP_WAIT_TIME_S is over.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": infra.stop_grace_s + MARGIN_S,
    }
    placing: Object = {
        "serviceAccountName": infra.service_account,
        "imagePullSecrets": [{"name": name} for name in infra.image_pull_secrets],
        "nodeSelector": dict(pods.node_selector),
        "tolerations": [_toleration(toleration) for toleration in pods.tolerations],
        "priorityClassName": pods.priority_class,
        "runtimeClassName": pods.runtime_class,
    }
    spec |= {key: value for key, value in placing.items() if value}
    spec |= {"containers": [container], "volumes": _volumes(infra, run, shm)}
    metadata: Object = {"labels": common_labels(infra, run) | dict(pods.labels)}
    if pods.annotations:
        metadata["annotations"] = dict(pods.annotations)
    return {"metadata": metadata, "spec": spec}


def _toleration(toleration: Toleration) -> Object:
    return toleration.model_dump(exclude_none=True)
