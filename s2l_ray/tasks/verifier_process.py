"""Checks of answers in processes that can be killed: an endless check costs its time limit and nothing else.

A computation that holds the interpreter's lock cannot be interrupted from within. So each worker (`tasks.worker`) is a
process of its own, the clock runs out here, and the remedy is SIGKILL, for the worker and for all that its verifier
started (`processes.supervised`). The built-in verifiers are limited by processor time, which a loaded machine does not
shorten, and the kernel keeps it: rewards must not depend on load. The clock here only stands behind it.

A worker gets a chunk of answers over a pipe, writes each verdict to a `VerdictLog` at once, and sends an empty message
when the chunk is done. The time of an answer runs from the verdict before it, or from sending the chunk.

No answer stops a check: whatever becomes of one, it gets a verdict and the next is checked.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Self

from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.kinds import WorkerEnding
from s2l_ray.machine.processes import end_supervised
from s2l_ray.rollouts.records import Prompt, Verdict
from s2l_ray.tasks.verdict_log import LoggedVerdict, VerdictLog
from s2l_ray.tasks.verifiers import NO_OPTIONS, Options, VerifierError

Item = tuple[str, str, str] | tuple[str, str, str, str]
"""(response, gold answer, question), and where the verifier is called with columns these as JSON (`Prompt.columns`)."""

CHUNK = 64
"""Answers a worker is given at once, at most."""
CHUNK_CHARACTERS = 2**20
"""Likewise the characters, if there is more than one answer: sending them counts as time of the first."""
START_TIMEOUT_S = 120.0
"""Bound on a worker's start: it imports its verifier and, for `math`, builds a parser."""
SEND_TIMEOUT_S = 60.0
"""Bound on writing to a worker: one that a thread of its verifier holds up does not read."""
_POLL_S = 1.0
"""Seconds between looks at a silent worker: a process that its verifier forked may hold its end of the pipe."""
_REAP_TIMEOUT_S = 10.0
WALL_PER_PROCESSOR_S = 12
"""Seconds of the clock for each second of the limit on processor time, after which a built-in check is stuck."""
_WORKER = """
import sys
from s2l_ray.machine.processes import supervised
pipe_fd, log_fd, parent = map(int, sys.argv[1:4])
supervised(parent, held=(pipe_fd, log_fd))
from s2l_ray.tasks.worker import serve
serve(*sys.argv[4:8], pipe_fd, log_fd)
"""


class _Worker:
    """A running worker process, its pipe and its log.

    Raises:
        VerifierError: the process cannot be started.
    """

    def __init__(self, kind: str, options: Options, columns: Sequence[str], processor_s: float) -> None:
        try:
            self.pipe, theirs = _pipe()
            self.log = VerdictLog()
            with theirs:
                self.process = _started(kind, options, columns, processor_s, (theirs.fileno(), self.log.fd))
        except OSError as error:
            raise VerifierError(f"no worker of verifier {kind} can be started: {error}") from error

    def exit_cause(self) -> str:
        """Wait for a worker that ended by itself, and say how it did."""
        try:
            code = self.process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        number = -code if code < 0 else code - 128  # of the watching process; of the worker, as that passes it on
        return signal.Signals(number).name if number in set(signal.Signals) else f"exit status {code}"

    def kill(self) -> None:
        """End the worker and all that its verifier started."""
        end_supervised(self.process)
        self.pipe.close()
        self.log.close()


class VerifierProcess:
    """One worker process, started when first needed and replaced whenever it was killed or died.

    Not thread-safe: one `check` at a time.

    Args:
        kind, options, columns: see `resolve_verifier`.
        timeout_s: limit of each answer in seconds: of processor time for a built-in verifier, of the clock for your own
            function, which may wait for others. A worker's start does not count.
    """

    def __init__(self, kind: str, timeout_s: float, options: Options = NO_OPTIONS, columns: Sequence[str] = ()) -> None:
        self.kind = kind
        self._options, self._columns = options, columns
        self.timeout_s = timeout_s
        self._processor_s = timeout_s if VERIFIERS.is_built_in(kind) else 0.0
        self._clock_s = timeout_s * (WALL_PER_PROCESSOR_S if self._processor_s else 1)
        self._worker: _Worker | None = None
        self._cause = ""
        """How the last worker that died ended."""
        self._closed = False

    def start(self) -> None:
        """Start the worker unless it runs, and wait until it can check.

        Raises:
            ConfigError: the worker cannot import the verifier.
            VerifierError: it cannot start, or not within START_TIMEOUT_S, or the pool is closed.
        """
        self._running()

    def check(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in the order of `items`.

        An answer over its limit gets the status timeout. One whose check raises or returns no verdict gets failed, as
        does one that kills its worker and then a fresh one too.

        Raises:
            VerifierError: a worker cannot start.
        """
        verdicts: list[Verdict] = []
        while len(verdicts) < len(items):
            new, ending = self._stream(_chunk(items, len(verdicts)))
            verdicts += new
            if ending != "done":
                culprit = items[len(verdicts)]
                verdicts.append(self._timed_out() if ending == "timeout" else self._check_again(culprit))
        return verdicts

    def abort(self) -> None:
        """Make a `check` in another thread end soon. Only `close` may follow."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.process.terminate()

    def close(self) -> None:
        """Kill the worker and all that its verifier started; nothing can be checked any more."""
        self._closed = True
        self._kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> _Worker:
        if self._closed:
            raise VerifierError("the verifier is closed")
        if self._worker is None:
            self._worker = _Worker(self.kind, self._options, self._columns, self._processor_s)
            try:
                self._await_ready(self._worker)
            except BaseException:
                self._kill()
                raise
        return self._worker

    def _await_ready(self, worker: _Worker) -> None:
        try:
            if not self._await_message(worker, time.monotonic() + START_TIMEOUT_S):
                raise VerifierError(f"the worker of verifier {self.kind} did not start within {START_TIMEOUT_S:g} s")
            message = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            cause = worker.exit_cause()
            raise VerifierError(f"the worker of verifier {self.kind} died at its start: {cause}") from None
        if "config_error" in message:
            raise ConfigError(message["config_error"])
        if "error" in message:
            raise VerifierError(f"the worker of verifier {self.kind} fails at its start:\n{message['error']}")

    def _stream(self, items: Sequence[Item]) -> tuple[list[Verdict], WorkerEnding]:
        """Verdicts up to the first item whose check ran out of time or killed the worker (no worker is left then)."""
        worker = self._running()
        worker.log.clear()
        try:
            worker.pipe.send_bytes(json.dumps(items).encode())
            logged, ending = self._await_chunk(worker)
        except (EOFError, OSError):
            logged = worker.log.read()
            self._cause = worker.exit_cause()
            ending = "timeout" if self._cause == "SIGPROF" else "died"
            self._kill()
        except BaseException:
            self._kill()  # or the next check would be told that this one's chunk is done
            raise
        verdicts = [Verdict(one.status, one.reward, one.detail) for one in logged]
        return verdicts, "done" if len(verdicts) == len(items) else ending

    def _await_chunk(self, worker: _Worker) -> tuple[list[LoggedVerdict], WorkerEnding]:
        deadline = time.monotonic() + self._clock_s
        while not self._await_message(worker, deadline):
            logged = worker.log.read()
            if logged:
                deadline = max(deadline, logged[-1].time + self._clock_s)
            if time.monotonic() >= deadline:
                self._kill()
                return logged, "timeout"
        worker.pipe.recv_bytes()
        return worker.log.read(), "done"

    def _await_message(self, worker: _Worker, deadline: float) -> bool:
        """Whether a message is there before `deadline`.

        Raises:
            EOFError: the worker has ended.
            VerifierError: the verifier was closed meanwhile.
        """
        while not worker.pipe.poll(min(max(0.0, deadline - time.monotonic()), _POLL_S)):
            if self._closed:
                raise VerifierError("the verifier is closed")
            if worker.process.poll() is not None:
                raise EOFError
            if time.monotonic() >= deadline:
                return False
        return True

    def _check_again(self, item: Item) -> Verdict:
        verdicts, ending = self._stream([item])
        if ending == "done":
            return verdicts[0]
        if ending == "timeout":
            return self._timed_out()
        return Verdict("failed", 0.0, f"its check killed two workers: {self._cause}")

    def _timed_out(self) -> Verdict:
        what = " of processor time" if self._processor_s else ""
        return Verdict("timeout", 0.0, f"killed after {self.timeout_s:g} s{what}")

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()


def _started(
    kind: str, options: Options, columns: Sequence[str], processor_s: float, descriptors: tuple[int, int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            _WORKER,
            *map(str, descriptors),
            str(os.getpid()),
            kind,
            json.dumps(dict(options)),
            json.dumps(list(columns)),
            str(processor_s),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a user's verifier prints must not mix with our output
        pass_fds=descriptors,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
    )


def item(response: str, prompt: Prompt) -> Item:
    """What is to be checked of a response."""
    return response, prompt.answer, prompt.question, prompt.columns


def _pipe() -> tuple[Connection, Connection]:
    """(ours, the worker's); ours waits for a bounded time only when it writes, or reads the rest of a message."""
    ours, theirs = socket.socketpair()
    for option, seconds in ((socket.SO_SNDTIMEO, SEND_TIMEOUT_S), (socket.SO_RCVTIMEO, SEND_TIMEOUT_S)):
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), 0))
    return Connection(ours.detach()), Connection(theirs.detach())


def _chunk(items: Sequence[Item], start: int) -> Sequence[Item]:
    """The next items for a worker: at most CHUNK, and CHUNK_CHARACTERS or a single one."""
    end, characters = start, 0
    while end < min(start + CHUNK, len(items)):
        characters += sum(map(len, items[end]))
        if characters > CHUNK_CHARACTERS and end > start:
            break
        end += 1
    return items[start:end]
