"""What a run does when one of its processes dies or hangs."""

from __future__ import annotations

from typing import Literal

from s2l_ray.config.section import NonNegative, PositiveFloat, Section


class RecoveryConfig(Section):
    """Processes that die or hang, and the failure budget."""

    max_restarts: NonNegative = 3
    """How often one actor (an engine, a verifier, the bank, the scheduler, or the trainer with all its ranks) is
    started again within window_s. One more death ends the run, with the cause and the end of the actor's log; the same
    command resumes it. 0: every death ends the run."""
    window_s: PositiveFloat = 3600.0
    """Seconds after which a restart no longer counts."""
    backoff_s: PositiveFloat = 1.0
    """Seconds to wait before the second restart within window_s; doubled with every further one, up to 60. The first
    one waits for nothing."""
    heartbeat_s: PositiveFloat = 2.0
    """Seconds between two heartbeats of an actor."""
    heartbeat_timeout_s: PositiveFloat = 120.0
    """An actor whose heartbeat does not come within so many seconds is taken for hung: its processes are killed, and
    it is started again. Give it more than the longest time that one step of an engine takes."""
    snapshots: Literal["auto", "memory", "checkpoint"] = "auto"
    """What a trainer that lost a rank goes on from, all of its ranks started again:

    - `memory`: its state after the latest step, which every rank copies into Ray's object store while the next step is
      sampled. The update under way is done again.
    - `checkpoint`: the latest checkpoint, or the base model; all updates since are done again, with the same groups,
      whose rollouts stay in the object store until the next checkpoint.
    - `auto`: `memory` where two copies of the state take at most half of the object store of every node, else
      `checkpoint`."""
