"""One FSDP rank as one actor."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
import transformers

from actors.batch import GroupRefs
from actors.blueprint import RankProcess
from actors.calls import OBJECT_GONE
from actors.liveness import Heartbeat
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


# A heartbeat must not wait for an update, nor an update for a disk: they have threads of their own.
@ray.remote(max_restarts=0, concurrency_groups={"alive": 1, "disk": 1})
class TrainerRank:
    """Fetches its share of a step's groups by reference, updates, and sends weights.

    Args:
        process: what stays the same in all runs that this actor serves.
    """

    _config: Config
    _fetched: Span

    def __init__(self, process: RankProcess) -> None:
        self._process = process
        self._rank = process.rank
        self._host = ray.util.get_node_ip_address()
        # Else gloo takes the address that the host's name has, which on Debian is 127.0.1.1: no other node reaches it.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (interface := interface_of(self._host)):
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        self._listener: Listener | None = None
        self._built: PolicyTrainer | None = None
        self._groups: list[list[RolloutGroup]] = []
        """[mini-batch]: what `fetch` got for the next update."""
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

    def fetch(self, step: int, mini_batches: list[list[GroupRefs]]) -> bool:
        """Get this rank's groups of a step out of the object store, for `update`.

        A call of its own: where a rollout is gone, no rank has begun an update in which the others wait for it.

        Returns:
            Whether they were there.
        """
        begin = time.time()
        try:
            self._groups = [[self._merged(group) for group in batch] for batch in mini_batches]
        except OBJECT_GONE:
            return False
        self._fetched = self._span("fetch", step, begin, time.time())
        return True

    def update(self, step: int, problems: dict[str, tuple[str, str]]) -> tuple[dict[str, float], list[Span]]:
        """One logical step on what was fetched.

        Args:
            step: its number.
            problems: rank 0: question and gold answer by prompt id, for the rollouts that it keeps for people to read.

        Returns:
            The same, global, metrics on every rank, and its own work.
        """
        groups, self._groups = self._groups, []
        kept = [group for batch in groups for group in batch][: self._config.rollout.keep_groups]
        if self._rank == 0 and kept:
            write_groups(self._config.run_path / "rollouts" / f"step-{step:06d}.jsonl", kept, problems)
        metrics = self._trainer.update(groups)
        return metrics, [self._fetched, *self._updated(step)]

    def _updated(self, step: int) -> list[Span]:
        """Rank 0 in detail. The others are in step with it: a span each keeps a large trainer's trace small."""
        parts = self._trainer.parts
        if self._rank:
            return [self._span("update", step, parts[0].start, parts[-1].end)]
        return [self._span(part.name, step, part.start, part.end) for part in parts]

    def _span(self, name: str, step: int, start: float, end: float) -> Span:
        return Span(f"trainer {self._rank}", name, step, start, end)

    def _merged(self, group: GroupRefs) -> RolloutGroup:
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
