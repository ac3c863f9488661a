"""What is compared: rollouts of the same problems by several policies, beside the learner's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from s2l_ray.diversity.matching import Match
from s2l_ray.errors import DataError
from s2l_ray.rollouts.records import Rollout, RolloutSet

SourceKind = Literal["learner", "token_level", "policy_level"]
"""learner: as it is trained; token_level: the learner at another temperature; policy_level: another model."""


@dataclass(frozen=True)
class SampledSource:
    """The rollouts of one policy, verified."""

    name: str
    """Unique among what is compared, such as "learner T=1.5"."""
    kind: SourceKind
    model: str
    """What its user calls the model: a path, or a part of the embedded family."""
    temperature: float
    problems: list[RolloutSet]
    """One set for each problem, each of n rollouts."""

    @property
    def samples(self) -> int:
        """n, rollouts of each problem."""
        return len(self.problems[0].rollouts)

    @property
    def rollouts(self) -> list[Rollout]:
        """All rollouts, problem by problem."""
        return [rollout for problem in self.problems for rollout in problem.rollouts]


@dataclass(frozen=True)
class Sampled:
    """The samples of a comparison."""

    name: str
    """Of the benchmark."""
    sources: list[SampledSource]
    """The learner first."""
    answers: Mapping[str, str]
    """Gold answers by problem id."""
    matches: Mapping[str, Match]
    """Of temperatures that were sought: what the search ended at, by the name of the source that was matched."""


def check_matched(sources: list[SampledSource]) -> None:
    """Matched samples: the same problems in the same order, and n rollouts of each by every source.

    Raises:
        DataError: a source has other problems, or another number of samples; it is named.
    """
    first = sources[0]
    if not first.problems or not first.samples:
        raise DataError(f"{first.name} has no samples; give problems, and at least 2 samples of each")
    wanted = [problem.prompt_id for problem in first.problems]
    for source in sources:
        if [problem.prompt_id for problem in source.problems] != wanted:
            raise DataError(f"{source.name} has not the problems of {first.name} in their order; sample the same ones")
        for problem in source.problems:
            if len(problem.rollouts) != first.samples:
                raise DataError(
                    f"{source.name} has {len(problem.rollouts)} samples of problem {problem.prompt_id} and "
                    f"{first.name} {first.samples}; draw as many from each"
                )
