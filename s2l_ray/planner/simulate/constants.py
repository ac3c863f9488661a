"""The constants of a simulation: seconds of each kind of work on a machine, and response lengths.

Either a plan's cost model gives them (`plan_constants`) or a run's own times (`calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from s2l_ray.kinds import Source
from s2l_ray.planner.simulate.solved import Solved

SPREAD = 4.0
"""Spread of the default response lengths: a + b of the Beta distribution over (0, limit]; smaller is wider."""
QUANTILES = 512


@dataclass(frozen=True)
class EngineConstants:
    """One engine of a kind. Seconds that it takes when nothing else wants its processor."""

    decode: tuple[tuple[float, float], ...]
    """(sequences in the batch, seconds of one decode step), ascending; straight lines between, ends carried on."""
    request_s: float = 0.0
    """Taking in one request: its prompt is read once, however many rollouts share it."""
    sequences: int = 256
    """Sequences that fit in one batch: max_num_seqs, or what the KV cache allows."""
    width: float = 1.0
    """Cores that a CPU engine's processes keep busy while it works."""

    def decode_s(self, batch: int) -> float:
        """Seconds of one decode step."""
        (low, at_low), (high, at_high) = self.decode[0], self.decode[-1]
        for left, right in zip(self.decode, self.decode[1:], strict=False):
            if left[0] <= batch <= right[0]:
                (low, at_low), (high, at_high) = left, right
        if high == low:
            return at_low
        return at_low + (at_high - at_low) * (batch - low) / (high - low)


@dataclass(frozen=True)
class Constants:
    """Seconds of every kind of work in a step."""

    engines: dict[Source, EngineConstants]
    pass_token_s: float
    """One forward pass over one token on one trainer rank; a backward counts as two."""
    optimizer_s: float
    """Fixed cost of an optimizer step, whatever its tokens."""
    weight_sync_s: float
    train_rollout_s: float = 0.0
    """A rank's fetching and preparing one rollout, whether or not it is trained on."""
    verify_request_s: float = 0.0
    """Fixed cost of one request at a verifier."""
    verify_rollout_s: float = 0.0
    step_s: float = 0.0
    """Work of the driver and the scheduler in each step."""
    sleep_wake_s: float = 0.0
    """Sleep and wake in each step, where engines sleep beside the trainer."""
    engine_start_s: float = 0.0
    """Start of an engine that was handed over."""
    cores: float | None = None
    """Cores of each node, shared by all of its actors; None: every actor has a processor of its own."""
    lengths: dict[Source, tuple[int, ...]] = field(default_factory=dict)
    """Response lengths in tokens, drawn from with equal chance."""
    prompt_tokens: float = 0.0
    """Mean length of a prompt; the trainer reads prompts too."""
    solved: Solved | None = None
    """None: every rollout is trained on."""


def lengths_of(mean: float, limit: int) -> tuple[int, ...]:
    """Response lengths with a mean (tokens) and an upper limit: quantiles of a Beta distribution over (0, limit]."""
    if mean >= limit:
        return (limit,)
    from scipy.stats import beta

    share = mean / limit
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = beta.ppf(middles, SPREAD * share, SPREAD * (1 - share)) * limit
    return tuple(int(n) for n in np.clip(np.rint(quantiles), 1, limit))
