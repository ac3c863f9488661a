"""Peak memory of one update over vocabulary and tokens: chunked logits against all of them at once.

Bytes that torch's CPU allocator has handed out at one time during the update, beyond the weights and optimizer states
that were there before; all tokens are one micro-batch. "at once" is the same code with one chunk of all tokens.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.benchmarks.protocol import Result

VOCABULARIES = (8_192, 32_768, 131_072)
TOKENS = (1_024, 4_096, 16_384)
CHUNK = 1_024
SEQUENCE, PROMPT = 512, 32
LARGEST_LOGITS = 2**31
"""Bytes of one float32 logits matrix above which "at once" is not tried; it takes several times as much."""
FLOAT = 4
MIB = 2**20


def update_peak(model_dir: str, vocabulary: int, tokens: int, chunk: int) -> int:
    """Bytes at the peak of the second update (the first one makes the optimizer's states)."""
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.gpu_check.cpu_meter import metered
    from s2l_ray.gpu_check.workload import groups_of
    from s2l_ray.training.trainer import PolicyTrainer

    config = TrainerConfig(micro_batch_tokens=tokens, logprob_chunk_tokens=chunk, gradient_checkpointing="on")
    trainer = PolicyTrainer(
        model_dir, trainer=config, objective=ObjectiveConfig(), dtype="float32", temperature=1.0, timeout_s=60,
        device="cpu",
    )  # fmt: skip
    pairs = tokens // (2 * SEQUENCE)
    groups = groups_of([[SEQUENCE - PROMPT] * 2] * pairs, prompt_tokens=PROMPT, vocabulary=vocabulary)
    trainer.update([groups_of([[4, 4]], prompt_tokens=2, vocabulary=vocabulary)])
    with metered() as usage:
        trainer.update([groups])
    trainer.close()
    return usage.peak


def run() -> list[Result]:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says every start and stop
    import transformers

    from s2l_ray.gpu_check.workload import write_qwen3

    transformers.utils.logging.disable_progress_bar()
    peaks: dict[tuple[int, int], tuple[int, int | None]] = {}
    print("   vocabulary   tokens  one logits matrix    at once    chunked   (MiB)")
    for vocabulary in VOCABULARIES:
        with tempfile.TemporaryDirectory() as directory:
            model_dir = write_qwen3(
                Path(directory), vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
            )  # fmt: skip
            for tokens in TOKENS:
                logits = tokens * vocabulary * FLOAT
                whole = update_peak(model_dir, vocabulary, tokens, tokens) if logits <= LARGEST_LOGITS else None
                chunked = update_peak(model_dir, vocabulary, tokens, CHUNK)
                peaks[vocabulary, tokens] = chunked, whole
                shown = "not tried" if whole is None else f"{whole / MIB:9.0f}"
                print(f"   {vocabulary:10} {tokens:8} {logits / MIB:18.0f}  {shown} {chunked / MIB:10.0f}", flush=True)
    few, many = TOKENS[0], TOKENS[-1]
    chunked, whole = peaks[32_768, many]
    logits = (many - few) * 32_768 * FLOAT
    return [
        Result("update_memory_at_once_over_chunked_32k_vocabulary_16k_tokens", whole / chunked, None, "ratio"),
        Result(
            "update_memory_growth_from_1k_to_16k_tokens_over_logits_32k_vocabulary",
            (chunked - peaks[32_768, few][0]) / logits,
            0.1,
            "ratio",
        ),
    ]
