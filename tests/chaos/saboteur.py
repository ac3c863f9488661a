"""Does faults to the actors of a run while it goes on, at points of its steps, and writes down what became of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil
import ray

from s2l_ray.reporter import SilentReporter
from s2l_ray.run.training_run import TrainingRun

Kind = Literal["SIGKILL", "SIGSTOP", "exit", "disconnect", "stall"]
"""exit: the process ends itself in the middle of a call. disconnect: all of its TCP connections are shut down. stall:
it does nothing else for STALL_S, which nobody has to be started again for."""
STALL_S = 4.0
ROLES = ("explorer", "learner", "verifier", "bank", "scheduler", "trainer")
POINTS = ("rollout", "update", "weight_sync", "idle")
"""Phases of every step, as `Reporter.turn` tells them; idle: between two steps. Some steps have `evaluate`,
`checkpoint` or `hand_over` as well."""
ANSWER_S = 10.0


@dataclass(frozen=True)
class Fault:
    """One fault that is planned."""

    step: int
    point: str
    role: str
    kind: Kind
    delay_s: float
    """From the beginning of the point."""
    index: int
    """Which actor of the role, counted modulo their number."""


@dataclass
class Outcome:
    """What became of a fault."""

    fault: Fault
    done: bool = False
    """Whether there was such an actor at that moment."""
    note: str = ""
    seconds: float = 0.0
    """From the fault to the end of the step that it fell into."""


def plan_faults(
    seed: int,
    steps: Sequence[int],
    roles: Sequence[str],
    kinds: Sequence[Kind],
    points_of: Callable[[int], Sequence[str]],
) -> list[Fault]:
    """One fault per step, drawn with a fixed seed.

    Over all of them roles and kinds come equally often, and points as far as the steps have them.
    """
    chance = random.Random(seed)
    deck_of_roles, deck_of_kinds = _shuffled(chance, roles), _shuffled(chance, kinds)
    used: Counter[str] = Counter()
    faults = []
    for step in steps:
        rarest = min(used[point] for point in points_of(step))
        point = chance.choice([point for point in points_of(step) if used[point] == rarest])
        used[point] += 1
        delay_s = chance.choice([0.0, chance.uniform(0, 1.5)])
        faults.append(Fault(step, point, next(deck_of_roles), next(deck_of_kinds), delay_s, chance.randrange(8)))
    return faults


def _shuffled(chance: random.Random, options: Sequence[Any]) -> Iterator[Any]:
    """The options in a random order, then again in another one, without end."""
    while True:
        yield from chance.sample(options, len(options))


@dataclass
class Saboteur(SilentReporter):
    """A reporter that does the faults of a plan when the run turns to their points."""

    faults: Sequence[Fault]
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: TrainingRun | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def turn(self, step: int, phase: str) -> None:
        self._begin(step, phase)

    def idle(self, step: int) -> None:
        """The step before this one has ended."""
        self._begin(step, "idle")
        self.join()

    def join(self) -> None:
        """Wait until the faults that have begun are done."""
        for thread in self.threads:
            thread.join(60)
        self.threads.clear()

    def _begin(self, step: int, point: str) -> None:
        for fault in self.faults:
            if (fault.step, fault.point) == (step, point):
                outcome = Outcome(fault)
                self.outcomes.append(outcome)
                thread = threading.Thread(target=self._do, args=(outcome,), daemon=True)
                thread.start()
                self.threads.append(thread)

    def _do(self, outcome: Outcome) -> None:
        fault = outcome.fault
        time.sleep(fault.delay_s)
        actors = self._actors(fault.role)
        if not actors:
            outcome.note = "no such actor was there"
            return
        actor = actors[fault.index % len(actors)]
        try:
            outcome.note = do_fault(actor, fault.kind)
            outcome.done = True
        except (ray.exceptions.RayError, psutil.Error, OSError) as error:
            outcome.note = f"it was not reached: {type(error).__name__}"

    def _actors(self, role: str) -> list[Any]:
        assert self.run is not None
        graph = self.run.graph
        if role == "trainer":
            return list(graph.trainer.ranks)
        if role == "scheduler":
            return [graph._scheduler.actor]
        if role == "verifier":
            return list(graph._workers.verifiers.values())
        if role == "bank":
            return [graph._workers.bank] if graph._workers.bank is not None else []
        return [engine.actor for engine in graph._workers.engines(role)]


def do_fault(actor: Any, kind: Kind) -> str:
    """Do a fault to an actor's process."""
    if kind == "exit":
        actor.__ray_call__.remote(_exit)
        return "told to exit"
    if kind == "disconnect":
        actor.__ray_call__.remote(_disconnect)
        return "told to shut its connections down"
    if kind == "stall":
        actor.__ray_call__.remote(_stall)
        return f"told to stall for {STALL_S:g} s"
    pid = ray.get(actor.alive.remote(), timeout=ANSWER_S).pid
    os.kill(pid, getattr(signal, kind))
    return f"process {pid}"


def _exit(_: Any) -> None:
    os._exit(17)


def _stall(_: Any) -> None:
    time.sleep(STALL_S)


def _disconnect(_: Any) -> None:
    import socket

    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as mine:
                mine.shutdown(socket.SHUT_RDWR)
