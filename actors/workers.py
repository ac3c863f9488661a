"""Engines, verifiers and the bank as the driver knows them: who is there, who is starting, and whose place is empty."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from actors.calls import ANSWER_S, fetch
from actors.launcher import AGAIN, ActorLauncher, PlacedEngine
from actors.liveness import Death, Watch
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.errors import NodeLostError, S2LError
from s2l_ray.kinds import Source
from s2l_ray.placement.plan import EngineSlot
from s2l_ray.recovery.budget import RestartBudget
from s2l_ray.recovery.causes import short_cause

Key = tuple[str, int]
"""Kind of a worker ("explorer", "learner", "verifier" or "bank") and its number."""
BANK: Key = ("bank", 0)
NODE_POLL_S = 5.0
"""Seconds between two looks for a node in place of a lost one."""


@dataclass(frozen=True)
class Worker:
    """A worker's actor, from its start on."""

    key: Key
    actor: Any
    ready: ray.ObjectRef
    deadline: float
    """time.monotonic() by which it must be ready."""
    engine: PlacedEngine | None = None

    @property
    def name(self) -> str:
        """Such as "learner engine 0", for messages."""
        return self.engine.name if self.engine else name_of(self.key)


class Workers:
    """The workers of a run. Those that are lost are started again, on the same bundles, within the failure budget.

    Args:
        launcher: starts and stops actors.
        watch: over those that are there.
        budget: of restarts.
        note: told what is lost and what is back.
        on_lost: called with every worker that was there and is not any more.
    """

    def __init__(
        self,
        launcher: ActorLauncher,
        watch: Watch,
        budget: RestartBudget,
        note: Callable[[str], None],
        on_lost: Callable[[Key], None],
    ) -> None:
        self._launcher, self._watch, self._budget = launcher, watch, budget
        self._note, self._on_lost = note, on_lost
        self._present: dict[Key, Worker] = {}
        self._starting: dict[Key, Worker] = {}
        self._vacant: dict[Key, float] = {}
        """Places that are to be filled, and time.monotonic() before which they are not."""
        self._slots: dict[Key, EngineSlot] = {}
        self._bank_settings: BankSettings | None = None
        self._lost_at: dict[Key, float] = {}
        """time.monotonic() since when places are empty that were not."""
        self._away: set[Key] = set()
        """Engines among them that cannot be started: the node of their bundle is lost, and it has no other yet."""
        self.restarts = 0
        """Workers that were started again."""

    # ---- who is there -----------------------------------------------------------------------------------------------

    def engines(self, source: Source) -> list[PlacedEngine]:
        """Those that are there, in order of their numbers."""
        return [engine for key, engine in self._engines(self._present) if key[0] == source]

    def count(self, source: Source) -> int:
        """How many engines there are; one that was lost and is being started again counts, unless its node is lost."""
        return len({key for key in (*self._present, *self._lost_at) if key[0] == source and key not in self._away})

    def has(self, source: Source) -> bool:
        """Whether the run has engines for this source now, lost ones too."""
        return any(key[0] == source for key in self._slots)

    @property
    def away(self) -> list[Key]:
        """Engines whose node is lost, and whose bundle has no other."""
        return sorted(self._away)

    @property
    def all_engines(self) -> list[PlacedEngine]:
        """Those that are there."""
        return [engine for _, engine in self._engines(self._present)]

    @property
    def engine_keys(self) -> set[Key]:
        """Engines that are there, are starting, or are to be started."""
        return {key for key in (*self._present, *self._starting, *self._vacant) if key in self._slots}

    @property
    def verifiers(self) -> dict[int, Any]:
        """Actors that are there, by number."""
        return {key[1]: worker.actor for key, worker in sorted(self._present.items()) if key[0] == "verifier"}

    def actor(self, key: Key) -> Any | None:
        """That of a worker, if it is there."""
        return self._present[key].actor if key in self._present else None

    @property
    def bank(self) -> Any | None:
        """The bank's actor, if there is one."""
        return self.actor(BANK)

    def expects(self, kind: str, *, asleep: bool = False) -> bool:
        """Whether workers of a kind are starting, or are to be started as soon as may be.

        Args:
            asleep: count only engines that share devices with the trainer.
        """
        coming = [key for key in (*self._starting, *self._vacant) if key[0] == kind and key not in self._away]
        return any(not asleep or self._sleeps(key) for key in coming)

    @property
    def share_devices(self) -> bool:
        """Whether there are engines that share devices with the trainer, and so sleep while it updates."""
        return any(map(self._sleeps, self._slots))

    # ---- starting and stopping --------------------------------------------------------------------------------------

    def launch_engines(self, slots: Mapping[Key, EngineSlot]) -> None:
        """Begin to start engines on these slots."""
        self._slots |= slots
        for key in slots:
            self._launch(key)

    def launch_verifiers(self, count: int) -> None:
        """Begin to start so many verifiers."""
        for number in range(count):
            self._launch(("verifier", number))

    def launch_bank(self, settings: BankSettings | None) -> None:
        """Begin to start the bank, or be without one."""
        self._bank_settings = settings
        if settings is not None:
            self._launch(BANK)

    def wait_ready(self, progress: Callable[[int, int], None]) -> list[Key]:
        """Wait until all that are starting answer; see `ActorLauncher.wait_ready`. Returns them."""
        self._launcher.wait_ready({worker.ready: worker.name for worker in self._starting.values()}, progress)
        return [self._arrive(key) for key in list(self._starting)]

    def stop(self, key: Key) -> None:
        """Stop a worker in good order, also one that is only starting, or to be started."""
        self._vacant.pop(key, None)
        self._slots.pop(key, None)
        self._lost_at.pop(key, None)
        self._away.discard(key)
        worker = self._present.pop(key, None) or self._starting.pop(key, None)
        if worker is not None:
            self._watch.remove(worker.actor)
            self._launcher.stop(worker.actor)

    def withdraw(self, key: Key) -> None:
        """Count a worker, if it is there, among those that are not: it is about to be stopped.

        If it dies or hangs until then, it is ended and not started again.
        """
        worker = self._present.pop(key, None)
        if worker is None:
            return
        self._starting[key] = worker

        def end(death: Death) -> None:
            if self._starting.get(key) is worker:
                del self._starting[key]
                self._launcher.bury(worker.actor, death.node)
                self._note(f"{worker.name}, which was about to be stopped, is ended: {death.cause}")

        self._watch.add(worker.name, worker.actor, end)

    def reopened_bank(self, settings: BankSettings | None) -> None:
        """The bank's actor holds another recording from now on."""
        self._bank_settings = settings

    # ---- losing and replacing ---------------------------------------------------------------------------------------

    def lose(self, key: Key, cause: str, log: str = "", node: str | None = None) -> None:
        """A worker is gone or cannot be used any more: end what is left of it, and have its place filled.

        Args:
            log: the end of its log.
            node: of the worker, if that is known.

        Raises:
            ActorLostError: it was started again as often as recovery.max_restarts allows.
        """
        there, worker = key in self._present, self._present.get(key) or self._starting.get(key)
        if worker is None:
            return
        del (self._present if there else self._starting)[key]
        self._watch.remove(worker.actor)
        node = node or self._launcher.node_of(worker.actor)
        self._launcher.bury(worker.actor, node)
        if there:
            self._on_lost(key)
        self._lost_at.setdefault(key, time.monotonic())
        placed = self._has_node(key)
        # A process whose node is lost has not failed.
        failed = placed and not self._launcher.is_lost(node)
        wait_s = self._budget.spend(worker.name, cause, log) if failed else 0.0
        self._vacant[key] = time.monotonic() + wait_s
        if not placed:  # which is said when it cannot be started
            return
        later = f" in {wait_s:.0f} s" if wait_s else ""
        self._note(f"{worker.name} is lost and is started again{later}: {cause}")

    def lose_present(self, key: Key, cause: str) -> None:
        """`lose` a worker if it is there, and not if it is starting already."""
        if key in self._present:
            self.lose(key, cause)

    def fill(self, devices_free: bool) -> None:
        """Start what is due.

        Args:
            devices_free: the trainer is not at work. Else engines that share its devices have to wait.

        Raises:
            NodeLostError: an engine cannot be started for want of a node, and the run cannot go on without it.
        """
        due = [key for key, when in self._vacant.items() if when <= time.monotonic()]
        for key in due:
            if (devices_free or not self._sleeps(key)) and self._launch(key):
                self.restarts += 1

    def arrivals(self, kinds: Iterable[str]) -> list[Key]:
        """Workers of these kinds that have become ready since the last call. From now on they are there.

        Raises:
            ActorLostError: one does not start, as often as recovery.max_restarts allows.
        """
        starting = {key: worker for key, worker in self._starting.items() if key[0] in kinds}
        refs = [worker.ready for worker in starting.values()]
        ready = ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else []
        arrived = []
        for key, worker in starting.items():
            if worker.ready in ready:
                if (cause := self._why_not(worker)) is None:
                    arrived.append(self._arrive(key))
                else:
                    self.lose(key, cause)
            elif worker.deadline < time.monotonic():
                self.lose(key, f"it did not start within {self._launcher.start_bound.text}")
        return arrived

    def _why_not(self, worker: Worker) -> str | None:
        try:
            fetch(worker.ready, ANSWER_S, "starting")
        except S2LError as error:
            return short_cause(error)
        return None

    def _arrive(self, key: Key) -> Key:
        worker = self._present[key] = self._starting.pop(key)
        self._watch.add(worker.name, worker.actor, self._replace(key))
        if (since := self._lost_at.pop(key, None)) is not None:
            self._note(f"{worker.name} is back after {time.monotonic() - since:.1f} s")
        return key

    def _replace(self, key: Key) -> Callable[[Death], None]:
        def replace(death: Death) -> None:
            worker = self._present.get(key) or self._starting.get(key)
            if worker is not None and worker.actor == death.actor:  # else it has been replaced already
                self.lose(key, death.cause, death.log, death.node)

        return replace

    def _launch(self, key: Key) -> bool:
        """Begin to start a worker, if its bundle has a node."""
        deadline = time.monotonic() + self._launcher.start_bound.seconds
        if key in self._slots:
            try:
                engine = self._launcher.launch_engine(self._slots[key])
            except NodeLostError as error:
                self._go_without(key, error)
                return False
            self._starting[key] = Worker(key, engine.actor, engine.ready, deadline, engine)
        elif key == BANK:
            assert self._bank_settings is not None
            self._starting[key] = Worker(key, *self._launcher.launch_bank(self._bank_settings), deadline)
        else:
            self._starting[key] = Worker(key, *self._launcher.launch_verifier(), deadline)
        self._vacant.pop(key, None)
        self._away.discard(key)
        return True

    def _has_node(self, key: Key) -> bool:
        return key not in self._slots or self._launcher.has_node(self._slots[key])

    def _go_without(self, key: Key, error: NodeLostError) -> None:
        """An engine has no node: try again later, if the others of its kind can do its work, or for a time."""
        now, bound = time.monotonic(), self._launcher.start_bound
        self._lost_at.setdefault(key, now)
        self._vacant[key] = now + NODE_POLL_S
        what, kind = str(error).partition(". ")[0], [other for other in self._slots if other[0] == key[0]]
        alone = {*kind} <= {*self._away, key}
        if self._sleeps(key):  # a trainer rank has gone with it
            raise error
        if alone and now - max(self._lost_at.get(other, now) for other in kind) > bound.seconds:
            raise NodeLostError(f"{what}, the last of its kind; no other node came within {bound.text}. {AGAIN}")
        if key not in self._away:
            self._away.add(key)
            self._note(f"{what}: {self._left(key[0])}. The lost engine is started again once there is a node for it")

    def _left(self, kind: str) -> str:
        left = sum(key[0] == kind for key in (*self._present, *self._starting))
        if not left:
            return "none is left, and one is waited for"
        return f"one {kind} engine is left" if left == 1 else f"{left} {kind} engines are left"

    def _sleeps(self, key: Key) -> bool:
        return key in self._slots and self._launcher.sleeps(self._slots[key])

    def _engines(self, workers: Mapping[Key, Worker]) -> list[tuple[Key, PlacedEngine]]:
        return [(key, worker.engine) for key, worker in sorted(workers.items()) if worker.engine]


def name_of(key: Key) -> str:
    """A worker's name in messages."""
    return "the bank" if key == BANK else f"{key[0]} {key[1]}" if key[0] == "verifier" else f"{key[0]} engine {key[1]}"
