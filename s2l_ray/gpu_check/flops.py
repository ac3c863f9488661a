"""Floating-point operations that an update needs, whatever computes it."""

from __future__ import annotations

from s2l_ray.planner.architecture import ModelShape


def update_flops(shape: ModelShape, lengths: list[list[int]], prompt_tokens: int) -> float:
    """Model FLOPs of one update without a reference, in one mini-batch.

    Those of the matrix products of one forward and one backward (twice a forward) over the real tokens, a multiply and
    an add each: every layer's for prompts and responses, causal attention's, and the output layer's for response tokens
    only. What is computed again for the backward does not count, so recomputation lowers the utilisation, as it should.

    Args:
        lengths: of the responses of each group.
    """
    responses = [n for group in lengths for n in group]
    totals = [prompt_tokens + n for n in responses]
    per_token = shape.layers * sum(out * width for out, width in shape.linears.values())
    # Token i attends to i + 1 tokens: half of length squared, for scores and for weighted values.
    attention = shape.layers * shape.heads * shape.head_dim * sum(n * (n + 1) for n in totals)
    forward = 2 * per_token * sum(totals) + 2 * attention + 2 * shape.vocab * shape.hidden * sum(responses)
    return 3 * forward
