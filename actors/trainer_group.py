"""The driver's handle on the trainer's ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from actors.batch import StepBatch
from actors.calls import ANSWER_S, RolloutsGoneError, fetch
from actors.weight_sync import LearnerMember, WeightSync, WeightSyncReport
from s2l_ray.config import Config
from s2l_ray.errors import StepTimeoutError
from s2l_ray.machine.checksums import FileSum
from s2l_ray.placement.start_bound import StartBound
from s2l_ray.rollouts.records import Prompt
from s2l_ray.timing import Span

STAGED_SHARE = 0.8
"""Largest share of a node's available host memory that the state of its trainer ranks may take while it is written."""


@dataclass(frozen=True)
class GroupSnapshot:
    """The state of all ranks after an update, in Ray's object store; it outlives the ranks."""

    states: list[ray.ObjectRef]
    """A `Snapshot` of each rank."""
    taken: list[ray.ObjectRef]
    """Done once it is whole."""


class TrainerGroup:
    """The driver's handle: every method runs on all ranks, since each may hold collectives.

    Args:
        ranks: `TrainerRank` actors, in rank order.
        timeout_s: bound on every call.
        tend: called every second of a wait.
        groups_named: see `WeightSync`.
        start_bound: cluster.start_timeout_s, for the ranks to join and to load the model; default: `timeout_s`.
        prompts: by id, of all batches.
    """

    def __init__(
        self,
        ranks: list[Any],
        timeout_s: float,
        weight_sync_timeout_s: float,
        tend: Callable[[], None] | None = None,
        groups_named: int = 0,
        start_bound: StartBound | None = None,
        prompts: Mapping[str, Prompt] | None = None,
    ) -> None:
        self.ranks = ranks
        self._timeout_s = timeout_s
        self._weight_sync_timeout_s = weight_sync_timeout_s
        self._tend = tend
        self._groups_named = groups_named
        self._start_bound = start_bound
        self._prompts = prompts or {}

    @property
    def groups_named(self) -> int:
        """See `WeightSync.groups_named`."""
        return self._weight_syncs.groups_named if hasattr(self, "_weight_syncs") else self._groups_named

    def build(self, config: Config) -> None:
        """Join the ranks and load the model."""
        self.begin_build(config)
        self.finish_build()

    def begin_build(self, config: Config) -> None:
        """Let the ranks join and load the model, without waiting: engines start at the same time."""
        self._verify = config.cluster.verify_weights
        address = self._started(self.ranks[0].listen.remote(), "trainer rank 0")
        self._building = [rank.build.remote(config, address) for rank in self.ranks]

    def finish_build(self) -> None:
        """Wait for what `begin_build` began."""
        specs = self._started(self._building, "the trainer")[0]
        bounds = (self._weight_sync_timeout_s, self._timeout_s)
        self._weight_syncs = WeightSync(
            self.ranks, specs, *bounds, verify=self._verify, groups_named=self._groups_named, tend=self._tend
        )

    def begin_rebuild(self, config: Config) -> None:
        """Let the ranks begin anew, for another run, without waiting; weight syncs go where they went."""
        self._weight_syncs.verify = config.cluster.verify_weights
        self._building = [rank.rebuild.remote(config) for rank in self.ranks]

    def finish_rebuild(self) -> None:
        """Wait for what `begin_rebuild` began."""
        self._get(self._building, "building the trainer")

    def update(self, batch: StepBatch) -> tuple[dict[str, float], list[Span]]:
        """Metrics of the update, and when every rank did what.

        Raises:
            RolloutsGoneError: rollouts of the batch are gone. No rank has begun.
        """
        step, shares = batch.split.step, zip(self.ranks, batch.assignment, strict=True)
        fetches = [rank.fetch.remote(step, share) for rank, share in shares]
        if not all(self._get(fetches, "fetching rollouts for the update")):
            raise RolloutsGoneError(f"rollouts of step {step} have gone with the scheduler, or with a node")
        mine = [self._prompts[group.prompt_id] for mini_batch in batch.assignment[0] for group in mini_batch]
        problems = {prompt.id: (prompt.question, prompt.answer) for prompt in mine}
        updates = [rank.update.remote(step, {} if i else problems) for i, rank in enumerate(self.ranks)]
        found = self._get(updates, "the update")
        return found[0][0], [span for _, spans in found for span in spans]

    def connect(self, members: list[LearnerMember]) -> None:
        """Weight syncs go to these learner engines from here on. See `WeightSync.connect`."""
        self._weight_syncs.connect(members)

    def begin_weight_sync(self, version: int) -> None:
        """Start to give every learner engine the present weights, as `version`. See `WeightSync.begin_weight_sync`."""
        self._weight_syncs.begin_weight_sync(version)

    def finish_weight_sync(self) -> WeightSyncReport:
        """Wait for what `begin_weight_sync` began. See `WeightSync.finish_weight_sync`."""
        return self._weight_syncs.finish_weight_sync()

    def save(self, directory: str) -> dict[str, FileSum]:
        """Write the trainer's part of a checkpoint: policy, optimizer and random states.

        Returns:
            What was written, by file name.
        """
        return _together(self._get([rank.save.remote(directory) for rank in self.ranks], "saving a checkpoint"))

    def tend(self) -> None:
        """What is done every second of a wait for the ranks, for waits elsewhere."""
        if self._tend is not None:
            self._tend()

    def lacks_memory(self) -> str:
        """Why `begin_save` would put a node at risk of running out of host memory; empty if it would not."""
        asked: dict[str, int] = {}
        left: dict[str, int] = {}
        found = self._get([rank.memory_to_stage.remote() for rank in self.ranks], "asking for host memory")
        for node, takes, available in found:
            asked[node] = asked.get(node, 0) + takes
            left[node] = min(left.get(node, available), available)
        for node, takes in asked.items():
            if takes > STAGED_SHARE * left[node]:
                return f"{node} has {left[node] / 1e9:.1f} GB of memory left, and the trainer's state {takes / 1e9:.1f}"
        return ""

    def begin_save(self, directory: str) -> Callable[[], dict[str, FileSum]]:
        """Have all ranks copy their state to host memory, and begin to write it.

        Returns:
            A function that waits until all have written theirs and returns what `save` does. Any thread may call it.
        """
        self._get([rank.stage.remote() for rank in self.ranks], "copying the trainer's state to host memory")
        refs = [rank.write_staged.remote(directory) for rank in self.ranks]

        def written() -> dict[str, FileSum]:
            # All of them, also where one has failed: nobody writes to the directory any more when it is removed.
            ray.wait(refs, num_returns=len(refs), timeout=self._timeout_s)
            return _together(fetch(refs, self._timeout_s, "saving a checkpoint"))

        return written

    def load(self, directory: str) -> None:
        """Continue from a checkpoint."""
        self._get([rank.load.remote(directory) for rank in self.ranks], "loading a checkpoint")

    def export(self, directory: str) -> None:
        """Write the policy as a Hugging Face model directory."""
        self._get([rank.export.remote(directory) for rank in self.ranks], "exporting the model")

    def begin_snapshot(self) -> GroupSnapshot:
        """Have every rank copy its present state into the object store, without waiting."""
        pairs = [rank.snapshot.remote() for rank in self.ranks]
        return GroupSnapshot([state for state, _ in pairs], [taken for _, taken in pairs])

    def finish_snapshot(self, snapshot: GroupSnapshot) -> None:
        """Wait until a snapshot is whole."""
        self._get(snapshot.taken, "taking a snapshot of the trainer")

    @staticmethod
    def is_whole(snapshot: GroupSnapshot) -> bool:
        """Whether a snapshot is whole, without waiting for it."""
        done, _ = ray.wait(snapshot.taken, num_returns=len(snapshot.taken), timeout=0)
        if len(done) < len(snapshot.taken):
            return False
        try:
            ray.get(done, timeout=ANSWER_S)
        except ray.exceptions.RayError:
            return False
        return True

    def snapshot_bytes(self) -> dict[str, int]:
        """Size of a snapshot on every node of a rank, by the node's id (hex)."""
        found = Counter[str]()
        for node, size in self._get([rank.snapshot_bytes.remote() for rank in self.ranks], "measuring the trainer"):
            found[node] += size
        return found

    def restore(self, snapshot: GroupSnapshot) -> None:
        """Go on from a snapshot, on as many ranks as it was taken of."""
        pairs = zip(self.ranks, snapshot.states, strict=True)
        self._get([rank.restore.remote(state) for rank, state in pairs], "restoring a snapshot of the trainer")

    def _started(self, refs: Any, who: str) -> Any:
        bound = self._start_bound or StartBound(self._timeout_s, f"{self._timeout_s:.0f} s (cluster.step_timeout_s)")
        try:
            return fetch(refs, bound.seconds, f"starting {who}", self._tend)
        except StepTimeoutError as error:
            joining = ", and that nothing is filtered between the nodes of its ranks" if len(self.ranks) > 1 else ""
            raise StepTimeoutError(
                f"{who} did not start within {bound.text}; raise cluster.start_timeout_s if models load slowly, and "
                f"see that its node has memory and CPUs left{joining}"
            ) from error

    def _get(self, refs: Any, what: str) -> Any:
        return fetch(refs, self._timeout_s, what, self._tend)


def _together(written: list[dict[str, FileSum]]) -> dict[str, FileSum]:
    return {name: found for of_rank in written for name, found in of_rank.items()}
