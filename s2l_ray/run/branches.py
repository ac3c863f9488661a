"""The branches of a run's history in its directory. Only a trial of Ray Tune has more than one, see `lineage`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_ray.config import Config
from s2l_ray.run.checkpoints import STEPS, Checkpoint, checkpoint_name, checkpoints_in, place_of, read_state
from s2l_ray.run.identity import changed_settings, trained_with
from s2l_ray.run.lineage import Branch, Donor, Lineage
from s2l_ray.step_log import StepLog


class Branches:
    """In which branch a run is, and where one begins.

    Args:
        run: the run directory.
        of_trial: whether the run is a trial, so that branches may begin.
    """

    def __init__(self, run: Path, of_trial: bool) -> None:
        self._run = run
        self._of_trial = of_trial
        self._lineage = Lineage(run)
        self._basis: Checkpoint | None = None  # what the run was set up or restored with
        self._settled = False  # whether checkpoints that are written now belong to the present branch

    @property
    def present(self) -> int:
        """Number of the newest branch, to which checkpoints that are written now belong."""
        begun = self._lineage.read()
        return max(begun[-1].number if begun else 0, self._used)

    @property
    def _used(self) -> int:
        """Largest number of a branch that has a checkpoint."""
        newest = self._newest
        return newest[0] if newest else 0

    @property
    def _newest(self) -> tuple[int, int] | None:
        """(branch, step) of the newest checkpoint."""
        own = checkpoints_in(self._run)
        return place_of(own[-1][1].name) if own else None

    @property
    def in_branch(self) -> int:
        """Number of the branch that the run's state belongs to."""
        if self._settled:
            return self.present
        return self._basis.branch if self._basis else 0

    def checkpoint_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be written, in the present branch."""
        return self._run / "checkpoints" / checkpoint_name(step, self.present)

    def newest_of(self, config: Config) -> Path | None:
        """The newest whole checkpoint that was trained with these settings; None if there is none.

        The settings of a trial change, and Tune may set it back to earlier ones: what it did since does not count then.
        Of another run all checkpoints have the same.
        """
        now = trained_with(config)
        for _, directory in reversed(checkpoints_in(self._run)):
            if not changed_settings(read_state(directory).get("settings", {}), now):
                return directory
        return None

    def goes_on_from(self, checkpoint: Checkpoint | None) -> None:
        """The run's state is that of a checkpoint now; None: that of a run which has done no step."""
        self._basis, self._settled = checkpoint, False

    def settle(self, run_id: str) -> Branch | None:
        """Before anything is trained or saved: begin a branch if the run's state is not that of its newest checkpoint.

        Tune has set the trial back then, and knows nothing of what it did since.

        Args:
            run_id: of the run.

        Returns:
            The branch, if one begins.

        Raises:
            DiskError: the directory cannot be written to.
            DataError: lineage.jsonl is damaged.
        """
        if self._settled or not self._of_trial:
            return None
        self._settled = True
        basis = self._basis
        here = (basis.branch, basis.step) if basis else (0, 0)
        if self._newest in (None, here) and self.present == here[0]:
            return None
        donor = Donor(run_id, str(self._run), basis.directory.name if basis else "")
        return self.begin(here[1], donor, {})

    def begin(self, step: int, donor: Donor, changed: Mapping[str, tuple[Any, Any]]) -> Branch:
        """Begin a branch with the state of a checkpoint. The step log of the branch before it is kept aside.

        Args:
            step: of the checkpoint.
            donor: that it is of.
            changed: settings that have another value from here on.

        Raises:
            DiskError: the directory cannot be written to.
            DataError: lineage.jsonl is damaged.
        """
        present = self.present
        branch = self._lineage.next(step, donor, changed, self._used)
        if branch.number > present:
            StepLog(self._run / STEPS).copy_to(self._run / f"steps-branch-{present}.jsonl")
            self._lineage.add(branch)
        self._settled = True
        return branch
