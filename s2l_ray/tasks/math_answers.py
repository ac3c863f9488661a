"""The verifier `math`: a response is right if its final answer means the same as the gold answer.

`tasks.extraction` finds the answer in the response, `tasks.comparison` compares it with the gold one. Call `check_math`
where it can be killed from outside (`tasks.pool`): a symbolic comparison may take for ever.
"""

from __future__ import annotations

from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.comparison import answers_equal
from s2l_ray.tasks.extraction import LONGEST_ANSWER, extract_answer


def check_math(response: str, answer: str, question: str = "") -> Verdict:
    """Grade a response: right (reward 1), wrong or unparsable (reward 0).

    Units, currency and degree signs do not count; 50% is right for 50 and for 0.5; lists without brackets are
    unordered; the brackets of a point may be left out.

    Args:
        response: the model's text; its answer is found by `extract_answer`.
        answer: the gold answer alone, in LaTeX or plain text, never a whole solution.
        question: not needed; verifiers are called with it.
    """
    found = extract_answer(response)
    if found is None:
        return Verdict("unparsable", 0.0, "no answer found")
    if len(found) > LONGEST_ANSWER:
        return Verdict("unparsable", 0.0, f"an answer of {len(found)} characters")
    equal = answers_equal(answer, found)
    if equal is None:
        return Verdict("unparsable", 0.0, f"cannot read {found[:200]}")
    return Verdict("right", 1.0, found[:200]) if equal else Verdict("wrong", 0.0, found[:200])
