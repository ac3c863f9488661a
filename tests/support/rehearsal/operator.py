"""What the KubeRay operator (1.7.0) makes of a RayJob: the pods of its cluster, and the request that submits the job.

Written from the operator's sources: `common/pod.go` (DefaultHeadPodTemplate, DefaultWorkerPodTemplate, BuildPod),
`utils/util.go` (names) and `dashboardclient/dashboard_httpclient.go` (ConvertRayJobToReq). Left out, and refused: what
no rehearsed RayJob has (autoscaler, fault tolerance of the GCS, TLS, submitters).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml

from tests.support.rehearsal.quantities import value

Object = dict[str, Any]
"""A Kubernetes object, as its YAML is read."""

GCS_PORT = "6379"
DASHBOARD_PORT = 8265
AGENT_PORT = 52365
WAIT_FOR_GCS = """
    SECONDS=0
    while true; do
        if (( SECONDS <= 120 )); then
            if ray health-check --address {address} > /dev/null 2>&1; then
                echo "GCS is ready."
                break
            fi
            echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
        else
            if ray health-check --address {address}; then
                echo "GCS is ready. Any error messages above can be safely ignored."
                break
            fi
            echo "$SECONDS seconds elapsed: Still waiting for GCS to be ready."
        fi
        sleep 5
    done
"""
WITH_A_VALUE = ("log-color", "include-dashboard", "include-log-monitor")
"""Flags of `ray start` that take true or false."""
NOT_REHEARSED = ("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "tlsOptions", "historyServerOptions")


def head_service(cluster: str) -> str:
    """Name of the head's Service; headless, so that it resolves to the head pod's address."""
    return f"{cluster}-head-svc"


def head_domain_name(cluster: str, namespace: str) -> str:
    """The name at which workers find the head."""
    return f"{head_service(cluster)}.{namespace}.svc.cluster.local"


def head_pod(rayjob: Object, cluster: str) -> Object:
    """The head pod of the RayJob's cluster of this name."""
    spec = _cluster_spec(rayjob)
    group = copy.deepcopy(spec["headGroupSpec"])
    parameters = _start_parameters(group)
    parameters.setdefault("dashboard-host", "0.0.0.0")  # within the rehearsal's closed network
    pod = _pod(rayjob, group, cluster, "head", "headgroup")
    return _built(pod, parameters, spec, cluster, head_domain_name(cluster, _namespace(rayjob)))


def worker_pods(rayjob: Object, cluster: str) -> list[Object]:
    """The worker pods of the RayJob's cluster of this name."""
    spec = _cluster_spec(rayjob)
    return [
        _worker_pod(rayjob, group, cluster, number)
        for group in spec.get("workerGroupSpecs", [])
        for number in range(max(group.get("replicas", 0), group.get("minReplicas", 0)) * group.get("numOfHosts", 1))
    ]


def job_request(rayjob: Object, submission_id: str) -> Object:
    """Body of the POST to the dashboard's /api/jobs/ with which HTTPMode submits the job."""
    spec = rayjob["spec"]
    assert spec.get("submissionMode") == "HTTPMode", "another submission mode is not rehearsed"
    request = {"entrypoint": spec["entrypoint"], "submission_id": submission_id}
    if spec.get("metadata"):
        request["metadata"] = spec["metadata"]
    if spec.get("runtimeEnvYAML"):
        request["runtime_env"] = yaml.safe_load(spec["runtimeEnvYAML"])
    numbers = {"entrypoint_num_cpus": "entrypointNumCpus", "entrypoint_num_gpus": "entrypointNumGpus"}
    request |= {theirs: spec[ours] for theirs, ours in numbers.items() if spec.get(ours)}
    if spec.get("entrypointResources"):
        request["entrypoint_resources"] = json.loads(spec["entrypointResources"])
    return request


def _cluster_spec(rayjob: Object) -> Object:
    spec: Object = rayjob["spec"]["rayClusterSpec"]
    assert not (found := [key for key in NOT_REHEARSED if spec.get(key)]), f"{found} is not rehearsed"
    return spec


def _namespace(rayjob: Object) -> str:
    return str(rayjob["metadata"].get("namespace", "default"))


def _worker_pod(rayjob: Object, group: Object, cluster: str, number: int) -> Object:
    spec, group = _cluster_spec(rayjob), copy.deepcopy(group)
    parameters = _start_parameters(group)
    domain_name = head_domain_name(cluster, _namespace(rayjob))
    address = f"{domain_name}:{GCS_PORT}"
    parameters.setdefault("address", address)
    pod = _pod(rayjob, group, cluster, "worker", group["groupName"], f"-{number}")
    ray = pod["spec"]["containers"][0]
    waiting = {
        "name": "wait-gcs-ready",
        "image": ray.get("image"),
        "command": ["/bin/bash", "-c", "--"],
        "args": [WAIT_FOR_GCS.format(address=address)],
        "resources": {"limits": {"cpu": "200m", "memory": "256Mi"}},
    }
    waiting |= copy.deepcopy({key: ray[key] for key in ("securityContext", "env", "volumeMounts") if key in ray})
    pod["spec"].setdefault("initContainers", []).append(waiting)
    return _built(pod, parameters, spec, cluster, domain_name)


def _start_parameters(group: Object) -> dict[str, str]:
    parameters = dict(group.get("rayStartParams") or {})
    names = {"cpu": "num-cpus", "memory": "memory", "nvidia.com/gpu": "num-gpus"}
    others = {}
    for resource, quantity in (group.get("resources") or {}).items():
        if resource.lower() in names:
            parameters[names[resource.lower()]] = str(value(quantity))
        else:
            others[resource] = float(value(quantity))
    if others:
        parameters["resources"] = f"'{json.dumps(others)}'"
    if labels := group.get("labels"):
        parameters["labels"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    return parameters


def _pod(rayjob: Object, group: Object, cluster: str, kind: str, group_name: str, suffix: str = "") -> Object:
    template = group["template"]
    name = f"{cluster}-{kind}" if kind == "head" else f"{cluster}-{group_name}-{kind}"
    labels = dict((template.get("metadata") or {}).get("labels") or {}) | (group.get("labels") or {})
    labels |= {"ray.io/is-ray-node": "yes", "ray.io/cluster": cluster, "ray.io/node-type": kind}
    labels |= {"ray.io/group": group_name}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    assert "ray.io/overwrite-container-cmd" not in annotations, "an overwritten command is not rehearsed"
    metadata = {"name": name[:57] + suffix, "namespace": _namespace(rayjob), "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _built(pod: Object, parameters: dict[str, str], spec: Object, cluster: str, domain_name: str) -> Object:
    """The rest, which is alike for head and workers."""
    ray, head = pod["spec"]["containers"][0], pod["metadata"]["labels"]["ray.io/node-type"] == "head"
    if (spec.get("authOptions") or {}).get("mode") == "token":
        secret = (spec["authOptions"].get("secretName")) or cluster
        for container in [ray, *(c for c in pod["spec"].get("initContainers", []) if c["name"] == "wait-gcs-ready")]:
            _add(container, "RAY_AUTH_MODE", "token")
            _add(container, "RAY_AUTH_TOKEN", {"secretKeyRef": {"name": secret, "key": "auth_token"}})
    _add_shared_memory(pod, ray, parameters)
    for init in pod["spec"].get("initContainers", []):
        _force(init, "FQ_RAY_IP", domain_name)
        _force(init, "RAY_IP", domain_name.split(".", maxsplit=1)[0])
    parameters.setdefault("metrics-export-port", "8080")
    parameters["block"] = "true"
    parameters.setdefault("dashboard-agent-listen-port", str(AGENT_PORT))
    command = f"ray start {'--head ' if head else ''}{_flags(_with_resources(parameters, ray))}"
    theirs = "".join(f" {word} " for word in [*ray.get("command", []), *ray.get("args", [])])
    generated = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {command}"
    if "ray start" not in theirs:
        ray["command"] = ["/bin/bash", "-c", "--"]
        ray["args"] = [f"{theirs} && {generated}" if theirs else generated]
    _add_environment(ray, head, command, domain_name)
    _add_probes(ray, head)
    return pod


def _add_shared_memory(pod: Object, ray: Object, parameters: dict[str, str]) -> None:
    mounts = ray.setdefault("volumeMounts", [])
    if "plasma-directory" in parameters or any(mount["mountPath"] == "/dev/shm" for mount in mounts):
        return
    resources = ray.get("resources", {})
    size = resources.get("limits", {}).get("memory") or resources.get("requests", {}).get("memory")
    volume = {"name": "shared-mem", "emptyDir": {"medium": "Memory"} | ({"sizeLimit": size} if size else {})}
    pod["spec"].setdefault("volumes", []).append(volume)
    mounts.append({"name": "shared-mem", "mountPath": "/dev/shm"})


def _with_resources(parameters: dict[str, str], ray: Object) -> dict[str, str]:
    resources = ray.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    found = {"num-cpus": limits.get("cpu") or requests.get("cpu"), "memory": limits.get("memory")}
    found["num-gpus"] = next((amount for name, amount in limits.items() if name.endswith("gpu")), None)
    return {key: str(value(amount)) for key, amount in found.items() if amount} | parameters


def _flags(parameters: dict[str, str]) -> str:
    text = ""
    for option in sorted(parameters):
        argument = str(parameters[option])
        if argument.lower() in ("true", "false") and option not in WITH_A_VALUE:
            text += f" --{option} " if argument.lower() == "true" else ""
        else:
            text += f" --{option}={argument} "
    return text


def _add_environment(ray: Object, head: bool, command: str, domain_name: str) -> None:
    host = "127.0.0.1" if head else domain_name
    if not head:
        _force(ray, "FQ_RAY_IP", domain_name)
        _force(ray, "RAY_IP", domain_name.split(".", maxsplit=1)[0])
    _force(ray, "RAY_CLUSTER_NAME", {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}})
    _force(ray, "RAY_CLUSTER_NAMESPACE", {"fieldRef": {"fieldPath": "metadata.namespace"}})
    _force(ray, "RAY_CLOUD_INSTANCE_ID", {"fieldRef": {"fieldPath": "metadata.name"}})
    _force(ray, "RAY_NODE_TYPE_NAME", {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}})
    _force(ray, "KUBERAY_GEN_RAY_START_CMD", command)
    _add(ray, "RAY_PORT", GCS_PORT)
    _add(ray, "RAY_ADDRESS", f"{host}:{GCS_PORT}")
    _add(ray, "RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    if head:
        _force(ray, "RAY_USAGE_STATS_EXTRA_TAGS", "kuberay_version=v1.7.0;kuberay_crd=RayJob")
    _add(ray, "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1")


def _add_probes(ray: Object, head: bool) -> None:
    check = {"path": "/api/healthz", "port": AGENT_PORT}
    rest = {"timeoutSeconds": 5 if head else 2, "periodSeconds": 5, "successThreshold": 1}
    ray.setdefault("livenessProbe", {"httpGet": check, "initialDelaySeconds": 30, "failureThreshold": 120} | rest)
    ray.setdefault("readinessProbe", {"httpGet": check, "initialDelaySeconds": 10, "failureThreshold": 10} | rest)


def _add(container: Object, name: str, what: str | Object) -> None:
    """An environment variable, unless the container has it."""
    if all(variable["name"] != name for variable in container.get("env", [])):
        _force(container, name, what)


def _force(container: Object, name: str, what: str | Object) -> None:
    container.setdefault("env", []).append({"name": name, "value" if isinstance(what, str) else "valueFrom": what})
