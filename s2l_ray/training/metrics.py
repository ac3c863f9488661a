"""The sums that an update's metrics are made of: over tokens, rollouts and groups, until all ranks add theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from s2l_ray.objective import Correction, PolicyLoss
from s2l_ray.rollout import RolloutGroup, Source
from s2l_ray.training.packing import MicroBatch

if TYPE_CHECKING:
    from s2l_ray.training.update import Share

SOURCES: tuple[Source, ...] = ("explorer", "learner")
OF_TOKENS = ("tokens", "logprob", "ratio", "clipped", "weight", "kept", "gap")
"""Summed over the trained tokens of each source."""
OF_GROUPS = (
    "zero_variance_groups",
    "skipped_rollouts",
    "explorer_mass",
    "mass",
    "solved_only/explorer",
    "solved_only/learner",
    "mixed_groups",
)


class MetricSums:
    """Add what was seen, then `metrics` on every rank."""

    NAMES = (*(f"{name}/{source}" for source in SOURCES for name in OF_TOKENS), "kl", "kl_tokens", *OF_GROUPS)

    def __init__(self, device: torch.device):
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in self.NAMES}
        self._largest_gap = torch.zeros((), dtype=torch.float64, device=device)

    def add_groups(self, groups: list[RolloutGroup]) -> None:
        """Groups as the prompts have them, both sources together."""
        for group in groups:
            solved = {
                source: [
                    r.verdict is not None and r.verdict.status == "right" for r in group.rollouts if r.source == source
                ]
                for source in SOURCES
            }
            if all(solved.values()):
                explorer, learner = any(solved["explorer"]), any(solved["learner"])
                self._sums["mixed_groups"] += 1
                self._sums["solved_only/explorer"] += explorer and not learner
                self._sums["solved_only/learner"] += learner and not explorer

    def add_share(self, share: Share) -> None:
        for name in ("zero_variance_groups", "skipped_rollouts", "explorer_mass", "mass"):
            self._sums[name] += getattr(share, name)

    def add_tokens(self, batch: MicroBatch, old: Tensor, policy: PolicyLoss, corrected: Correction | None) -> None:
        """`old` are the learner's log-probs under the weights that the learner's rollouts were sampled with."""
        gap = (batch.engine_logprobs - old).abs()
        for source, of_source in zip(SOURCES, (batch.from_explorer, ~batch.from_explorer), strict=True):
            these = batch.real & of_source
            values = {"tokens": these, "logprob": old, "ratio": policy.ratio, "clipped": policy.clipped, "gap": gap}
            if corrected is not None:
                values |= {"weight": corrected.weights, "kept": corrected.kept}
            for name, value in values.items():
                self._sums[f"{name}/{source}"] += (value * these).sum().double()
        learner_gap = gap * (batch.real & ~batch.from_explorer)
        self._largest_gap = torch.maximum(self._largest_gap, learner_gap.max().double())

    def add_kl(self, batch: MicroBatch, kl: Tensor) -> None:
        self._sums["kl"] += (kl * batch.real).sum().double()
        self._sums["kl_tokens"] += batch.real.sum()

    def metrics(
        self,
        all_reduce_sum: Callable[[Tensor], Tensor],
        all_reduce_max: Callable[[Tensor], Tensor],
        *,
        corrected: tuple[Source, ...] = (),
    ) -> dict[str, float]:
        """Means over all ranks' tokens. A mean over nothing is left out.

        Args:
            corrected: sources whose tokens have importance weights.
        """
        mine = torch.stack([self._sums[name] for name in self.NAMES]).cpu()
        total = dict(zip(self.NAMES, all_reduce_sum(mine).tolist(), strict=True))
        largest_gap = all_reduce_max(self._largest_gap.cpu()).item()
        tokens = {source: total[f"tokens/{source}"] for source in SOURCES}
        trained = sum(tokens.values())
        result = {name: total[name] for name in OF_GROUPS if not name.endswith("mass")} | {"trained_tokens": trained}
        if trained:
            result["ratio_mean"] = sum(total[f"ratio/{s}"] for s in SOURCES) / trained
            result["clip_fraction"] = sum(total[f"clipped/{s}"] for s in SOURCES) / trained
        if total["kl_tokens"]:
            result["kl"] = total["kl"] / total["kl_tokens"]
        for source in SOURCES:
            if tokens[source]:
                result |= _of_source(total, source, tokens[source], source in corrected)
        if tokens["learner"]:
            result["logprob_gap/learner_max"] = largest_gap
        if total["mass"]:
            result["advantage_mass/explorer"] = total["explorer_mass"] / total["mass"]
        return result


def _of_source(total: dict[str, float], source: Source, tokens: float, corrected: bool) -> dict[str, float]:
    names = {"logprob": "logprob", "ratio": "ratio", "clipped": "clip_fraction", "gap": "logprob_gap"}
    if corrected:
        names |= {"weight": "correction_weight", "kept": "correction_kept"}
    return {f"{shown}/{source}": total[f"{name}/{source}"] / tokens for name, shown in names.items()}
