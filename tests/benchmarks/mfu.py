"""Model FLOP utilisation of one update on a GPU: Qwen3-0.6B and 1.7B shapes, random weights, bfloat16.

Model FLOPs are those of the matrix products of one forward and one backward (twice a forward) over the real tokens:
every layer's for prompts and responses, causal attention's, the output layer's for response tokens only. What gradient
checkpointing computes again does not count, so it lowers the figure, as it should.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.protocol import Result, Skipped

MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B")
GROUPS, SIZE, PROMPT = 16, 8, 256
MEDIAN, SIGMA, MOST = 1_024, 0.6, 4_096
MICRO_BATCH_TOKENS = 16_384
ROUNDS = 3
AIM = 0.4


def update_flops(shape: Any, lengths: list[list[int]], prompt_tokens: int) -> float:
    """Of one update on responses of these lengths, as the module says.

    Args:
        shape: a ModelShape.
    """
    responses = [n for group in lengths for n in group]
    totals = [prompt_tokens + n for n in responses]
    per_token = shape.layers * sum(out * width for out, width in shape.linears.values())
    # Token i attends to i + 1 tokens: half of length squared, for scores and for weighted values.
    attention = shape.layers * shape.heads * shape.head_dim * sum(n * (n + 1) for n in totals)
    forward = 2 * per_token * sum(totals) + 2 * attention + 2 * shape.vocab * shape.hidden * sum(responses)
    return 3 * forward


def update_seconds(
    model_dir: str,
    lengths: list[list[int]],
    *,
    prompt_tokens: int,
    vocabulary: int,
    micro_batch_tokens: int,
    device: Literal["cpu", "cuda"],
) -> float:
    """Median over ROUNDS updates, after one that warms up."""
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.training.trainer import PolicyTrainer
    from tests.benchmarks.workload import groups_of

    groups = groups_of(lengths, prompt_tokens=prompt_tokens, vocabulary=vocabulary)
    trainer = PolicyTrainer(
        model_dir,
        trainer=TrainerConfig(micro_batch_tokens=micro_batch_tokens),
        objective=ObjectiveConfig(),
        dtype="bfloat16",
        temperature=1.0,
        timeout_s=600,
        device=device,
    )
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        trainer.update([groups])  # its metrics come from the device, so it has ended
        seconds.append(time.perf_counter() - started)
    trainer.close()
    return statistics.median(seconds[1:])


def run() -> list[Result]:
    import torch

    from s2l_ray.placement.architecture import ModelShape
    from s2l_ray.placement.gpu_types import GPU_TYPES, canonical_name
    from tests.benchmarks.workload import lognormal_lengths, write_qwen3

    if not torch.cuda.is_available():
        raise Skipped("no CUDA device; it needs one of 24 GB or more, and `pip install '.[cuda]'`")
    gpu = canonical_name(torch.cuda.get_device_name())
    if gpu not in GPU_TYPES:
        raise Skipped(f"the peak FLOP rate of {gpu} is not known; add it to s2l_ray/placement/gpu_types.py")
    peak = GPU_TYPES[gpu].tflops * 1e12
    lengths = lognormal_lengths(GROUPS, SIZE, median=MEDIAN, sigma=SIGMA, most=MOST)
    tokens = sum(PROMPT + n for group in lengths for n in group)
    results = []
    for name in MODELS:
        shape = ModelShape.load(name)
        with tempfile.TemporaryDirectory() as directory:
            model_dir = write_qwen3(
                Path(directory),
                dtype=torch.bfloat16,
                vocab_size=shape.vocab,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                head_dim=shape.head_dim,
                tie_word_embeddings=shape.tied,
                max_position_embeddings=PROMPT + MOST,
            )
            seconds = update_seconds(
                model_dir,
                lengths,
                prompt_tokens=PROMPT,
                vocabulary=shape.vocab,
                micro_batch_tokens=MICRO_BATCH_TOKENS,
                device="cuda",
            )
        label = name.rpartition("/")[2].lower().replace("-", "_").replace(".", "_")
        share = update_flops(shape, lengths, PROMPT) / seconds / peak
        print(f"   {name} on {gpu}: {tokens} tokens in {seconds:.2f} s", flush=True)
        results += [
            Result(f"update_mfu_{label}_bfloat16", share, AIM, "share of peak"),
            Result(f"update_tokens_per_second_{label}_bfloat16", tokens / seconds, None, "tokens/s"),
        ]
    return results
