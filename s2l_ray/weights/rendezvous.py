"""The meeting point of a run's processes: a store that listens on one named address, and gloo groups on it.

torch's own `TCPStore` listens on every interface and lets everybody in; see `s2l_ray.weights.store` for ours.
"""

from __future__ import annotations

from datetime import timedelta

import torch
from torch.distributed import (  # type: ignore[attr-defined]  # torch lists some of them in no __all__
    PrefixStore,
    ProcessGroupGloo,
    Store,
    Work,
)

from s2l_ray.weights.admission import Listener, Meeting
from s2l_ray.weights.store import SecretStore

__all__ = ["BroadcastGroup", "Listener", "Meeting", "PrefixStore", "Store", "listen", "open_store"]


def listen(host: str) -> Listener:
    """Listen on a free port of `host`, with a new secret. Send its `meeting` to the others, pass it to `open_store`."""
    return Listener(host)


def open_store(meeting: Meeting, timeout_s: float, listener: Listener | None = None) -> SecretStore:
    """Join the store of a meeting; the one process that owns its `listener` serves it.

    The store takes the listener over and closes it with itself. Hold on to the store while a group uses it.

    Raises:
        torch.distributed.DistStoreError: nobody serves the store within `timeout_s` seconds.
    """
    return SecretStore(meeting, timeout_s, listener)


class BroadcastGroup:
    """A gloo group beside torch.distributed's default group: member 0 broadcasts, the others receive.

    Args:
        store: shared by the members (see `open_store`).
        name: distinguishes groups on one store; a new group needs a new name, or it meets the old one's keys.
        rank, size: this member and how many there are.
        host: address of this member that the others can reach.
        timeout_s: bound on forming the group and on every broadcast.
    """

    def __init__(self, store: Store, name: str, rank: int, size: int, host: str, timeout_s: float) -> None:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in torch's stubs
        options._timeout = timedelta(seconds=timeout_s)
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        self._base, self._store = store, PrefixStore(name, store)
        self._group = ProcessGroupGloo(self._store, rank, size, options)

    def start_broadcast(self, tensor: torch.Tensor) -> Work:
        """Begin to send (rank 0) or receive (others) a contiguous CPU tensor in place.

        `wait()` on what is returned raises RuntimeError when a member is gone or did not take part within the group's
        timeout. Broadcasts that are under way at the same time must begin in the same order everywhere.
        """
        work: Work = self._group.broadcast(tensor, 0)  # type: ignore[attr-defined]  # not in torch's stubs
        return work

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Broadcast a tensor and wait for it: `start_broadcast` to its end."""
        self.start_broadcast(tensor).wait()

    def meet(self) -> None:
        """Return, on rank 0, once every member has come here; on the others at once. A broadcast of one byte.

        Raises:
            RuntimeError: as with `start_broadcast`.
        """
        self.broadcast(torch.zeros(1, dtype=torch.uint8))

    def close(self) -> None:
        """Leave. Members leave by themselves; nobody waits for the others."""
        del self._group, self._store, self._base
