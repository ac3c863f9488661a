"""Updates of eight mini-batches whose old log-probs are the engine's, against the same with the trainer's own.

Processor time of one thread, by turns in one process; a model of 7M parameters, 16 groups of 4 rollouts of 64 tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.protocol import Result

if TYPE_CHECKING:
    from s2l_ray.kinds import OldLogprobs
    from s2l_ray.rollouts.records import RolloutGroup

VOCABULARY, GROUPS, MINI_BATCH, TURNS = 4_096, 16, 2, 3


def run() -> list[Result]:
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.gpu_check.workload import groups_of, write_qwen3
    from s2l_ray.training.trainer import PolicyTrainer

    mixed = groups_of([[64] * 4] * GROUPS, prompt_tokens=32, vocabulary=VOCABULARY)
    learned = [replace(g, rollouts=[replace(r, source="learner") for r in g.rollouts]) for g in mixed]
    config = TrainerConfig(micro_batch_tokens=2_048, threads=1)
    with tempfile.TemporaryDirectory() as directory:
        model_dir = write_qwen3(
            Path(directory), vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=4, head_dim=32, tie_word_embeddings=True,
        )  # fmt: skip
        trainer = PolicyTrainer(
            model_dir, trainer=config, objective=ObjectiveConfig(), dtype="float32", temperature=1.0, timeout_s=60,
            device="cpu",
        )  # fmt: skip

        def seconds(old: OldLogprobs, groups: Sequence[RolloutGroup]) -> float:
            trainer.rebuild(trainer=config, objective=ObjectiveConfig(old_logprobs=old), temperature=1.0)
            mini_batches = [list(groups[first : first + MINI_BATCH]) for first in range(0, GROUPS, MINI_BATCH)]
            begin = time.process_time()
            trainer.update(mini_batches)
            return time.process_time() - begin

        results = []
        for name, groups in (("all_the_learners", learned), ("half_the_explorers", mixed)):
            ratios = []
            for _ in range(TURNS):
                ours, theirs = seconds("engine", groups), seconds("trainer", groups)
                print(f"   {name}: {ours:.2f} s with the engine's, {theirs:.2f} s with the trainer's", flush=True)
                ratios.append(ours / theirs)
            results.append(Result(f"update_time_engines_old_logprobs_{name}", statistics.median(ratios), None, "ratio"))
        trainer.close()
    return results
