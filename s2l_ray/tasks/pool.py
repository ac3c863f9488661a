"""Answers are checked in processes that can be killed: an endless check costs its time limit and nothing else.

math-verify's own time-outs raise outside a main thread and report a time-out as "wrong", and a stuck symbolic
computation cannot be interrupted from within. So each worker (`tasks.worker`) is a single-threaded process, the clock
runs out here, and the remedy is SIGKILL.

A worker gets a chunk of answers over a pipe, notes one verdict after another in a `VerdictLog` and says when the chunk
is done. The time of an answer runs from the verdict before it, or from sending the chunk.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Literal, Self

from s2l_ray.errors import ConfigError
from s2l_ray.rollout import Verdict
from s2l_ray.tasks.verdict_log import Entry, VerdictLog
from s2l_ray.tasks.verifiers import VerifierError
from s2l_ray.tasks.worker import ERROR

Item = tuple[str, str, str]
"""(response, gold answer, question)"""
Ending = Literal["done", "timeout", "died"]

CHUNK = 64
"""Answers a worker is given at once, at most."""
CHUNKS_PER_WORKER = 4
"""Into at least so many a pool divides its answers, so that its workers end at about the same time."""
START_TIMEOUT_S = 120.0
"""Bound on a worker's start: it imports its verifier and, for `math`, builds a parser."""
CRASHES_IN_A_ROW = 3
"""So many answers in a row that kill their worker are a broken verifier, not degenerate answers."""
_REAP_TIMEOUT_S = 10.0


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
        self._log: VerdictLog | None = None
        self._crashes = 0
        self._cause = ""
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
        self._log = VerdictLog()
        with theirs:
            descriptors = theirs.fileno(), self._log.fd
            arguments = [*map(str, descriptors), str(os.getpid()), self.kind, str(self.timeout_s)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from s2l_ray.tasks.worker import serve; serve()", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's verifier prints must not mix with our output
                pass_fds=descriptors,
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
        self._log.clear()
        try:
            self._pipe.send_bytes(json.dumps(items).encode())
            entries, ending = self._await_chunk()
        except (EOFError, OSError):
            entries, ending = self._log.read(), "died"
            self._cause = self._bury()
        except BaseException:
            self._kill()  # or the next check would be told that this one's chunk is done
            raise
        if entries:
            self._crashes = 0
        verdicts = [self._read(entry, index) for index, entry in enumerate(entries)]
        return verdicts, "done" if len(verdicts) == len(items) else ending

    def _await_chunk(self) -> tuple[list[Entry], Ending]:
        entries: list[Entry] = []
        deadline = time.monotonic() + self.timeout_s
        while not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            entries = self._log.read()
            if entries:
                deadline = max(deadline, entries[-1].time + self.timeout_s)
            if time.monotonic() >= deadline:
                self._kill()
                return entries, "timeout"
        self._pipe.recv_bytes()
        return self._log.read(), "done"

    def _read(self, entry: Entry, index: int) -> Verdict:
        if entry.status == ERROR:
            raise VerifierError(f"verifier {self.kind} raised:\n{entry.detail}", index)
        return Verdict(entry.status, entry.reward, entry.detail)

    def _check_again(self, item: Item) -> Verdict:
        verdicts, ending = self._stream([item])
        if ending == "done":
            return verdicts[0]
        if ending == "timeout":
            return self._timed_out()
        self._crashes += 1
        if self._crashes == CRASHES_IN_A_ROW:
            raise VerifierError(
                f"{CRASHES_IN_A_ROW} answers in a row killed the workers of verifier {self.kind} (the last: "
                f"{self._cause}); its code or its native libraries are broken"
            )
        return Verdict("unparsable", 0.0, f"its check killed two workers: {self._cause}")

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
            self._log.close()
            self._process = self._pipe = self._log = None


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
        size = min(CHUNK, len(items) // (CHUNKS_PER_WORKER * len(self._processes)) + 1)
        starts = range(0, len(items), size)
        futures = [self._threads.submit(self._check, items[start : start + size]) for start in starts]
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
