"""The solution that a response gives: what is counted when different solutions are."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from s2l_ray.miniature.expressions import solution_expression
from s2l_ray.rollouts.records import Rollout
from s2l_ray.tasks.grading.text import compact, normalised

SolutionOf = Callable[[Rollout, str], Hashable | None]
"""solution(rollout, gold answer); None: the response gives none that can be read."""


def solution_reader(verifier: str) -> SolutionOf:
    """How solutions are told apart where `verifier` (`verifier.kind`) judges them.

    countdown: by the expression that the steps make of the given numbers, up to the order of steps and operands.
    math and choice: by the final answer as the verifier normalises it; every right one is the same. Any other verifier:
    by its text, blanks apart.
    """
    return {"countdown": _expression, "math": _final_answer, "choice": _final_answer}.get(verifier, _text)


def _expression(rollout: Rollout, answer: str) -> Hashable | None:
    return solution_expression(rollout.text, answer)


def _final_answer(rollout: Rollout, answer: str) -> Hashable | None:
    verdict = rollout.judged
    if verdict.status == "right":
        return True
    return compact(normalised(verdict.detail)) if verdict.status == "wrong" else None


def _text(rollout: Rollout, answer: str) -> Hashable | None:
    return tuple(rollout.text.split()) or None
