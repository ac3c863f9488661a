"""Random models and rollouts of a given size, to try and to measure the trainer with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from s2l_ray.rollouts.records import Rollout, RolloutGroup, Verdict


def write_qwen3(directory: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **shape: Any) -> str:
    """A Qwen3 with random weights, made on `device`. `shape` are fields of Qwen3Config."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(Qwen3Config(**shape))
        model.save_pretrained(directory)
    finally:
        torch.set_default_dtype(torch.float32)
    return str(directory)


def groups_of(lengths: list[list[int]], *, prompt_tokens: int, vocabulary: int) -> list[RolloutGroup]:
    """A group for each list of response lengths, half of it explorer's; every other rollout is right.

    Tokens are random, without the first and the last of the vocabulary (TRL's padding and end in these benchmarks).
    """
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(1, vocabulary - 1, count).astype(np.int32)

    def rollout(group: int, index: int, of: int, length: int) -> Rollout:
        return Rollout(
            prompt_id=f"p{group}",
            source="explorer" if index < of // 2 else "learner",
            model="random",
            weight_version=0,
            index=index,
            token_ids=tokens(length),
            logprobs=np.full(length, -np.log(vocabulary), np.float32),
            text="",
            finish_reason="length",
            verdict=Verdict("wrong", 0.0) if index % 2 else Verdict("right", 1.0),
        )

    return [
        RolloutGroup(f"p{g}", tokens(prompt_tokens), [rollout(g, k, len(group), n) for k, n in enumerate(group)])
        for g, group in enumerate(lengths)
    ]


def lognormal_lengths(
    groups: int, size: int, *, median: int, sigma: float, most: int, seed: int = 0
) -> list[list[int]]:
    """Response lengths as sampled answers have them: many short ones, a long tail, cut at `most`."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(np.log(median), sigma, (groups, size)))
    lengths: list[list[int]] = np.clip(drawn, 2, most).astype(int).tolist()
    return lengths
