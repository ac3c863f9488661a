"""The example of the Python interface, as a user runs it, with every extension of examples/ at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from s2l_ray.miniature.build import Family
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config

STEPS = 4
OWN = {
    "verifier.kind": "verifier:partial_credit",
    "schedule.kind": "schedule:stairs",
    "objective.advantage": "advantage:learner_baseline",
    "objective.loss": "loss:dual_clip",
    "objective.correction.explorer": "correction:geometric_mean",
}


def test_python_api_with_every_extension(family: Family, tmp_path: Path) -> None:
    """The modules are in the working directory alone, where the driver and every actor have to find them."""
    run_dir, project = tmp_path / "run", tmp_path / "project"
    shutil.copytree(ROOT / "examples", project / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    settings = run_config(family, run_dir) | {
        "schedule.steps": STEPS,
        "schedule.mix_steps": 4,
        "cluster.address": "local",
    }
    settings |= {key: f"mine.{function}" for key, function in OWN.items()}
    command = [sys.executable, "mine/python_api.py", *(f"{key}={value}" for key, value in settings.items())]
    done = subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    shown = done.stdout.splitlines()
    assert [line for line in shown if line.startswith("step ")][-1].startswith(f"step {STEPS}: reward ")
    assert any(line.startswith("pass@1 before ") for line in shown)
    rows = [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]
    # G = 4 in stairs of one step each: 4, 3, 2 and 1 of the explorer's
    assert [row["explorer_per_group"] for row in rows] == [4, 3, 2, 1]
    assert all(source["verdicts"]["failed"] == 0 for row in rows for source in row["sources"].values())
    contents = json.loads((run_dir / "run.json").read_text())["contents"]
    assert {"verifier source", *(f"{key} source" for key in OWN if key != "verifier.kind")} <= set(contents)
