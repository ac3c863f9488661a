"""The search space of a study: which values of which keys its trials have, drawn before anything starts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from s2l_ray.tuning.domain import Domain

Values = dict[str, Any]
"""What distinguishes a trial: values by dotted key, such as {"schedule.mix_steps": 40}."""


@dataclass(frozen=True)
class Space:
    """Domains by dotted key, in the order of the file."""

    domains: Mapping[str, Domain]
    runs: Sequence[Values] = ()
    """The only combinations that there are, if any are given: each has a value for every key."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys."""
        return tuple(self.domains)

    @property
    def is_listed(self) -> bool:
        """Whether the trials are the combinations of grids, or given runs."""
        return bool(self.runs) or any(domain.grid for domain in self.domains.values())

    @property
    def number_of_combinations(self) -> int:
        """How many combinations of the grids' values there are; 1 where there is no grid."""
        if self.runs:
            return len(self.runs)
        return math.prod(len(domain.grid) for domain in self.domains.values() if domain.grid)

    @property
    def combinations(self) -> list[Values]:
        """Every combination of the grids' values; one without values where there is no grid. Or the given runs."""
        if self.runs:
            return [dict(run) for run in self.runs]
        grids = {key: domain.grid for key, domain in self.domains.items() if domain.grid}
        return [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]

    def draw(self, trials: int, seed: int) -> list[Values]:
        """The values of each trial.

        The grids' combinations are gone through in the order of the file, with the same drawn values for all other
        keys; then with the next ones. The n-th drawn value of a key depends on n, the key and the seed only: a key that
        is added leaves the others' values as they are.

        Args:
            trials: how many; a multiple of the number of combinations.
            seed: any integer.
        """
        combinations = self.combinations
        drawn_keys = [key for key, domain in self.domains.items() if not (domain.grid or self.runs)]
        streams = {key: self._stream(key, seed) for key in drawn_keys}
        found = []
        for _ in range(trials // len(combinations)):
            drawn = {key: next(stream) for key, stream in streams.items()}
            found += [drawn | combination for combination in combinations]
        return [{key: values[key] for key in self.domains} for values in found]

    def corners(self) -> Iterator[Values]:
        """Every combination of the choices' values and of the ranges' bounds."""
        for values in product(*(domain.corners for domain in self.domains.values())):
            yield dict(zip(self.domains, values, strict=True))

    def _stream(self, key: str, seed: int) -> Iterator[Any]:
        generator = random.Random(f"{seed}/{key}")
        while True:
            yield self.domains[key].draw(generator)


def written(values: Mapping[str, Any]) -> str:
    """Values as overrides, for messages: `schedule.mix_steps=40, trainer.learning_rate=0.0002`."""
    from s2l_ray.config.reference import as_yaml

    return ", ".join(f"{key}={as_yaml(value)}" for key, value in values.items())
