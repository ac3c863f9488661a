"""Looking after the actors of a run while the driver waits: who is gone is replaced, who is back gets work."""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.calls import POLL_S, outcomes
from actors.launcher import ActorLauncher
from actors.liveness import Death, Watch
from actors.scheduler_client import NAME as SCHEDULER
from actors.scheduler_client import SchedulerClient
from actors.scheduler_settings import SchedulerProgress
from actors.trainer_recovery import RecoveringTrainer
from actors.weight_sync import LearnerMember
from actors.workers import BANK, Key, Workers
from s2l_ray.config import Config
from s2l_ray.recovery.budget import RestartBudget

ALL_KINDS = ("explorer", "learner", "verifier", "bank")
BUSY_KINDS = ("explorer", "verifier", "bank")
"""Workers that can join while the trainer is at work: learner engines need its weights."""


class Supervision:
    """The heartbeats of all actors, the failure budget, and what is done when one is lost.

    Nothing is done before `serving` is set: until then a death ends the start of the run.

    Args:
        launcher: of the actors.
        config: of the run.
        note: told what is lost and what is back.
        give_weights: gives the present weights to all learner engines.
    """

    trainer: RecoveringTrainer
    scheduler: SchedulerClient

    def __init__(
        self, launcher: ActorLauncher, config: Config, note: Callable[[str], None], give_weights: Callable[[], None]
    ) -> None:
        recovery = config.recovery
        self._launcher, self._note, self._give_weights = launcher, note, give_weights
        self._heartbeat_s = recovery.heartbeat_s
        self.serving = False
        """Whether all actors are there, or were and are replaced."""
        self.watch = Watch(recovery.heartbeat_s, recovery.heartbeat_timeout_s)
        self.budget = RestartBudget(recovery.max_restarts, recovery.window_s, recovery.backoff_s)
        self.workers = Workers(launcher, self.watch, self.budget, note, self._drop)
        self._told = 0

    def take_restarts(self) -> int:
        """How many actors were started again since the last call; the trainer's ranks count as one."""
        restarts = self.workers.restarts + self.trainer.restarts + self.scheduler.restarts
        since, self._told = restarts - self._told, restarts
        return since

    # ---- while the driver waits -------------------------------------------------------------------------------------

    def tend(self, *, devices_free: bool) -> None:
        """See who is gone, and bring back who is due.

        Args:
            devices_free: the trainer has nothing to do, so that it can be started again or send weights. It is started
                again at its next call where engines would have to sleep for that.

        Raises:
            FailureBudgetError: an actor died more often than recovery.max_restarts allows.
            NodeLostError: a node is lost that the run cannot go on without.
        """
        if not self.serving:
            return
        self.look()
        if devices_free and not self.workers.share_devices:
            self.trainer.recover()
        self.workers.fill(devices_free)
        self._admit(self.workers.arrivals(ALL_KINDS if devices_free else BUSY_KINDS))

    def look(self) -> None:
        """See who is gone, and end what is left of them."""
        if self.serving:
            # The scheduler first: it is told of the others, and nobody watches any more over one that is gone.
            for death in sorted(self.watch.look(), key=lambda death: death.name != SCHEDULER):
                death.replace(death)

    def tend_busy(self) -> None:
        """`tend` while the trainer is at work."""
        self.tend(devices_free=False)

    def tend_after(self, progress: SchedulerProgress) -> None:
        """`tend`, and replace those workers that the scheduler has found to fail. The trainer has nothing to do."""
        for key in [*progress.suspects, *([BANK] if progress.bank_failed else [])]:
            self.lose(key, "a call of it failed")
        self.tend(devices_free=True)

    def lose(self, key: Key, why: str) -> None:
        """Replace a worker that failed: it has died, or nothing more is to be expected of it.

        Args:
            why: what is said if it still answers; else Ray's account of its death is.
        """
        for death in self.watch.gone([self.workers.actor(key)]):
            death.replace(death)
        self.workers.lose_present(key, why)

    def lose_members(self, lost: tuple[LearnerMember, ...], version: int) -> None:
        """Replace learner engines that were lost in a weight sync, unless that has been done."""
        for member in lost:
            key = ("learner", member.number)
            if self.workers.actor(key) == member.actor:
                why = f": {member.why}" if member.why else ""
                self.lose(key, f"it did not take part in the weight sync of version {version}{why}")

    def await_learner(self) -> None:
        """Wait for a learner engine that is starting again. It gets no request before weights are there."""
        while not self.workers.engines("learner"):
            self.workers.fill(devices_free=True)
            for key in self.workers.arrivals(["learner"]):
                self._add(key)
            time.sleep(POLL_S / 4)

    def await_sleepers(self) -> None:
        """Wait for engines that are starting on the trainer's devices."""
        while self.workers.expects("explorer", asleep=True) or self.workers.expects("learner", asleep=True):
            self.tend(devices_free=True)
            time.sleep(POLL_S / 4)

    # ---- losing and joining -----------------------------------------------------------------------------------------

    def replace_scheduler(self, death: Death) -> None:
        """The scheduler's actor is gone: start another one."""
        self._launcher.bury(death.actor, death.node)
        wait_s = self.budget.spend(death.name, death.cause, death.log)
        self._note(f"{death.name} is started again: {death.cause}")
        time.sleep(wait_s)
        # What the old one asked for would take the engines' time from what the new one asks for.
        engines = [engine.actor for engine in self.workers.all_engines]
        outcomes({i: actor.abandon.remote() for i, actor in enumerate(engines)}, self._heartbeat_s)
        self.scheduler.restart()

    def _drop(self, key: Key) -> None:
        """A worker was lost."""
        if key != BANK:  # whose calls wait for the next one by themselves
            self.scheduler.tell("drop", *key, what=f"dropping {key[0]} {key[1]}")

    def _admit(self, joining: list[Key]) -> None:
        """Give the learner engines among them the present weights, and let all of them work."""
        if any(kind == "learner" for kind, _ in joining):
            self._give_weights()
        for key in joining:
            self._add(key)

    def _add(self, key: Key) -> None:
        actor = self.workers.actor(key)
        if actor is None:  # it was lost again
            return
        if key == BANK:
            self.scheduler.tell("replace_bank", actor, what="replacing the bank")
        else:
            self.scheduler.tell("add", *key, actor, what=f"adding {key[0]} {key[1]}")
