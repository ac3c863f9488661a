"""One FSDP rank of the learner's training: update on groups, hand out weights, save, load, export."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from s2l_ray.kinds import Dtype, TorchDevice
from s2l_ray.machine.checksums import FileSum
from s2l_ray.machine.device_memory import give_back_cached
from s2l_ray.objective import ADVANTAGES, CORRECTIONS, KL_ESTIMATORS, LOSSES, sequence_sums
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.checkpoint import load_checkpoint, save_checkpoint
from s2l_ray.training.clock import UpdateClock, UpdatePart
from s2l_ray.training.compiled import compile_layers
from s2l_ray.training.determinism import compute_deterministically, seed_generators
from s2l_ray.training.flash_attention import use_flash_attention
from s2l_ray.training.lockstep import check_mini_batches, pack_in_step, without_empty
from s2l_ray.training.lora import add_adapters, without_adapters
from s2l_ray.training.metrics import SOURCES, MetricSums
from s2l_ray.training.model import PackedPolicy, load_causal_lm, recompute_layers, shard
from s2l_ray.training.optimizer import build_optimizer, check_lr_schedule, learning_rate
from s2l_ray.training.packing import MicroBatch, RankShare, TrainSequence, micro_batches
from s2l_ray.training.process_group import all_reduce_max, all_reduce_sum, start_process_group, whole
from s2l_ray.training.snapshot import (
    Snapshot,
    restore_snapshot,
    size_of,
    state_tensors,
    take_snapshot,
)
from s2l_ray.training.stored_model import StoredTensors, fill
from s2l_ray.training.update import (
    all_sequences,
    by_source,
    micro_batch_loss,
    mini_batch_moments,
    overlong_buffer,
    penalised_groups,
    prepare_share,
    punished_groups,
)
from s2l_ray.training.weights import PolicyWeights, export_directory, weight_specs

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from s2l_ray.config import ObjectiveConfig, TrainerConfig


class PolicyTrainer:
    """One rank of the trainer. The methods that say "collective" must be called by every rank, in the same order.

    Args:
        model_dir: Hugging Face directory of the learner.
        dtype: of forward, backward and the weights that are handed out; master weights are float32.
        temperature: that the learner samples with; log-probs are those of logits / temperature.
        total_steps: optimizer steps of the whole run, resumed or not; trainer.lr_schedule falls over them.
        max_tokens: rollout.max_tokens; objective.overlong_buffer_tokens counts back from it.
        store: where the ranks meet (`s2l_ray.weights.rendezvous`); None with one rank.
        timeout_s: bound on every collective.
        device: chosen by what is there if None.

    Raises:
        ModelError: the model cannot be loaded, or computes something that the trainer does not support.
        ConfigError: trainer.lr_schedule does not go with total_steps; trainer.replicas does not divide the ranks; a
            function that the objective names cannot be used; peft, max_tokens or what trainer.flash_attention asks for
            is needed and not there.
    """

    def __init__(
        self,
        model_dir: str,
        *,
        trainer: TrainerConfig,
        objective: ObjectiveConfig,
        dtype: Dtype,
        temperature: float,
        total_steps: int | None = None,
        max_tokens: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        store: Store | None = None,
        timeout_s: float,
        device: TorchDevice | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
    ):
        self._configure(trainer, objective, temperature, total_steps, max_tokens)
        if trainer.deterministic:
            compute_deterministically()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model_dir, self.rank, self.world_size = model_dir, rank, world_size
        self.replicas = trainer.replicas_of(world_size)
        self.dtype = getattr(torch, dtype)
        self.trust_remote_code = trust_remote_code
        self.mesh, self.device = start_process_group(
            device, rank=rank, world_size=world_size, store=store, timeout_s=timeout_s, replicas=self.replicas
        )
        self._build(seed)

    def rebuild(
        self,
        *,
        trainer: TrainerConfig,
        objective: ObjectiveConfig,
        temperature: float,
        total_steps: int | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        """Begin anew on the base model, in the same process group, as a trainer that is constructed like this.

        Collective. The arguments mean what they do for the constructor; nothing of the training until here stays.

        Raises:
            ModelError, ConfigError: as the constructor.
            RuntimeError: trainer.deterministic or trainer.replicas was another, which a process cannot change.
        """
        if trainer.replicas_of(self.world_size) != self.replicas:
            raise RuntimeError("trainer.replicas is settled when the ranks join")
        if trainer.deterministic != self.trainer.deterministic:
            raise RuntimeError("trainer.deterministic is settled when a process starts")
        self._configure(trainer, objective, temperature, total_steps, max_tokens)
        del self.policy, self.reference, self.parameters, self.optimizer
        gc.collect()  # FSDP's modules and hooks refer to each other
        give_back_cached()
        self._build(seed)

    def _configure(
        self,
        trainer: TrainerConfig,
        objective: ObjectiveConfig,
        temperature: float,
        total_steps: int | None,
        max_tokens: int | None,
    ) -> None:
        check_lr_schedule(trainer, total_steps)
        self._overlong = overlong_buffer(objective, max_tokens)
        _check_functions(objective)
        self.trainer, self.objective = trainer, objective
        self.temperature, self.total_steps = temperature, total_steps

    def _build(self, seed: int) -> None:
        """The policy and its optimizer at their beginning, and the generators seeded."""
        trainer = self.trainer
        torch.set_num_threads(trainer.threads_on(cuda=self.device.type == "cuda"))
        self.optimizer_steps = 0
        seed_generators(seed + self.rank)
        use_flash_attention(trainer.flash_attention, self.device)
        self.policy = self._load_policy(adapter_seed=seed)
        layers = len(self.policy.model.base_model.layers)
        recompute_layers(self.policy.model, trainer.layers_recomputed(layers, cuda=self.device.type == "cuda"))
        own_reference = self.objective.kl > 0 and not trainer.lora_rank  # else it is the policy without its adapters
        self.reference = self._load_policy(frozen=True) if own_reference else None
        self.parameters = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.policy, trainer)
        self.clock = UpdateClock(self.device)
        self.parts: list[UpdatePart] = []
        """The parts of the last update, with their times, on this rank."""
        give_back_cached()  # of layers that were whole before they were cut

    def update(self, mini_batches: list[list[RolloutGroup]]) -> dict[str, float]:
        """One optimizer step per mini-batch, or one per mini-batch and source with `grouping: separate`. Collective.

        Args:
            mini_batches: this rank's whole groups of each optimizer step. Ranks need equally many mini-batches, but
                any of them may be empty on some rank.

        Returns:
            Metrics over all ranks; what is not finite or a mean over nothing is left out. `loss` and `grad_norm` are
            means over optimizer steps; `logprob/...` and `logprob_gap/...` are under the weights before the update,
            of the tokens whose log-probs under these were computed.
            `updates` counts optimizer steps, `skipped_updates` those that were not taken because loss or gradient was
            not finite, or the gradient's norm above trainer.skip_grad_norm.

        Raises:
            GroupError: ranks disagree on the number of mini-batches, or a group is malformed.
        """
        sums = MetricSums(self.device)
        # A rank that has fetched its groups early waits for the others here, at the first collective.
        self.clock.begin("wait_for_ranks" if self.world_size > 1 else "prepare")
        check_mini_batches(mini_batches)
        self.clock.enter("prepare")
        for mini in mini_batches:
            sums.add_groups(mini)
        if self._overlong is not None:
            mini_batches = punished_groups(mini_batches, self._overlong)
        if self.objective.grouping == "separate":
            mini_batches = without_empty(by_source(mini_batches))
        if self.objective.kl > 0 and self.objective.kl_in == "reward":
            mini_batches = self._penalised(mini_batches, sums)
        shares = self._prepare(mini_batches)
        batches = self._pack(
            [share.sequences for share in shares], old_from_engine=self.objective.old_logprobs == "engine"
        )
        for share in shares:
            sums.add_share(share)
        self._score(batches)
        before = self.optimizer_steps
        steps = [self._optimizer_step(of_one, sums, is_first=at == 0) for at, of_one in enumerate(batches)]
        self.parts = self.clock.stop()
        finite = [(loss, norm) for loss, norm in steps if np.isfinite(loss) and np.isfinite(norm)]
        corrected = tuple(s for s in SOURCES if getattr(self.objective.correction, s) != "none")
        metrics = sums.metrics(all_reduce_sum, all_reduce_max, corrected=corrected)
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        metrics["updates"] = float(self.optimizer_steps - before)
        metrics["skipped_updates"] = len(steps) - metrics["updates"]
        if finite:
            metrics["loss"], metrics["grad_norm"] = (float(x) for x in np.mean(finite, axis=0))
        self._make_room()
        return {name: value for name, value in metrics.items() if np.isfinite(value)}

    def weights(self) -> PolicyWeights:
        """The present weights in the engines' dtype, as (Hugging Face name, whole tensor) or in buckets."""
        return PolicyWeights(self.policy.model, self.dtype, self.device)

    def weight_specs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, dtype name, shape) of what `weights` yields, in its order. Not a collective."""
        return weight_specs(self.policy.model, self.dtype)

    def save(self, directory: str) -> dict[str, FileSum]:
        """Write this rank's part of a checkpoint into a directory that all ranks see. Not a collective.

        The checkpoint is complete when every rank has written its part.

        Returns:
            What was written, by file name.

        Raises:
            DiskError: it cannot be written.
        """
        written = save_checkpoint(directory, self._state_tensors(), optimizer_steps=self.optimizer_steps, **self._place)
        give_back_cached()
        return written

    def load(self, directory: str) -> None:
        """Go on from a complete checkpoint, saved by any number of ranks and replicas.

        Not a collective; all ranks load the same.

        Raises:
            ModelError: the directory holds no complete checkpoint, or one of another model.
            DataError: it is damaged.
        """
        self.optimizer_steps = load_checkpoint(directory, self._state_tensors(), **self._place)
        self._remember_learning_rate()
        give_back_cached()

    @property
    def snapshot_bytes(self) -> int:
        """Host memory that `snapshot` takes on this rank, in bytes, known without taking it."""
        return size_of(self._state_tensors())

    def snapshot(self) -> Snapshot:
        """Copy this rank's whole training state into host memory. Not a collective: ranks take theirs between updates.

        A snapshot can be pickled, and shares no memory with the trainer.
        """
        return take_snapshot(self._state_tensors(), optimizer_steps=self.optimizer_steps, **self._place)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, bitwise as the trainer that it was taken of. Not a collective.

        The trainer is of the same model, with the same settings, and the same rank of as many; every other rank takes
        its own snapshot of the same moment.

        Raises:
            ModelError: the snapshot does not fit this trainer, which is left as it is.
        """
        self.optimizer_steps = restore_snapshot(snapshot, self._state_tensors(), **self._place)
        self._remember_learning_rate()

    def export(self, directory: str) -> None:
        """Write a Hugging Face directory (weights in the engines' dtype, config, tokenizer). Collective."""
        export_directory(self.policy.model, self.dtype, self.device, self.model_dir, directory, rank=self.rank)
        give_back_cached()
        dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _load_policy(self, *, frozen: bool = False, adapter_seed: int = 0) -> PackedPolicy:
        model = load_causal_lm(self.model_dir, trust_remote_code=self.trust_remote_code)
        policy = PackedPolicy(model, temperature=self.temperature, chunk=self.trainer.logprob_chunk_tokens)
        policy.requires_grad_(not frozen)
        if self.trainer.lora_rank and not frozen:
            add_adapters(model, self.trainer, seed=adapter_seed)
        offload = self.objective.reference_offload if frozen else self.trainer.cpu_offload
        reshard = frozen or self.trainer.reshard_after_forward  # no backward follows a reference's forward
        shard(policy, self.mesh, compute_dtype=self.dtype, offload=offload, reshard=reshard)
        fill(model, StoredTensors(self.model_dir), torch.device("cpu") if offload else self.device)
        if self.trainer.compile:
            compile_layers(model)
        return policy.eval() if frozen else policy.train()

    def _make_room(self) -> None:
        """Give back what only the update needs: engines may share the device."""
        if self.reference is not None:
            # FSDP2 keeps the root whole after a forward that no backward follows.
            cast(FSDPModule, self.reference).reshard()
        give_back_cached()

    def _prepare(self, mini_batches: list[list[RolloutGroup]]) -> list[RankShare]:
        """Advantages and weights, from totals of each mini-batch over all ranks."""
        lengths = [[len(r.token_ids) for g in mini for r in g.rollouts] for mini in mini_batches]
        totals = torch.tensor([[sum(of_one), len(of_one)] for of_one in lengths])
        return [
            prepare_share(
                mini,
                self.objective,
                total_tokens=tokens,
                total_sequences=sequences,
                moments=mini_batch_moments(mini, self.objective, all_reduce_sum),
            )
            for mini, (tokens, sequences) in zip(mini_batches, all_reduce_sum(totals).tolist(), strict=True)
        ]

    def _penalised(self, mini_batches: list[list[RolloutGroup]], sums: MetricSums) -> list[list[RolloutGroup]]:
        """The same groups with rewards less the KL to the reference under the weights before the update."""
        self.clock.enter("reference")
        sequences = all_sequences(mini_batches)
        estimates: list[Tensor] = []
        rows, (batches,) = micro_batches(sequences, self.trainer.micro_batch_tokens), self._pack([sequences])
        for batch in batches:
            with torch.no_grad():
                ours, theirs = self.policy(batch).logprobs, self._reference_logprobs(batch)
            kl = KL_ESTIMATORS[self.objective.kl_estimator](ours, theirs)
            sums.add_kl(batch, kl)
            estimates.append(sequence_sums(kl, batch.lengths).cpu())
        order = [sequence for row in rows for sequence in row]
        by_sequence = dict(zip(map(id, order), torch.cat(estimates).tolist(), strict=False))  # idle ones come last
        self.clock.enter("prepare")
        return penalised_groups(mini_batches, [self.objective.kl * by_sequence[id(s)] for s in sequences])

    def _pack(self, steps: list[list[TrainSequence]], *, old_from_engine: bool = False) -> list[list[MicroBatch]]:
        return pack_in_step(steps, self.trainer.micro_batch_tokens, self.device, old_from_engine=old_from_engine)

    @torch.no_grad()
    def _score(self, batches: list[list[MicroBatch]]) -> None:
        """Log-probs that the loss compares with: under the weights before the update, and under the reference."""
        # The first mini-batch meets the weights that old log-probs are defined by: its ratio is 1 by construction.
        unknown = [batch for later in batches[1:] for batch in later if not batch.old_from_engine]
        if unknown:
            self.clock.enter("old_logprobs")
        for batch in unknown:
            batch.old_logprobs = self.policy(batch).logprobs
        if self.objective.kl > 0 and self.objective.kl_in == "loss":
            self.clock.enter("reference")
            for batch in (b for of_one_step in batches for b in of_one_step):
                batch.reference_logprobs = self._reference_logprobs(batch)

    def _reference_logprobs(self, batch: MicroBatch) -> Tensor:
        with without_adapters(self.policy.model) if self.reference is None else nullcontext():
            scores = (self.reference or self.policy)(batch)
        return cast(Tensor, scores.logprobs)

    def _optimizer_step(self, batches: list[MicroBatch], sums: MetricSums, *, is_first: bool) -> tuple[float, float]:
        """Loss and gradient norm of the whole mini-batch; steps if both are finite and the norm is not too large."""
        self.clock.enter("forward_backward")
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, start=1):
            self._sum_over_replicas(after_backward=number == len(batches))
            scores, reference = self.policy(batch), batch.reference_logprobs
            loss = micro_batch_loss(batch, scores, reference, self.objective, sums, first_step=is_first)
            torch.autograd.backward(loss * self.world_size)  # FSDP averages over ranks; these are parts of a sum
            total += loss.detach()
        mini_batch_loss = all_reduce_sum(total.double().cpu()).item()
        self.clock.enter("optimizer")
        norm = whole(get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        limit = self.trainer.skip_grad_norm
        if np.isfinite(mini_batch_loss) and torch.isfinite(norm) and (limit is None or norm <= limit):
            clip_grads_with_norm_(self.parameters, self.trainer.grad_clip, norm)
            self._set_learning_rate(self.optimizer_steps)
            self.optimizer.step()
            self.optimizer_steps += 1
        self.optimizer.zero_grad()
        return mini_batch_loss, norm.item()

    def _sum_over_replicas(self, *, after_backward: bool) -> None:
        """Whether the next backward sums gradients over the replicas: once per optimizer step suffices.

        Off-loaded gradients leave the device after every backward, and what waits for a later sum could not.
        """
        if self.replicas > 1:
            now = after_backward or self.trainer.cpu_offload
            cast(FSDPModule, self.policy).set_requires_all_reduce(now)

    def _set_learning_rate(self, done: int) -> None:
        """Set the learning rate of the optimizer step that follows `done` of them."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.trainer, done, self.total_steps)

    def _remember_learning_rate(self) -> None:
        """Have the rate of the last step that was taken, which an update that takes none reports."""
        if self.optimizer_steps:
            self._set_learning_rate(self.optimizer_steps - 1)

    @property
    def _place(self) -> dict[str, int]:
        return {"rank": self.rank, "ranks": self.world_size, "replicas": self.replicas}

    def _state_tensors(self) -> dict[str, Tensor]:
        # After a forward that no backward followed FSDP2 shows the root's parameters whole, and would go on with these.
        cast(FSDPModule, self.policy).reshard()
        trained = [(name, p) for name, p in self.policy.named_parameters() if p.requires_grad]
        return state_tensors(trained, self.optimizer)


def _check_functions(objective: ObjectiveConfig) -> None:
    """Raise ConfigError if a function that the objective names cannot be used, before a model is loaded."""
    LOSSES.resolve(objective.loss)
    ADVANTAGES.resolve(objective.advantage)
    CORRECTIONS.resolve(objective.correction.explorer, "objective.correction.explorer")
    CORRECTIONS.resolve(objective.correction.learner, "objective.correction.learner")
