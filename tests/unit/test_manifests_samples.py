"""The checks of Kubernetes objects accept what KubeRay and Kueue publish as working.

Their samples are kept outside of the repository: `S2L_KUBERAY_SAMPLES` names a copy of `ray-operator/config/samples` of
KubeRay's repository at v1.7.0, `S2L_KUEUE_SAMPLES` one of `site/static/examples` of Kueue's.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.kubernetes.checks import accepted
from tests.support.kubernetes.core_schemas import is_core
from tests.support.kubernetes.custom_schemas import definitions
from tests.support.kubernetes.definitions import DEFINITIONS, needs_definitions
from tests.support.kubernetes.objects import read

REFUSED = {
    # Features that are off unless the operator is started with their gate.
    "ray-cluster.embedded-gcs-ft.yaml": "needs the feature gate GCSFaultToleranceEmbeddedStorage",
    "ray-cluster.historyserver.yaml": "needs the feature gate RayClusterHistoryServer",
    "ray-cluster.mtls.yaml": "needs the feature gate RayClusterMTLS",
    "ray-cluster.network-policy-deny-all.yaml": "needs the feature gate RayClusterNetworkPolicy",
    # Says where the reader's certificate goes, in words, which an API server refuses.
    "ray-cluster.tls.yaml": "is not base64",
}


def samples(variable: str) -> list[Path]:
    """The YAML files of the folder that an environment variable names."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no folder of samples")
    found = sorted(Path(folder).rglob("*.yaml"))
    assert found, f"{variable}={folder} has no YAML files"
    return found


def problems_of(path: Path) -> list[str]:
    """What is refused about the objects of a file, but for those of other projects."""
    known = definitions(DEFINITIONS)
    objects = [obj for obj in read(path) if (obj.get("apiVersion"), obj.get("kind")) in known or is_core(obj)]
    return [str(problem) for obj in objects for problem in accepted(obj, DEFINITIONS)]


@needs_definitions
@pytest.mark.parametrize("variable", ["S2L_KUBERAY_SAMPLES", "S2L_KUEUE_SAMPLES"])
def test_published_samples_are_accepted(variable: str):
    found = {path.name: problems for path in samples(variable) if (problems := problems_of(path))}
    unexpected = {
        name: problems
        for name, problems in found.items()
        if not all(REFUSED.get(name, "\n") in problem for problem in problems)
    }
    assert unexpected == {}
    if variable == "S2L_KUBERAY_SAMPLES":
        assert found.keys() == REFUSED.keys()
