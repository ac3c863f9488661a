"""Saving a run's checkpoints while it goes on: its state is taken between two steps, and a thread writes it.

taken     the trainer has copied its state to host memory, or, without checkpoint.asynchronous, written it
recorded  the step is in the step log, of which the checkpoint gets a copy
whole     every rank has written its part, and the checkpoint has taken its place
settled   the run has heard of it
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from s2l_ray.config import CheckpointConfig
from s2l_ray.errors import ActorLostError
from s2l_ray.machine.checksums import FileSum
from s2l_ray.run.checkpoints import CheckpointDraft
from s2l_ray.run.directory import RunDirectory

Written = Callable[[], Mapping[str, FileSum]]
"""Waits until the trainer's files are written, within its own bound, and returns their sums. It raises what failed."""
POLL_S = 1.0
"""Seconds between two looks at the trainer while the run waits for it to write."""
STOPPED_S = 5.0
"""Seconds that a checkpoint has to become whole when the run was stopped by a signal."""


class SavingTrainer(Protocol):
    """What a trainer has to be able to do."""

    def save(self, directory: str) -> Mapping[str, FileSum]:
        """Write its state into a directory."""

    def lacks_memory(self) -> str:
        """Why its state should not be copied to host memory now; empty: nothing speaks against it."""

    def tend(self) -> None:
        """See to its actors, which may have died or hang; called every second of a wait for them."""

    def begin_save(self, directory: str) -> Written:
        """Copy its state to host memory, and begin to write that."""


class CheckpointSaver:
    """Writes one checkpoint of a run at a time. The thread of the run calls its methods.

    Args:
        directory: of the run.
        trainer: gives the trainer as it is then.
        settings: of checkpoints.
        note: told of a checkpoint that was lost with an actor, and of a lack of memory, once.
        whole: told the name of a checkpoint as soon as it is whole, by the thread that writes.
    """

    def __init__(
        self,
        directory: RunDirectory,
        trainer: Callable[[], SavingTrainer],
        settings: CheckpointConfig,
        note: Callable[[str], None],
        whole: Callable[[str], None],
    ) -> None:
        self._directory, self._trainer, self._settings = directory, trainer, settings
        self._note, self._whole = note, whole
        self._taken: tuple[CheckpointDraft, Written] | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._newest: Path | None = None
        self.lost = False
        """Whether the last checkpoint that was taken was lost with an actor."""
        self._abandoned = self._told_of_memory = False

    def take(self, step: int, state: Mapping[str, Any]) -> None:
        """Take the trainer's state as it is now for the checkpoint of a step, once the one before it is settled.

        Args:
            step: after which it is.
            state: contents of state.json.

        Raises:
            DiskError: this one or the one before it cannot be written.
            ConfigError: another process has taken the directory over.
        """
        self.settle(wait=True)
        draft, self.lost = self._directory.begin_checkpoint(step, state), False
        try:
            self._taken = draft, self._begin(str(draft.trainer))
        except BaseException:
            draft.discard()
            raise

    def write(self) -> None:
        """Make what was taken a whole checkpoint, with the step log as it is now: in the background, or at once.

        Raises:
            DiskError: the log cannot be copied. What else cannot be written, `settle` raises.
        """
        if self._taken is None:
            raise RuntimeError("no state was taken")
        draft, written = self._taken
        draft.add_log(self._directory.log)
        self._taken = None
        self._thread = threading.Thread(target=self._complete, args=(draft, written), name="checkpoint", daemon=True)
        self._thread.start()
        if not self._settings.asynchronous:
            self._join()

    def settle(self, *, wait: bool = False) -> Path | None:
        """Hear of a checkpoint that was written in the background: its directory, if it has become whole since.

        One that was lost with an actor is a note, and `lost`: the run learns of the actor's end where it needs it.

        Args:
            wait: until it is written, for as long as the trainer may take.

        Raises:
            DiskError: it could not be written. The one before it is still there.
        """
        if self._thread is None or (not wait and self._thread.is_alive()):
            return None
        self._join()
        self._thread, failure, self._failure = None, self._failure, None
        if isinstance(failure, ActorLostError):
            self.lost = True
            self._note(f"the last checkpoint could not be written, the one before it stays: {failure}")
            return None
        if failure is not None:
            raise failure
        return self._newest

    def end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """At the end of the run: wait for what is being written, within bounds, and remove what cannot become whole.

        After a signal the bound is STOPPED_S. An error of the run says more than one of its last checkpoint.

        Raises:
            DiskError: the run has no error, and a checkpoint could not be written.
        """
        if self._taken is not None:  # its step was not recorded
            self._taken[0].discard()
            self._taken = None
        if self._thread is None:
            return
        self._thread.join(STOPPED_S if isinstance(error, KeyboardInterrupt) else None)
        if self._thread.is_alive():
            self._abandoned = True
            self._note(f"the last checkpoint was not whole {STOPPED_S:g} s after the signal; the one before it stays")
            return
        try:
            if self.settle(wait=True):
                self._directory.prune(self._settings.keep)
        except Exception as failure:
            if error is None:
                raise
            self._note(f"the last checkpoint could not be written, the one before it stays: {failure}")

    def _join(self) -> None:
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(POLL_S)
            if self._thread.is_alive():
                self._trainer().tend()

    def _begin(self, directory: str) -> Written:
        trainer = self._trainer()
        if self._settings.asynchronous and not (problem := trainer.lacks_memory()):
            return trainer.begin_save(directory)
        if self._settings.asynchronous and not self._told_of_memory:
            self._told_of_memory = True
            self._note(f"training waits for checkpoints to be written, as without checkpoint.asynchronous: {problem}")
        sums = trainer.save(directory)
        return lambda: sums

    def _complete(self, draft: CheckpointDraft, written: Written) -> None:
        try:
            self._become_whole(draft, written())
        except BaseException as error:
            self._failure = error
            if not self._abandoned:  # else the directory may be another process's by now
                draft.discard()

    def _become_whole(self, draft: CheckpointDraft, sums: Mapping[str, FileSum]) -> None:
        if self._abandoned:
            return
        self._directory.check_lock()
        draft.complete(sums)
        self._newest = draft.directory
        self._whole(draft.directory.name)


def save_into(directory: Path, run: RunDirectory, trainer: SavingTrainer, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of the last step into a directory, and return when it is whole.

    Raises:
        DiskError: it cannot be written.
    """
    draft = CheckpointDraft(directory, state)
    try:
        draft.add_log(run.log)
        draft.complete(trainer.save(str(draft.trainer)))
    except BaseException:
        draft.discard()
        raise
