"""The verifier `math` against labels that people would give (tests/support/grading)."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.tasks.math_answers import check_math
from tests.support.grading import Labelled, corpus

KINDS = sorted({row.kind for row in corpus()})


def disagreements(rows: list[Labelled]) -> list[str]:
    found = []
    for row in rows:
        for level in get_args(ExtractionLevel):
            label, paid = getattr(row, level), check_math(row.response, row.gold, row.question, level)
            if paid.reward != label:
                found.append(f"{level} {label}, {paid}: gold {row.gold!r}, response {row.response!r} ({row.why})")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_paid_what_its_label_says(kind: str) -> None:
    different = disagreements([row for row in corpus() if row.kind == kind])
    assert not different, "\n".join(different)


def test_rows_are_well_formed() -> None:
    assert len(corpus()) >= 300
    assert all(row.strict in (0, 1) and row.strict <= row.lenient <= 1 for row in corpus())
    assert all(row.why for row in corpus())
    twice = Counter((row.gold, row.response) for row in corpus())
    assert [pair for pair, times in twice.items() if times > 1] == []
