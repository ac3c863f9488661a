"""Actors that are dead for certain before a test goes on."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from tests.support.patience import PATIENCE_S


def kill(actor: Any) -> None:
    """Kill an actor and wait until calls of it fail: `ray.kill` returns before, while it still answers.

    The actor must not be stopped (SIGSTOP), which `ray.kill` does not reach.
    """
    ray.kill(actor)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:
            ray.get(actor.__ray_ready__.remote(), timeout=PATIENCE_S)
