"""The weight-transfer methods of vLLM's workers, as `VllmEngine.call_workers` takes them. Does not import vLLM.

An update is START, one `update` or more, and FINISH. `ABANDON` is ours (`worker.WorkerExtension`); the others are
vLLM's own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
