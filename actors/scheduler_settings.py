"""What the scheduler's actor is given with every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.kinds import PoolName, Source
from s2l_ray.rollouts.step_planner import StepPlanner


@dataclass(frozen=True)
class PipelineLimits:
    """How far requests run ahead of the trainer.

    Args:
        prefetch_steps, prefetch_bytes: bounds on what the explorer samples for coming steps.
        bytes_per_rollout: the most that one rollout takes in the object store.
        max_staleness: versions that the learner's rollouts may be old when they are trained on.
        capacity: rollouts outstanding at one engine, by source.
        stragglers: prompts that a step is known to leave out, by step.
    """

    prefetch_steps: int
    prefetch_bytes: int
    bytes_per_rollout: int
    max_staleness: int
    capacity: dict[Source, int]
    stragglers: dict[int, list[str]]


@dataclass(frozen=True)
class SchedulerSettings:
    """A run, as its scheduler sees it."""

    planner: StepPlanner
    """Requests of every step."""
    steps: int
    """T; nothing is sampled ahead of the last step."""
    pipeline: PipelineLimits
    """Bounds on what is sampled ahead."""
    refill_rounds: int
    """How often groups without variance are replaced in one step."""
    ranks: int
    """Trainer ranks to balance groups over."""
    mini_batch_prompts: int
    """Groups per optimizer step."""
    timeout_s: float
    """Bound on every wait."""
    engines: dict[Source, dict[int, Any]]
    """Actors by source and number."""
    verifiers: dict[int, Any]
    """Actors by number."""
    bank: Any | None = None
    """Actor that holds recorded explorer rollouts, or None."""
    reads: bool = False
    """Whether rollouts that the bank holds are used instead of sampling them."""
    records: bool = False
    """Whether what the explorer samples is recorded in the bank."""
    version: int = -1
    """Weight version that the learner engines hold; -1: none, so that they get no request until `release`."""
    observed: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """What an adaptive schedule has measured until here: `step_planner.solved_by_explorer_only` by step."""


@dataclass(frozen=True)
class SchedulerProgress:
    """What the scheduler tells the driver while it waits."""

    answered: int
    """Of the requests that a step or an evaluation waits for."""
    requests: int
    """All of those."""
    suspects: list[tuple[PoolName, int]]
    """Engines and verifiers that failed since the last call, by pool and number."""
    bank_failed: bool
    """Whether requests wait for another actor of the bank."""
