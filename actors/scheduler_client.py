"""The driver's end of the scheduler: where its actor dies, another one is started from what the driver knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.calls import CallLostError, fetch, watch
from actors.liveness import Death, Watch
from actors.scheduler_settings import SchedulerProgress
from s2l_ray.errors import ActorLostError

NAME = "the scheduler"


class SchedulerClient:
    """Calls the scheduler's actor.

    The driver changes its own state before it tells the scheduler. So `launch`, which gives a new actor all of the
    driver's state, is as good as any call that the old one did not answer.

    Args:
        launch: starts the actor, with the driver's present state.
        replace: told that the actor is gone; has `restart` called.
        vigil: watches over the actor.
        bound_s: bound on every call.
    """

    def __init__(self, launch: Callable[[], Any], replace: Callable[[Death], None], vigil: Watch, bound_s: float):
        self._launch, self._replace, self._vigil, self._bound_s = launch, replace, vigil, bound_s
        self._collecting: dict[int, ray.ObjectRef] = {}
        self.restarts = 0
        """How often the actor was started again."""
        self._actor: Any = None
        self._start()

    def _start(self) -> None:
        self._actor = self._launch()
        self._vigil.add(NAME, self._actor, self._replace)

    def restart(self) -> None:
        """Start another actor, which collects what was begun."""
        self._start()
        self.restarts += 1
        self._collecting = {step: self._actor.collect.remote(step) for step in self._collecting}

    @property
    def actor(self) -> Any:
        """The present one."""
        return self._actor

    def tell(self, method: str, *args: Any, what: str) -> None:
        """Tell the scheduler what has changed. One that is new knows it already.

        Raises:
            StepTimeoutError: it does not answer.
        """
        self._surviving(lambda: [getattr(self._actor, method).remote(*args)], what, retry=False)

    def forget(self) -> None:
        """Nothing is collected any more."""
        self._collecting.clear()

    def begin_collect(self, step: int) -> None:
        """Ask for a step's groups now, to `collect` them later."""
        if step not in self._collecting:
            self._collecting[step] = self._actor.collect.remote(step)

    def collect(self, step: int, tend: Callable[[SchedulerProgress], None]) -> Any:
        """The groups of a step. See `Scheduler.collect`."""
        self.begin_collect(step)
        found = self.wait(lambda: [self._collecting[step]], f"collecting step {step}", tend)
        self._collecting.pop(step, None)
        return found[0]

    def wait(
        self,
        ask: Callable[[], Sequence[ray.ObjectRef]],
        what: str,
        tend: Callable[[SchedulerProgress], None],
    ) -> list[Any]:
        """Results of long calls, which are made again where the scheduler dies.

        Args:
            ask: makes the calls.
            tend: called every second with the scheduler's progress.
        """

        def waited() -> list[ray.ObjectRef]:
            refs = list(ask())
            watch(refs, self._bound_s, lambda _: tend(fetch(self._actor.progress.remote(), self._bound_s, what)))
            return refs

        return self._surviving(waited, what)

    def _surviving(self, call: Callable[[], list[ray.ObjectRef]], what: str, *, retry: bool = True) -> list[Any]:
        while True:
            actor = self._actor
            try:
                found: list[Any] = fetch(call(), self._bound_s, what)
                return found
            except ActorLostError as error:
                if actor is self._actor:
                    self._judge(actor, error)
                if actor is self._actor:  # it is there: the error is about something else
                    raise
                if not retry:
                    return []

    def _judge(self, actor: Any, error: ActorLostError) -> None:
        """Have the actor replaced if it is gone, or if a call of it may have been done or not."""
        deaths = self._vigil.gone([actor], error)
        if not deaths and isinstance(error, CallLostError):
            deaths = [self._vigil.condemn(actor, error)]
        for death in deaths:
            death.replace(death)
