"""Run directories whose steps were simulated from known constants."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from s2l_ray.config import Config, parse_config
from s2l_ray.planner.simulate.constants import Constants, EngineConstants
from s2l_ray.planner.simulate.measured_run import host_layout
from s2l_ray.planner.simulate.simulated_run import SimulatedStep
from s2l_ray.planner.simulate.simulation import evaluation_seconds, simulate
from s2l_ray.planner.simulate.solved import Solved
from s2l_ray.results import SourceStats, StepRecord

TRUTH = Constants(
    engines={
        "explorer": EngineConstants(((0.0, 0.004), (64.0, 0.012)), request_s=0.003, sequences=64, width=1.3),
        "learner": EngineConstants(((0.0, 0.009), (64.0, 0.025)), request_s=0.003, sequences=64, width=1.3),
    },
    pass_token_s=2e-5,
    optimizer_s=0.0,
    train_rollout_s=8e-4,
    weight_sync_s=0.07,
    step_s=0.012,
    cores=2.0,
    lengths={"explorer": (12,), "learner": (12,)},
    prompt_tokens=6.0,
    solved=Solved({"explorer": -2.0, "learner": -1.0}, 1.0),
)


def config(group_size: int = 4, prompts: int = 8, steps: int = 24, mix_steps: int = 16, learners: int = 1) -> Config:
    engine = {"max_num_seqs": 64}
    return parse_config(
        {
            "models": {"learner": "Qwen/Qwen3-1.7B", "explorer": "Qwen/Qwen3-0.6B"},
            "data": {"train": "train.jsonl"},
            "verifier": {"kind": "countdown"},
            "rollout": {"group_size": group_size, "prompts_per_step": prompts, "max_tokens": 12},
            "schedule": {"steps": steps, "mix_steps": mix_steps},
            "engines": {"learner": {**engine, "count": learners}, "explorer": engine},
            "evaluation": {"samples": 1, "k": [1]},
        }
    )


def record(step: SimulatedStep, settings: Config, rng: np.random.Generator) -> StepRecord:
    """As a run would have written it, with rewards as TRUTH has them."""
    share = settings.schedule.build(settings.rollout.group_size).split(step.step)
    prompts = settings.rollout.prompts_per_step
    counts = {"explorer": share.explorer, "learner": share.learner}
    right = TRUTH.solved.draw(rng, prompts, counts)
    solutions = sum(found.sum(axis=1) for found in right.values())
    varied = (solutions > 0) & (solutions < settings.rollout.group_size)
    sources = {
        source: SourceStats(
            rollouts=prompts * count,
            reward=0.0,
            prompt_tokens=6 * prompts * count,
            response_tokens=12 * prompts * count,
            truncated=0,
            verdicts={"right": int(right[source].sum()), "wrong": 0, "unparsable": 0, "timeout": 0},
        )
        for source, count in counts.items()
    }
    return StepRecord(
        step=step.step,
        alpha=float(share.alpha),
        explorer_per_group=share.explorer,
        learner_per_group=share.learner,
        reward=0.0,
        sources=sources,
        zero_variance_groups=int((~varied).sum()),
        groups=prompts,
        prompts=[str(n) for n in range(prompts)],
        digest="",
        weight_version=step.step - 1,
        trainer={"trained_tokens": 12.0 * settings.rollout.group_size * int(varied.sum())},
        seconds={**step.seconds, "total": step.seconds["total"] + 0.5},
        spans=step.spans,
    )


def write_run(target: Path, settings: Config) -> Path:
    """A run directory with simulated times. Its updates took what the tokens of its records cost."""
    target.mkdir()
    rng = np.random.default_rng(5)
    layout = host_layout(settings)
    blank = [record(step, settings, rng) for step in simulate(settings, layout, TRUTH).steps]
    trained = {r.step: r.trainer["trained_tokens"] * 1.5 for r in blank}  # 12 response tokens, 6 of the prompt
    timed = simulate(settings, layout, TRUTH, trained=trained).steps
    rows = [
        replace(r, seconds={**s.seconds, "total": s.seconds["total"] + 0.5}, spans=s.spans)
        for r, s in zip(blank, timed, strict=True)
    ]
    (target / "config.yaml").write_text(settings.to_yaml())
    (target / "steps.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    after = {"step": 24, "problems": 64, "samples": 1, "seconds": evaluation_seconds(settings, layout, TRUTH, 64, 1)}
    (target / "summary.json").write_text(json.dumps({"evaluation": {"after": after, "during": []}}))
    return target
