"""What a logical step costs beside sampling and training: here, and where every update is a process of its own.

The authors' release runs a logical step as two programs, the explorer's sub-groups (from a file made beforehand), then
the learner's; each starts, imports, loads model and optimizer, trains, saves and ends; the second starts a vLLM engine
too (`tests/support/process_per_step.py`, which says what it leaves out in their favour). Here it is one step of a run
whose actors stay. Same models, prompts, rollouts and update on both sides, G_w = G_s = 4, and a checkpoint at every
step.

Counted is the wall-clock of a logical step less generation (theirs: the call that samples; ours: what the step waits
for rollouts) and less training (the update, from advantages to AdamW). What remains is theirs: processes, imports,
loading, engine, reading rollouts, verification, saving; ours: verification beyond sampling, assembly, transfers, weight
weight sync, checkpoint, records. One start of ours per run is stated beside, spread over the paper's 16 steps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2l_ray.machine.cpu import this_cpu
from tests.benchmarks.protocol import Result

ROOT = Path(__file__).parents[2]
THEIR_STEPS = 3
OUR_STEPS = 12
WARM_UP = 2
"""First steps of ours that are left out; the last is too, since it also ends the run."""
RUN_STEPS = 16
"""Of the paper's runs."""
GENERATION = ("explore", "generate", "explore_and_generate")
TRAINING = ("prepare", "old_logprobs", "reference", "forward_backward", "optimizer")
"""Parts of a step, as `s2l_ray.timing` names them."""


def run() -> list[Result]:
    from s2l_ray.miniature.build import EMBEDDED

    family = EMBEDDED
    with tempfile.TemporaryDirectory() as scratch:
        config = load_run(family, Path(scratch) / "ours")
        theirs = their_steps(family, config, Path(scratch) / "theirs")
        start, ours = our_steps(config)
    table("theirs", theirs)
    table("ours", ours)
    per_step = {who: statistics.median(map(remainder, steps)) for who, steps in (("theirs", theirs), ("ours", ours))}
    with_start = per_step["ours"] + start / RUN_STEPS
    print(
        f"   ours once per run: {start:.1f} s to start, {start / RUN_STEPS:.2f} s a step over {RUN_STEPS}", flush=True
    )
    return [
        Result("step_overhead_seconds", per_step["ours"], None, "s"),
        Result("step_overhead_seconds_process_per_step", per_step["theirs"], None, "s"),
        Result("step_overhead_over_process_per_step", per_step["ours"] / per_step["theirs"], 0.1, "ratio"),
        Result("step_overhead_over_process_per_step_start_included", with_start / per_step["theirs"], None, "ratio"),
    ]


def load_run(family: Any, run_dir: Path) -> Any:
    """The quickstart with half of every group the explorer's, and a checkpoint at every step, as theirs has."""
    from s2l_ray import load_config

    changes = {
        "models.dtype": "bfloat16" if this_cpu().native else "float32",
        "models.learner": str(family.large),
        "models.explorer": str(family.small),
        "data.train": str(family.train),
        "data.eval": None,
        "run_dir": str(run_dir),
        "schedule.kind": "constant",
        "schedule.start": 0.5,
        "schedule.steps": OUR_STEPS,
        "schedule.mix_steps": OUR_STEPS,
        "objective.explorer_negatives": 1.0,
        "checkpoint.every": 1,
    }
    return load_config(str(ROOT / "configs" / "quickstart.yaml"), changes)


# ---- theirs ---------------------------------------------------------------------------------------------------------


def their_steps(family: Any, config: Any, directory: Path) -> list[dict[str, float]]:
    """Seconds of each logical step by activity, "total" among them."""
    directory.mkdir()
    settings = directory / "settings.json"
    settings.write_text(json.dumps(asdict(their_settings(family, config, directory))))
    print("   theirs: sampling the explorer's rollouts beforehand (not counted)", flush=True)
    call("explore", settings)
    steps = []
    for step in range(1, THEIR_STEPS + 1):
        seconds: dict[str, float] = defaultdict(float)
        for phase in ("offline", "online"):
            for name, value in call(phase, settings, str(step)).items():
                seconds[name] += value
        print(f"   theirs, logical step {step}: {seconds['total']:.1f} s", flush=True)
        steps.append(dict(seconds))
    return steps


def their_settings(family: Any, config: Any, directory: Path) -> Any:
    from s2l_ray.rollouts.step_planner import StepPlanner
    from tests.support.process_per_step import Settings

    ids = [json.loads(line)["id"] for line in family.train.read_text().splitlines()]
    size = config.rollout.group_size
    schedule = config.schedule.build(size)
    planner = StepPlanner(ids, schedule, config.rollout.prompts_per_step, config.seed, config.seed)
    return Settings(
        learner=str(family.large),
        explorer=str(family.small),
        train=str(family.train),
        directory=str(directory),
        prompts=[planner.prompts(step) for step in range(1, RUN_STEPS + 1)],
        offline_rollouts=size,
        explorer_per_group=schedule.split(1).explorer,
        learner_per_group=schedule.split(1).learner,
        mini_batch_prompts=config.objective.mini_batch_prompts,
        max_tokens=config.rollout.max_tokens,
        learning_rate=config.trainer.learning_rate,
        betas=config.trainer.betas,
        dtype=config.models.dtype,
        seed=config.seed,
    )


def call(*arguments: Any) -> dict[str, float]:
    """One of their processes from start to end: what it says of its seconds, and their "total"."""
    command = [sys.executable, "-m", "tests.support.process_per_step", *map(str, arguments)]
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    total = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"total": total}


# ---- ours -----------------------------------------------------------------------------------------------------------


def our_steps(config: Any) -> tuple[float, list[dict[str, float]]]:
    """Seconds to start, and those of each step by part, "total" among them."""
    from s2l_ray import S2LPO

    begin = time.perf_counter()
    algo = S2LPO(config)
    start = time.perf_counter() - begin
    try:
        for _ in range(OUR_STEPS):
            algo.train()
    finally:
        algo.stop()
    records = [record.to_json() for record in algo.run.records]
    kept = records[WARM_UP:-1]
    return start, [record["parts"] | {"total": record["seconds"]["total"]} for record in kept]


# ---- both -----------------------------------------------------------------------------------------------------------


def remainder(step: dict[str, float]) -> float:
    """Seconds that are neither generation nor training."""
    worked = (*GENERATION, *TRAINING, "train")
    return step["total"] - sum(step.get(name, 0.0) for name in worked)


def table(who: str, steps: list[dict[str, float]]) -> None:
    """Medians by activity; what no activity claims is the start and end of processes (theirs)."""
    names = sorted({name for step in steps for name in step} - {"total"})
    medians = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
    unclaimed = statistics.median(
        step["total"] - sum(value for name, value in step.items() if name != "total") for step in steps
    )
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items())
    total = statistics.median(step["total"] for step in steps)
    print(f"   {who}, median of {len(steps)} steps: {total:.2f} s; {parts}, unclaimed {unclaimed:.2f}", flush=True)


if __name__ == "__main__":
    print(run())
