"""The plans that docs/concepts/plan.md shows are those that are made now."""

from __future__ import annotations

import pytest

from tests.support.paper_plans import Column, columns, problems, tables, varied
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "concepts" / "plan.md").read_text()
AGAIN = "put the output of `python -m tests.support.paper_plans` there"


@pytest.fixture(scope="module")
def plans() -> list[Column]:
    return columns()


def test_the_tables_of_the_papers_set_ups(plans: list[Column]) -> None:
    assert all(column.plan.fits for column in plans)
    for table in tables(plans):
        assert "\n".join(["", "", *table, "", ""]) in PAGE, AGAIN


def test_what_other_settings_would_change(plans: list[Column]) -> None:
    assert "\n".join(["", "", *varied(plans), "", ""]) in PAGE, AGAIN


def test_why_the_published_settings_do_not_fit_on_24_gb() -> None:
    assert "\n".join(["", *problems(), "```"]) in PAGE, AGAIN


def test_the_rate_that_is_compared_with_a_published_one(plans: list[Column]) -> None:
    """1,024 prompts of 16 rollouts with 2,048 tokens each, over a step on 8 GPUs; 1,581 is NeMo-RL's."""
    rate = 1024 * 16 * 2048 / 8 / plans[0].phase("on-policy").step_seconds
    assert f"| {round(rate, -1):,.0f} | 1,581 | {rate / 1581:.1f} |" in PAGE
