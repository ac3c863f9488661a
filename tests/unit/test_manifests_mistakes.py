"""The checks of Kubernetes objects find what is wrong, and say why."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.support.kubernetes.checks import build_problems, joint_problems, malformed, object_problems
from tests.support.kubernetes.claims import sharing_problems
from tests.support.kubernetes.custom_schemas import schema_problems
from tests.support.kubernetes.definitions import DEFINITIONS, needs_definitions
from tests.support.kubernetes.flows import flow_problems, unbound_problems
from tests.support.kubernetes.kueue_rules import kueue_problems
from tests.support.kubernetes.mistakes import FOLDER, Mistake, mistakes, spoiled
from tests.support.kubernetes.network_policies import Peer, allows, selects
from tests.support.kubernetes.objects import Object, Problem, quantity, read
from tests.support.kubernetes.references import policy_problems

GOOD = read(FOLDER / "good_build.yaml")
GIVEN = frozenset({"Secret/ray-token"})
MISTAKES = mistakes()
PLAIN_MISTAKES = [row for name, table in MISTAKES.items() if name not in ("schema", "flow") for row in table]


def flow_problems_of(build: list[Object]) -> list[Problem]:
    return [*flow_problems(build, ("kuberay",)), *unbound_problems(build), *policy_problems(build)]


def by_name(mistake: Mistake) -> str:
    return mistake.name


def test_a_good_build_has_no_problems():
    assert [
        str(problem)
        for problem in [*build_problems(GOOD, None, "2.60.0", GIVEN), *flow_problems_of(GOOD), *sharing_problems(GOOD)]
    ] == []


@needs_definitions
def test_a_good_build_fits_the_custom_definitions():
    assert [str(problem) for problem in build_problems(GOOD, DEFINITIONS, "2.60.0", GIVEN)] == []


@pytest.mark.parametrize("mistake", PLAIN_MISTAKES, ids=by_name)
def test_a_mistake_is_refused_with_its_reason(mistake: Mistake):
    wrong, build = spoiled(GOOD, mistake)
    found = object_problems(wrong, None, "2.60.0")
    if not malformed(wrong, None):
        found += [*joint_problems(build, GIVEN), *policy_problems(build), *sharing_problems(build)]
    found = [str(problem) for problem in found]
    assert any(mistake.reason in problem for problem in found), found


@needs_definitions
@pytest.mark.parametrize("mistake", MISTAKES["schema"], ids=by_name)
def test_a_custom_definition_refuses_a_mistake_with_its_reason(mistake: Mistake):
    found = [str(problem) for problem in object_problems(spoiled(GOOD, mistake)[0], DEFINITIONS, "2.60.0")]
    assert any(mistake.reason in problem for problem in found), found


@pytest.mark.parametrize("mistake", MISTAKES["flow"], ids=by_name)
def test_a_connection_against_the_table_is_named(mistake: Mistake):
    found = [str(problem) for problem in flow_problems_of(spoiled(GOOD, mistake)[1])]
    assert any(mistake.reason in problem for problem in found), found


def test_quantities_are_numbers():
    assert [quantity(text) for text in ("500m", "2Gi", "1e3", 4)] == [quantity("0.5"), 2 * 2**30, 1000, 4]
    with pytest.raises(ValueError, match="8GB"):
        quantity("8GB")


def test_selectors_select_by_labels_and_by_expressions():
    labels = {"app": "ray", "role": "head"}
    expression = {"key": "role", "operator": "NotIn", "values": ["worker"]}
    assert selects({}, labels) and selects({"matchLabels": {"app": "ray"}, "matchExpressions": [expression]}, labels)
    assert not selects({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}, labels)


def test_a_connection_needs_leave_on_both_sides():
    def policy(name: str, direction: str) -> Object:
        peers = [{"podSelector": {}}]
        rule = {"to" if direction == "egress" else "from": peers, "ports": [{"port": 10, "endPort": 20}]}
        spec = {
            "podSelector": {"matchLabels": {"app": name}},
            "policyTypes": [direction.capitalize()],
            direction: [rule],
        }
        return {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "a"}, "spec": spec}

    one, two = Peer("one", "a", {"app": "one"}), Peer("two", "a", {"app": "two"})
    both = [policy("one", "egress"), policy("two", "ingress")]
    assert [allows(both, one, two, port) for port in (9, 10, 20, 21)] == [False, True, True, False]
    assert not allows(both, Peer("other", "b", {"app": "one"}), two, 10)
    assert not allows([policy("two", "egress"), policy("two", "ingress")], two, Peer("host", address="10.0.0.1"), 10)
    assert allows(both, two, one, 99)  # no policy binds either direction


DEFINITION = """
spec:
  group: example.com
  names: {kind: Thing}
  versions:
    - name: v1
      served: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [count]
              x-kubernetes-validations:
                - {rule: "self.least <= self.count", message: least is more than count}
                - {rule: "self == oldSelf", message: cannot be changed}
              properties:
                count: {type: integer}
                least: {type: integer, default: 2}
                rows:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [port, protocol]
                  items:
                    type: object
                    properties:
                      port: {type: integer}
                      protocol: {type: string, default: TCP}
"""


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        ({"count": 2}, []),
        ({"count": 1}, ["spec: least is more than count"]),
        ({"count": 1, "least": 0}, []),
        ({}, ["spec: 'count' is a required property"]),
        ({"count": 3, "rows": [{"port": 1, "protocol": "UDP"}, {"port": 1}]}, []),
        (
            {"count": 3, "rows": [{"port": 1, "protocol": "TCP"}, {"port": 1}]},
            ["spec.rows[1]: repeats port, protocol 1"],
        ),
    ],
)
def test_a_custom_definition_gives_defaults_before_it_refuses(spec: Object, reasons: list[str], tmp_path: Path):
    (tmp_path / "thing.yaml").write_text(DEFINITION, encoding="utf-8")
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec}
    found = [str(problem).removeprefix("Thing/a: ") for problem in schema_problems(thing, tmp_path)]
    assert [problem.startswith(reason) for problem, reason in zip(found, reasons, strict=True)] == [True] * len(reasons)


def test_an_object_that_kubectl_cannot_apply_is_refused():
    large = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"a": "x" * 2**18}}
    assert "262144" in str(malformed(large, None)[0])
    assert malformed(large | {"data": {"a": "x" * 2**17}}, None) == []


def test_an_object_that_is_in_a_build_twice_is_refused():
    found = [str(problem) for problem in joint_problems([*GOOD, GOOD[-1]], GIVEN)]
    assert found == ["NetworkPolicy/stage: metadata.name: is in the build twice"]


def test_a_role_binding_needs_its_role_and_account():
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "runs"}],
    }
    assert malformed(binding, None) == []
    assert [problem.reason for problem in joint_problems([binding])] == [
        "Role reader is not there",
        "ServiceAccount runs is not there",
    ]


def test_a_rolling_update_waits_for_a_claim_of_one_node():
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "a"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    body = {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "a"}}]}
    deployment: Object = {"kind": "Deployment", "metadata": {"name": "b"}, "spec": {"template": {"spec": body}}}
    assert ["must be Recreate" in problem.reason for problem in sharing_problems([claim, deployment])] == [True]
    deployment["spec"]["strategy"] = {"type": "Recreate"}
    assert sharing_problems([claim, deployment]) == []


def test_kueue_takes_no_more_than_18_groups():
    job = copy.deepcopy(next(obj for obj in GOOD if obj["kind"] == "RayJob"))
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    groups += [groups[0]] * 16
    assert kueue_problems(job) == []  # 17 groups and the head
    groups.append(groups[0])
    assert [problem.reason for problem in kueue_problems(job)] == ["Kueue takes 18 pod sets, the head's included"]
