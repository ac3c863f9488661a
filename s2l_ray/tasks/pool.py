"""Answers are checked in processes that can be killed: an endless check costs its time limit and nothing else.

math-verify's own time-outs raise outside a main thread and report a time-out as "wrong", and a stuck symbolic
computation cannot be interrupted from within. So each worker is a single-threaded process that knows nothing of Ray,
torch or vLLM, the clock runs out here, and the remedy is SIGKILL.

Parent and worker exchange JSON over a pipe: the parent sends a chunk of answers, the worker one verdict after another.
The time of an answer runs from the verdict before it, or from sending the chunk.
"""

from __future__ import annotations

import json
import math
import os
import queue
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any, Literal, Self

from s2l_ray.errors import ConfigError
from s2l_ray.processes import die_with_parent
from s2l_ray.rollout import Verdict
from s2l_ray.tasks.verifiers import BUILT_IN, Verifier, VerifierError, resolve_verifier

Item = tuple[str, str, str]
"""(response, gold answer, question)"""
Ending = Literal["done", "timeout", "died"]

CHUNK = 16
"""Answers a worker is given at once."""
START_TIMEOUT_S = 120.0
"""Bound on a worker's start: it imports its verifier and, for `math`, builds a parser."""
CRASHES_IN_A_ROW = 3
"""So many answers in a row that kill their worker are a broken verifier, not degenerate answers."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space of a worker with a built-in verifier: 9**9**9**9 must not take the machine's memory."""
_DETAIL_LENGTH = 300
_REAP_TIMEOUT_S = 10.0
_BACKSTOP_S = 10


class VerifierProcess:
    """One worker process, started when first needed and replaced whenever it was killed or died.

    Not thread-safe: one `check` at a time.

    Args:
        kind: see `resolve_verifier`.
        timeout_s: wall-clock limit of each answer in seconds; a worker's start does not count.
    """

    def __init__(self, kind: str, timeout_s: float):
        self.kind = kind
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._crashes = 0
        self._closed = False

    def start(self) -> None:
        """Start the worker unless it runs, and wait until it can check.

        Raises:
            ConfigError: the worker cannot import the verifier.
            VerifierError: it does not start within START_TIMEOUT_S, or the pool is closed.
        """
        if self._closed:
            raise VerifierError("the verifier is closed")
        if self._process is not None:
            return
        self._pipe, theirs = Pipe()
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid()), self.kind, str(self.timeout_s)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from s2l_ray.tasks.pool import serve; serve()", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's verifier prints must not mix with our output
                pass_fds=(theirs.fileno(),),
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
            )
        try:
            self._await_ready()
        except BaseException:
            self._kill()
            raise

    def check(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in the order of `items`.

        An answer over its limit gets the status timeout. One that kills its worker is checked again in a fresh worker;
        if it kills that too it gets unparsable: it is sampled text, and no single answer may stop a run.

        Raises:
            VerifierError: the verifier raised, returned something impossible, cannot start, or CRASHES_IN_A_ROW answers
                killed their workers. `index` says at which item.
        """
        verdicts: list[Verdict] = []
        try:
            while len(verdicts) < len(items):
                new, ending = self._stream(items[len(verdicts) : len(verdicts) + CHUNK])
                verdicts += new
                if ending != "done":
                    culprit = items[len(verdicts)]
                    verdicts.append(self._timed_out() if ending == "timeout" else self._check_again(culprit))
        except VerifierError as error:
            raise VerifierError(str(error), len(verdicts) + (error.index or 0)) from None
        return verdicts

    def abort(self) -> None:
        """Make a `check` in another thread end soon. Only `close` may follow."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Kill the worker; nothing can be checked any more."""
        self._closed = True
        self._kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_ready(self) -> None:
        if not self._pipe.poll(START_TIMEOUT_S):
            raise VerifierError(f"the worker of verifier {self.kind} did not start within {START_TIMEOUT_S:g} s")
        try:
            message = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            raise VerifierError(f"the worker of verifier {self.kind} died at its start: {self._bury()}") from None
        if "config_error" in message:
            raise ConfigError(message["config_error"])
        if "error" in message:
            raise VerifierError(f"the worker of verifier {self.kind} fails at its start:\n{message['error']}")

    def _stream(self, items: Sequence[Item]) -> tuple[list[Verdict], Ending]:
        """Verdicts up to the first item whose check ran out of time or killed the worker (no worker is left then)."""
        self.start()
        verdicts: list[Verdict] = []
        try:
            self._pipe.send_bytes(json.dumps(items).encode())
            while len(verdicts) < len(items):
                if not self._pipe.poll(self.timeout_s):
                    self._kill()
                    return verdicts, "timeout"
                verdicts.append(self._read(json.loads(self._pipe.recv_bytes()), len(verdicts)))
                self._crashes = 0
        except (EOFError, OSError):
            return verdicts, "died"
        except BaseException:
            self._kill()  # or the next check would read the verdicts of this one
            raise
        return verdicts, "done"

    def _read(self, message: dict[str, Any], index: int) -> Verdict:
        if "error" in message:
            raise VerifierError(f"verifier {self.kind} raised:\n{message['error']}", index)
        return Verdict(message["status"], message["reward"], message["detail"])

    def _check_again(self, item: Item) -> Verdict:
        self._bury()
        verdicts, ending = self._stream([item])
        if ending == "done":
            return verdicts[0]
        if ending == "timeout":
            return self._timed_out()
        cause = self._bury()
        self._crashes += 1
        if self._crashes == CRASHES_IN_A_ROW:
            raise VerifierError(
                f"{CRASHES_IN_A_ROW} answers in a row killed the workers of verifier {self.kind} (the last: {cause}); "
                "its code or its native libraries are broken"
            )
        return Verdict("unparsable", 0.0, f"its check killed two workers: {cause}")

    def _timed_out(self) -> Verdict:
        return Verdict("timeout", 0.0, f"killed after {self.timeout_s:g} s")

    def _bury(self) -> str:
        """Reap a worker that ended by itself, and say how."""
        try:
            code = self._process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        self._kill()
        if code is None:
            return "it closed its pipe"
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_REAP_TIMEOUT_S)
            self._pipe.close()
            self._process = self._pipe = None


class VerifierPool:
    """Several workers over one list of answers.

    Args:
        kind, timeout_s: as for `VerifierProcess`.
        workers: processes; each computes on one core.
    """

    def __init__(self, kind: str, workers: int, timeout_s: float):
        self._processes = [VerifierProcess(kind, timeout_s) for _ in range(workers)]
        self._free: queue.SimpleQueue[VerifierProcess] = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="verifier")

    def start(self) -> None:
        """Start all workers, side by side. Raises as `VerifierProcess.start`."""
        for started in [self._threads.submit(process.start) for process in self._processes]:
            started.result()

    def check(self, items: Sequence[Item], on_progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """Verdicts in the order of `items`; `on_progress` is called here with the number done. Raises as `stream`."""
        verdicts = []
        for verdict in self.stream(items):
            verdicts.append(verdict)
            if on_progress is not None:
                on_progress(len(verdicts))
        return verdicts

    def stream(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """The verdicts in the order of `items`, as they come. Raises as `VerifierProcess.check`."""
        starts = range(0, len(items), CHUNK)
        futures = [self._threads.submit(self._check, items[start : start + CHUNK]) for start in starts]
        try:
            for start, future in zip(starts, futures, strict=True):
                try:
                    yield from future.result()
                except VerifierError as error:
                    raise VerifierError(str(error), None if error.index is None else start + error.index) from None
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Kill all workers; nothing can be checked any more."""
        for process in self._processes:
            process.abort()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, items: Sequence[Item]) -> list[Verdict]:
        process = self._free.get()
        try:
            return process.check(items)
        finally:
            self._free.put(process)


def serve() -> None:
    """Main of a worker: `python -c ... PIPE_FD PARENT_PID KIND TIMEOUT_S`."""
    fd, parent, kind, timeout_s = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if kind in BUILT_IN:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    with Connection(int(fd)) as pipe:
        try:
            verifier = resolve_verifier(kind)
            if kind == "math":
                verifier("\\boxed{x^2 + x}", "x(x - 1)", "")  # SymPy and the parser load most of their code when used
        except ConfigError as error:
            _send(pipe, {"config_error": str(error)})
            return
        except Exception:  # noqa: BLE001 -- whatever a warm-up raises is told to the parent, which raises it
            _send(pipe, {"error": traceback.format_exc()})
            return
        _send(pipe, {"ready": True})
        _serve_chunks(pipe, verifier, math.ceil(float(timeout_s)) + _BACKSTOP_S)


def _serve_chunks(pipe: Connection, verifier: Verifier, backstop_s: int) -> None:
    while True:
        try:
            items = json.loads(pipe.recv_bytes())
        except EOFError:  # the parent closed or died
            return
        for item in items:
            signal.alarm(backstop_s)  # ends even a check that holds the interpreter's lock and has lost its parent
            _send(pipe, _checked(verifier, item))
        signal.alarm(0)


def _checked(verifier: Verifier, item: Item) -> dict[str, Any]:
    try:
        verdict = verifier(*item)
    except BaseException:  # noqa: BLE001 -- a user's sys.exit included: the parent raises it
        return {"error": traceback.format_exc()}
    return {"status": verdict.status, "reward": float(verdict.reward), "detail": str(verdict.detail)[:_DETAIL_LENGTH]}


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())
