"""How long actors may take to start, by what the busiest node has to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.placement.start_bound import start_bound
from tests.support.plans import separate_plan

EAGER = {"engines.explorer.enforce_eager": True, "engines.learner.enforce_eager": True}
COMPILED = dict.fromkeys(EAGER, False)


def config(**overrides: Any) -> Config:
    return load_config("quickstart", {"cluster.start_timeout_s": 300, **overrides})


def model(directory: Path, *sizes: int) -> str:
    """A directory with weights of these sizes, in bytes, that take no disk."""
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    for number, size in enumerate(sizes):
        file = directory / f"model-{number}.safetensors"
        file.touch()
        os.truncate(file, size)
    return str(directory)


def test_it_is_the_key_where_nothing_compiles_and_models_are_small() -> None:
    bound = start_bound(config(**EAGER), separate_plan().layout)
    assert bound == (300.0, "300 s (cluster.start_timeout_s)")


@pytest.mark.parametrize("nodes", [2, 3])
def test_it_grows_with_the_engines_that_compile_on_one_node(nodes: int) -> None:
    """Two learner and four explorer engines on each node that samples: five beyond the first, 60 s each."""
    bound = start_bound(config(**COMPILED), separate_plan(nodes).layout)
    assert bound.seconds == 600
    assert bound.text == "600 s (cluster.start_timeout_s, 300 s, and 300 s more for 6 engines that compile on one node)"


def test_engines_of_a_source_that_runs_eagerly_do_not_count() -> None:
    """The last phase has four learner engines on a node."""
    compiled = config(**EAGER | {"engines.learner.enforce_eager": False})
    assert start_bound(compiled, separate_plan().layout).seconds == 480


def test_it_grows_with_what_a_node_reads_once(tmp_path: Path) -> None:
    """Node 0 has eight ranks and reads the learner, 30 + 35 GB; node 1's engines read the explorer, 4 GB."""
    models = {
        "models.learner": model(tmp_path / "learner", 30 * 10**9, 35 * 10**9),
        "models.explorer": model(tmp_path / "explorer", 4 * 10**9),
    }
    bound = start_bound(config(**EAGER, **models), separate_plan().layout)
    assert bound.seconds == 430
    assert "130 s more for 65 GB of weights that a node reads" in bound.text


def test_models_of_the_hub_count_as_they_lie_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, commit = tmp_path / "models--somebody--model", "ab" * 20
    (repository / "snapshots").mkdir(parents=True)
    model(repository / "snapshots" / commit, 40 * 10**9)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names = {"models.learner": "somebody/model", "models.explorer": "somebody/other"}
    assert start_bound(config(**EAGER, **names), separate_plan().layout).seconds == 300 + 40 / 0.5
