"""Where the definitions of KubeRay's and Kueue's kinds lie, which the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DEFINITIONS = Path(os.environ.get("S2L_KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay-crds"))
"""A folder of CustomResourceDefinitions, one a file."""

needs_definitions = pytest.mark.skipif(
    not DEFINITIONS.is_dir(),
    reason=f"no custom resource definitions in {DEFINITIONS}; S2L_KUBERAY_CRDS names their folder",
)
