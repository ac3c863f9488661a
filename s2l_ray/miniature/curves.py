"""pass@k of a family's model on its held-out problems, sampled with transformers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from s2l_ray.miniature.countdown import TOKENS_PER_STEP, CountdownProblem, check
from s2l_ray.statistics.pass_at_k import evaluate_counts

PROBLEMS, SAMPLES = 256, 64
KS = (1, 2, 4, 8, 16, 32, 64)
CONFIDENCE = 0.95
BATCH = 1024
"""Sequences sampled at once."""
SPARE = 2
"""Tokens that a response may have beyond those of a solution."""

Curve = dict[int, tuple[float, float, float]]
"""k -> pass@k in [0, 1], and the ends of its confidence interval over problems."""


def measure_curve(
    directory: Path,
    problems: Sequence[CountdownProblem],
    samples: int = SAMPLES,
    seed: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """pass@k of the model in `directory` at temperature 1, for every k in KS up to `samples`.

    Args:
        report: called with (sequences sampled, sequences in all).
    """
    right = count_right(directory, problems, samples, seed, report)
    ks = [k for k in KS if k <= samples]
    values, intervals = evaluate_counts(right, samples, ks, CONFIDENCE, seed)
    return {k: (values[k], *intervals[k]) for k in ks}


def count_right(
    directory: Path,
    problems: Sequence[CountdownProblem],
    samples: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """The number of right answers to each problem among `samples` responses.

    They are sampled in float32 with a generator seeded by `seed`.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = [number for number in range(len(problems)) for _ in range(samples)]
    prompts = torch.tensor(tokenizer([problem.prompt for problem in problems])["input_ids"])  # all have equally many
    longest = TOKENS_PER_STEP * (len(problems[0].numbers) - 1) + SPARE
    right = [0] * len(problems)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        responses = _sample(model, prompts[batch], longest, generator)
        for number, text in zip(batch, tokenizer.batch_decode(responses, skip_special_tokens=True), strict=True):
            right[number] += check(text, problems[number].question).status == "right"
        report(start + len(batch), len(rows))
    return right


@torch.inference_mode()
def _sample(model: PreTrainedModel, prompts: torch.Tensor, longest: int, generator: torch.Generator) -> torch.Tensor:
    """Responses to prompts of equal length, int64 [rows, longest], filled up with the end-of-sequence token.

    By hand, since `generate` samples with torch's global generator.
    """
    eos = model.config.eos_token_id
    done = torch.zeros(len(prompts), dtype=torch.bool)
    out = torch.full((len(prompts), longest), eos)
    output = model(prompts, use_cache=True, logits_to_keep=1)
    for position in range(longest):
        probabilities = output.logits[:, -1].softmax(-1)
        token = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        out[:, position] = torch.where(done, eos, token)
        done |= token == eos
        if done.all():
            break
        output = model(token[:, None], past_key_values=output.past_key_values, use_cache=True)
    return out
