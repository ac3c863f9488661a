"""A plan as a RayJob, or as a RayCluster that stays, for KubeRay 1.7."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

from s2l_ray.cluster.carried import CONFIG, FOLDER, INVENTORY, carried_config, carried_inventory
from s2l_ray.cluster.infra import Infra
from s2l_ray.cluster.names import job_name
from s2l_ray.cluster.node_groups import WorkerGroup, by_kind, check_host_memory, worker_groups
from s2l_ray.cluster.pods import common_labels, config_map_name, head_pod, worker_pod
from s2l_ray.cluster.yaml_text import commented, to_yaml
from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.version import VERSION

Object = dict[str, Any]
Kind = Literal["rayjob", "raycluster"]
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
LARGEST_CONFIG_MAP = 2**20
COMMENTS = {
    "image": "built from cluster/, with the Ray of rayVersion",
    "secretName": "must exist, with the key auth_token",
    "claimName": "must exist; ReadWriteMany where pods are on several nodes",
    "activeDeadlineSeconds": "for each try; a job that exceeds it is not tried again",
    "backoffLimit": "each retry goes on from the last checkpoint",
    "replicas": "as planned: other nodes are refused when the run starts; emit again to change them",
}
"""What stands above the first line with one of these keys."""


def manifest(kind: Kind, config: Config, inventory: Inventory, plan: Plan, infra: Infra) -> str:
    """The YAML of a ConfigMap and a RayJob or RayCluster.

    Args:
        inventory: `by_kind`.
        plan: of the configuration on the inventory; it fits.

    Raises:
        PlacementError: the nodes cannot be pods, or their memory is short.
        ConfigError: the configuration or the infra file does not suit a cluster.
    """
    if by_kind(inventory) != inventory:
        raise ValueError("the inventory is not by_kind")
    if kind == "raycluster" and "job" in infra.model_fields_set:
        raise ConfigError("infra file: job: is for --emit rayjob; a RayCluster has no job of its own")
    groups = worker_groups(inventory, config, infra)
    check_host_memory(plan, groups)
    name = infra.name or job_name(config.name)
    cluster = _cluster(infra, name, groups)
    body = cluster if kind == "raycluster" else _job(infra, cluster)
    owner = {
        "apiVersion": "ray.io/v1",
        "kind": {"rayjob": "RayJob", "raycluster": "RayCluster"}[kind],
        "metadata": _metadata(infra, name, name, owner=True),
        "spec": body,
    }
    carried = _config_map(config, inventory, infra, name)
    return f"{to_yaml(carried)}---\n{commented(to_yaml(owner), COMMENTS)}"


def _metadata(infra: Infra, name: str, run: str, *, owner: bool = False) -> Object:
    labels = common_labels(infra, run) | ({QUEUE_LABEL: infra.queue} if owner and infra.queue else {})
    metadata: Object = {"name": name}
    if infra.namespace:
        metadata["namespace"] = infra.namespace
    metadata["labels"] = labels
    if owner and infra.annotations:
        metadata["annotations"] = dict(infra.annotations)
    return metadata


def _config_map(config: Config, inventory: Inventory, infra: Infra, name: str) -> Object:
    data = {CONFIG: carried_config(config, infra), INVENTORY: carried_inventory(inventory)}
    if sum(len(text.encode()) for text in data.values()) > LARGEST_CONFIG_MAP:
        raise ConfigError("the configuration is larger than a ConfigMap may be (1 MiB)")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(infra, config_map_name(name), name),
        "data": data,
    }


def _job(infra: Infra, cluster: Object) -> Object:
    return {
        "submissionMode": "HTTPMode",
        "entrypoint": f"s2l train {FOLDER}/{CONFIG}",
        "runtimeEnvYAML": f'env_vars: {{RAY_JOB_STOP_WAIT_TIME_S: "{infra.stop_grace_s}"}}\n',
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": infra.job.ttl_s,
        "activeDeadlineSeconds": infra.job.active_deadline_s,
        "backoffLimit": infra.job.backoff_limit,
        "rayClusterSpec": cluster,
    }


def _cluster(infra: Infra, run: str, groups: list[WorkerGroup]) -> Object:
    image = infra.image or default_image(groups)
    params, template = head_pod(infra, run, image)
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": infra.token_secret},
        "headGroupSpec": {"rayStartParams": params, "template": template},
        "workerGroupSpecs": [_worker_group(infra, run, image, group) for group in groups],
    }


def default_image(groups: list[WorkerGroup]) -> str:
    """The name under which cluster/ builds the image: for CUDA where there are real GPUs, else for CPUs."""
    cuda = any(group.gpus and not group.logical for group in groups)
    return f"s2l-ray:{VERSION}-{'cuda' if cuda else 'cpu'}"


def _worker_group(infra: Infra, run: str, image: str, group: WorkerGroup) -> Object:
    params, template = worker_pod(infra, run, image, group)
    return {
        "groupName": group.name,
        "replicas": group.replicas,
        "minReplicas": group.replicas,
        "maxReplicas": group.replicas,
        "rayStartParams": params,
        "template": template,
    }
