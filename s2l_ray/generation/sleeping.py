"""The order in which engines that share devices with the trainer sleep and wake.

A device has room for the trainer's update, or for sampling (weights and KV cache), or for a weight sync (the trainer's
weights and the engine's new ones); never for old weights, new weights and KV cache at once. So before the update
everything sleeps, where learner engines drop their weights for good; before a weight sync only the memory of the
learners' weights comes back; and KV caches come last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Call = Callable[..., None]
"""Calls a method of some engines, all at the same time, and waits for them: call("wake", "weights")."""
T = TypeVar("T")


def fall_asleep(explorers: Call, learners: Call) -> None:
    """Free the devices for the trainer's update."""
    explorers("sleep")
    learners("sleep")


def weight_sync_and_wake(explorers: Call, learners: Call, weight_sync: Callable[[], T]) -> T:
    """New weights into the learner engines, and everything ready to sample. Returns the weight sync's result.

    What is awake (all of it when a run starts) sleeps first.

    Args:
        explorers, learners: those that share devices with the trainer.
        weight_sync: sends the new weights to every learner engine.
    """
    fall_asleep(explorers, learners)
    learners("wake", "weights")
    result = weight_sync()
    explorers("wake", "weights")
    explorers("wake", "kv_cache")
    learners("wake", "kv_cache")
    return result
