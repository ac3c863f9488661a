"""The work of a run: its phases, and the rollouts and tokens of each of their steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from s2l_ray.compute import update_passes
from s2l_ray.kinds import PhaseName
from s2l_ray.placement.plan import PHASES
from s2l_ray.planner.architecture import ModelShape

if TYPE_CHECKING:
    from s2l_ray.config import Config

MEAN_OF_LIMIT = 0.5
"""Mean prompt and response length as a share of data.max_prompt_tokens and rollout.max_tokens, where nothing better is
known. Responses grow in training: plan with what you expect late in the run, `mean_response_tokens`."""


@dataclass(frozen=True)
class Split:
    """Steps with one split of the groups."""

    explorer: int
    """G_w."""
    learner: int
    """G_s."""
    steps: int


@dataclass(frozen=True)
class PhaseWork:
    """Steps `first_step` to `last_step`, both included."""

    name: PhaseName
    first_step: int
    last_step: int
    splits: tuple[Split, ...]
    """Every split of the phase with its number of steps, in the order of the schedule."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.last_step - self.first_step + 1

    @cached_property
    def explorer_groups(self) -> int:
        """Sum of G_w over the steps: explorer rollouts per prompt."""
        return sum(split.explorer * split.steps for split in self.splits)

    @cached_property
    def learner_groups(self) -> int:
        """Sum of G_s over the steps."""
        return sum(split.learner * split.steps for split in self.splits)


@dataclass(frozen=True)
class Workload:
    """A run, as far as placement cares."""

    phases: tuple[PhaseWork, ...]
    steps: int
    """T."""
    group_size: int
    """G."""
    prompts: int
    """Prompts of each step."""
    prompt_tokens: float
    """Mean length."""
    response_tokens: float
    """Mean length."""
    max_tokens: int
    """Longest response."""
    mini_batch_prompts: int
    micro_batch_tokens: int
    recompute: float
    """Gradient checkpointing: share of the layers whose forward is done again in backward."""
    keeps_gathered: bool
    """Layers stay gathered from the forward to the backward (trainer.reshard_after_forward off)."""
    reference: bool
    """A frozen reference model is forwarded for the KL term."""
    kl_in_reward: bool
    """Policy and reference are forwarded once more, over every rollout, before the update."""
    separate_groups: bool
    """Each mini-batch that has rollouts of both sources is two optimizer steps."""
    old_from_engine: bool
    """Old log-probs of the learner's rollouts are the engines' (objective.old_logprobs)."""
    lora: bool
    offload: bool
    """Master weights, gradients and optimizer states live in host memory (trainer.cpu_offload)."""
    ahead: bool
    """Explorer engines may sample for coming steps while the rest of the step goes on."""
    stale: bool
    """The learner's engines may sample for the next step while the trainer works (rollout.max_staleness)."""
    banked: bool
    """Explorer rollouts are read from the bank (bank.mode: read): they take no engine and no time."""

    @property
    def sequence_tokens(self) -> float:
        """Mean length of prompt and response together."""
        return self.prompt_tokens + self.response_tokens

    @property
    def explores(self) -> bool:
        """Whether there is work for explorer engines."""
        return not self.banked and any(phase.explorer_groups for phase in self.phases)

    def explored(self, split: Split) -> int:
        """Rollouts of a group that explorer engines sample."""
        return 0 if self.banked else split.explorer

    def optimizer_steps(self, split: Split) -> int:
        """Number of optimizer steps in a step with this split."""
        both = split.explorer > 0 and split.learner > 0
        return -(-self.prompts // self.mini_batch_prompts) * (2 if self.separate_groups and both else 1)

    def forwards(self, split: Split) -> float:
        """Forward passes over the step's tokens that the trainer's FLOPs amount to: `update_passes`, and recompute."""
        return self._passes(split, lora=self.lora) + self.recompute

    def gathers(self, split: Split) -> float:
        """Passes over the step's tokens for which a rank gathers the weights: forwards, and backwards of any kind."""
        # A backward has two forwards' FLOPs and gathers once, which serves the recomputation too.
        return self._passes(split, lora=False) - 1 - self.keeps_gathered

    def _passes(self, split: Split, *, lora: bool) -> float:
        rescored = split.explorer / self.group_size if self.old_from_engine else 1
        return update_passes(
            self.optimizer_steps(split),
            rescored=rescored,
            reference=self.reference,
            kl_in_reward=self.kl_in_reward,
            lora=lora,
        )


def workload(config: Config, *, cuda: bool, mean_response_tokens: float | None = None) -> Workload:
    """The work of a configured run.

    Args:
        cuda: whether the trainer runs on GPUs, which decides trainer.gradient_checkpointing: auto.
        mean_response_tokens: default: MEAN_OF_LIMIT of rollout.max_tokens.
    """
    rollout, objective, trainer = config.rollout, config.objective, config.trainer
    return Workload(
        phases=phases(config),
        steps=config.schedule.steps,
        group_size=rollout.group_size,
        prompts=rollout.prompts_per_step,
        prompt_tokens=max(1.0, MEAN_OF_LIMIT * config.data.max_prompt_tokens),
        response_tokens=min(float(rollout.max_tokens), mean_response_tokens or MEAN_OF_LIMIT * rollout.max_tokens),
        max_tokens=rollout.max_tokens,
        mini_batch_prompts=objective.mini_batch_prompts or rollout.prompts_per_step,
        micro_batch_tokens=trainer.micro_batch_tokens,
        recompute=_recomputed(config, cuda),
        keeps_gathered=not trainer.reshard_after_forward,
        reference=objective.kl > 0,
        kl_in_reward=objective.kl > 0 and objective.kl_in == "reward",
        separate_groups=objective.grouping == "separate",
        old_from_engine=objective.old_logprobs == "engine",
        lora=trainer.lora_rank > 0,
        offload=trainer.cpu_offload and cuda,
        ahead=rollout.prefetch_steps > 0,
        stale=rollout.max_staleness > 0,
        banked=config.bank.mode == "read",
    )


def _recomputed(config: Config, cuda: bool) -> float:
    """Share of the learner's layers."""
    trainer = config.trainer
    if trainer.recomputed_layers is None:
        return float(trainer.layers_recomputed(1, cuda=cuda))
    layers = ModelShape.load(config.models.learner).layers
    return trainer.layers_recomputed(layers, cuda=cuda) / layers


def phases(config: Config) -> tuple[PhaseWork, ...]:
    """Explore (G_s = 0), mix, on-policy (G_w = 0), in this order and without gaps; those without steps are left out."""
    schedule = config.schedule.build(config.rollout.group_size).nominal()
    splits = [schedule.split(step) for step in range(1, config.schedule.steps + 1)]
    names = ["explore" if s.learner == 0 else "on-policy" if s.explorer == 0 else "mix" for s in splits]
    found = []
    for name in PHASES:
        if name not in names:
            continue
        own = [split for split, of in zip(splits, names, strict=True) if of == name]
        counts = Counter((split.explorer, split.learner) for split in own)
        rows = tuple(Split(explorer, learner, steps) for (explorer, learner), steps in counts.items())
        found.append(PhaseWork(name, own[0].step, own[-1].step, rows))
    return tuple(found)
