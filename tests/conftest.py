"""Shared fixtures. Engines that tests start run eagerly and stay on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from s2l_ray.config import EngineConfig
from s2l_ray.miniature.build import Family, build_family
from s2l_ray.miniature.recipe import TINY
from s2l_ray.vllm_bridge.environment import engine_environment
from tests.support.paths import ROOT
from tests.support.shared import built_once, shared_directory

# Before anything imports Ray: a call without a Ray would start one, on this machine's outward address, and leave it.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
# Before anything imports vLLM.
os.environ.update(engine_environment(EngineConfig(enforce_eager=True)))
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
# Before anything imports huggingface_hub: nothing is asked of the Hub but by tests that have a server of their own.
os.environ["HF_HUB_OFFLINE"] = "1"


# No test measures time; and what a submission is judged by are the same examples every time.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _leaves_no_store_of_mlflow() -> Iterator[None]:
    """Fail a test that lets MLflow use its own default, a database in the working directory."""

    def found() -> set[str]:
        return {name for name in ("mlflow.db", "mlruns", "mlartifacts") if (ROOT / name).exists()}

    before = found()  # a user's own is no test's fault
    yield
    left = found() - before
    assert not left, f"{left} in the repository's root: give MLflow's functions a tracking URI"


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The embedded family, trained for seconds: real models that are as good as untrained."""
    directory = shared_directory(tmp_path_factory) / "family"
    return built_once(directory, lambda fresh: build_family(fresh / "tiny", recipe=TINY))


@pytest.fixture(scope="session")
def run(family: Family, tmp_path_factory: pytest.TempPathFactory):
    """A whole run of six steps; see `tests.support.undisturbed.Undisturbed`."""
    from tests.support.undisturbed import undisturbed_run

    directory = shared_directory(tmp_path_factory) / "undisturbed"
    return built_once(directory, lambda fresh: undisturbed_run(family, fresh))
