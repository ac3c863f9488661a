"""`s2l train` and other commands in processes of their own, as a user starts them, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from s2l_ray.run.checkpoints import checkpoints_in
from s2l_ray.tracking.mlflow_store import locate
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

MARK = "S2L_TEST_RUN"
"""Environment variable that every process of a run inherits, all the way down."""


def words_of(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as a command line has them."""
    written = {key: json.dumps(v) if isinstance(v, list) or v is None else v for key, v in overrides.items()}
    return [f"{key}={value}" for key, value in written.items()]


def start_train(
    overrides: Mapping[str, Any], folder: Path, in_background: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start `s2l train quickstart`, as `start_s2l` does."""
    return start_s2l(["train", "quickstart", *words_of(overrides)], folder, in_background, **environment)


def start_s2l(
    words: Sequence[str], folder: Path, in_background: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, as a terminal would, or a script with `&`.

    Args:
        words: after `s2l`.
        folder: by which `processes_of` finds its processes.
        in_background: a script's background jobs have SIGINT ignored, and children inherit that; a terminal's do not.
        environment: further variables.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "s2l_ray", *words],
        cwd=ROOT,
        env=os.environ | environment | {MARK: str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if in_background else signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read what it prints as far as a line with this text."""
    said = []
    while text not in (line := process.stdout.readline()):
        said.append(line)
        assert line, f"it ended without a word of {text!r}: {''.join(said)[-4000:]}"


def output_of(process: subprocess.Popen[str]) -> str:
    """What it has printed when it has ended well, by itself."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every live process that descends from what `start_s2l` has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look five times a second until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of a run's step log."""
    return [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]


def newest_checkpoint(run_dir: Path) -> int:
    """Step of the newest checkpoint that is whole; 0 where there is none."""
    return max((step for step, _ in checkpoints_in(run_dir)), default=0)


def mlflow_of(run_dir: Path) -> tuple[MlflowClient, Run]:
    """The run in the MLflow store of its project."""
    client = MlflowClient(locate(None, run_dir.parent)[0])
    run_id = json.loads((run_dir / "run.json").read_text())["mlflow_run_id"]
    return client, client.get_run(run_id)
