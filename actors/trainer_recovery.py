"""The trainer as the driver uses it: ranks that are lost are all started again, and are then where they were.

They go on from a base (a snapshot in Ray's object store, a checkpoint, or the base model) and do the updates since
again, with the same groups, whose rollouts are kept by reference meanwhile. With trainer.deterministic the outcome is
the same to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import ray

from actors.batch import StepBatch
from actors.calls import CallLostError, ObjectGoneError, RolloutsGoneError, unwrapped
from actors.liveness import Death, Watch
from actors.trainer_group import GroupSnapshot, TrainerGroup
from actors.weight_sync import LearnerMember
from s2l_ray.errors import ActorLostError, BroadcastError, FailureBudgetError, NodeLostError, StepTimeoutError
from s2l_ray.machine.checksums import FileSum
from s2l_ray.recovery.budget import RestartBudget
from s2l_ray.recovery.causes import short_cause
from s2l_ray.timing import Span
from s2l_ray.training.process_group import is_broken

T = TypeVar("T")
Base = str | GroupSnapshot | None
"""What the ranks are given before updates are done again: directory of a checkpoint, a snapshot, or the base model."""
NAME = "the trainer"
LOSSES = (ActorLostError, BroadcastError, StepTimeoutError)
"""What another attempt to start the ranks may help against."""
NO_ROOM = (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)
"""What a snapshot fails with where there is no room for it, in memory or where Ray spills objects to."""


class RecoveringTrainer:
    """A `TrainerGroup` that survives the death of its ranks.

    Args:
        start: starts the ranks, and begins to build the trainer of the run (`TrainerGroup.begin_build`).
        bury: ends what is left of a rank.
        vigil: watches over the ranks.
        budget: of restarts; the ranks count as one actor.
        note: told what was lost, and what was done again.
        room: entered while the ranks are brought back, with updates done again: they have their devices to themselves.
    """

    def __init__(
        self,
        start: Callable[[int], TrainerGroup],
        bury: Callable[[Any], None],
        vigil: Watch,
        budget: RestartBudget,
        note: Callable[[str], None],
        room: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._start, self._bury, self._vigil, self._budget, self._note = start, bury, vigil, budget, note
        self._room = room
        self._cause: str | None = None
        self._log = ""
        self._in_memory = False
        self._members: list[LearnerMember] = []
        self._begin_at(None)
        self.restarts = 0
        """How often the ranks were started again."""
        self._group = start(0)

    def _begin_at(self, base: Base) -> None:
        self._base: Base = base
        self._since: list[StepBatch] = []
        """What was trained on since the base."""
        self._coming: GroupSnapshot | None = None

    # ---- the trainer's work -----------------------------------------------------------------------------------------

    @property
    def ranks(self) -> list[Any]:
        """The actors, in rank order."""
        return self._group.ranks

    @property
    def group(self) -> TrainerGroup:
        """The present ranks."""
        return self._group

    def finish_build(self) -> None:
        """Wait until the ranks that were just started have built the trainer."""
        self._group.finish_build()
        self._watch_ranks()

    def rebuild(self, begin: Callable[[TrainerGroup], None]) -> None:
        """Another run begins on these ranks: at its base model."""
        self._begin_at(None)
        begin(self._group)

    def update(self, batch: StepBatch) -> tuple[dict[str, float], list[Span]]:
        """See `TrainerGroup.update`."""

        def update() -> tuple[dict[str, float], list[Span]]:
            self._take_snapshot()
            return self._group.update(batch)

        found = self.surviving(update)
        self._since.append(batch)
        return found

    def load(self, directory: str) -> None:
        """See `TrainerGroup.load`."""
        self.surviving(lambda: self._group.load(directory))
        self._begin_at(directory)

    def save(self, directory: str) -> dict[str, FileSum]:
        """See `TrainerGroup.save`."""
        return self.surviving(lambda: self._group.save(directory))

    def tend(self) -> None:
        """See `TrainerGroup.tend`."""
        self._group.tend()

    def lacks_memory(self) -> str:
        """See `TrainerGroup.lacks_memory`."""

        def lacks() -> str:
            return self._group.lacks_memory()  # of the present ranks

        return self.surviving(lacks)

    def begin_save(self, directory: str) -> Callable[[], dict[str, FileSum]]:
        """See `TrainerGroup.begin_save`. What is under way when ranks are lost is lost with them."""
        return self.surviving(lambda: self._group.begin_save(directory))

    def export(self, directory: str) -> None:
        """See `TrainerGroup.export`."""
        self.surviving(lambda: self._group.export(directory))

    def connect(self, members: Sequence[LearnerMember]) -> None:
        """See `TrainerGroup.connect`."""
        self._members = list(members)
        self.surviving(lambda: self._group.connect(self._members))

    # ---- what it goes on from ---------------------------------------------------------------------------------------

    def keep_snapshots(self) -> None:
        """Go on from snapshots in memory from now on, instead of checkpoints."""
        self._in_memory = True

    def begin_snapshot(self) -> None:
        """Have the ranks copy their present state into the object store, beside other work of the run."""
        if self._in_memory:
            self._coming = self._group.begin_snapshot()

    def saved(self, directory: str, step: int) -> None:
        """A checkpoint of the state after a step is whole. The step may be an earlier one than the last."""
        if not self._in_memory:
            self._base, self._since = directory, [batch for batch in self._since if batch.split.step > step]

    def _take_snapshot(self) -> None:
        """Make the snapshot that was begun the base; without room for it in the object store, use checkpoints."""
        if self._coming is None:
            return
        try:
            self._group.finish_snapshot(self._coming)
        except NO_ROOM as error:
            self._in_memory, self._coming = False, None
            self._note(f"trainer snapshots are given up, and checkpoints are used instead: {error}")
            return
        self._begin_at(self._coming)

    # ---- losing ranks -----------------------------------------------------------------------------------------------

    def lose(self, death: Death) -> None:
        """A rank is gone or hangs. All are ended, so that no rank waits for it; `recover` starts them again."""
        if self._cause is None and death.actor in self._group.ranks:
            self._end_ranks(f"{death.name}: {death.cause}", death.log)

    def surviving(self, call: Callable[[], T]) -> T:
        """Do something with the ranks; where one is lost, do it again once they are back.

        Raises:
            ActorLostError: they were started again as often as recovery.max_restarts allows.
            Exception: what the call raised for another reason.
        """
        while True:
            self.recover()
            try:
                return call()
            except Exception as error:  # of the lost rank itself, or of whoever was in a collective with it
                self._judge(error)
                if self._cause is None:
                    raise

    def _judge(self, error: Exception) -> None:
        """Find out whether a call failed because a rank is lost, stuck, or cut off from the others."""
        if self._cause is None:
            for death in self._vigil.gone(self._group.ranks, error):
                self.lose(death)
        if self._cause is None and isinstance(error, StepTimeoutError | CallLostError):
            self._end_ranks(short_cause(error))
        if self._cause is None and is_broken(unwrapped(error)):
            self._end_ranks(f"its process group broke: {short_cause(unwrapped(error))}")

    def recover(self) -> None:
        """Start the ranks again, if some are lost, and bring them to where they were.

        Raises:
            ActorLostError: as `surviving`.
        """
        if self._cause is not None:
            with self._room():
                self._recover()

    def _recover(self) -> None:
        begin = time.monotonic()
        while self._cause is not None:
            cause, self._cause = self._cause, None
            wait_s = self._budget.spend(NAME, cause, self._log)
            self._note(f"{NAME} is started again: {cause}")
            time.sleep(wait_s)
            self.restarts += 1
            try:
                self._start_again()
            except (FailureBudgetError, NodeLostError):
                raise
            except (RolloutsGoneError, ObjectGoneError) as error:
                snapshot = "the snapshot that it was to go on from has gone with a node"
                rollouts = "rollouts that it has to train on once more have gone with the scheduler or a node"
                raise ActorLostError(
                    f"{NAME} was started again, but {rollouts if isinstance(error, RolloutsGoneError) else snapshot}. "
                    "The same command resumes from the last checkpoint."
                ) from error
            except Exception as error:
                if not isinstance(error, LOSSES) and not is_broken(unwrapped(error)):
                    raise
                if self._cause is None:  # else `lose` has found out why, and ended them
                    self._end_ranks(short_cause(unwrapped(error)))
            else:
                done = len(self._since)
                again = f", with {done} updates done again" if done else ""
                self._note(f"{NAME} is back after {time.monotonic() - begin:.1f} s{again}")

    def _end_ranks(self, cause: str, log: str = "") -> None:
        self._cause, self._log = cause, log
        for rank in self._group.ranks:
            self._vigil.remove(rank)
            self._bury(rank)

    def _start_again(self) -> None:
        if self._coming is not None and self._group.is_whole(self._coming):
            self._begin_at(self._coming)
        self._coming = None  # one that was under way is lost
        self._group = self._start(self._group.groups_named)
        self._group.finish_build()
        self._watch_ranks()
        if isinstance(self._base, str):
            self._group.load(self._base)
        elif self._base is not None:
            self._group.restore(self._base)
        for batch in self._since:
            self._group.update(batch)
        self._group.connect(self._members)

    def _watch_ranks(self) -> None:
        for number, rank in enumerate(self._group.ranks):
            self._vigil.add(f"trainer rank {number}", rank, self.lose)
