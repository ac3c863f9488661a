"""Stage 9: `s2l train` on the embedded family, in each placement mode that this machine allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.vllm_workload import LARGEST_GAP, need_packages

STEPS = 6
RUN: dict[str, Any] = {
    "placement.device": "gpu",
    "schedule.steps": STEPS,
    "schedule.mix_steps": 4,
    "rollout.prompts_per_step": 16,
    "objective.mini_batch_prompts": 8,
    "data.eval_limit": 32,
    "engines.learner.count": 1,
    "engines.explorer.count": 1,
    "checkpoint.every": 3,
    "tracking.enabled": "false",
    "cluster.start_timeout_s": 180,
    "cluster.step_timeout_s": 120,
    "cluster.weight_sync_timeout_s": 60,
}
SEPARATE = {"placement.mode": "separate", "trainer.ranks": 1, "cluster.verify_weights": "true"}
"""Weights go over NCCL, which no other stage sends them over: every engine's are compared with the trainer's."""
MODES: dict[str, tuple[int, dict[str, Any]]] = {
    "colocated": (1, {"placement.mode": "colocated", "trainer.ranks": 1}),
    "separate": (3, SEPARATE),
    "separate, learner alone": (2, SEPARATE | {"schedule.kind": "off"}),
    "mixed": (2, {"placement.mode": "mixed", "trainer.ranks": 1}),
    "colocated, two ranks": (2, {"placement.mode": "colocated", "trainer.ranks": 2}),
    "colocated, tensor parallel": (
        2,
        {"placement.mode": "colocated", "trainer.ranks": 2, "engines.learner.tensor_parallel": 2},
    ),
}
"""GPUs that a run takes at least, and its keys."""
LEAST_SECONDS = 120.0
"""Left to the stage for another run: one took 125 s on an H200, most of it the start of vLLM."""


def run(check: Check) -> None:
    """Train in every mode."""
    check.need_gpu("the tests train on CPUs")
    need_packages("ray", "vllm", "pydantic", "omegaconf")
    gpus = torch.cuda.device_count()
    for mode, (least, keys) in MODES.items():
        if gpus < least:
            check.say(f"left out: {mode} (it takes {least} GPUs)")
            continue
        if check.seconds_left < LEAST_SECONDS:
            check.say(f"left out: {mode} (no time)")
            continue
        with check.part(mode), tempfile.TemporaryDirectory(prefix="s2l-") as directory:
            _train(check, mode, RUN | keys | {"run_dir": f"{directory}/run"}, Path(directory) / "run")


def _train(check: Check, mode: str, keys: dict[str, Any], run_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "s2l_ray",
        "train",
        "quickstart",
        *[f"{key}={value}" for key, value in keys.items()],
    ]
    environment = {"NO_COLOR": "1", "COLUMNS": "120", "RAY_USAGE_STATS_ENABLED": "0"} | os.environ
    begin = time.perf_counter()
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=check.seconds_left, check=False)
    status = ended.returncode
    check.measure(**{f"{mode}: seconds": time.perf_counter() - begin})
    check.expect(status == 0, f"{mode}: s2l train ends with status {status}")
    rows = [json.loads(line) for line in (run_dir / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    check.measure(**{f"{mode}: steps": rows})
    for row in rows:
        check.say(_line(row))
    check.expect(len(rows) == STEPS, f"{mode}: {len(rows)} of {STEPS} steps are in its step log")
    gaps = [row["trainer"]["logprob_gap/learner"] for row in rows if "logprob_gap/learner" in row["trainer"]]
    check.expect(bool(gaps) and max(gaps) <= LARGEST_GAP, f"{mode}: log-probs of engine and trainer differ by {gaps}")
    check.expect((run_dir / "model" / "config.json").is_file(), f"{mode}: it leaves the trained model")


def _line(row: dict[str, Any]) -> str:
    seconds = {name: round(value, 3) for name, value in row["seconds"].items()}
    pipeline = {name: value for name, value in row["pipeline"].items() if name.startswith("weight_sync")}
    return f"step {row['step']}: reward {row['reward']:.3f}, seconds {seconds}, {pipeline}"
