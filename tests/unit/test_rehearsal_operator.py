"""The rehearsal's operator against what KubeRay's own tests (1.7.0, `common/pod_test.go`) expect of the real one."""

from __future__ import annotations

import copy

import pytest

from tests.support.rehearsal.environment import environment, expand
from tests.support.rehearsal.operator import head_pod, job_request, worker_pods
from tests.support.rehearsal.quantities import value

SAMPLE = {
    "metadata": {"name": "sample", "namespace": "default"},
    "spec": {
        "submissionMode": "HTTPMode",
        "entrypoint": "s2l train /etc/s2l-ray/config.yaml",
        "runtimeEnvYAML": 'env_vars: {RAY_JOB_STOP_WAIT_TIME_S: "60"}\n',
        "rayClusterSpec": {
            "authOptions": {"mode": "token", "secretName": "ray-token"},
            "headGroupSpec": {
                "rayStartParams": {},
                "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}},
            },
            "workerGroupSpecs": [
                {
                    "groupName": "small-group",
                    "replicas": 3,
                    "rayStartParams": {"port": "6379"},
                    "template": {
                        "spec": {
                            "containers": [
                                {
                                    "resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "3"}},
                                    "env": [{"name": "TEST_ENV_NAME", "value": "TEST_ENV_VALUE"}],
                                }
                            ]
                        }
                    },
                }
            ],
        },
    },
}
HEAD = (
    "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head --block --dashboard-agent-listen-port=52365 "
    "--memory=1073741824 --num-cpus=1 --metrics-export-port=8080 --dashboard-host=0.0.0.0"
)
WORKER = (
    "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --block --dashboard-agent-listen-port=52365 "
    "--memory=1073741824 --num-cpus=1 --num-gpus=3 --address=raycluster-sample-head-svc.default.svc.cluster.local:6379 "
    "--port=6379 --metrics-export-port=8080"
)


def test_ray_is_started_as_the_operators_own_tests_expect():
    head, workers = head_pod(SAMPLE, "raycluster-sample"), worker_pods(SAMPLE, "raycluster-sample")
    assert len(workers) == 3
    for pod, command in ((head, HEAD), (workers[0], WORKER)):
        container = pod["spec"]["containers"][0]
        assert container["command"] == ["/bin/bash", "-c", "--"]
        assert sorted(container["args"][0].split()) == sorted(command.split())


def test_variables_volumes_and_init_container_are_the_operators():
    node = {"ray-token": {"stringData": {"auth_token": "the token"}}}
    objects = {("Secret", name): found for name, found in node.items()}
    head, worker = head_pod(SAMPLE, "raycluster-sample"), worker_pods(SAMPLE, "raycluster-sample")[0]
    found = environment(worker["spec"]["containers"][0], worker, "10.244.0.7", objects)
    domain_name = "raycluster-sample-head-svc.default.svc.cluster.local"
    expected = {
        "TEST_ENV_NAME": "TEST_ENV_VALUE",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "the token",
        "FQ_RAY_IP": domain_name,
        "RAY_IP": "raycluster-sample-head-svc",
        "RAY_ADDRESS": f"{domain_name}:6379",
        "RAY_PORT": "6379",
        "RAY_CLUSTER_NAME": "raycluster-sample",
        "RAY_CLUSTER_NAMESPACE": "default",
        "RAY_NODE_TYPE_NAME": "small-group",
    }
    assert expected.items() <= found.items()
    assert environment(head["spec"]["containers"][0], head, "10.244.0.6", objects)["RAY_ADDRESS"] == "127.0.0.1:6379"
    (waits,) = worker["spec"]["initContainers"]
    assert f"ray health-check --address {domain_name}:6379" in waits["args"][0]
    assert environment(waits, worker, "10.244.0.7", objects)["RAY_AUTH_TOKEN"] == "the token"
    assert worker["spec"]["volumes"] == [{"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]


def test_a_shared_memory_and_variables_of_the_template_stay():
    rayjob = copy.deepcopy(SAMPLE)
    spec = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    spec["containers"][0] |= {
        "volumeMounts": [{"name": "mine", "mountPath": "/dev/shm"}],
        "env": [{"name": "RAY_ADDRESS", "value": "mine"}],
    }
    pod = head_pod(rayjob, "raycluster-sample")
    assert "volumes" not in pod["spec"]
    assert [v for v in pod["spec"]["containers"][0]["env"] if v["name"] == "RAY_ADDRESS"] == [
        {"name": "RAY_ADDRESS", "value": "mine"}
    ]


def test_the_request_is_that_of_http_mode():
    assert job_request(SAMPLE, "sample-abcde") == {
        "entrypoint": "s2l train /etc/s2l-ray/config.yaml",
        "submission_id": "sample-abcde",
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}},
    }


def test_references_in_words_are_expanded_as_kubernetes_does():
    assert expand("$(A) $(B) $$(A) $A", {"A": "a"}) == "a $(B) $(A) $A"


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("500m", 1),
        ("1500m", 2),
        ("2", 2),
        (3, 3),
        ("0.5", 1),
        ("1Gi", 2**30),
        ("4G", 4 * 10**9),
        ("1450M", 1450 * 10**6),
    ],
)
def test_quantities_are_rounded_up(quantity, number: int):
    assert value(quantity) == number
