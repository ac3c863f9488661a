"""Held-out evaluation."""

from __future__ import annotations

from typing import Annotated

from s2l_ray.config.rollout import SamplingConfig
from s2l_ray.config.section import Field, NonNegative, Positive, Section, model_validator


class EvaluationConfig(Section):
    """Evaluation on the held-out problems (data.eval)."""

    samples: Positive = 16
    """n: responses per problem, from which pass@k is estimated without bias (arXiv 2107.03374, eq. 1)."""
    k: tuple[Positive, ...] = (1, 8)
    """The k of each pass@k that is reported; must include 1."""
    every: NonNegative = 0
    """Evaluate every N steps, as well as before and after the run; 0: only before and after."""
    sampling: SamplingConfig = SamplingConfig()
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of the confidence intervals that are reported with pass@k."""

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationConfig:
        if 1 not in self.k:
            raise ValueError("k must include 1")
        if max(self.k) > self.samples:
            raise ValueError(f"samples ({self.samples}) must be at least the largest k ({max(self.k)})")
        return self
