"""The meeting point of a run's processes: a store that listens on one named address, and gloo groups on it.

torch's own `TCPStore` listens on every interface and lets everybody in; see `s2l_ray.weights.store` for ours. gloo
takes whoever reaches a member's port first for the member that it expects, so members prove themselves to each other.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
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

__all__ = [
    "BroadcastGroup",
    "Listener",
    "Meeting",
    "PrefixStore",
    "SecretStore",
    "Store",
    "check_members",
    "listen",
    "open_store",
]


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


def check_members(
    exchange: Callable[[torch.Tensor, torch.Tensor], None], store: SecretStore, name: str, rank: int, size: int
) -> None:
    """Make sure that at the other end of each connection of a new group is who should be there.

    Args:
        exchange: `(received, sent)`: sends the k-th of `size` equal parts of a uint8 tensor to member k, directly, and
            fills in what the members send to this one.
        store: where the group met; all members know its secret.
        name, rank, size: the group, this member, how many there are.

    Raises:
        RuntimeError: somebody else is there, or nobody within the group's timeout.
    """
    pairs = [(rank, other) for other in range(size)]
    sent = b"".join(store.proof(f"{name} {a} to {b}") for a, b in pairs)
    expected = b"".join(store.proof(f"{name} {b} to {a}") for a, b in pairs)
    received = torch.empty(len(sent), dtype=torch.uint8)
    exchange(received, torch.frombuffer(bytearray(sent), dtype=torch.uint8))
    if not hmac.compare_digest(bytes(received.tolist()), expected):
        raise RuntimeError(f"somebody who is no member has connected to the group {name}")


class BroadcastGroup:
    """A gloo group beside torch.distributed's default group: member 0 broadcasts, the others receive.

    Args:
        store: shared by the members (see `open_store`).
        name: distinguishes groups on one store; a new group needs a new name, or it meets the old one's keys.
        rank, size: this member and how many there are.
        host: address of this member that the others can reach.
        timeout_s: bound on forming the group and on every broadcast.
    """

    def __init__(self, store: SecretStore, name: str, rank: int, size: int, host: str, timeout_s: float) -> None:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in torch's stubs
        options._timeout = timedelta(seconds=timeout_s)
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        self._base, self._store = store, PrefixStore(name, store)
        self._group = ProcessGroupGloo(self._store, rank, size, options)
        check_members(self._all_to_all, store, name, rank, size)

    def _all_to_all(self, received: torch.Tensor, sent: torch.Tensor) -> None:
        self._group.alltoall_base(received, sent, [], []).wait()  # type: ignore[attr-defined]  # not in torch's stubs

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
