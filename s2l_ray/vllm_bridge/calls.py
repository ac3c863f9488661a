"""The weight-transfer methods of vLLM's workers, as `VllmEngine.call_workers` takes them. Does not import vLLM.

An update is START, one `update` or more, and FINISH. `ABANDON` is ours (`worker.WorkerExtension`); the others are
vLLM's own. The two about held weights are ours too, and have an answer: they are for `VllmEngine.ask_workers`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2l_ray.weights.buckets import WeightSpec
    from s2l_ray.weights.messages import Invitation

WorkerCall = tuple[str, tuple[Any, ...]]
"""A method of a worker, and its arguments."""

ABANDON: WorkerCall = ("abandon_weight_update", ())
"""End an update that did not come to its end. Without one, it does nothing."""
START: WorkerCall = ("start_weight_update", ())
FINISH: WorkerCall = ("finish_weight_update", ())
LEAVE: WorkerCall = ("shutdown_weight_transfer_engine", ())
"""Leave the broadcast group."""


def join(invitation: Invitation) -> WorkerCall:
    """Join a broadcast group."""
    return "init_weight_transfer_engine", (dataclasses.asdict(invitation),)


def update(info: dict[str, Any]) -> WorkerCall:
    """Receive all of the weights, or one chunk of them: see `weights.messages`."""
    return "update_weights", (info,)


def describe_held(specs: Iterable[WeightSpec]) -> WorkerCall:
    """Say where the trainer's tensors are held."""
    return "describe_held_weights", ([(spec.name, spec.dtype, list(spec.shape)) for spec in specs],)


DIGEST_HELD: WorkerCall = ("digest_held_weights", ())
"""Take the digests of what is held now."""
