"""One FSDP rank as one actor, and the driver's handle on the group of ranks."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import transformers

from actors.batch import GroupRefs, StepBatch
from actors.blueprint import RankProcess
from actors.calls import fetch
from actors.liveness import Heartbeat
from actors.weight_sync import LearnerMember, WeightSync, WeightSyncReport
from s2l_ray.config import Config
from s2l_ray.kinds import Transfer
from s2l_ray.machine.checksums import FileSum
from s2l_ray.machine.host_memory import available_bytes
from s2l_ray.machine.network import interface_of
from s2l_ray.rollouts.records import RolloutGroup, write_groups
from s2l_ray.tasks.compat import model_directory
from s2l_ray.timing import Span
from s2l_ray.training.checkpoint import save_snapshot
from s2l_ray.training.snapshot import Snapshot
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.digest import TensorDigest
from s2l_ray.weights.rendezvous import Listener, Meeting, listen, open_store
from s2l_ray.weights.sender import ChunkSender, GroupSender, SendTimes
from s2l_ray.weights.transfers import TRANSFERS

STAGED_SHARE = 0.8
"""Largest share of a node's available host memory that the state of its trainer ranks may take while it is written."""


@dataclass(frozen=True)
class GroupSnapshot:
    """The state of all ranks after an update, in Ray's object store; it outlives the ranks."""

    states: list[ray.ObjectRef]
    """A `Snapshot` of each rank."""
    taken: list[ray.ObjectRef]
    """Done once it is whole."""


# A heartbeat must not wait for an update, nor an update for a disk: they have threads of their own.
@ray.remote(max_restarts=0, concurrency_groups={"alive": 1, "disk": 1})
class TrainerRank:
    """Fetches its share of a step's groups by reference, updates, and sends weights.

    Args:
        process: what stays the same in all runs that this actor serves.
    """

    _config: Config

    def __init__(self, process: RankProcess) -> None:
        self._process = process
        self._rank = process.rank
        self._host = ray.util.get_node_ip_address()
        # Else gloo takes the address that the host's name has, which on Debian is 127.0.1.1: no other node reaches it.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (interface := interface_of(self._host)):
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        self._listener: Listener | None = None
        self._built: PolicyTrainer | None = None
        self._staged: Snapshot | None = None
        self._senders: dict[Transfer, GroupSender] = {}
        self._chunk_senders: dict[Transfer, ChunkSender] = {}
        # Its bars would fill the actor's log file.
        transformers.utils.logging.disable_progress_bar()

    def listen(self) -> Meeting:
        """Rank 0: where the ranks meet."""
        self._listener = listen(self._host)
        return self._listener.meeting

    def build(self, config: Config, address: Meeting) -> list[WeightSpec]:
        """Join the other ranks and load the model. Returns what a weight sync carries.

        Args:
            config: of the run.
            address: where the ranks meet.
        """
        self._config = config
        process = self._process
        self._built = PolicyTrainer(
            str(model_directory("models.learner", config.models.learner)),
            dtype=config.models.compute_dtype,
            rank=process.rank,
            world_size=process.ranks,
            store=open_store(address, process.step_timeout_s, self._listener),
            timeout_s=process.step_timeout_s,
            trust_remote_code=config.models.trust_remote_code,
            **_training(config),
        )
        self._specs = [WeightSpec(*row) for row in self._built.weight_specs()]
        return self._specs

    def rebuild(self, config: Config) -> list[WeightSpec]:
        """Serve another run of the same model from here on, as after `build`. The ranks stay joined."""
        self._config = config
        self._trainer.rebuild(**_training(config))
        return self._specs

    @property
    def _trainer(self) -> PolicyTrainer:
        if self._built is None:
            raise RuntimeError(f"trainer rank {self._rank} was used before `build`")
        return self._built

    def update(self, step: int, mini_batches: list[list[GroupRefs]]) -> tuple[dict[str, float], list[Span]]:
        """One logical step on this rank's groups. Every rank returns the same, global, metrics, and its own work."""
        begin = time.time()
        groups = [[self._fetch(group) for group in batch] for batch in mini_batches]
        fetched = time.time()
        kept = [group for batch in groups for group in batch][: self._config.rollout.keep_groups]
        if self._rank == 0 and kept:
            write_groups(self._config.run_path / "rollouts" / f"step-{step:06d}.jsonl", kept)
        metrics = self._trainer.update(groups)
        return metrics, [self._span("fetch", step, begin, fetched), *self._updated(step)]

    def _updated(self, step: int) -> list[Span]:
        """Rank 0 in detail. The others are in step with it: a span each keeps a large trainer's trace small."""
        parts = self._trainer.parts
        if self._rank:
            return [self._span("update", step, parts[0].start, parts[-1].end)]
        return [self._span(part.name, step, part.start, part.end) for part in parts]

    def _span(self, name: str, step: int, start: float, end: float) -> Span:
        return Span(f"trainer {self._rank}", name, step, start, end)

    def _fetch(self, group: GroupRefs) -> RolloutGroup:
        parts = ray.get(group.parts, timeout=self._process.step_timeout_s)
        return RolloutGroup.merge(parts, self._config.rollout.group_size)

    def listen_for_receivers(self, transfer: Transfer) -> Meeting:
        """Rank 0: where the members of the next broadcast group meet."""
        return self._sender(transfer).listen()

    def form_group(self, transfer: Transfer, name: str, size: int) -> None:
        """Rank 0: see `GroupSender.form`."""
        self._sender(transfer).form(name, size)

    def send_weights(self, transfer: Transfer) -> SendTimes:
        """Broadcast the present weights; all ranks at the same time. See `GroupSender.send`."""
        return self._sender(transfer).send(self._trainer.weights())

    def weight_digests(self) -> list[TensorDigest]:
        """Digests of what weight syncs carry now; all ranks at the same time. See `PolicyWeights.digests`."""
        return self._trainer.weights().digests()

    def begin_chunks(self, transfer: Transfer) -> None:
        """Show the present weights to the engines on this rank's GPU, chunk by chunk. See `ChunkSender`."""
        if transfer not in self._chunk_senders:
            self._chunk_senders[transfer] = TRANSFERS[transfer].load_sender()(self._specs)
        self._chunk_senders[transfer].begin(self._trainer.weights())

    def next_chunk(self, transfer: Transfer) -> dict[str, Any] | None:
        """All ranks at the same time, once every engine has taken the chunk before. None: that was the last."""
        return self._chunk_senders[transfer].next_chunk()

    def end_chunks(self, transfer: Transfer) -> None:
        """The engines have finished the weight sync: give the buffer back."""
        self._chunk_senders[transfer].end()

    def _sender(self, transfer: Transfer) -> GroupSender:
        if transfer not in self._senders:
            timeout_s = self._process.weight_sync_timeout_s
            self._senders[transfer] = TRANSFERS[transfer].load_sender()(self._specs, self._rank, self._host, timeout_s)
        return self._senders[transfer]

    def save(self, directory: str) -> dict[str, FileSum]:
        """Write the rank's part of a checkpoint. See `PolicyTrainer.save`."""
        return self._trainer.save(directory)

    def memory_to_stage(self) -> tuple[str, int, int]:
        """The node, the host memory that `stage` takes in bytes, and what the node has available."""
        return self._host, self._trainer.snapshot_bytes, available_bytes()

    def stage(self) -> None:
        """Copy the rank's state to host memory, for `write_staged`."""
        self._staged = self._trainer.snapshot()

    @ray.method(concurrency_group="disk")  # type: ignore[untyped-decorator]
    def write_staged(self, directory: str) -> dict[str, FileSum]:
        """Write what was staged, as `save` would have written it then, while the rank goes on."""
        staged, self._staged = self._staged, None
        if staged is None:
            raise RuntimeError(f"trainer rank {self._rank} has staged nothing")
        return save_snapshot(directory, staged)

    def load(self, directory: str) -> None:
        """Continue from a checkpoint. See `PolicyTrainer.load`."""
        self._trainer.load(directory)

    def export(self, directory: str) -> None:
        """Write the policy in the Hugging Face layout. See `PolicyTrainer.export`."""
        self._trainer.export(directory)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray is not typed for us
    def snapshot(self) -> tuple[Snapshot, int]:
        """The rank's state, for the object store; and its size in bytes. See `PolicyTrainer.snapshot`."""
        snapshot = self._trainer.snapshot()
        return snapshot, snapshot.nbytes

    def snapshot_bytes(self) -> tuple[str, int]:
        """Id (hex) of the node, and the size of a snapshot."""
        return ray.get_runtime_context().get_node_id(), self._trainer.snapshot_bytes

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot. See `PolicyTrainer.restore`."""
        self._trainer.restore(snapshot)

    @ray.method(concurrency_group="alive")  # type: ignore[untyped-decorator]
    def alive(self) -> Heartbeat:
        """Answer, also during an update."""
        return Heartbeat.of_this_process()

    def close(self) -> None:
        """Leave every group that this rank is in; also half built."""
        for sender in self._senders.values():
            sender.close()
        if self._built is not None:
            self._built.close()


def _training(config: Config) -> dict[str, Any]:
    """What `PolicyTrainer` and its `rebuild` take from a run's configuration."""
    return {
        "trainer": config.trainer,
        "objective": config.objective,
        "temperature": config.rollout.learner.temperature,
        "total_steps": config.optimizer_steps,
        "max_tokens": config.rollout.max_tokens,
        "seed": config.seed,
    }


class TrainerGroup:
    """The driver's handle: every method runs on all ranks, since each may hold collectives.

    Args:
        ranks: `TrainerRank` actors, in rank order.
        timeout_s: bound on every call.
        tend: called every second of a wait.
        groups_named: see `WeightSync`.
    """

    def __init__(
        self,
        ranks: list[Any],
        timeout_s: float,
        weight_sync_timeout_s: float,
        tend: Callable[[], None] | None = None,
        groups_named: int = 0,
    ) -> None:
        self.ranks = ranks
        self._timeout_s = timeout_s
        self._weight_sync_timeout_s = weight_sync_timeout_s
        self._tend = tend
        self._groups_named = groups_named

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
        address = self._get(self.ranks[0].listen.remote(), "starting trainer rank 0")
        self._building = [rank.build.remote(config, address) for rank in self.ranks]

    def finish_build(self) -> None:
        """Wait for what `begin_build` began."""
        specs = self._get(self._building, "building the trainer")[0]
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
        """Metrics of the update, and when every rank did what."""
        pairs = zip(self.ranks, batch.assignment, strict=True)
        refs = [rank.update.remote(batch.split.step, share) for rank, share in pairs]
        found = self._get(refs, "the update")
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

    def _get(self, refs: Any, what: str) -> Any:
        return fetch(refs, self._timeout_s, what, self._tend)


def _together(written: list[dict[str, FileSum]]) -> dict[str, FileSum]:
    return {name: found for of_rank in written for name, found in of_rank.items()}
