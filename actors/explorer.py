"""The explorer: a frozen small model. Its rollouts can be prefetched, since they can never be stale."""

from __future__ import annotations

import ray

from actors.engine import EngineActor


@ray.remote(max_restarts=0)
class Explorer(EngineActor):
    """One explorer engine behind Ray calls."""
