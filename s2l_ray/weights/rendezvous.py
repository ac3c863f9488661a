"""The meeting point of a run's processes: a TCP store that listens on one named address, and gloo groups on it.

torch's own `TCPStore(host, port, is_master=True)` listens on every interface; here the listening socket is bound first,
to the address that is asked for (127.0.0.1 on one machine), and handed to the store, which also ends the race for the
port between choosing and using it.
"""

from __future__ import annotations

import socket
from datetime import timedelta

import torch
from torch.distributed import (  # type: ignore[attr-defined]  # torch lists some of them in no __all__
    PrefixStore,
    ProcessGroupGloo,
    Store,
    TCPStore,
    Work,
)

__all__ = ["BroadcastGroup", "PrefixStore", "Store", "TCPStore", "listen", "open_store"]


def listen(host: str) -> socket.socket:
    """A listening socket on a free port of `host`. Its port is `getsockname()[1]`; pass it to `open_store`."""
    sock = socket.create_server((host, 0), backlog=128)
    sock.setblocking(False)
    return sock


def open_store(host: str, port: int, timeout_s: float, listener: socket.socket | None = None) -> TCPStore:
    """Join the store at host:port; the one process that owns `listener` serves it.

    The store takes the listener over and closes it with itself.

    Raises:
        torch.distributed.DistStoreError: nobody serves the store within `timeout_s` seconds.
    """
    return TCPStore(
        host,
        port,
        is_master=listener is not None,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
        use_libuv=True,
    )


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
        self._store = PrefixStore(name, store)
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
        del self._group, self._store
