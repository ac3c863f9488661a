"""What a run keeps to resume from."""

from __future__ import annotations

from s2l_ray.config.section import Positive, Section


class CheckpointConfig(Section):
    """Checkpoints, from which a run resumes."""

    every: Positive = 20
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Number of checkpoints that are kept, the newest ones."""
