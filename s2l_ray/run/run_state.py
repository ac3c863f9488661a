"""The state of a training run: what its checkpoints hold, how it is saved, and how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.errors import ActorLostError
from s2l_ray.results import StepRecord
from s2l_ray.run.checkpoints import STATE, STEPS, TRAINER, Checkpoint, place_of, read_checkpoint
from s2l_ray.run.evaluation import RunEvaluation
from s2l_ray.run.identity import changed_settings, learner_of, trained_with
from s2l_ray.run.lineage import Donor
from s2l_ray.run.saving import CheckpointSaver, save_into
from s2l_ray.run.set_up import RunParts
from s2l_ray.timing.time_sheet import TimeSheet

ATTEMPTS = 3
"""How often a checkpoint that has to be there is begun, where trainer ranks are lost while it is written."""


class RunState:
    """The trainer's state, the records of steps and the evaluations: of the beginning, or of a checkpoint.

    Args:
        parts: of the run. The state is that of the checkpoint that it resumes from, if there is one.
        evaluation: whose records belong to the state.
        times: are cut to the steps that are done.
    """

    def __init__(self, parts: RunParts, evaluation: RunEvaluation, times: TimeSheet) -> None:
        self.records: list[StepRecord] = []
        """One for each step that is done."""
        self._settings, self._graph = parts.settings, parts.graph
        self._directory, self._tracking, self._uploader = parts.directory, parts.tracking, parts.uploader
        self._learner = learner_of(parts.settings, parts.inputs.contents)
        self._evaluation, self._times = evaluation, times
        self.saver = CheckpointSaver(
            parts.directory,
            lambda: self._graph.trainer,
            parts.settings.checkpoint,
            parts.tracking.reporter.note,
            parts.uploader.copy if parts.uploader else lambda name: None,
        )
        """Writes the run's own checkpoints."""
        self._directory.branches.goes_on_from(parts.checkpoint)
        if parts.checkpoint:
            self._resume_from(parts.checkpoint)
        else:
            self._begin()

    @property
    def id(self) -> str:
        """The id of the run, which it keeps on whatever machine and in whatever process it goes on."""
        return str(self._directory.remembered()["id"])

    @property
    def place(self) -> tuple[int, int]:
        """(branch of the run's history, steps done): see `run.lineage`."""
        return self._directory.branches.in_branch, len(self.records)

    def save(self, directory: Path) -> None:
        """Write a checkpoint of the last step into a directory.

        Raises:
            DiskError: it cannot be written.
        """
        self.look_after_checkpoints(wait=True)
        save_into(directory, self._directory, self._graph.trainer, self._state(len(self.records)))

    def restore(self, directory: Path) -> None:
        """Go on from a checkpoint, of this run or of another one.

        Raises:
            ConfigError: the directory is not a whole checkpoint, or one of another learner.
            DataError: it is damaged.
        """
        self.look_after_checkpoints(wait=True)
        checkpoint = read_checkpoint(directory.resolve(), self._learner)
        self._directory.branches.goes_on_from(checkpoint)
        self._resume_from(checkpoint)

    def checkpoint(self) -> Path:
        """Make sure that the run's own checkpoint of the last step is whole, and in its mirror if it has one.

        Returns:
            Its directory.

        Raises:
            DiskError: it cannot be written.
            StorageError: it is not in the mirror within checkpoint.mirror_timeout_s.
        """
        self.settle()
        self.look_after_checkpoints(wait=True)
        own = self._directory.branches.checkpoint_of(len(self.records))
        if not (own / STATE).exists():
            self._save_now()
        if self._uploader:
            self._uploader.wait(own.name)
        return own

    def take_over(self, directory: Path, donor: Donor) -> None:
        """Go on from a checkpoint, as a trial whose state Tune replaces.

        Weights, optimizer, random states and step are the checkpoint's, the settings stay this run's. Unless it is a
        checkpoint of this run with the same settings, a new branch of the run's history begins.

        Args:
            directory: that holds the checkpoint.
            donor: whose it is.

        Raises:
            ConfigError: the directory is not a whole checkpoint, or one of another learner.
            DataError: it is damaged.
        """
        self.look_after_checkpoints(wait=True)
        checkpoint, branches = read_checkpoint(directory.resolve(), self._learner), self._directory.branches
        changed = changed_settings(checkpoint.state.get("settings", {}), trained_with(self._settings))
        if donor.run == self.id and not changed:
            branches.goes_on_from(checkpoint)
            self._resume_from(checkpoint)
        else:
            branch = branches.begin(checkpoint.step, donor, changed)
            self._resume_from(checkpoint)
            self._tracking.branched(branch)

    def settle(self) -> None:
        """Before anything is trained or saved: see `Branches.settle`."""
        if branch := self._directory.branches.settle(self.id):
            self._tracking.branched(branch)
            if branch.step == 0:
                self._drop_earlier()
                self._graph.apply_phase(1)

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether the run is saved after a step."""
        return step % self._settings.checkpoint.every == 0 or step == self._settings.schedule.steps

    def take_checkpoint(self, step: int) -> None:
        """Take the state after a step for its checkpoint; `saver.write` follows once the step is recorded.

        Raises:
            DiskError: it, or the checkpoint before it, cannot be written.
        """
        self.look_after_checkpoints(wait=True)
        self.saver.take(step, self._state(step))

    def look_after_checkpoints(self, *, wait: bool = False) -> None:
        """Pass on that a checkpoint has become whole in the background, and whether the mirror answers.

        Args:
            wait: until the one that is being written is whole.

        Raises:
            DiskError: it could not be written. The one before it is still there.
        """
        if whole := self.saver.settle(wait=wait):
            _, step = place_of(whole.name) or (0, 0)
            self._graph.trainer.saved(str(whole / TRAINER), step)
            self._directory.prune(self._settings.checkpoint.keep)  # not before: the trainer goes on from the newest
            self._tracking.models(self._directory.checkpoints)
        if self._uploader:
            self._uploader.tell()

    def finish_checkpoints(self) -> None:
        """After the last step: wait until its checkpoint is whole, and write it again if it was lost with an actor.

        Raises:
            DiskError: it cannot be written.
        """
        self.look_after_checkpoints(wait=True)
        if self.saver.lost:
            self._save_now()

    def _save_now(self) -> None:
        """Write the checkpoint of the last step; where it is lost with an actor, once more."""
        for _ in range(ATTEMPTS):
            self.take_checkpoint(len(self.records))
            self.saver.write()
            self.look_after_checkpoints(wait=True)
            if not self.saver.lost:
                return
        raise ActorLostError(f"the checkpoint of step {len(self.records)} was lost with an actor {ATTEMPTS} times")

    def _begin(self) -> None:
        """Begin at the first step."""
        if not self._directory.checkpoints:  # else it is a trial, and Tune says next which state it is to have
            self._drop_earlier()
        self._graph.weight_sync(0)

    def _drop_earlier(self) -> None:
        """Drop what the directory has of an earlier attempt at the first step."""
        self._directory.log.clear()
        self._times.resume_after(0)

    def _resume_from(self, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint, and give its weights to the learner's engines."""
        note = self._tracking.reporter.note
        self._graph.load(str(checkpoint.trainer))
        self.records = list(checkpoint.records)
        if not self._evaluation.restore(checkpoint.state):
            note("the checkpoint's evaluations are left out: data.eval or evaluation was another")
        self._directory.log.restore(checkpoint.directory / STEPS)
        self._times.resume_after(checkpoint.step)
        self._graph.restore_schedule({record.step: record.explorer_only for record in self.records})
        self._graph.apply_phase(checkpoint.step + 1)
        # Checkpoints hold no weights of engines: whatever they held before is replaced at once.
        self._graph.weight_sync(checkpoint.step)
        note(f"resumed after step {checkpoint.step} from {checkpoint.directory}")

    def _state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps that is neither the trainer's nor in the step log.

        Prompts, schedule and seeds of a step are functions of its number.
        """
        date = self._settings.data.date
        return {
            "step": step,
            **self._evaluation.state(),
            "learner": self._learner,
            "settings": trained_with(self._settings),
            "date": date.isoformat() if date else None,
        }
