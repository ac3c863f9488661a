"""What values one key of a search space may take, and how they are drawn."""

from __future__ import annotations

import math
import random
from typing import Annotated, Any, Literal

from s2l_ray.config.section import Field, Section, model_validator

DomainKind = Literal["choice", "grid", "uniform", "loguniform", "randint"]
DIGITS = 4
"""Significant digits of numbers that are drawn."""
Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class Domain(Section):
    """The values of one key. A list is short for `choice`."""

    choice: Values | None = None
    """One of these values, each as likely as the others."""
    grid: Values | None = None
    """Every one of these values, together with every one of the other grids."""
    uniform: tuple[float, float] | None = None
    """A number between these two, bounds included, each as likely as the others."""
    loguniform: tuple[float, float] | None = None
    """A number between these two, whose logarithm is uniform: for learning rates and the like."""
    randint: tuple[int, int] | None = None
    """An integer between these two, both included (Ray's own randint leaves the second out)."""

    @model_validator(mode="before")
    @classmethod
    def _list_is_choice(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {"choice": value}
        if not isinstance(value, dict | Domain):
            raise ValueError(
                "give a list of values, or one of choice, grid, uniform, loguniform, randint; a single "
                "value that all trials have belongs in config"
            )
        return value

    @model_validator(mode="after")
    def _one_that_is_possible(self) -> Domain:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of choice, grid, uniform, loguniform, randint")
        if self.values and any(value in self.values[:i] for i, value in enumerate(self.values)):
            raise ValueError(f"{given[0]} has a value twice")
        if bounds := self.bounds:
            low, high = bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{given[0]} needs two numbers, the smaller one first")
            if self.loguniform and low <= 0:
                raise ValueError("loguniform needs numbers above 0")
        return self

    @property
    def kind(self) -> DomainKind:
        """Which of its keys is given."""
        kinds: tuple[DomainKind, ...] = ("choice", "grid", "uniform", "loguniform", "randint")
        return next(kind for kind in kinds if getattr(self, kind) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """The values of a choice or grid; none for a range of numbers."""
        return self.choice or self.grid or ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The bounds of a range of numbers, both included; None for a choice or grid."""
        return self.uniform or self.loguniform or self.randint

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values of a choice or grid, the bounds of a range."""
        return self.values or self.bounds or ()

    def draw(self, generator: random.Random) -> Any:
        """One value, at random."""
        if self.values:
            return generator.choice(self.values)
        if self.randint:
            return generator.randint(*self.randint)
        if self.uniform:
            return self.within(generator.uniform(*self.uniform))
        low, high = self.bounds or (1.0, 1.0)
        return self.within(math.exp(generator.uniform(math.log(low), math.log(high))))

    def scaled(self, value: Any, factor: float) -> Any:
        """A number of the range times a factor, `within` the bounds; an integer moves by at least one.

        A small integer would never change otherwise: 2 times 0.8 or 1.2 rounds to 2 again.
        """
        if self.randint and round(value * factor) == value:
            return self.within(value + (1 if factor > 1 else -1))
        return self.within(value * factor)

    def within(self, value: Any) -> Any:
        """The number itself, rounded to what people read, or the bound that is nearest to it."""
        if self.bounds is None:
            return value
        low, high = self.bounds
        return min(max(round(value) if self.randint else float(f"{value:.{DIGITS}g}"), low), high)
