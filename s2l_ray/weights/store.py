"""A key-value store for torch.distributed that only those can join who know its secret.

torch's own `TCPStore` talks to whoever reaches its port: any user of the machine could take the places of a group's
members, and read or replace weights.
"""

from __future__ import annotations

import hmac
import socket
import threading
from datetime import timedelta
from typing import Any

from torch.distributed import DistStoreError, Store  # type: ignore[attr-defined]  # torch lists Store in no __all__

from s2l_ray.weights.admission import HANDSHAKE_S, Listener, Meeting, admit, hang_up, prove, receive, send

UNPROVEN = 64
"""Connections that are proving themselves at the same time; others wait in the kernel."""
OPERATIONS = frozenset({"set", "get", "wait", "add", "compare_set", "check", "delete_key", "num_keys"})
"""What a member may ask for."""


class _Entries:
    """The keys and values themselves, for the threads of all connections."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, timeout_s: float) -> bytes:
        with self._changed:
            self._wait([key], timeout_s)
            return self._values[key]

    def wait(self, keys: list[str], timeout_s: float) -> None:
        with self._changed:
            self._wait(keys, timeout_s)

    def _wait(self, keys: list[str], timeout_s: float) -> None:
        if not self._changed.wait_for(lambda: all(key in self._values for key in keys), timeout_s):
            missing = [key for key in keys if key not in self._values]
            raise DistStoreError(f"nobody has set {', '.join(missing[:3])} within {timeout_s:.0f} s")

    def add(self, key: str, amount: int) -> int:
        with self._changed:
            total = int(self._values.get(key, b"0")) + amount
            self._values[key] = str(total).encode()
            self._changed.notify_all()
            return total

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        with self._changed:
            present = self._values.get(key)
            if present == expected or (present is None and not expected):
                self._values[key] = present = desired
                self._changed.notify_all()
            return expected if present is None else present

    def check(self, keys: list[str]) -> bool:
        with self._changed:
            return all(key in self._values for key in keys)

    def delete_key(self, key: str) -> bool:
        with self._changed:
            return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        with self._changed:
            return len(self._values)


class _Server:
    """Serves entries to those who prove that they know the listener's secret, each in a thread."""

    def __init__(self, listener: Listener, entries: _Entries) -> None:
        self._listener = listener
        self._entries = entries
        self._unproven = threading.Semaphore(UNPROVEN)
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="store", daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for connection in list(self._connections):
            hang_up(connection)

    def _accept(self) -> None:
        while True:
            self._unproven.acquire()
            try:
                connection = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="store-member", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            try:
                admitted = admit(connection, self._listener.meeting.secret)
            finally:
                self._unproven.release()
            while admitted:
                send(connection, self._answer(receive(connection)))
        except (OSError, ValueError):  # it is gone, has proven nothing in time, or talks nonsense
            pass
        finally:
            self._connections.discard(connection)
            connection.close()

    def _answer(self, request: Any) -> Any:
        name, *arguments = request
        try:
            if name not in OPERATIONS:
                raise ValueError(f"there is no {name}")
            return ["result", getattr(self._entries, name)(*arguments)]
        except DistStoreError as error:
            return ["timeout", str(error)]
        except (TypeError, ValueError) as error:
            return ["error", f"{type(error).__name__}: {error}"]


class _Remote:
    """The entries of another process, over one connection."""

    def __init__(self, meeting: Meeting, timeout_s: float) -> None:
        self._one_at_a_time = threading.Lock()
        self._where = where = f"{meeting.host}:{meeting.port}"
        try:
            self._connection = socket.create_connection((meeting.host, meeting.port), timeout_s)
        except OSError as error:
            raise DistStoreError(f"nobody serves the store at {where}: {error}") from None
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            prove(self._connection, meeting.secret, timeout_s)
        except OSError as error:
            self.close()
            raise DistStoreError(f"the store at {where} did not answer, or does not know our secret: {error}") from None

    def ask(self, name: str, *arguments: Any, within_s: float) -> Any:
        with self._one_at_a_time:
            try:
                self._connection.settimeout(within_s + HANDSHAKE_S)
                send(self._connection, [name, *arguments])
                kind, value = receive(self._connection)
            except (OSError, ValueError) as error:
                raise DistStoreError(f"the store at {self._where} is gone: {error}") from None
        if kind != "result":
            raise DistStoreError(value)
        return value

    def close(self) -> None:
        hang_up(self._connection)


class SecretStore(Store):
    """One member's end of the store. torch's groups call it from C++, as they call their own stores.

    Whoever gives it to a group holds on to it for as long as the group lives: C++ keeps only its own half alive.

    Args:
        meeting: where it is served.
        timeout_s: bound on joining, and on every wait that has no bound of its own.
        listener: makes this the process that serves it. It is closed with the store.

    Raises:
        torch.distributed.DistStoreError: nobody serves it there within the timeout, or with another secret.
    """

    def __init__(self, meeting: Meeting, timeout_s: float, listener: Listener | None = None) -> None:
        super().__init__()
        self._meeting = meeting
        self._timeout_s = timeout_s
        self._server: _Server | None = None
        self._entries = _Entries() if listener else None
        self._remote: _Remote | None = None
        self._clones: list[SecretStore] = []
        if listener and self._entries:
            self._server = _Server(listener, self._entries)
        else:
            self._remote = _Remote(meeting, timeout_s)

    def close(self) -> None:
        """Leave; where this process serves the store, end it for all. Safe to call twice."""
        for part in (self._server, self._remote, *self._clones):
            if part is not None:
                part.close()

    def __del__(self) -> None:
        if hasattr(self, "_clones"):  # else it was never joined
            self.close()

    def _call(self, name: str, *arguments: Any, within_s: float = 0.0) -> Any:
        if self._entries is not None:
            return getattr(self._entries, name)(*arguments)
        assert self._remote is not None
        return self._remote.ask(name, *arguments, within_s=within_s)

    def proof(self, words: str) -> bytes:
        """What only those can say of these words who know the store's secret, 32 bytes."""
        return hmac.digest(self._meeting.secret.encode(), b"words" + words.encode(), "sha256")

    # ---- what torch calls ------------------------------------------------------------------------------------------

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key, and wake those who wait for it."""
        self._call("set", key, value.encode() if isinstance(value, str) else bytes(value))

    def get(self, key: str) -> bytes:
        """The value of a key, once it is set."""
        value: bytes = self._call("get", key, self._timeout_s, within_s=self._timeout_s)
        return value

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are set."""
        seconds = self._timeout_s if timeout is None else timeout.total_seconds()
        self._call("wait", list(keys), seconds, within_s=seconds)

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which begins at 0; returns its new value."""
        total: int = self._call("add", key, amount)
        return total

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set a key if it has the expected value (empty: or none); returns the value that it has then."""
        old, new = (value.encode() if isinstance(value, str) else bytes(value) for value in (expected, desired))
        value: bytes = self._call("compare_set", key, old, new)
        return value

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are set."""
        there: bool = self._call("check", list(keys))
        return there

    def delete_key(self, key: str) -> bool:
        """Remove a key; whether it was there."""
        was_there: bool = self._call("delete_key", key)
        return was_there

    def num_keys(self) -> int:
        """How many keys are set."""
        count: int = self._call("num_keys")
        return count

    def set_timeout(self, timeout: timedelta) -> None:
        """Bound waits that have no bound of their own."""
        self._timeout_s = timeout.total_seconds()

    @property
    def timeout(self) -> timedelta:
        """The bound on waits that have none of their own."""
        return timedelta(seconds=self._timeout_s)

    def clone(self) -> SecretStore:
        """Another connection to the same store, for another thread."""
        if self._entries is not None:  # no connection, and safe for threads
            return self
        self._clones.append(SecretStore(self._meeting, self._timeout_s))
        return self._clones[-1]
