"""SimPy models of what a step's actors do with their time: processors, vLLM engines, verifiers."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import simpy

from s2l_ray.kinds import ActivityKind, Source
from s2l_ray.planner.simulate.constants import EngineConstants
from s2l_ray.planner.simulate.simulated_run import Activity

KIND_OF: dict[Source, ActivityKind] = {"explorer": "explore", "learner": "learner_generate"}
T = TypeVar("T")
Process: TypeAlias = Generator[simpy.Event, Any, T]
"""A SimPy process that returns a T."""

TINY = 1e-9
"""Seconds; floats that differ by less are one moment."""


class Work:
    """A piece of work on a processor."""

    def __init__(self, done: simpy.Event, begun: float, seconds: float, width: float) -> None:
        self.done, self.begun = done, begun
        self.seconds = self.remaining = seconds
        self.width = width


class Cores:
    """A node's processor cores. Work takes its own time while they suffice; beyond, all of it slows down alike.

    Args:
        count: None: never slower.
    """

    def __init__(self, env: simpy.Environment, count: float | None) -> None:
        self._env = env
        self._count = count
        self._working: list[Work] = []
        self._changed = 0.0
        self._next: simpy.Event | None = None

    def work(self, seconds: float, width: float = 1.0) -> Work:
        """Begin work that takes `seconds` alone and keeps `width` cores busy; its `done` is an event."""
        if self._count is None or seconds <= 0:
            return Work(self._env.timeout(max(0.0, seconds)), self._env.now, seconds, width)
        work = Work(self._env.event(), self._env.now, seconds, width)
        self._catch_up()
        self._working.append(work)
        self._plan_next()
        return work

    def stop(self, work: Work) -> float:
        """End unfinished work early. Returns the seconds of it that were done."""
        if self._count is None:
            elapsed: float = self._env.now - work.begun
            return elapsed
        self._catch_up()
        if work in self._working:
            self._working.remove(work)
            self._plan_next()
        return work.seconds - max(0.0, work.remaining)

    @property
    def _rate(self) -> float:
        if self._count is None or not self._working:
            return 1.0
        return min(1.0, self._count / sum(work.width for work in self._working))

    def _catch_up(self) -> None:
        done = (self._env.now - self._changed) * self._rate
        for work in self._working:
            work.remaining -= done
        self._changed = self._env.now

    def _plan_next(self) -> None:
        self._next = None
        if self._working:
            first = min(work.remaining for work in self._working)
            self._next = self._env.timeout(max(0.0, first) / self._rate)
            self._next.callbacks.append(self._finish)

    def _finish(self, event: simpy.Event) -> None:
        if event is not self._next:  # the set of work has changed since
            return
        self._catch_up()
        first = min(work.remaining for work in self._working)
        over = [work for work in self._working if work.remaining <= first + TINY]
        self._working = [work for work in self._working if work.remaining > first + TINY]
        self._plan_next()
        for work in over:
            work.done.succeed()


@dataclass
class Request:
    """One prompt's rollouts from one source."""

    step: int
    lengths: list[int]
    """Response tokens of each rollout."""
    sampled: simpy.Event
    left: int = 0


@dataclass
class Journal:
    """Activities as they happen; an actor's pieces of the same step and kind that touch become one."""

    activities: list[Activity] = field(default_factory=list)
    _last: dict[str, int] = field(default_factory=dict)

    def add(self, actor: str, kind: ActivityKind, step: int, start: float, end: float) -> None:
        """Note what an actor did."""
        at = self._last.get(actor)
        if at is not None:
            last = self.activities[at]
            if (last.kind, last.step) == (kind, step) and start - last.end <= TINY:
                self.activities[at] = Activity(actor, kind, step, last.start, end)
                return
        self._last[actor] = len(self.activities)
        self.activities.append(Activity(actor, kind, step, start, end))


class SimulatedEngine:
    """Continuous batching: whatever waits joins at the next decode step while there is room, first come first served.

    A response of n tokens takes n decode steps. Steps between which nothing joins or ends are one event.
    """

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        source: Source,
        constants: EngineConstants,
        cores: Cores,
        journal: Journal,
        start_s: float = 0.0,
    ) -> None:
        self.name, self.source = name, source
        self.load = 0
        """Rollouts outstanding, verification included."""
        self.ready_at = env.now + start_s
        self._env, self._constants, self._cores, self._journal = env, constants, cores, journal
        self._waiting: deque[tuple[Request, int, bool]] = deque()
        self._running: list[tuple[int, int, Request]] = []
        """Heap: (decode step at whose end it is done, order of arrival, request)."""
        self._decoded = self._order = 0
        self._seconds: dict[int, float] = {}
        self._arrival = env.event()
        env.process(self._run())

    def submit(self, request: Request) -> None:
        """Queue a request."""
        request.left = len(request.lengths)
        self._waiting.extend((request, length, number == 0) for number, length in enumerate(request.lengths))
        if not self._arrival.triggered:
            self._arrival.succeed()

    def _run(self) -> Process[None]:
        while True:
            if not self._waiting and not self._running:
                self._arrival = self._env.event()
                yield self._arrival
            intake = self._admit()
            start, step = self._env.now, self._running[0][2].step
            if intake:
                yield self._cores.work(intake, self._constants.width).done
            yield from self._decode()
            self._journal.add(self.name, KIND_OF[self.source], step, start, self._env.now)
            self._complete()

    def _admit(self) -> float:
        """Fill the batch; seconds that taking the requests in costs."""
        seconds = 0.0
        while self._waiting and len(self._running) < self._constants.sequences:
            request, length, first = self._waiting.popleft()
            self._order += 1
            heapq.heappush(self._running, (self._decoded + length, self._order, request))
            seconds += self._constants.request_s * first
        return seconds

    def _decode(self) -> Process[None]:
        """Decode until the first response ends, or until something arrives for which there is room."""
        batch, steps = len(self._running), self._running[0][0] - self._decoded
        if batch not in self._seconds:
            self._seconds[batch] = self._constants.decode_s(batch)
        each = self._seconds[batch]
        work = self._cores.work(steps * each, self._constants.width)
        if batch < self._constants.sequences and not self._waiting:
            self._arrival = self._env.event()
            yield work.done | self._arrival
            if not work.done.processed:
                done = self._cores.stop(work)
                steps = max(1, math.ceil((done - TINY) / each))
                yield self._cores.work(steps * each - done, self._constants.width).done
        else:
            yield work.done
        self._decoded += steps

    def _complete(self) -> None:
        while self._running and self._running[0][0] <= self._decoded:
            request = heapq.heappop(self._running)[2]
            request.left -= 1
            if not request.left:
                request.sampled.succeed()


class SimulatedVerifier:
    """One worker: rollout sets in the order in which they are sampled."""

    def __init__(
        self, env: simpy.Environment, name: str, request_s: float, rollout_s: float, cores: Cores, journal: Journal
    ) -> None:
        self.load = 0
        self._env, self._name, self._cores, self._journal = env, name, cores, journal
        self._request_s, self._rollout_s = request_s, rollout_s
        self._free = simpy.Resource(env, capacity=1)

    def check(self, request: Request) -> Process[None]:
        """Verify the rollouts of a request, once the worker is free."""
        with self._free.request() as turn:
            yield turn
            start = self._env.now
            yield self._cores.work(self._request_s + len(request.lengths) * self._rollout_s).done
            if self._env.now > start:
                self._journal.add(self._name, "verify", request.step, start, self._env.now)
