"""Floating-point operations that an update needs, whatever computes it."""

from __future__ import annotations

from s2l_ray.compute import update_passes
from s2l_ray.planner.architecture import ModelShape


def update_flops(shape: ModelShape, lengths: list[list[int]], prompt_tokens: int) -> float:
    """Model FLOPs of one update without a reference, in one mini-batch.

    Those of the matrix products of one forward and one backward (twice a forward) over the real tokens, a multiply and
    an add each: every layer's for prompts and responses, causal attention's, and the output layer's for response tokens
    only. What is computed again for the backward does not count, so recomputation lowers the utilisation, as it should.

    Args:
        lengths: of the responses of each group.
    """
    cost = shape.forward_cost
    return update_passes(1) * sum(cost.sequence(prompt_tokens, tokens) for group in lengths for tokens in group)
