"""How token losses add up to the loss of a mini-batch.

Every token gets a weight that depends on totals of the whole mini-batch only, never on the rank, the micro-batch or the
row that it is packed in: sums of weighted token losses are then the same however the tokens are split.
"""

from __future__ import annotations

from s2l_ray.kinds import Aggregation


def token_weights(
    response_tokens: int,
    aggregation: Aggregation,
    *,
    total_tokens: int,
    total_sequences: int,
    constant_tokens: int | None = None,
) -> float:
    """The weight of each of a sequence's response tokens.

    Args:
        response_tokens: length of this response, > 0.
        aggregation: "token" is the mean over all response tokens of the mini-batch (DAPO); "sequence" the mean over
            sequences of each one's token mean (GRPO as published); "constant" the mean over sequences of each one's
            token sum over `constant_tokens` (Dr. GRPO, arXiv 2503.20783: no length is favoured).
        total_tokens, total_sequences: of the whole mini-batch over all ranks, rollouts that are not forwarded included.
    """
    if aggregation == "token":
        return 1.0 / total_tokens
    if aggregation == "sequence":
        return 1.0 / (total_sequences * response_tokens)
    assert constant_tokens is not None, "aggregation by a constant needs the constant"
    return 1.0 / (total_sequences * constant_tokens)
