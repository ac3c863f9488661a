"""The trainer: ranks, optimizer, micro-batches, LoRA."""

from __future__ import annotations

from typing import Annotated, Literal

from s2l_ray.config.section import (
    Field,
    Fractional,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    YamlWord,
    model_validator,
)
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import LrSchedule, Switch

OFFLOAD_THREADS = 8
"""A GPU's part of a node's cores is seldom less."""


class TrainerConfig(Section):
    """How an update is computed."""

    ranks: Positive | None = None
    """FSDP ranks, one actor each; default: the plan decides (on CPUs: 1)."""
    replicas: Literal["auto"] | Positive = 1
    """Copies of the sharded model (HSDP). The ranks are dealt in order to so many groups of equal size, of which each
    holds every weight, gradient and optimizer state once, in shards; gradients are summed over the groups once per
    optimizer step. 1: all ranks share one copy. As many as nodes: layers are gathered within a node, and every rank
    holds more. auto: the plan decides between 1 and one per node (on CPUs: 1). Loss and gradients are the same."""
    learning_rate: PositiveFloat = 1e-6
    """Learning rate of AdamW, after the warm-up and before lr_schedule lowers it."""
    betas: tuple[Fractional, Fractional] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moments."""
    eps: PositiveFloat = 1e-8
    """AdamW's term that is added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    decay_norms_and_embeddings: bool = False
    """Off: weight_decay leaves out norms, biases and embeddings (and an output layer tied to them)."""
    warmup_steps: NonNegative = 0
    """W: the n-th optimizer step up to the W-th has learning_rate * n / W."""
    lr_schedule: LrSchedule = "constant"
    """Learning rate after the warm-up. A run has N = schedule.steps * mini-batches per step optimizer steps (with
    objective.grouping: separate one of each source that samples). At the n-th the rate is
    learning_rate * (m + (1 - m) * f), with p = (n - 1 - W) / (N - W), m = lr_min_ratio and
    `constant`: f = 1; `linear`: f = 1 - p; `cosine`: f = (1 + cos(pi * p)) / 2.
    Steps that are skipped do not count in n."""
    lr_min_ratio: Fractional = 0.0
    """m: share of learning_rate that linear and cosine fall to."""
    grad_clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    skip_grad_norm: PositiveFloat | None = None
    """Skip an optimizer step whose global gradient norm, before clipping, is above this. Steps with a norm or loss that
    is not finite are always skipped; the metric skipped_updates counts both."""
    micro_batch_tokens: Positive = 8192
    """Packed tokens (prompt and response) of one forward; a longer sequence is a micro-batch of its own."""
    logprob_chunk_tokens: Positive = 1024
    """Tokens whose logits over the whole vocabulary exist at one time."""
    gradient_checkpointing: Annotated[Switch, YamlWord] = "auto"
    """Keep only each layer's input for backward and compute the rest again: less memory, about a third more time. Loss
    and gradients are the same. auto: off for CPUs; on CUDA for as many layers as the plan's memory ledger needs."""
    recomputed_layers: NonNegative | None = None
    """So many decoder layers, the first ones, are computed again instead of all or none, or what auto finds."""
    reshard_after_forward: bool = True
    """Off: layers that were gathered from all ranks for a forward stay whole until their backward. That saves a gather
    for every micro-batch, and takes a copy of the whole model in models.dtype on every device. Loss and gradients are
    the same."""
    compile: bool = False
    """Compile the decoder layers (torch.compile), for any number of tokens: a GPU else waits for Python between many
    small kernels. The first update takes longer. Weights move alike, but for rounding."""
    flash_attention: Literal[2, 3] = 2
    """FlashAttention of the trainer on GPUs. 3 is faster, works only on GPUs of compute capability 9.0 (H100, H200) and
    needs its package, which provides the module flash_attn_interface, on every node. 2 comes with torch."""
    deterministic: bool = False
    """Equal inputs give bit-equal updates, at some cost in speed; an operation that cannot raises an error."""
    lora_rank: NonNegative = 0
    """0: every weight is trained. Above: only adapters of this rank (LoRA, through peft) beside frozen weights, so
    gradients, optimizer states and float32 master weights exist for the adapters alone, and the reference of
    objective.kl is the learner without them. Engines, exports and checks get the merged weights."""
    lora_alpha: PositiveFloat = 32.0
    """An adapter's output is scaled by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers of the decoder with an adapter, such as [q_proj, v_proj]; empty: all of them."""
    cpu_offload: bool = False
    """CUDA: each rank keeps its shards of weights, gradients and optimizer states in host memory, copies a layer to the
    GPU when it is used, and steps the optimizer on the CPU: the GPU holds activations and a few layers. Slow, for
    models that do not fit otherwise. On CPUs everything is in host memory anyway."""
    threads: Positive | None = None
    """CPU threads per rank; default: 1, and 8 for cpu_offload on CUDA, where AdamW runs on the CPU."""
    cpus: PositiveFloat = 1.0
    """CPUs that Ray reserves per rank."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> TrainerConfig:
        if self.lr_min_ratio and self.lr_schedule == "constant":
            raise ValueError("lr_min_ratio needs lr_schedule: linear or cosine")
        if self.recomputed_layers is not None and self.gradient_checkpointing != "auto":
            raise ValueError("recomputed_layers needs gradient_checkpointing: auto")
        if self.ranks is not None and (problem := self.replicas_problem(self.ranks)):
            raise ValueError(problem)
        return self

    def replicas_of(self, ranks: int) -> int:
        """Into how many groups so many ranks are dealt; with auto one, unless a plan says how many.

        Raises:
            ConfigError: ranks do not divide by it.
        """
        if problem := self.replicas_problem(ranks):
            raise ConfigError(problem)
        return 1 if self.replicas == "auto" else self.replicas

    def replicas_problem(self, ranks: int) -> str | None:
        """Why so many ranks cannot be dealt to the replicas; None if they can."""
        if self.replicas == "auto" or ranks % self.replicas == 0:
            return None
        return (
            f"trainer.replicas: {self.replicas} does not divide {ranks} trainer rank{'' if ranks == 1 else 's'} into "
            "groups of equal size; set trainer.ranks to a multiple of it, or lower trainer.replicas"
        )

    def layers_recomputed(self, layers: int, *, cuda: bool) -> int:
        """How many of a model's layers are computed again; with auto on CUDA all, unless a plan says how many."""
        mode = self.gradient_checkpointing
        if self.recomputed_layers is not None:
            return min(self.recomputed_layers, layers)
        return layers if mode == "on" or (mode == "auto" and cuda) else 0

    def threads_on(self, *, cuda: bool) -> int:
        """CPU threads of a rank on a device of this kind."""
        return self.threads or (OFFLOAD_THREADS if self.cpu_offload and cuda else 1)

    def lr_schedule_problem(self, total_steps: int) -> str | None:
        """Why the learning rate of a run with this number of optimizer steps is not defined; None if it is."""
        if self.lr_schedule == "constant" or self.warmup_steps < total_steps:
            return None
        return (
            f"trainer.warmup_steps ({self.warmup_steps}) leaves none of the run's {total_steps} optimizer steps to "
            f"trainer.lr_schedule: {self.lr_schedule}; lower it or use constant"
        )
