"""Connections that only those get who know a meeting's secret.

Both ends of a connection first prove, by HMAC-SHA256 over nonces of both, that they know the secret, which never
crosses the connection. Ray carries it from the process that listens to those that join, behind its own token. What is
exchanged afterwards is neither encrypted nor signed, as little as what gloo and NCCL exchange then: see SECURITY.md.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import struct
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any

HANDSHAKE_S = 10.0
"""Bound on the proof of each connection."""
NONCE_BYTES = 32
LONGEST_MESSAGE = 2**24
"""Bytes of a request or a reply."""


@dataclass(frozen=True)
class Meeting:
    """Where the members of a group meet, and the secret that lets them in."""

    host: str
    port: int
    secret: str = field(repr=False)


class Listener:
    """A listening socket on a free port of `host`, with a new secret. `meeting` tells the others of it."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0), backlog=128)
        self.meeting = Meeting(host, self._socket.getsockname()[1], secrets.token_hex(NONCE_BYTES))

    def accept(self) -> socket.socket:
        """The next connection; nothing is known of who made it.

        Raises:
            OSError: it was closed.
        """
        return self._socket.accept()[0]

    def close(self) -> None:
        """Accept no more. A thread in `accept` returns."""
        # A socket that another thread waits at is only given up by the kernel when it is shut down.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def admit(connection: socket.socket, secret: str) -> bool:
    """The server's side: whether the other end knows the secret. It learns then that we do."""
    connection.settimeout(HANDSHAKE_S)
    ours = secrets.token_bytes(NONCE_BYTES)
    connection.sendall(ours)
    theirs, proof = (_exactly(connection, NONCE_BYTES, HANDSHAKE_S) for _ in range(2))
    if not hmac.compare_digest(proof, _proof(secret, b"member", ours, theirs)):
        return False
    connection.sendall(_proof(secret, b"server", ours, theirs))
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return True


def prove(connection: socket.socket, secret: str, timeout_s: float) -> None:
    """The member's side.

    Raises:
        OSError: the other end does not know the secret, refuses us, or does not answer in time.
    """
    theirs, ours = _exactly(connection, NONCE_BYTES, timeout_s), secrets.token_bytes(NONCE_BYTES)
    connection.sendall(ours + _proof(secret, b"member", theirs, ours))
    if not hmac.compare_digest(_exactly(connection, NONCE_BYTES, timeout_s), _proof(secret, b"server", theirs, ours)):
        raise OSError("it has another secret")


def _proof(secret: str, role: bytes, server_nonce: bytes, member_nonce: bytes) -> bytes:
    return hmac.digest(secret.encode(), role + server_nonce + member_nonce, "sha256")


def _exactly(connection: socket.socket, count: int, timeout_s: float | None) -> bytes:
    """Read so many bytes, in all within `timeout_s` seconds."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    found = bytearray()
    while len(found) < count:
        if deadline is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(count - len(found))
        if not part:
            raise OSError("the connection was closed")
        found += part
    return bytes(found)


def send(connection: socket.socket, message: Any) -> None:
    """Send lists of texts, numbers and bytes.

    Raises:
        OSError: the other end is gone.
        ValueError: it is too large.
    """
    content = json.dumps(message, default=_written).encode()
    if len(content) > LONGEST_MESSAGE:
        raise ValueError(f"a value of {len(content)} bytes is too large for the store")
    connection.sendall(struct.pack("!I", len(content)) + content)


def receive(connection: socket.socket) -> Any:
    """What `send` has sent.

    Raises:
        OSError: the other end is gone, or silent for longer than the connection's timeout.
        ValueError: it is no such message.
    """
    timeout_s = connection.gettimeout()
    (length,) = struct.unpack("!I", _exactly(connection, 4, timeout_s))
    if length > LONGEST_MESSAGE:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_exactly(connection, length, timeout_s), object_hook=_read)


def _written(value: Any) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} has no place in the store")
    return {"bytes": b64encode(value).decode()}


def _read(value: dict[str, Any]) -> bytes:
    return b64decode(str(value.get("bytes")))


def hang_up(connection: socket.socket) -> None:
    """Close a connection, at once also for a thread that waits at it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
