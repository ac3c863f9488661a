"""A user's verifier, as `verifier.kind: tests.support.rewards:first_number_is_even` names it."""

from __future__ import annotations


def first_number_is_even(response: str, answer: str, question: str) -> bool:
    """A reward that even an untrained model gets about half of the time."""
    first = response.split(" ", maxsplit=1)[0]
    return first.isdigit() and int(first) % 2 == 0


def first_word_is_even(response: str, answer: str, question: str) -> bool:
    """The same for words such as "t12" (`tests.support.trl_side.number_tokenizer`)."""
    return first_number_is_even(response.removeprefix("t"), answer, question)


def raises(response: str, answer: str, question: str) -> float:
    """A reward function with a bug."""
    return float(undefined)  # noqa: F821


def nothing(response: str, answer: str, question: str) -> float:
    """A reward function that pays nothing, as one does that reads another form of answers."""
    return 0.0
