r"""Multiple-choice questions: how a row becomes a question with lettered choices, and the verifier `choice`.

A row is that of CommonsenseQA and ARC: {"question", "choices": {"label": [...], "text": [...]}, "answerKey"}. Its
choices are lettered A, B, C, ... in their order, whatever labels the row has, and the gold answer is a letter.
"""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.kinds import VerdictStatus
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.extraction import final_answers
from s2l_ray.tasks.rows import shown

_CHOICE = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|\b)(?:[.:)\s-].*)?", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boldsymbol|bf)\s*\{([^{}]*)\}")
_NAMED = re.compile(r"\b(?:answer|option|choice)\b(?:\s{1,9}is)?[\s:*]{0,20}\(?([A-Z])(?:\)|\b)(?!['\w])")
_ALONE = re.compile(r"\(?([A-Z])(?:\)?[.:]?|\))(?:\s+(.*))?")


def is_choice(row: dict[str, Any]) -> bool:
    """Whether a row is a multiple-choice question."""
    return "choices" in row and "answerKey" in row


def lettered(question: str, row: dict[str, Any], where: str) -> tuple[str, str]:
    """The question with its choices, one a line, as `A. bank`; and the letter of the right one.

    Args:
        question: the row's.
        row: see above.
        where: file and line, for messages.

    Raises:
        DataError: the choices or the answer are malformed.
    """
    choices, key = row["choices"], row["answerKey"]
    labels, texts = (choices.get(name) if isinstance(choices, dict) else None for name in ("label", "text"))
    for name, values in (("label", labels), ("text", texts)):
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise DataError(f"{where}, field choices.{name}: a list of texts is needed, not {shown(values)}")
    assert labels is not None and texts is not None
    if not 2 <= len(texts) <= len(ascii_uppercase) or len(labels) != len(texts) or len(set(labels)) != len(labels):
        raise DataError(f"{where}, field choices: 2 to 26 choices are needed, each with a label of its own")
    if key not in labels:
        raise DataError(f"{where}, field answerKey: {shown(key)} is not one of the labels {', '.join(labels)}")
    lines = [f"{letter}. {' '.join(text.split())}" for letter, text in zip(ascii_uppercase, texts, strict=False)]
    return question.rstrip() + "\n" + "\n".join(lines), ascii_uppercase[labels.index(key)]


def check_choice(response: str, answer: str, question: str = "") -> Verdict:
    r"""Grade a response by the letter that it chooses: right (reward 1), wrong or unparsable (reward 0).

    The letter is read from the response's final answer as `math` finds it (a box, `<answer>`, "The answer is B.", after
    any thinking); from "Answer: (B)", the last of several; or from a first or last line that is a letter alone or a
    letter and its choice, as `B. library`. A final answer may also be the text of exactly one choice. A letter that the
    question does not have is no answer.

    Args:
        response: the model's text.
        answer: the letter of the right choice.
        question: with its lettered choices, as `lettered` writes it.
    """
    choices = dict(_CHOICE.findall(question))
    named = final_answers(response, "strict")
    found = _one([_chosen(text, choices) for text in named]) or _in_lines(response, choices)
    if found is None:
        return Verdict("unparsable", 0.0, "no choice found")
    status: VerdictStatus = "right" if found == answer.strip() else "wrong"
    return Verdict(status, float(status == "right"), found)


def _one(letters: list[str | None]) -> str | None:
    """The letter that all of a response's answers give."""
    return letters[0] if letters and len(set(letters)) == 1 else None


def _chosen(text: str, choices: dict[str, str]) -> str | None:
    r"""The letter of an answer such as `B`, `(B)`, `\text{B}`, `B. library` or `library`."""
    plain = " ".join(_WRAPPED.sub(r"\1", text).strip(" $*").split()).rstrip(".")
    same = [letter for letter, choice in choices.items() if choice.casefold() == plain.casefold()]
    if len(same) == 1:
        return same[0]
    match = _LETTER.fullmatch(plain)
    letter = match[1].upper() if match else None
    if match and len(plain) > 3 and not _begins_choice(plain, letter, choices):
        return None  # "A library" is no choice of A
    return letter if letter is not None and (not choices or letter in choices) else None


def _begins_choice(plain: str, letter: str | None, choices: dict[str, str]) -> bool:
    """Whether a text is a letter and the text of its choice."""
    rest = plain[1:].lstrip(" ().:-") if plain[0] != "(" else plain[2:].lstrip(" ).:-")
    return letter in choices and choices[str(letter)].casefold().rstrip(".") == rest.casefold()


def _in_lines(response: str, choices: dict[str, str]) -> str | None:
    """The letter of "Answer: B", else that of the first or last line if it is a choice."""
    text = re.split(r"</think(?:ing)?>", response)[-1]
    if re.search(r"<think(?:ing)?>", text):
        return None  # it never came to an answer
    named = [letter for letter in _NAMED.findall(text) if not choices or letter in choices]
    if named:
        return str(named[-1])
    lines = [line.strip(" *$") for line in text.splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        match = _ALONE.fullmatch(line)
        if match and (match[2] is None or _chosen(line, choices)) and (not choices or match[1] in choices):
            return match[1]
        if len([c for c in choices.values() if c.casefold() == line.rstrip(".").casefold()]) == 1:
            return _chosen(line, choices)
    return None
