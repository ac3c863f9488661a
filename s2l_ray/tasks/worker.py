"""A process that checks answers and can be killed: it starts no thread, and knows nothing of Ray, torch or vLLM.

It reads chunks of answers as JSON from a pipe, writes every verdict to the `VerdictLog` at once, and answers each chunk
with an empty message. `tasks.verifier_process` starts it, enforces the time limit and kills it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.tasks.verdict_log import LoggedVerdict, VerdictLog
from s2l_ray.tasks.verifiers import Verifier, resolve_verifier

MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space of a worker with a built-in verifier: no answer must take the machine's memory."""
OWN_MEMORY_SHARE = 0.5
"""Share of the machine's memory that the data of a worker with your own function may take, for the same reason. Files
and what a GPU's driver reserves are no data."""
_DETAIL_LENGTH = 300


def serve(kind: str, options: str, columns: str, processor_s: str, pipe_fd: int, log_fd: int) -> None:
    """Check what comes through the pipe until its other end is closed.

    Args:
        kind: of the verifier.
        options, columns: of the verifier, as JSON, see `resolve_verifier`.
        processor_s: seconds of processor time for each answer, after which the kernel ends this process with SIGPROF;
            0 for no limit.
        pipe_fd, log_fd: descriptors that the process inherited.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit_memory(kind)
    with Connection(pipe_fd) as pipe:
        try:
            verifier = resolve_verifier(kind, json.loads(options), json.loads(columns))
            if kind == "math":
                verifier("\\boxed{\\sqrt{2}}", "1", "")  # what evaluates expressions is imported when it is used
        except ConfigError as error:
            _send(pipe, {"config_error": str(error)})
            return
        except Exception:
            _send(pipe, {"error": traceback.format_exc()})
            return
        _send(pipe, {"ready": True})
        _serve_chunks(pipe, VerdictLog(log_fd), verifier, float(processor_s))


def _limit_memory(kind: str) -> None:
    """Let the kernel refuse what is too much: the check raises then, or its process ends, and the next goes on."""
    if VERIFIERS.is_built_in(kind):
        limited, size = resource.RLIMIT_AS, MEMORY_LIMIT
    else:
        limited, size = resource.RLIMIT_DATA, int(OWN_MEMORY_SHARE * psutil.virtual_memory().total)
    given = resource.getrlimit(limited)[1]
    size = size if given == resource.RLIM_INFINITY else min(size, given)
    resource.setrlimit(limited, (size, size))


def _serve_chunks(pipe: Connection, log: VerdictLog, verifier: Verifier, processor_s: float) -> None:
    worker = os.getpid()
    while True:
        try:
            items = json.loads(pipe.recv_bytes())
        except EOFError:  # the parent closed or died
            return
        for item in items:
            signal.setitimer(signal.ITIMER_PROF, processor_s)  # 0 stops it
            entry = checked(verifier, item)
            if os.getpid() != worker:
                os._exit(0)  # the verifier forked, and its child returned from it too
            log.append(entry)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(b"")


def checked(verifier: Verifier, item: Sequence[str]) -> LoggedVerdict:
    """The verdict on one item of a chunk, whatever the verifier raises or returns."""
    try:
        verdict = verifier(*item)
        return LoggedVerdict(time.monotonic(), verdict.status, float(verdict.reward), _encodable(str(verdict.detail)))
    except BaseException as error:
        return LoggedVerdict(time.monotonic(), "failed", 0.0, _encodable(_told(error)))


def _told(error: BaseException) -> str:
    """One line on what was raised, and where."""
    if isinstance(error, S2LError):
        return str(error)
    what = traceback.format_exception_only(error)[-1].strip()  # not str(error), which may raise in turn
    code, line = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)][-1]
    return f"the verifier raised {what[:200]} ({code.co_filename}, line {line}, in {code.co_name})"


def _encodable(detail: str) -> str:
    """Short, and without lone surrogates: a bank's Parquet files and terminals take only what UTF-8 can encode."""
    return detail[:_DETAIL_LENGTH].encode("utf-8", "backslashreplace").decode()


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())
