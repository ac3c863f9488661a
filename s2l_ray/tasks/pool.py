"""Several workers over one list of answers."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.verifier_process import CHUNK, Item, VerifierProcess
from s2l_ray.tasks.verifiers import NO_OPTIONS, Options

CHUNKS_PER_WORKER = 4
"""A pool divides its answers into at least this many chunks, so that its workers end at about the same time."""


class VerifierPool:
    """Workers that share the answers of each check.

    Args:
        kind, timeout_s, options, columns: as for `VerifierProcess`.
        workers: processes; each computes on one core.
    """

    def __init__(
        self, kind: str, workers: int, timeout_s: float, options: Options = NO_OPTIONS, columns: Sequence[str] = ()
    ) -> None:
        self._processes = [VerifierProcess(kind, timeout_s, options, columns) for _ in range(workers)]
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
        futures = [self._threads.submit(self._check, items[n : n + size]) for n in range(0, len(items), size)]
        try:
            for future in futures:
                yield from future.result()
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
