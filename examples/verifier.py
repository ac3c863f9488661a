"""A verifier of your own: partial credit for answers in the right form.

Run it from the directory above:

    s2l train quickstart verifier.kind=examples.verifier:partial_credit

The function is called for each response, in processes of its own that are killed when a check takes longer than
verifier.timeout_s. It returns a bool, a reward in [0, 1], where exactly 1 means right, or a
`s2l_ray.rollouts.records.Verdict`, which can also say that an answer is unparsable.
"""

from __future__ import annotations

from s2l_ray.miniature.countdown import check


def partial_credit(response: str, answer: str, question: str) -> float:
    """1 for a solution of the countdown problem `answer`, 0.1 for steps that break one of its rules, else 0."""
    status = check(response, answer).status
    return {"right": 1.0, "wrong": 0.1}.get(status, 0.0)
