"""Verifiers of your own: partial credit for answers in the right form, and one for data that mixes tasks.

Run the first from the directory above:

    s2l train quickstart verifier.kind=examples.verifier:partial_credit

The second is for files whose rows say in a column which task they are of:

    s2l train CONFIG verifier.kind=examples.verifier:by_data_source 'verifier.columns=[data_source]'

A function is called for each response, in processes of its own that are killed when a check takes longer than
verifier.timeout_s. It returns a bool, a reward in [0, 1], where exactly 1 means right, or a
`s2l_ray.rollouts.records.Verdict`, which can also say that an answer is unparsable.
"""

from __future__ import annotations

from s2l_ray.miniature.countdown import check
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.math_answers import check_math


def partial_credit(response: str, answer: str, question: str) -> float:
    """1 for a solution of the countdown problem `answer`, 0.1 for steps that break one of its rules, else 0."""
    status = check(response, answer).status
    return {"right": 1.0, "wrong": 0.1}.get(status, 0.0)


def by_data_source(response: str, answer: str, question: str, data_source: str) -> float | Verdict:
    """Partial credit where a row's column `data_source` is "countdown"; everything else is mathematics."""
    if data_source == "countdown":
        return partial_credit(response, answer, question)
    return check_math(response, answer, question, extract="strict")
