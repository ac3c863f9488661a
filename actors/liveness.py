"""Heartbeats: what every actor answers, and the driver's watch over all of them.

A process that hangs is killed. So everything else has to know only one way in which an actor is lost: its death.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.calls import LOST, unwrapped
from s2l_ray.errors import EngineError
from s2l_ray.ray_bridge import error_log
from s2l_ray.recovery.causes import kernel_kills, log_tail, short_cause

OUT_OF_MEMORY = "The kernel of its machine killed a process because there was no memory left"


@dataclass(frozen=True)
class Heartbeat:
    """An actor's answer: it is there, and where."""

    node: str
    """Id of its node (hex)."""
    pid: int
    log: str
    """File on its node that takes its standard error."""

    @classmethod
    def of_this_process(cls) -> Heartbeat:
        """To be called in an actor."""
        return cls(ray.get_runtime_context().get_node_id(), os.getpid(), str(error_log()))


@dataclass(frozen=True)
class Death:
    """An actor that is gone, or is to be killed because it hangs."""

    name: str
    """As in "learner engine 0"."""
    actor: Any
    cause: str
    """In one sentence or more, for a message."""
    log: str
    """Where its log is, and how it ends if that is on this node; empty if it never gave a heartbeat."""
    node: str | None
    """Id of its node (hex), if it ever gave a heartbeat."""
    replace: Callable[[Death], None]
    """What the driver does about it; given with `Watch.add`."""


@dataclass
class _Watched:
    name: str
    replace: Callable[[Death], None]
    asked: ray.ObjectRef | None = None
    silent_s: float = 0.0
    """How long it has not answered."""
    rest_s: float = 0.0
    """Until it is asked again."""
    last: Heartbeat | None = None


class Watch:
    """Asks actors for heartbeats, as often as `look` is called.

    Args:
        heartbeat_s: recovery.heartbeat_s.
        timeout_s: recovery.heartbeat_timeout_s. Counted while somebody looks: a driver that had no time to look, or
            was stopped itself, takes nobody for hung.
    """

    def __init__(self, heartbeat_s: float, timeout_s: float) -> None:
        self._heartbeat_s, self._timeout_s = heartbeat_s, timeout_s
        self._watched: dict[Any, _Watched] = {}
        self._looked = time.monotonic()
        self._node = ray.get_runtime_context().get_node_id()
        self._kernel_kills = kernel_kills()

    def add(self, name: str, actor: Any, replace: Callable[[Death], None]) -> None:
        """Watch over an actor that is ready, from now on. It has a method `alive` that returns its `Heartbeat`.

        Args:
            replace: what is to be done when it is gone.
        """
        self._watched[actor] = _Watched(name, replace)

    def remove(self, actor: Any) -> None:
        """Watch over it no longer."""
        self._watched.pop(actor, None)

    def look(self) -> list[Death]:
        """Who is gone or hangs. They are watched no longer. Takes no time."""
        passed, self._looked = time.monotonic() - self._looked, time.monotonic()
        passed = min(passed, self._heartbeat_s)
        self._ask(passed)
        asked = {watched.asked: actor for actor, watched in self._watched.items() if watched.asked is not None}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        causes = {}
        for ref, actor in asked.items():
            cause = self._heard(actor, ref) if ref in answered else self._not_heard(actor, passed)
            if cause is not None:
                causes[actor] = cause
        return [self._death(actor, cause) for actor, cause in causes.items()]

    def gone(self, actors: list[Any], why: BaseException | None = None) -> list[Death]:
        """Which of these actors, all watched, do not answer now that something they have part in failed.

        Waits for their answers, for recovery.heartbeat_timeout_s at the longest.

        Args:
            why: what failed, where it may tell more than the deaths do.
        """
        refs = {actor: actor.alive.remote() for actor in actors if actor in self._watched}
        answered = ray.wait(list(refs.values()), num_returns=len(refs), timeout=self._timeout_s)[0] if refs else []
        causes = {}
        for actor, ref in refs.items():
            cause = self._heard(actor, ref) if ref in answered else f"it gave no heartbeat for {self._timeout_s:.0f} s"
            if cause is not None:
                causes[actor] = cause
        return [self._death(actor, cause, why) for actor, cause in causes.items()]

    def condemn(self, actor: Any, why: BaseException) -> Death:
        """Count a watched actor among the dead: it answers, but nobody knows any more what it has done."""
        return self._death(actor, short_cause(unwrapped(why)))

    def _ask(self, passed: float) -> None:
        for actor, watched in self._watched.items():
            watched.rest_s -= passed
            if watched.asked is None and watched.rest_s <= 0:
                watched.asked, watched.silent_s = actor.alive.remote(), 0.0

    def _heard(self, actor: Any, ref: ray.ObjectRef) -> str | None:
        watched = self._watched[actor]
        try:
            watched.last = ray.get(ref)
        except (*LOST, EngineError, ray.exceptions.OutOfMemoryError) as error:
            return short_cause(unwrapped(error))
        watched.asked, watched.rest_s = None, self._heartbeat_s
        return None

    def _not_heard(self, actor: Any, passed: float) -> str | None:
        watched = self._watched[actor]
        watched.silent_s += passed
        if watched.silent_s < self._timeout_s:
            return None
        return f"it gave no heartbeat for {self._timeout_s:.0f} s (recovery.heartbeat_timeout_s)"

    def _death(self, actor: Any, cause: str, why: BaseException | None = None) -> Death:
        watched = self._watched.pop(actor)
        cause = cause.rstrip(".") + "."
        if why is not None and (said := short_cause(unwrapped(why))) and said not in cause:
            cause += f" Noticed as: {said.rstrip('.')}."
        kills, self._kernel_kills = kernel_kills() - self._kernel_kills, kernel_kills()
        last = watched.last
        here = last is not None and last.node == self._node
        if here and kills > 0:
            cause += f" {OUT_OF_MEMORY}."
        return Death(watched.name, actor, cause, _about_log(last, here), last.node if last else None, watched.replace)


def _about_log(last: Heartbeat | None, here: bool) -> str:
    if last is None:
        return ""
    if here and (tail := log_tail(Path(last.log))):
        return f"Its log {last.log} ends with\n{tail}"
    return f"Its log: {last.log}" + ("" if here else f" on node {last.node[:8]}")
