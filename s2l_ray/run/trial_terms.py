"""What holds for a run that is a trial of Ray Tune, beside what its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from s2l_ray.run.identity import Judge


@dataclass(frozen=True)
class TrialTerms:
    """Given to a run by whoever knows Tune; a run outside Tune has none."""

    judge: Judge
    """Which settings may differ from those that the run directory's run has: Tune may give a trial new ones."""
    pointed: Callable[[], Set[str]]
    """Names of the checkpoints that Tune may still ask for. They stay, whatever checkpoint.keep is. It may raise
    StorageError."""
