"""The example of the Python interface, as a user runs it, with every extension of examples/ at once.

Its learner engines work while the trainer does, weight syncs catch them in flight, and the last groups of a step are
not waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.miniature.build import Family
from s2l_ray.rollouts.stragglers import read_stragglers
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import steps_of

STEPS = 6
OWN = {
    "verifier.kind": "verifier:by_data_source",
    "schedule.kind": "schedule:stairs",
    "objective.advantage": "advantage:learner_baseline",
    "objective.loss": "loss:dual_clip",
    "objective.correction.explorer": "correction:geometric_mean",
}


@dataclass(frozen=True)
class Ran:
    """What the example printed, and its run directory."""

    shown: list[str]
    run_dir: Path

    @property
    def steps(self) -> list[dict[str, Any]]:
        return steps_of(self.run_dir)


@pytest.fixture(scope="module")
def ran(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The modules are in the working directory alone, where the driver and every actor have to find them."""
    folder = tmp_path_factory.mktemp("example")
    run_dir, project = folder / "run", folder / "project"
    shutil.copytree(ROOT / "examples", project / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    (held_out := project / "heldout").mkdir()
    with_source(family.heldout, held_out / "first.jsonl", slice(4))
    with_source(family.heldout, held_out / "second.jsonl", slice(4, 10))
    settings = run_config(family, run_dir) | {
        "schedule.steps": STEPS,
        "schedule.mix_steps": 4,
        "rollout.max_staleness": 2,
        "rollout.weight_sync_mode": "in_flight",
        "rollout.straggler_groups": 2,
        "cluster.address": "local",
        "data.train": with_source(family.train, project / "train.jsonl"),
        "data.eval": str(held_out),
        "verifier.columns": '["data_source"]',
    }
    settings |= {key: f"mine.{function}" for key, function in OWN.items()}
    done = subprocess.run(
        [sys.executable, "mine/python_api.py", *(f"{key}={value}" for key, value in settings.items())],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Ran(done.stdout.splitlines(), run_dir)


def with_source(file: Path, to: Path, some: slice = slice(None)) -> str:
    """Problems of a file, with a column that says which verifier they are for."""
    rows = [json.loads(line) | {"data_source": "countdown"} for line in file.read_text().splitlines()[some]]
    to.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(to)


def test_python_api_with_every_extension(ran: Ran) -> None:
    assert [line for line in ran.shown if line.startswith("step ")][-1].startswith(f"step {STEPS}: reward ")
    assert any(line.startswith("pass@1 before ") for line in ran.shown)
    # G = 4 in stairs of one step each: 4, 3, 2 and 1 of the explorer's
    assert [row["explorer_per_group"] for row in ran.steps] == [4, 3, 2, 1, 0, 0]
    assert all(source["verdicts"]["failed"] == 0 for row in ran.steps for source in row["sources"].values())
    after = json.loads((ran.run_dir / "summary.json").read_text())["evaluation"]["after"]
    assert {name: found["problems"] for name, found in after["files"].items()} == {"first": 4, "second": 6}
    assert [right for found in after["files"].values() for right in found["correct"]] == after["correct"]
    contents = json.loads((ran.run_dir / "run.json").read_text())["contents"]
    assert {"verifier source", *(f"{key} source" for key in OWN if key != "verifier.kind")} <= set(contents)


def test_learners_are_as_stale_as_allowed_and_stragglers_are_left_out(ran: Ran) -> None:
    stragglers = read_stragglers(ran.run_dir / "stragglers.jsonl")
    for step, row in enumerate(ran.steps, 1):
        assert row["groups"] == 8
        assert row["weight_version"] == step - 1
        assert len(stragglers[step]) == 2 and not set(stragglers[step]) & set(row["prompts"])
        assert row["pipeline"]["stale_dropped"] == 0
        if row["learner_per_group"]:
            # Asked for two steps before, if there were two: never older, and seldom newer.
            assert row["pipeline"]["staleness_max"] <= min(2, step - 1)
        assert sum(row["parts"].values()) == pytest.approx(row["seconds"]["total"], abs=1e-4)
    assert max(row["pipeline"].get("staleness_max", 0) for row in ran.steps) > 0
