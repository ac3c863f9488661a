"""The verifier `math`: a response is right if its final answer means the same as the gold answer.

`tasks.extraction` finds the answer in the response, `tasks.comparison` compares it with the gold one. A run checks
answers in processes that can be killed from outside (`tasks.pool`).

A model's text can make a comparison raise, but no text is an error of the verifier: its verdict is `unparsable`.
"""

from __future__ import annotations

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.comparison import answers_equal
from s2l_ray.tasks.extraction import LONGEST_ANSWER, MOST_ANSWERS, final_answers

RULES = 4
"""The version of what is paid: raise it with every change of a verdict, since a bank's rewards are told apart by it."""


def check_math(response: str, answer: str, question: str = "", extract: ExtractionLevel = "strict") -> Verdict:
    """Grade a response: right (reward 1), wrong or unparsable (reward 0).

    A unit may be left out, another one is wrong; 50% is right for 50 and for 0.5; lists without brackets are unordered;
    the brackets of a point may be left out. `name = value` states the value.

    Several different answers are right if they are the elements of the gold answer, or all of them are the gold answer
    in different forms. Lenient also takes the last of them.

    Args:
        response: the model's text; its answers are found by `final_answers`.
        answer: the gold answer alone, in LaTeX or plain text, or a solution with the answer in a box.
        question: what it counts, as eggs, is a unit of the answer; its own formulas are no answers.
        extract: what is taken for the final answer.
    """
    if "\\boxed" in answer:
        answer = ", ".join(final_answers(answer, "lenient")) or answer
    found = final_answers(response, extract)
    if not found:
        return Verdict("unparsable", 0.0, "no answer found")
    if (length := sum(map(len, found))) > LONGEST_ANSWER or len(found) > MOST_ANSWERS:
        return Verdict("unparsable", 0.0, f"{len(found)} answers of {length} characters")
    detail = found[0] if len(found) == 1 else f"{len(found)} answers: {'; '.join(found)}"
    try:
        equal = _several_equal(answer, found, question, extract)
    except Exception as error:
        return Verdict("unparsable", 0.0, f"{detail[:200]} cannot be compared: {type(error).__name__}: {error}"[:400])
    if equal is None:
        return Verdict("unparsable", 0.0, f"cannot read {detail[:200]}")
    return Verdict("right", 1.0, detail[:200]) if equal else Verdict("wrong", 0.0, detail[:200])


def _several_equal(gold: str, found: tuple[str, ...], question: str, extract: ExtractionLevel) -> bool | None:
    """None: none of the answers can be read."""
    if len(found) == 1:
        return answers_equal(gold, found[0], question)
    if extract == "lenient" and answers_equal(gold, found[-1], question):
        return True
    if answers_equal(gold, ", ".join(found), question):
        return True
    each = [answers_equal(gold, answer, question) for answer in found]
    return None if set(each) == {None} else all(each)
