"""Settings of a whole run that takes seconds once its engines are up."""

from __future__ import annotations

from pathlib import Path

from s2l_ray.miniature.build import Family
from tests.support.patience import PATIENCE_S


def run_config(family: Family, run_dir: Path) -> dict:
    """A whole run on the tiny family, as dotted overrides of the quickstart. Rewards come from `reward_even`."""
    return {
        "models.learner": str(family.large),
        "models.explorer": str(family.small),
        "data.train": str(family.train),
        "data.eval": str(family.heldout),
        "data.eval_limit": 8,
        "run_dir": str(run_dir),
        "verifier.kind": "tests.support.rewards:first_number_is_even",
        "rollout.group_size": 4,
        "rollout.prompts_per_step": 8,
        "objective.mini_batch_prompts": 4,
        "objective.explorer_negatives": 1.0,
        "schedule.steps": 6,
        "schedule.mix_steps": 4,
        "checkpoint.every": 2,
        "evaluation.samples": 4,
        "evaluation.k": [1, 2, 4],
        "engines.learner.count": 1,
        "engines.learner.cpus": 0.5,
        "tracking.timeout_s": PATIENCE_S,
        "cluster.start_timeout_s": PATIENCE_S,
        "cluster.step_timeout_s": PATIENCE_S,
        "cluster.weight_sync_timeout_s": PATIENCE_S,
    }
