"""A process that checks answers and can be killed: single-threaded, and it knows nothing of Ray, torch or vLLM.

It reads chunks of answers as JSON from a pipe, notes every verdict in the `VerdictLog` at once, and answers each chunk
with an empty message. `tasks.pool` starts it, watches its clock and kills it.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from s2l_ray.errors import ConfigError
from s2l_ray.processes import die_with_parent
from s2l_ray.tasks.verdict_log import Entry, VerdictLog
from s2l_ray.tasks.verifiers import BUILT_IN, Verifier, resolve_verifier

MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space of a worker with a built-in verifier: 9**9**9**9 must not take the machine's memory."""
ERROR = "error"
"""Status of an entry whose verifier raised; the chunk ends with it."""
_DETAIL_LENGTH = 300
_BACKSTOP_S = 10


def serve() -> None:
    """Main of a worker: `python -c ... PIPE_FD LOG_FD PARENT_PID KIND TIMEOUT_S`."""
    pipe_fd, log_fd, parent, kind, timeout_s = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if kind in BUILT_IN:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    with Connection(int(pipe_fd)) as pipe:
        try:
            verifier = resolve_verifier(kind)
            if kind == "math":
                verifier("\\boxed{x^2 + x}", "x(x - 1)", "")  # SymPy and the parser load most of their code when used
                verifier("\\boxed{x^2 - x}", "x(x - 1)", "")
        except ConfigError as error:
            _send(pipe, {"config_error": str(error)})
            return
        except Exception:  # noqa: BLE001 -- whatever a warm-up raises is told to the parent, which raises it
            _send(pipe, {"error": traceback.format_exc()})
            return
        _send(pipe, {"ready": True})
        _serve_chunks(pipe, VerdictLog(int(log_fd)), verifier, math.ceil(float(timeout_s)) + _BACKSTOP_S)


def _serve_chunks(pipe: Connection, log: VerdictLog, verifier: Verifier, backstop_s: int) -> None:
    while True:
        try:
            items = json.loads(pipe.recv_bytes())
        except EOFError:  # the parent closed or died
            return
        for item in items:
            signal.alarm(backstop_s)  # ends even a check that holds the interpreter's lock and has lost its parent
            entry = _checked(verifier, item)
            log.append(entry)
            if entry.status == ERROR:
                break
        signal.alarm(0)
        pipe.send_bytes(b"")


def _checked(verifier: Verifier, item: list[str]) -> Entry:
    try:
        verdict = verifier(*item)
    except BaseException:  # noqa: BLE001 -- a user's sys.exit included: the parent raises it
        return Entry(time.monotonic(), ERROR, 0.0, traceback.format_exc())
    return Entry(time.monotonic(), verdict.status, float(verdict.reward), str(verdict.detail)[:_DETAIL_LENGTH])


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())
