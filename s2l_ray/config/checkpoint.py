"""What a run keeps to resume from."""

from __future__ import annotations

from s2l_ray.config.section import Place, Positive, PositiveFloat, Section


class CheckpointConfig(Section):
    """Checkpoints, from which a run resumes."""

    every: Positive = 20
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Number of checkpoints that are kept, the newest ones. A trial of Ray Tune keeps what Tune may ask for, too."""
    asynchronous: bool = True
    """Copy the trainer's state to host memory, train on, and write it meanwhile. Until it is written, that takes as
    much host memory on the trainer's nodes as the trained weights and their optimizer states do, 12 bytes a parameter.
    Off, or where a node has not enough: training waits for the disk. What is written is the same."""
    mirror: Place | None = None
    """Where checkpoints are copied to as well, in the background, and all reports when the run ends: s3://...,
    gs://..., fsspec+PROTOCOL://... or a directory. Each run has there a directory with the name of its run directory. A
    run whose run directory is empty resumes from there. Credentials come from the environment. A trial of Ray Tune has
    it in Tune's storage by default, where that is in S3 or GCS."""
    mirror_timeout_s: PositiveFloat = 600.0
    """Longest wait for what is not in the mirror yet, at the end of a run, and when Ray Tune asks for a checkpoint."""
