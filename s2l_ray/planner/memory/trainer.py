"""Memory of a trainer rank: s2l_ray/training under torch's FSDP2 (torch/distributed/fsdp/_fully_shard)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from s2l_ray.kinds import Transfer
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.memory.items import FLOAT32, TRAINER_PROCESS_BYTES, Ledger, context_bytes, dtype_bytes, positive
from s2l_ray.weights.sizes import BUCKET_BYTES
from s2l_ray.weights.transfers import TRANSFERS

if TYPE_CHECKING:
    from s2l_ray.config import Config

OFFLOADED = ("weights", "gradients", "optimizer")
"""Items that trainer.cpu_offload keeps in host memory."""


@dataclass(frozen=True)
class TrainerMemory:
    """Memory of one rank on its device."""

    update: Ledger
    """Alive at the peak of the update."""
    idle: Ledger
    """Alive while engines sample, once the update's memory was given back (on GPUs: torch.cuda.empty_cache)."""
    weight_sync: Ledger
    """Alive while weights are sent."""
    host: Ledger
    """Off-loaded to the memory of the GPU's node; empty for a rank on CPUs."""


def trainer_ledger(
    shape: ModelShape, config: Config, ranks: int, *, cuda: bool, transfers: Collection[Transfer]
) -> TrainerMemory:
    """Memory of one trainer rank out of `ranks` (rank 0, whose shards are the largest and which sends).

    The peak is that of a step of which every rollout has its full length and an advantage. Sequences of different
    lengths cost more on CPUs, which pad them for attention (training/attention.py).

    Args:
        cuda: False for a rank on CPUs: no CUDA context but the process itself.
        transfers: the ways in which weights are sent, one after the other.
    """
    rank = _Rank(shape, config, ranks, cuda, "nccl" in transfers)
    resident, gradients = rank.resident(), rank.gradients()
    peak = max(_moments(rank, gradients), key=lambda moment: sum(moment.values()))
    offloaded = set(OFFLOADED) if cuda and config.trainer.cpu_offload else set()
    sending = {"transfer_buffers": max((_sending(rank, transfer) for transfer in transfers), default=0)}
    host = {item: size for item, size in (resident | {"gradients": gradients}).items() if item in offloaded}
    if cuda and config.objective.reference_offload and rank.has_reference:
        host["reference"] = rank.reference_shards()

    def on_device(ledger: Ledger) -> Ledger:
        return positive({item: size for item, size in ledger.items() if item not in offloaded})

    update = resident | peak | {"reference": rank.reference_at_work()}
    return TrainerMemory(on_device(update), on_device(resident), on_device(resident | sending), host)


class _Rank:
    """Facts of a rank that several items of the ledger depend on."""

    def __init__(self, shape: ModelShape, config: Config, ranks: int, cuda: bool, broadcasts: bool) -> None:
        self.shape, self.config, self.ranks, self.cuda = shape, config, ranks, cuda
        self.sharing = ranks // config.trainer.replicas_of(ranks)
        """Ranks that share one copy of the model."""
        self.communicators = (self.sharing > 1) + 2 * (self.sharing < ranks) + broadcasts
        """NCCL's: of a copy's ranks; with replicas of ranks with the same shard, and of all; of weight syncs."""
        self.dtype = dtype_bytes(config)
        self.lora = config.trainer.lora_rank
        trainer, rollout = config.trainer, config.rollout
        self.longest = config.data.max_prompt_tokens + rollout.max_tokens
        prompts = config.objective.mini_batch_prompts or rollout.prompts_per_step
        of_a_step = math.ceil(prompts / ranks) * rollout.group_size  # groups go to ranks whole
        self.rollouts = math.ceil(rollout.prompts_per_step / prompts) * of_a_step
        """Of all mini-batches of a step, on this rank."""
        # Rows of at most the budget, which sequences of other lengths may fill although the longest do not; a sequence
        # that is longer is a row of its own (training/packing.py).
        self.tokens = min(of_a_step * self.longest, max(self.longest, trainer.micro_batch_tokens))
        self.accumulates = of_a_step * self.longest > self.tokens
        self.responses = self.tokens * rollout.max_tokens // self.longest
        self.recomputed = trainer.layers_recomputed(shape.layers, cuda=cuda)

    @cached_property
    def adapters(self) -> list[tuple[int, ...]]:
        """Adapters of one layer: A [rank, in] and B [out, rank] beside every linear layer that is asked for."""
        if not self.lora:
            return []
        targets = self.config.trainer.lora_targets or self.shape.linears
        pairs = [self.shape.linears[name] for name in targets if name in self.shape.linears]
        return [tensor for out, width in pairs for tensor in ((self.lora, width), (out, self.lora))]

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, adapters included."""
        return self.shape.layer_parameters + _count(self.adapters)

    def gathered(self, layers: int) -> int:
        """Bytes of the whole root and of so many gathered layers; of all, where layers stay whole until backward."""
        if not self.config.trainer.reshard_after_forward:
            layers = self.shape.layers
        return self.dtype * (self.shape.root_parameters + layers * self.layer_parameters)

    @property
    def trained_layer(self) -> int:
        """Parameters of one layer that have gradients."""
        return _count(self.adapters) if self.lora else self.shape.layer_parameters

    @property
    def trained_root(self) -> int:
        """Embedding, head and final norm, where they have gradients."""
        return 0 if self.lora else self.shape.root_parameters

    @property
    def head_gradient(self) -> int:
        """Elements of the output layer's gradient, and so of the embedding's."""
        return 0 if self.lora else self.shape.vocab * self.shape.hidden

    def resident(self) -> Ledger:
        """Always alive: float32 weights and AdamW's two states of what is trained."""
        frozen = self._shards(self.shape.layer_tensors, self.shape.root_tensors) if self.lora else 0
        return {
            "weights": self.gradients() + self.dtype * frozen,
            "optimizer": 2 * self.gradients(),
            "reference": self._reference(),
            "context": context_bytes(self.cuda, self.communicators, TRAINER_PROCESS_BYTES),
        }

    def gradients(self) -> int:
        """Float32 shards of everything trained: as large as the float32 weights and each of AdamW's states."""
        if self.lora:
            return FLOAT32 * self._shards(self.adapters, [])
        return FLOAT32 * self._shards(self.shape.layer_tensors, self.shape.root_tensors)

    def reference_shards(self) -> int:
        return self.dtype * self._shards(self.shape.layer_tensors, self.shape.root_tensors)

    def reference_at_work(self) -> int:
        """Bytes of the reference model's shards, and of its embedding and head in full.

        FSDP2 does not reshard the root after a forward, and without
        a backward nothing else does before the update ends.
        """
        if not self.has_reference:
            return 0
        return self._reference() + self.dtype * self.shape.root_parameters

    @property
    def has_reference(self) -> bool:
        """Whether there is a model of its own. With adapters the reference is the policy without them."""
        return self.config.objective.kl > 0 and not self.lora

    def _reference(self) -> int:
        offloaded = self.cuda and self.config.objective.reference_offload
        return 0 if offloaded or not self.has_reference else self.reference_shards()

    def _shards(self, layer: Iterable[tuple[int, ...]], root: Iterable[tuple[int, ...]]) -> int:
        """Elements of rank 0's shards: FSDP2 cuts the first dimension into equal parts, rounded up."""

        def of(tensors: Iterable[tuple[int, ...]]) -> int:
            return sum(math.ceil(t[0] / self.sharing) * math.prod(t[1:]) for t in tensors)

        return self.shape.layers * of(layer) + of(root)


def _moments(rank: _Rank, gradients: int) -> list[Ledger]:
    """Memory on top of the resident memory at those moments of a micro-batch that can be the peak."""
    # All gradients are there from the first micro-batch on; with only one, hardly any before the end.
    earlier = {"gradients": gradients if rank.accumulates else 0, "batch": _batch(rank)}
    moments = [earlier | moment for moment in (_end_of_forward(rank), _backward_of_head(rank), *_of_layers(rank))]
    reduced = gradients if rank.accumulates else FLOAT32 * rank.shape.layers * rank.trained_layer // rank.sharing
    return [*moments, earlier | {"gradients": reduced} | _last_reduction(rank)]


def _end_of_forward(rank: _Rank) -> Ledger:
    """Two float32 buffers over the vocabulary for each token of a chunk (training/logprobs.py), on all activations."""
    return {
        "gathered": rank.gathered(0),
        "activations": _saved(rank, rank.shape.layers) + _saved_at_end(rank),
        "logits": 2 * FLOAT32 * _chunk(rank),
    }


def _backward_of_head(rank: _Rank) -> Ledger:
    """The larger of two moments: a chunk's logits in float32, and what becomes of them; the head's gradient after that.

    The logits turn into their gradient, which is copied to the compute dtype. The head's gradient is summed in float32.
    """
    dtype, head = rank.dtype, rank.head_gradient
    narrow = 0 if dtype == FLOAT32 else dtype
    of_logits = 2 * FLOAT32 if rank.config.objective.entropy else FLOAT32 + narrow
    # A product in the compute dtype is added to the sum; CPUs convert it first.
    of_product = dtype + (FLOAT32 if narrow and not rank.cuda else 0)
    chunk = _chunk(rank)
    # The last layer is gathered ahead, if there is something to gather.
    return {
        "gathered": rank.gathered(1 if rank.sharing > 1 else 0),
        "activations": _saved(rank, rank.shape.layers) + _saved_at_end(rank),
        "logits": FLOAT32 * head + max(of_logits * chunk, dtype * chunk + of_product * head),
    }


def _of_layers(rank: _Rank) -> list[Ledger]:
    """Memory at three moments of the layers' backward.

    Within the last layer's MLP; within that of the layer before, when the last layer's float32 gradients are still
    being reduced; and at a layer's end, when its gradients are copied to be reduced.
    """
    shape, dtype = rank.shape, rank.dtype
    gathered = rank.gathered(min(2, rank.sharing))
    waiting = dtype * rank.head_gradient
    of_mlp = 0 if rank.lora else dtype * shape.hidden * shape.intermediate
    work = rank.tokens * dtype * (2 * shape.intermediate + 2 * shape.hidden)
    again = _saved_by_layer(rank)
    work_last = work + (again if rank.recomputed == shape.layers else 0)
    work_before = work + (again if rank.recomputed >= max(1, shape.layers - 1) else 0)
    before = _saved(rank, max(1, shape.layers - 1))
    reducing = FLOAT32 * rank.trained_layer

    def moment(gathered: int, activations: int, unreduced: int) -> Ledger:
        return {"gathered": gathered, "activations": activations, "unreduced_gradients": waiting + unreduced}

    return [
        moment(gathered, _saved(rank, shape.layers) + work_last, of_mlp),
        moment(gathered, before + work_before, of_mlp + reducing),
        moment(gathered - dtype * rank.layer_parameters, before, dtype * rank.trained_layer + reducing),
    ]


def _last_reduction(rank: _Rank) -> Ledger:
    """Embedding and head come last: their whole gradients, the float32 copy of them, then this rank's part."""
    return {"unreduced_gradients": rank.trained_root * (FLOAT32 + max(rank.dtype, math.ceil(FLOAT32 / rank.sharing)))}


def _batch(rank: _Rank) -> int:
    """Bytes of all micro-batches of a step, which are on the device together (training/lockstep.py, pack_in_step).

    24 bytes a token, and 34 bytes a response token (training/packing.py).
    """
    return rank.rollouts * (24 * rank.longest + 34 * rank.config.rollout.max_tokens)


def _chunk(rank: _Rank) -> int:
    """Logits that exist at one time."""
    return min(rank.config.trainer.logprob_chunk_tokens, rank.responses) * rank.shape.vocab


def _saved(rank: _Rank, layers: int) -> int:
    """Activations of the first `layers` layers that wait for the backward; of recomputed ones the inputs alone."""
    rotary = 2 * rank.tokens * rank.dtype * rank.shape.head_dim
    layer_input = rank.tokens * rank.dtype * rank.shape.hidden
    recomputed = min(layers, rank.recomputed)
    return rotary + recomputed * layer_input + (layers - recomputed) * _saved_by_layer(rank)


def _saved_at_end(rank: _Rank) -> int:
    """Bytes kept by the final norm, and the hidden states that predict responses."""
    return rank.shape.hidden * (_norm_bytes(rank) * rank.tokens + rank.dtype * rank.responses)


def _saved_by_layer(rank: _Rank) -> int:
    """Bytes that the operations of one layer keep for their backward, as transformers computes it."""
    shape, dtype = rank.shape, rank.dtype
    attention = dtype if rank.cuda else FLOAT32  # CPUs compute it in float32 (training/attention.py)
    # Norms, and the inputs of the matrices that follow two of them.
    per_token = shape.norms * _norm_bytes(rank) * shape.hidden + 2 * dtype * shape.hidden
    per_token += _norm_bytes(rank) * (shape.query_width + shape.kv_width) * shape.qk_norm
    # Queries, keys and values, output, log-sum-exp; the output again if it changes type. Keys and values are repeated
    # to all heads on CPUs. The kernel for GPUs takes them as they are: an upper bound there, until it is measured.
    per_token += 4 * attention * shape.query_width + FLOAT32 * shape.heads
    per_token += 0 if attention == dtype else dtype * shape.query_width
    # Gate, its activation, up, their product.
    per_token += 4 * dtype * shape.intermediate
    # An adapter's narrow product.
    per_token += dtype * rank.lora * (len(rank.adapters) // 2)
    return rank.tokens * per_token


def _norm_bytes(rank: _Rank) -> int:
    """Bytes that an RMS norm keeps per element.

    Its input in float32, and for the gradient of its weight the normalised value (Gemma: in float32).
    """
    if rank.lora:
        return FLOAT32
    return FLOAT32 + (FLOAT32 if rank.shape.family.startswith("gemma") else rank.dtype)


def _sending(rank: _Rank, transfer: Transfer) -> int:
    """Bytes of a weight sync at its peak, when the largest tensor is sent."""
    model, method = rank.dtype * rank.shape.parameters, TRANSFERS[transfer]
    buffers = method.sender_bytes(model, rank.dtype * rank.shape.largest_tensor)
    if method.gathers_tensors or rank.lora:
        return buffers + _gathering(rank)
    arriving = min(BUCKET_BYTES, model) if rank.sharing > 1 else 0
    return buffers + arriving


def _gathering(rank: _Rank) -> int:
    """A tensor is cast and gathered (training/weights.py), while the one before it waits to be copied.

    Beside adapters the weights are in the compute dtype already, and the matrices have adapters merged into them.
    """
    largest = rank.dtype * rank.shape.largest_tensor
    cast = 0 if rank.dtype == FLOAT32 or rank.lora else largest // rank.sharing
    gathered = largest if rank.sharing > 1 else 0
    matrix = max(math.prod(t) for t in rank.shape.linears.values())
    merging = (3 * FLOAT32 + rank.dtype) * matrix if rank.lora else 0
    return max(cast + gathered, merging)


def _count(tensors: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(tensor) for tensor in tensors)
