"""Sums over tokens, rollouts and groups on one rank, and the metrics of an update from those of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from s2l_ray.kinds import Source
from s2l_ray.objective import Correction, PolicyLoss, k3
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.packing import MicroBatch

if TYPE_CHECKING:
    from s2l_ray.training.packing import RankShare

SOURCES: tuple[Source, ...] = ("explorer", "learner")
OF_TOKENS = ("tokens", "entropy", "ratio", "clipped", "weight", "kept", "scored", "logprob", "gap", "sampler_kl")
"""Names of sums over the trained tokens of each source. `entropy` is the policy's, in nats, under the weights that each
mini-batch is trained from. `scored` counts those whose log-probs under the weights before the update are known, and the
last three are over these; `sampler_kl` estimates KL(who sampled || learner before the update) by k3."""
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
    """Accumulates the sums of one update; `metrics`, a collective, combines those of all ranks."""

    NAMES = (*(f"{name}/{source}" for source in SOURCES for name in OF_TOKENS), "kl", "kl_tokens", *OF_GROUPS)

    def __init__(self, device: torch.device):
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in self.NAMES}
        self._largest_gap = torch.zeros((), dtype=torch.float64, device=device)

    def add_groups(self, groups: list[RolloutGroup]) -> None:
        """Count which source solved each group. Groups are whole, with the rollouts of both sources."""
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

    def add_share(self, share: RankShare) -> None:
        """Add what this rank computes of one optimizer step."""
        for name in ("zero_variance_groups", "skipped_rollouts", "explorer_mass", "mass"):
            self._sums[name] += getattr(share, name)

    def add_tokens(
        self,
        batch: MicroBatch,
        before: Tensor | None,
        policy: PolicyLoss,
        corrected: Correction | None,
        entropy: Tensor,
    ) -> None:
        """Add the tokens of a micro-batch.

        Args:
            batch: N response tokens.
            before: float32 [N], the learner's log-probs under the weights before the update; None if not known.
            policy: their losses.
            corrected: their importance weights; None if neither source is corrected.
            entropy: float32 [N], without gradient.
        """
        compared: dict[str, Tensor] = {}
        if before is not None:
            gap = (batch.engine_logprobs - before).abs()
            compared = {"logprob": before, "gap": gap, "sampler_kl": k3(batch.engine_logprobs, before)}
            learner_gap = gap.masked_fill(~batch.real | batch.from_explorer, 0)
            self._largest_gap = torch.maximum(self._largest_gap, learner_gap.max().double())
        for source, of_source in zip(SOURCES, (batch.from_explorer, ~batch.from_explorer), strict=True):
            these = batch.real & of_source
            values = {"tokens": these, "entropy": entropy, "ratio": policy.ratio, "clipped": policy.clipped}
            if compared:
                values |= {"scored": these, **compared}
            if corrected is not None:
                values |= {"weight": corrected.weights, "kept": corrected.kept}
            for name, value in values.items():
                self._sums[f"{name}/{source}"] += value.masked_fill(~these, 0).sum().double()

    def add_kl(self, batch: MicroBatch, kl: Tensor) -> None:
        """Add KL estimates of a micro-batch, float32 [N] without gradient."""
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
        if total["scored/learner"]:
            result["logprob_gap/learner_max"] = largest_gap
        if total["mass"]:
            result["advantage_mass/explorer"] = total["explorer_mass"] / total["mass"]
        return result


def _of_source(total: dict[str, float], source: Source, tokens: float, corrected: bool) -> dict[str, float]:
    def means(names: dict[str, str], count: float) -> dict[str, float]:
        return {f"{shown}/{source}": total[f"{name}/{source}"] / count for name, shown in names.items()}

    names = {"entropy": "entropy", "ratio": "ratio", "clipped": "clip_fraction"}
    if corrected:
        names |= {"weight": "correction_weight", "kept": "correction_kept"}
    found = means(names, tokens)
    if scored := total[f"scored/{source}"]:
        found |= means({"logprob": "logprob", "gap": "logprob_gap", "sampler_kl": "sampler_kl"}, scored)
        found[f"perplexity/{source}"] = float(np.exp(-found[f"logprob/{source}"]))
    return found
