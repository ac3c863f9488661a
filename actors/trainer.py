"""One FSDP rank as one actor, and the driver's handle on the group of ranks."""

from __future__ import annotations

import socket
from typing import Any

import ray
import transformers

from actors.calls import fetch
from actors.scheduler import GroupRefs, StepBatch
from s2l_ray.config import Config
from s2l_ray.rendezvous import listen, open_store
from s2l_ray.rollout import RolloutGroup, write_groups
from s2l_ray.training.optimizer import optimizer_steps
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.sender import WeightSender


@ray.remote(max_restarts=0)
class TrainerRank:
    """Fetches its share of a step's groups by reference, updates, and sends weights."""

    def __init__(self, config: Config, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._host = ray.util.get_node_ip_address()
        self._listener: socket.socket | None = None
        # Its bars would fill the actor's log file.
        transformers.utils.logging.disable_progress_bar()

    def listen(self) -> tuple[str, int]:
        """Rank 0: the address at which the ranks meet."""
        self._listener = listen(self._host)
        return self._host, self._listener.getsockname()[1]

    def build(self, address: tuple[str, int]) -> list[WeightSpec]:
        """Join the other ranks and load the model. Returns what a weight swap carries."""
        config = self._config
        self._trainer = PolicyTrainer(
            config.models.learner,
            trainer=config.trainer,
            objective=config.objective,
            dtype=config.models.dtype,
            temperature=config.rollout.learner.temperature,
            total_steps=optimizer_steps(config),
            rank=self._rank,
            world_size=config.trainer.ranks or 1,
            store=open_store(*address, config.cluster.step_timeout_s, self._listener),
            timeout_s=config.cluster.step_timeout_s,
            trust_remote_code=config.models.trust_remote_code,
            seed=config.seed,
        )
        specs = [WeightSpec(*row) for row in self._trainer.weight_specs()]
        self._sender = WeightSender(specs, self._rank, self._host, config.cluster.swap_timeout_s)
        return specs

    def update(self, step: int, mini_batches: list[list[GroupRefs]]) -> dict[str, float]:
        """One logical step on this rank's groups. Every rank returns the same, global, metrics."""
        groups = [[self._fetch(group) for group in batch] for batch in mini_batches]
        kept = [group for batch in groups for group in batch][: self._config.rollout.keep_groups]
        if self._rank == 0 and kept:
            write_groups(self._config.run_path / "rollouts" / f"step-{step:06d}.jsonl", kept)
        return self._trainer.update(groups)

    def _fetch(self, group: GroupRefs) -> RolloutGroup:
        parts = ray.get(group.parts, timeout=self._config.cluster.step_timeout_s)
        return RolloutGroup.merge(parts, self._config.rollout.group_size)

    def listen_for_receivers(self) -> tuple[str, int]:
        return self._sender.listen()

    def form_group(self, name: str, receivers: int) -> None:
        self._sender.form_group(name, receivers)

    def send_weights(self) -> int:
        return self._sender.send(self._trainer.weights())

    def save(self, directory: str) -> None:
        self._trainer.save(directory)

    def load(self, directory: str) -> None:
        self._trainer.load(directory)

    def export(self, directory: str) -> None:
        self._trainer.export(directory)

    def close(self) -> None:
        self._sender.close()
        self._trainer.close()


class TrainerGroup:
    """The driver's handle: every method runs on all ranks, since each may hold collectives.

    Args:
        ranks: `TrainerRank` actors, in rank order.
        timeout_s: bound on every call.
    """

    def __init__(self, ranks: list[Any], timeout_s: float, swap_timeout_s: float) -> None:
        self.ranks = ranks
        self._timeout_s = timeout_s
        self._swap_timeout_s = swap_timeout_s
        self._specs: list[WeightSpec] = []

    def build(self) -> None:
        address = self._get(self.ranks[0].listen.remote(), "starting trainer rank 0")
        self._specs = self._get([rank.build.remote(address) for rank in self.ranks], "building the trainer")[0]

    def update(self, batch: StepBatch) -> dict[str, float]:
        pairs = zip(self.ranks, batch.assignment, strict=True)
        refs = [rank.update.remote(batch.share.step, share) for rank, share in pairs]
        return self._get(refs, "the update")[0]

    def connect(self, learners: list[Any], tensor_parallel: int, name: str) -> None:
        """Form the broadcast group of rank 0 and every worker of every learner engine."""
        host, port = self._get(self.ranks[0].listen_for_receivers.remote(), "opening the broadcast group")
        receivers = len(learners) * tensor_parallel
        joins = [
            learner.join.remote(host, port, name, 1 + i * tensor_parallel, receivers + 1, self._swap_timeout_s)
            for i, learner in enumerate(learners)
        ]
        self._get([self.ranks[0].form_group.remote(name, receivers), *joins], "forming the broadcast group")

    def swap(self, learners: list[Any], version: int) -> int:
        """Give every learner engine the present weights, as `version`. Returns the bytes sent."""
        swaps = [learner.swap.remote(version, self._specs) for learner in learners]
        sends = [rank.send_weights.remote() for rank in self.ranks]
        return self._get([*sends, *swaps], f"the swap to weight version {version}")[0]

    def save(self, directory: str) -> None:
        self._get([rank.save.remote(directory) for rank in self.ranks], "saving a checkpoint")

    def load(self, directory: str) -> None:
        self._get([rank.load.remote(directory) for rank in self.ranks], "loading a checkpoint")

    def export(self, directory: str) -> None:
        self._get([rank.export.remote(directory) for rank in self.ranks], "exporting the model")

    def _get(self, refs: Any, what: str) -> Any:
        return fetch(refs, self._timeout_s, what)
