"""Requests to engines: training rollouts of the explorer or the learner, and evaluation rollouts.

A rollout's seed says what the rollout is, so it does not depend on how requests are batched, split over engines or
repeated after a failure. vLLM seeds the k-th sample of a request with seed + k; `first_seed` is the seed of the first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

from s2l_ray.kinds import SamplingName, Source


@dataclass(frozen=True)
class ExplorerRequest:
    """`count` training rollouts of one prompt from the frozen explorer.

    The explorer never changes, so its n-th rollout of a prompt is the same in every run with the same settings and
    explorer seed: `first_draw` says which ones are requested. A bank can hold them.
    """

    step: int
    prompt_id: str
    count: int
    seed: int
    """rollout.explorer_seed."""
    first_draw: int
    """Number of rollouts of this prompt that come before these, over all of its visits."""
    source: ClassVar[Source] = "explorer"
    sampling: ClassVar[SamplingName] = "train"

    @property
    def first_seed(self) -> int:
        """Sampling seed of the first rollout."""
        return rollout_seed(self.seed, "draws", self.prompt_id, self.source, self.first_draw)


@dataclass(frozen=True)
class LearnerRequest:
    """`count` training rollouts of one prompt from the learner's present weights."""

    step: int
    prompt_id: str
    count: int
    seed: int
    """The run's."""
    weight_version: int | None = None
    """The version that must sample it; None until it is sent to an engine."""
    source: ClassVar[Source] = "learner"
    sampling: ClassVar[SamplingName] = "train"

    @property
    def first_seed(self) -> int:
        """Sampling seed of the first rollout."""
        return rollout_seed(self.seed, self.step, self.prompt_id, self.source, 0)

    def at_version(self, version: int | None) -> LearnerRequest:
        """The same request for the weights that the engines hold."""
        return replace(self, weight_version=version)


@dataclass(frozen=True)
class EvaluationRequest:
    """`count` rollouts of one held-out prompt with the evaluation settings; the same seeds at every evaluation."""

    prompt_id: str
    source: Source
    count: int
    seed: int
    """The run's."""
    weight_version: int | None = None
    """The version that must sample it; None for the explorer, and until it is sent to an engine."""
    step: ClassVar[int] = 0
    """Evaluations belong to no step."""
    sampling: ClassVar[SamplingName] = "eval"

    @property
    def first_seed(self) -> int:
        """Sampling seed of the first rollout."""
        return rollout_seed(self.seed, self.step, self.prompt_id, self.source, 0)

    def at_version(self, version: int | None) -> EvaluationRequest:
        """The same request for the weights that the engines hold."""
        return replace(self, weight_version=version)


SampleRequest = ExplorerRequest | LearnerRequest | EvaluationRequest


def rollout_seed(seed: int, stream: int | str, prompt_id: str, source: str, index: int) -> int:
    """A sampling seed below 2**63 that is a function of what the rollout is, not of when or where it is sampled.

    Rollouts of one (stream, prompt, source) have consecutive seeds, as vLLM gives the samples of one request.

    Args:
        stream: the step, or "draws" for rollouts that are counted over the steps.
    """
    key = f"{seed}/{stream}/{prompt_id}/{source}".encode()
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 2) + index
