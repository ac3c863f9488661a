"""Recording explorer rollouts without a run: explorer engines, verifiers and the bank, exchanging object refs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ray

from actors.calls import fetch
from actors.launcher import ActorLauncher, PlacedEngine
from actors.node_files import check_node_files
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.config import Config
from s2l_ray.errors import StepTimeoutError
from s2l_ray.placement.plan import Layout
from s2l_ray.placement.ray_binding import reserve
from s2l_ray.rollouts.records import Prompt, SetReport
from s2l_ray.rollouts.requests import ExplorerRequest


@dataclass(frozen=True)
class _Pending:
    """A request that is being sampled, verified or recorded."""

    request: ExplorerRequest
    engine: int
    report: ray.ObjectRef


class Exploration:
    """The actors of one recording.

    Use it as a context manager: entering waits until the actors answer, leaving writes what is held and stops them.

    Args:
        config: of the runs that the recording is for.
        layout: slots of explorer engines.
        bank: the recording.
        train: prompts that requests may name.
        progress: told what is being started.

    Raises:
        PlacementError: the cluster cannot hold the layout, or an actor does not start in time.
        EngineError: an engine cannot start.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        bank: BankSettings,
        train: Sequence[Prompt],
        progress: Callable[[str], None],
        started: Callable[[int, int], None],
    ) -> None:
        self._timeout_s = config.cluster.step_timeout_s
        # One batch at work and one that waits, so that an engine never has to ask for more.
        self._capacity = 2 * config.engines.explorer.max_num_seqs
        progress("reserving resources")
        may_grow = config.placement.inventory is not None
        reservation = reserve(layout.bundles, config.cluster.start_timeout_s, progress, may_grow)
        self._launcher = ActorLauncher(config, layout, reservation, {prompt.id: prompt for prompt in train})
        try:
            check_node_files(config, layout, reservation, run_dir=None)
            progress("starting engines, verifiers and bank")
            self._engines: list[PlacedEngine] = [
                self._launcher.launch_engine(slot) for slot in layout.phases[0].engines
            ]
            starting = {engine.ready: engine.name for engine in self._engines}
            verifiers = [self._launcher.launch_verifier() for _ in range(config.verifier.workers)]
            starting |= {ready: f"verifier {number}" for number, (_, ready) in enumerate(verifiers)}
            self._verifiers = itertools.cycle([verifier for verifier, _ in verifiers])
            self._bank, ready = self._launcher.launch_bank(bank)
            self._starting, self._started = starting | {ready: "the bank"}, started
        except BaseException:
            self._launcher.close()
            raise
        self._waiting: deque[ExplorerRequest] = deque()
        self._load = [0] * len(self._engines)
        self._pending: dict[ray.ObjectRef, _Pending] = {}

    def __enter__(self) -> Exploration:
        try:
            self._launcher.wait_ready(self._starting, self._started)
        except BaseException:
            self._launcher.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._launcher.close()

    def record(self, requests: Sequence[ExplorerRequest]) -> Iterator[tuple[ExplorerRequest, SetReport]]:
        """Sample, verify and record; yields each request with its numbers once the bank has its rollouts.

        Raises:
            StepTimeoutError: nothing came back within cluster.step_timeout_s.
            ActorLostError: an actor is gone.
            BankError: a shard cannot be written.
        """
        self.begin(requests)
        for _, request, report in record_together([self], self._timeout_s):
            yield request, report

    def reopen(self, bank: BankSettings) -> None:
        """Write what the bank still holds, and go on with another recording of the same engines.

        Raises:
            BankError: it cannot be written, or the other one cannot be read.
        """
        fetch(self._bank.reopen.remote(bank), self._timeout_s, "opening a recording")

    def begin(self, requests: Sequence[ExplorerRequest]) -> None:
        """Have these requests recorded too; `record_together` waits for them."""
        self._waiting.extend(requests)
        self._fill()

    @property
    def pending(self) -> list[ray.ObjectRef]:
        """What is done once a request that is under way is recorded."""
        return list(self._pending)

    def take(self, recorded: ray.ObjectRef) -> tuple[ExplorerRequest, SetReport]:
        """A request of `pending` that is done, and its numbers; the next ones are sent."""
        fetch(recorded, self._timeout_s, "recording rollouts")  # raises what any of the three actors raised
        done = self._pending.pop(recorded)
        self._load[done.engine] -= done.request.count
        self._fill()
        return done.request, fetch(done.report, self._timeout_s, "reporting rollouts")

    def _fill(self) -> None:
        """Give every engine as many requests as it can have at one time."""
        while self._waiting and min(self._load) < self._capacity:
            request, engine = self._waiting.popleft(), self._load.index(min(self._load))
            recorded, report = self._send(request, engine)
            self._pending[recorded] = _Pending(request, engine, report)
            self._load[engine] += request.count

    def finish(self) -> None:
        """Write what the bank still holds.

        Raises:
            BankError: it cannot be written.
        """
        fetch(self._bank.close.remote(), self._timeout_s, "writing the last shard")

    def _send(self, request: ExplorerRequest, engine: int) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        """(recorded, report): tokens go from engine to verifier to bank without passing here."""
        sampled, _ = self._engines[engine].actor.sample.remote(request)
        scored, report = next(self._verifiers).verify.remote(sampled)
        return self._bank.record.remote(request, scored), report


def record_together(
    explorations: Sequence[Exploration], timeout_s: float
) -> Iterator[tuple[int, ExplorerRequest, SetReport]]:
    """The requests that several recordings were begun with, as they are recorded.

    Args:
        explorations: entered, each with its own engines.
        timeout_s: bound on the wait for the next one.

    Yields:
        (number of the exploration, one of its requests, the numbers of its rollouts).

    Raises:
        StepTimeoutError: nothing came back in time.
        ActorLostError: an actor is gone.
        BankError: a shard cannot be written.
    """
    while refs := {ref: number for number, one in enumerate(explorations) for ref in one.pending}:
        if not ray.wait(list(refs), num_returns=1, timeout=timeout_s)[0]:
            raise StepTimeoutError(
                f"none of {len(refs)} requests was recorded within {timeout_s:.0f} s (cluster.step_timeout_s)"
            )
        for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]:
            yield refs[ref], *explorations[refs[ref]].take(ref)
