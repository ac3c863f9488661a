"""From the samples of a comparison to its record."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from s2l_ray.diversity.learner import load_learner
from s2l_ray.diversity.measures import CELLS, MeasureSettings, Progress, measure
from s2l_ray.diversity.record import DiversityRecord, difference_records, source_records
from s2l_ray.diversity.sources import Sampled
from s2l_ray.tasks.compat import model_directory

if TYPE_CHECKING:
    from s2l_ray.config import Config

MatchedBy = Literal["samples", "pass_at_1"]


def compare(
    sampled: Sampled,
    config: Config,
    matched_by: MatchedBy,
    *,
    edit_threshold: float,
    progress: Progress,
) -> DiversityRecord:
    """Measure the sources of a comparison under its learner.

    Args:
        sampled: the learner's source comes first.
        config: with which the learner was sampled; models.dtype is not `auto` any more.
        matched_by: what is the same for explorers and the learner at other temperatures.
        edit_threshold: see `MeasureSettings`.
        progress: told how far each stage is.

    Raises:
        DataError, ConfigError, ModelError: see `measure` and `load_learner`.
    """
    confidence = config.evaluation.confidence
    temperature, trainer = config.evaluation.sampling.temperature, config.trainer
    policy = load_learner(
        str(model_directory("models.learner", config.models.learner)),
        temperature=temperature,
        chunk=trainer.logprob_chunk_tokens,
        dtype=config.models.compute_dtype,
        remote_code=config.models.trust_remote_code,
    )
    settings = MeasureSettings(
        verifier=config.verifier.kind,
        objective=config.objective,
        group_size=config.rollout.group_size,
        temperature=temperature,
        edit_threshold=edit_threshold,
        budget=trainer.micro_batch_tokens,
        seed=config.seed,
    )
    found = measure(sampled.sources, sampled.answers, policy, settings, progress)
    first = sampled.sources[0]
    return DiversityRecord(
        name=sampled.name,
        match=matched_by,
        matches=[{"source": name, **asdict(match)} for name, match in sampled.matches.items()],
        problems=len(first.problems),
        samples=first.samples,
        group_size=config.rollout.group_size,
        confidence=confidence,
        settings={
            "learner_temperature": settings.temperature,
            "verifier": settings.verifier,
            "edit_threshold": edit_threshold,
            "seed": config.seed,
            "cells": CELLS,
            "dtype": config.models.compute_dtype,
            "objective": config.objective.model_dump(mode="json"),
        },
        sources=source_records(found, confidence),
        differences=difference_records(found, confidence),
    )
