"""Which keys of a study its figure shows: one on the horizontal axis, one as colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.style import MUTED, SERIES_COLOURS
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.ranking import SEED
from s2l_ray.tuning.wording import value_text

FIRST = "schedule.mix_steps"
"""T_mix, the key that a study of schedules is about: on the axis if it is varied."""
COLOURED = "schedule.kind"
"""The key that colours show if it is varied."""
LOG = "trainer.learning_rate"
"""The key whose axis is always logarithmic."""
LOG_FROM = 8.0
"""Of others: ratio of the largest value to the smallest from which an axis is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """A key on the horizontal axis, and where each value of it is."""

    key: str
    categories: tuple[str, ...]
    """In order of places 0, 1, ...; empty: numbers, which are their own places."""
    is_log: bool

    def place(self, value: Any) -> float:
        """Where a value is."""
        return float(self.categories.index(value_text(value)) if self.categories else value)


def horizontal(keys: Sequence[str], outcomes: Sequence[TrialOutcome]) -> Axis | None:
    """The axis: T_mix if it varies, else the number with the most different values, else the first key that varies.

    The seed is on it only where nothing else varies.
    """
    varied = [key for key in keys if len(_distinct(key, outcomes)) > 1]
    varied = [key for key in varied if key != SEED] or varied or list(keys[:1])
    if not varied:
        return None
    numbers = [key for key in varied if all(_is_number(o.values.get(key)) for o in outcomes)]
    if numbers:
        key = FIRST if FIRST in numbers else max(numbers, key=lambda key: len(_distinct(key, outcomes)))
        values = [o.values[key] for o in outcomes]
        return Axis(key, (), min(values) > 0 and (key == LOG or max(values) >= LOG_FROM * min(values)))
    return Axis(varied[0], tuple(_distinct(varied[0], outcomes)), False)


def colours(
    keys: Sequence[str], outcomes: Sequence[TrialOutcome], axis: Axis | None
) -> tuple[str | None, dict[str, str]]:
    """The key that colours show, None for none, and the colour of each of its values as a text.

    It is schedule.kind if that varies, else the first key with as few different values as there are colours.
    """
    few = [key for key in keys if key != SEED and 1 < len(_distinct(key, outcomes)) <= len(SERIES_COLOURS)]
    few = [key for key in few if axis is None or axis.categories or key != axis.key]
    if not few:
        return None, {}
    key = COLOURED if COLOURED in few else few[0]
    return key, dict(zip(_distinct(key, outcomes), SERIES_COLOURS, strict=False))


def colour_of(outcome: TrialOutcome, key: str | None, by_value: Mapping[str, str]) -> str:
    """The colour of a trial."""
    return SERIES_COLOURS[0] if key is None else by_value.get(value_text(outcome.values.get(key)), MUTED)


def _distinct(key: str, outcomes: Sequence[TrialOutcome]) -> list[str]:
    """The different values of a key as texts: numbers in their order, texts in the order of the alphabet."""
    values: list[Any] = [outcome.values.get(key) for outcome in outcomes]
    in_order = sorted(values) if all(map(_is_number, values)) else sorted(values, key=value_text)
    return list(dict.fromkeys(map(value_text, in_order)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
