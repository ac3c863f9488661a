"""Pretrain one Qwen3 model of the family on Countdown traces: plain torch, one CPU thread, a function of its recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from s2l_ray.machine.disk import open_up
from s2l_ray.miniature.countdown import CountdownProblem
from s2l_ray.miniature.recipe import BATCH_SIZE, HEAD_DIM, Shape
from s2l_ray.seeds import word

MAX_POSITIONS = 1024  # far beyond 25 tokens, so that default prompt and response limits fit
WARMUP_STEPS = 100
FINAL_RATE = 0.05
REPORT_EVERY = 20

Report = Callable[[int, int, float], None]
"""Called with (optimizer steps done, optimizer steps in all, loss of the last batch)."""


@dataclass(frozen=True)
class Optimisation:
    """AdamW (betas 0.9, 0.98; no weight decay), linear warm-up, linear decay over the second half to 5%."""

    epochs: int
    batch_size: int = BATCH_SIZE
    learning_rate: float = 2e-3
    seed: int = 1
    bfloat16: bool = True
    """Autocast the forward pass; master weights stay float32."""


def pretrain(
    problems: list[CountdownProblem],
    tokenizer: PreTrainedTokenizerFast,
    shape: Shape,
    how: Optimisation,
    target: Path,
    report: Report,
) -> float:
    """Train on the problems' traces and save model and tokenizer to `target` as a Hugging Face directory (float32).

    The loss is the mean cross-entropy, in nats, of the solution's tokens. Returns that of the last batch.

    Raises:
        ValueError: there are fewer problems than one batch.
        FloatingPointError: the loss is not finite.
    """
    if len(problems) < how.batch_size:
        raise ValueError(f"{len(problems)} problems do not fill one batch of {how.batch_size}")
    sequences, prompt_tokens = encode(problems, tokenizer)
    torch.manual_seed(word(how.seed))
    model = Qwen3ForCausalLM(model_config(shape, tokenizer))
    model.set_attn_implementation("eager")  # on a CPU the fused bfloat16 kernel's backward costs 40% of a step
    loss = _train(model, sequences, prompt_tokens, how, report)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    open_up(target)
    return loss


def model_config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The Hugging Face configuration of a model of this shape."""
    heads = shape.width // HEAD_DIM
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.ffn,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def encode(problems: list[CountdownProblem], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, int]:
    """Prompt and trace of every problem: int64 [problems, 25 with four numbers], and the prompts' length, 7 with four.

    All have equally many numbers.
    """
    texts = [f"{p.prompt} {p.trace}" for p in problems]
    prompt_tokens = len(tokenizer(problems[0].prompt).input_ids)
    return torch.tensor(tokenizer(texts).input_ids), prompt_tokens


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The rate of step 0..steps-1: linear warm-up, flat to the middle, then linear down to 5% of the peak."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    into_decay = max(0.0, 2 * (step + 1) / steps - 1)
    return peak * warmup * (1 - (1 - FINAL_RATE) * into_decay)


def _train(
    model: Qwen3ForCausalLM, sequences: torch.Tensor, prompt_tokens: int, how: Optimisation, report: Report
) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    steps = how.epochs * (len(sequences) // how.batch_size)
    for step, batch in enumerate(_batches(sequences, how)):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, how.learning_rate)
        with torch.autocast("cpu", torch.bfloat16) if how.bfloat16 else nullcontext():
            # No mask: every row has the same length, so attention is plainly causal.
            hidden = model.model(batch[:, :-1], use_cache=False).last_hidden_state[:, prompt_tokens - 1 :]
            logits = model.lm_head(hidden)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, prompt_tokens:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % REPORT_EVERY == 0 or step + 1 == steps:
            report(step + 1, steps, loss.item())
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"pretraining diverged: the loss is {loss.item()}")
    return loss.item()


def _batches(sequences: torch.Tensor, how: Optimisation) -> Iterator[torch.Tensor]:
    """Full batches of each epoch's own shuffle; the rows left over differ from epoch to epoch."""
    generator = torch.Generator().manual_seed(word(how.seed))
    for _ in range(how.epochs):
        order = torch.randperm(len(sequences), generator=generator)
        for rows in order.split(how.batch_size):
            if len(rows) == how.batch_size:
                yield sequences[rows]
