"""Rollouts under the learner: log-probs and entropies of their tokens at any temperatures, in one forward each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from s2l_ray.rollouts.records import RolloutSet
from s2l_ray.training.logprobs import chunked_scores
from s2l_ray.training.model import PackedPolicy
from s2l_ray.training.packing import MicroBatch, TrainSequence, micro_batches, pack

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""progress(done, of)"""

TEMPERATURES = tuple(float(t) for t in np.geomspace(1 / 8, 8, 25))
"""Among which the likeliest temperature is sought, as multiples of the learner's; 2 ** (1/4) apart."""


@dataclass(frozen=True)
class Scores:
    """One problem's rollouts under the learner, at one temperature."""

    logprobs: list[Floats]
    """float64 [tokens] of each rollout: natural logarithms."""
    entropies: list[Floats]
    """float64 [tokens] of each rollout, in nats: of the distribution over the vocabulary at each token."""

    @property
    def deviations(self) -> list[Floats]:
        """-log p - H of each token, in nats (`correlation`)."""
        return [-p - h for p, h in zip(self.logprobs, self.entropies, strict=True)]


class LearnerScores:
    """Computes scores under the learner.

    Args:
        policy: the learner.
        budget: tokens of a packed row.
    """

    def __init__(self, policy: PackedPolicy, budget: int) -> None:
        self._policy = policy
        self._budget = budget

    def at(self, problems: Sequence[RolloutSet], temperature: float, progress: Progress) -> list[Scores]:
        """The scores of all rollouts at a temperature, by problem and rollout."""
        rows, done = _rows(problems, self._budget), 0
        found: dict[int, tuple[Floats, Floats]] = {}
        total = sum(len(row) for row in rows)
        for row in rows:
            (scores,) = self._scored([sequence for _, sequence in row], (temperature,))
            ends = np.cumsum([sequence.response_tokens for _, sequence in row])[:-1]
            parts = zip(*(np.split(column, ends) for column in scores), strict=True)
            found.update((index, part) for (index, _), part in zip(row, parts, strict=True))
            progress(done := done + len(row), total)
        return _by_problem(problems, found)

    def best_temperature(self, problems: Sequence[RolloutSet], reference: float, progress: Progress) -> float:
        """The temperature of the learner under which the rollouts are likeliest.

        The derivative of sum log p_T by 1 / T is -T times the sum of deviations at T. It has at most one root, since
        log p_T is concave in 1 / T. The root is interpolated between TEMPERATURES; beyond their ends it is the end.

        Args:
            reference: what TEMPERATURES are multiples of.
        """
        rows, done = _rows(problems, self._budget), 0
        temperatures = [reference * factor for factor in TEMPERATURES]
        sums = np.zeros(len(temperatures))
        total = sum(len(row) for row in rows)
        for row in rows:
            scores = self._scored([sequence for _, sequence in row], temperatures)
            sums += [float((-logprobs - entropies).sum()) for logprobs, entropies in scores]
            progress(done := done + len(row), total)
        return root(np.log(temperatures), -sums * temperatures)

    @torch.no_grad()
    def _scored(self, row: list[TrainSequence], temperatures: Sequence[float]) -> list[tuple[Floats, Floats]]:
        policy = self._policy
        head = policy.model.get_output_embeddings().weight
        batch = pack(row).to(head.device)
        hidden = _hidden(policy, batch)
        scored = [
            chunked_scores(hidden, head, batch.targets, temperature=each, chunk=policy.chunk, softcap=policy.softcap)
            for each in temperatures
        ]
        return [(s.logprobs.double().cpu().numpy(), s.entropy.double().cpu().numpy()) for s in scored]


def root(log_temperatures: Floats, slopes: Floats) -> float:
    """The temperature at which the slope is 0, by PCHIP interpolation over log T; the nearer end if it has one sign.

    Args:
        log_temperatures: float64 [n], ascending.
        slopes: float64 [n]: derivatives of the log-likelihood by 1 / T at them, falling with 1 / T, rising with T.
    """
    from scipy.interpolate import PchipInterpolator

    if slopes[0] >= 0 or slopes[-1] <= 0:
        return float(np.exp(log_temperatures[0 if slopes[0] >= 0 else -1]))
    (found,) = PchipInterpolator(log_temperatures, slopes).roots(extrapolate=False)[:1]
    return float(np.exp(found))


def _hidden(policy: PackedPolicy, batch: MicroBatch) -> torch.Tensor:
    """The hidden states that predict the response tokens: [N, width]."""
    hidden = policy.model.base_model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, packed=batch.layout
    ).last_hidden_state[0]
    found: torch.Tensor = hidden.index_select(0, batch.predictors)
    return found


_Row = list[tuple[int, TrainSequence]]


def _rows(problems: Sequence[RolloutSet], budget: int) -> list[_Row]:
    """All rollouts with tokens as packed rows, each with its number among all rollouts."""
    numbered: dict[int, int] = {}
    sequences: list[TrainSequence] = []
    index = 0
    for problem in problems:
        for rollout in problem.rollouts:
            if count := len(rollout.token_ids):
                ids = np.concatenate([problem.prompt_token_ids, rollout.token_ids]).astype(np.int64)
                sequences.append(TrainSequence(ids, count, rollout.logprobs, False, 0.0, 0.0))
                numbered[id(sequences[-1])] = index
            index += 1
    return [[(numbered[id(s)], s) for s in row] for row in micro_batches(sequences, budget)]


def _by_problem(problems: Sequence[RolloutSet], found: dict[int, tuple[Floats, Floats]]) -> list[Scores]:
    nothing = np.zeros(0), np.zeros(0)
    index, scores = 0, []
    for problem in problems:
        columns = [found.get(index + i, nothing) for i in range(len(problem.rollouts))]
        scores.append(Scores([logprobs for logprobs, _ in columns], [entropies for _, entropies in columns]))
        index += len(problem.rollouts)
    return scores
