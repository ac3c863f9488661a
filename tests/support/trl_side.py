"""Our rollout groups through TRL's own trainers: its loop, loss, optimizer and padding; only sampling is replaced.

Imports trl, which the tests and benchmarks that use this ask for first.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from s2l_ray.rollouts.records import Rollout, RolloutGroup


def word(token: int, vocabulary: int) -> str:
    """How `number_tokenizer` writes a token: the first pads, the last ends."""
    return {0: "<pad>", vocabulary - 1: "<end>"}.get(token, f"t{token}")


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word for each number, so that TRL tokenizes a prompt back to its ids."""
    ids = {word(i, vocabulary): i for i in range(vocabulary)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


class _Replay:
    """Hands out a group's rollouts where TRL would sample them."""

    def __init__(self, groups: list[RolloutGroup]):
        self.groups = {tuple(g.prompt_token_ids.tolist()): g for g in groups}
        assert len(self.groups) == len(groups), "prompts must differ"
        self.drawn: dict[tuple[int, ...], int] = defaultdict(int)

    def draw(self, prompts: list[tuple[int, ...]]) -> list[Rollout]:
        """The next rollout of each prompt; after the last one, the first again."""
        result = []
        for prompt in prompts:
            rollouts = self.groups[prompt].rollouts
            result.append(rollouts[self.drawn[prompt] % len(rollouts)])
            self.drawn[prompt] += 1
        return result


def trl_trainer(
    model_dir: str,
    groups: list[RolloutGroup],
    out: Path,
    *,
    vocabulary: int,
    estimator: str = "grpo",
    callbacks: list[TrainerCallback] | None = None,
    **settings: Any,
) -> GRPOTrainer | RLOOTrainer:
    """`train()` does max_steps optimizer steps on the rollouts of `groups`, each step all of them unless `settings` say
    otherwise, in float32 on the CPU, with AdamW at a constant rate, without weight decay.
    """
    size = len(groups[0].rollouts)
    defaults = {
        "num_generations": size,
        "per_device_train_batch_size": len(groups) * size,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1_000_000,
        "disable_tqdm": True,
        "beta": 0.0,
        "model_init_kwargs": {"dtype": "float32"},
    }
    trainer_class, config_class = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}[estimator]
    replay = _Replay(groups)

    class Replayed(trainer_class):
        """What TRL's trainer is, with rollouts that were sampled before."""

        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
            drawn = replay.draw([tuple(ids) for ids in prompt_ids])
            self.drawn_rewards = [r.reward for r in drawn]
            completions = [r.token_ids.tolist() for r in drawn]
            return completions if estimator == "rloo" else (completions, [r.logprobs.tolist() for r in drawn])

    def text(prompt: tuple[int, ...]) -> str:
        return " ".join(word(token, vocabulary) for token in prompt)

    def reward(**_: Any) -> list[float]:
        return trainer.drawn_rewards

    trainer = Replayed(
        model=model_dir,
        reward_funcs=reward,
        args=config_class(output_dir=str(out), **defaults | settings),
        train_dataset=Dataset.from_list([{"prompt": text(prompt)} for prompt in replay.groups]),
        processing_class=number_tokenizer(vocabulary),
        callbacks=callbacks,
    )
    return trainer
