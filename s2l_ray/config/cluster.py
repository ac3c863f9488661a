"""The Ray cluster that a run joins or starts."""

from __future__ import annotations

from s2l_ray.config.section import PositiveFloat, Section


class ClusterConfig(Section):
    """The Ray cluster, and how long it may take."""

    address: str | None = None
    """Ray cluster to join: HOST:PORT of its head; `auto` for that of RAY_ADDRESS, else the Ray that runs on this
    machine; or `local` for a private Ray on this machine. Default: that of RAY_ADDRESS (which `ray job submit` sets),
    else a private Ray."""
    fetch_timeout_s: PositiveFloat = 7200.0
    """Longest time for fetching one model or data split from the Hugging Face Hub."""
    start_timeout_s: PositiveFloat = 300.0
    """Longest time for starting a private Ray, for placing all actors, and for starting them; the last is 60 s longer
    for each engine beyond the first that compiles on one node, and 2 s for each GB of weights that a node reads."""
    step_timeout_s: PositiveFloat = 3600.0
    """Longest time for each phase of a step."""
    weight_sync_timeout_s: PositiveFloat = 120.0
    """Longest time for a weight sync, once engines have finished the requests that it waits for; step_timeout_s bounds
    those."""
    verify_weights: bool = False
    """After every weight sync compare what each learner engine holds with the trainer's weights, bit for bit, and end
    the run with an error that names the first tensor where they differ. Each step records the digest of the weights.
    Takes about as long as reading all weights a few times, in engines and trainer at once. An engine that holds weights
    in a form that cannot be compared, such as quantised ones, is an error at the start."""
    lock_timeout_s: PositiveFloat = 120.0
    """Longest wait for the lock of run_dir, where the process that holds it is on another machine and shows no sign of
    life."""
