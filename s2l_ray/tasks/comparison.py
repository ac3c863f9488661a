r"""Whether two final answers mean the same.

Most comparisons end early: equal texts are right, two rational numbers are compared exactly, and words as words. The
rest is read (`grading.parser`) and compared by what kind of thing it is (`grading.meaning`). An integral or a limit
that is left to compute is not read: it is right only as the text of the gold answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from s2l_ray.tasks.grading.evaluated import is_unsolved, left_to_compute, restates
from s2l_ray.tasks.grading.meaning import same
from s2l_ray.tasks.grading.nodes import Node, UnreadableError, renamed_variable
from s2l_ray.tasks.grading.parser import KEPT, read
from s2l_ray.tasks.grading.text import TEXT, compact, folded, normalised
from s2l_ray.tasks.grading.units import counted

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_RATIONAL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<number>{_NUMBER})"
    rf"|(?P<a>{_NUMBER})\s*/\s*(?P<b>{_NUMBER})"
    rf"|\\frac\s*\{{\s*(?P<sign2>-?)\s*(?P<c>{_NUMBER})\s*\}}\s*\{{\s*(?P<d>{_NUMBER})\s*\}})"
)
_WORDS = re.compile(r"[^\W\d_][^\W\d_\\]*(?:[ '.,-]+[^\W\d_]+)*\.?")
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-Z])\s*\)?\s*[.:]?(?:(?<=[).:])\s*(.*))?", re.DOTALL | re.I
)
_ANOTHER_CHOICE = re.compile(
    r"\([A-Z]\)|(?<!\w)[A-Z][).:](?!\w)|^[A-Z]$"
    r"|^\W*(?:,|;|/|&|or\b|and\b)?\s*[A-H](?=\s*(?:$|[,;/&]|(?:or|and|[A-H])\b))"  # A. or B; (A) B C D
    r"|\b(?:or|maybe|perhaps|possibly)\s+[A-H]\W*$"
)
_SEVERAL_LETTERS = re.compile(r"\(?[A-H]\)?(?:(?:\s*(?:,|;|and|&)\s*|\s*)\(?[A-H]\)?)+")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?/\d\d?/\d{4}")
_CONDITION = re.compile(
    r"\s*+[,(]?\s*+(?:\\text\s*\{\s*(?:where|for|with|and)\s*\}|\b(?:where|for|with))?\s*+([a-z])\s*\\in\s*"
    r"\\mathbb\s*+\{?\s*+[ZN]\s*+\}?\s*+\)?$"
)
_ASKED = r"(?:[Ff]ind|[Cc]ompute|[Dd]etermine|[Ee]valuate|[Cc]alculate|[Ww]hat\s*is|value\s*of)\s*"
_LEADS = r"(?:=|\\approx|(?:the (?:final )?answer is|approximately|about|exactly|equals)\b)\s*:?\s*"
_LEAD = re.compile(rf"\\text\s*\{{\s*{_LEADS}\}}\s*|{_LEADS}", re.IGNORECASE)
_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve"
_IN_WORDS = {
    **{word: str(value) for value, word in enumerate(_COUNTS.split())},
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set"), r"\emptyset"
    ),
    **dict.fromkeys(("all real numbers", "all reals", "all real x", "the real numbers"), r"\mathbb{R}"),
}


def answers_equal(gold: str, found: str, question: str = "") -> bool | None:
    """Whether two final answers mean the same. None: `found` is not something that can be read.

    Args:
        gold: the gold answer alone, in LaTeX or plain text.
        found: the answer to grade.
        question: its nouns count as units, as the eggs in 12 eggs; a formula of its own is no answer.
    """
    gold, found = _plain(gold), _plain(found)
    if _DATE.fullmatch(gold):
        return gold == found  # no difference of three numbers
    values = _rational(gold), _rational(found)
    if None not in values and (values[0] == values[1] or ("." in gold) == ("." in found)):
        return values[0] == values[1] and not _restates_fraction(gold, found, question)
    if compact(gold) == compact(found) or _is_decimal_comma(gold, found):
        return True  # values that differ go on, since a decimal may round a fraction
    return meanings_equal(gold, found, question)


def meanings_equal(gold: str, found: str, question: str = "") -> bool | None:
    """As `answers_equal`, for answers that are `normalised`, and without a look at whether their texts are the same."""
    choices = _choice(gold), _choice(found)
    if None not in choices:
        return choices[0] == choices[1]
    letters = _letters(gold), _letters(found)
    if letters[0] and letters[1]:
        return letters[0] == letters[1]
    if _is_words(gold) or _is_words(found):
        return folded(gold) == folded(found) and bool(folded(gold))
    gold, found = _without_counted(gold, _with_asked_named(found, question), question)
    return _trees_equal(gold, found, question)


def _without_counted(gold: str, found: str, question: str) -> tuple[str, str]:
    """What is counted is a unit: it may be left out of either, other units and other things are wrong."""
    (of_gold, golds), (of_found, founds) = counted(gold, question), counted(found, question)
    if golds and founds:
        return (of_gold, of_found) if golds == founds else (gold, found)
    return (of_gold if golds else gold), (rf"{of_found} \text{{items}}" if founds else found)


def _with_asked_named(found: str, question: str) -> str:
    """A name for the left side of an equation that the question asks for: m + n = 34, if it says `find m + n`."""
    left, equals, right = found.partition("=")
    if not equals or not question or not left.strip():
        return found
    asked = re.search(_ASKED + re.escape(compact(left)) + r"(?![\w^+*/=(-])", compact(normalised(question)))
    return rf"\text{{asked}} = {right}" if asked else found


def _trees_equal(gold: str, found: str, question: str) -> bool | None:
    of_gold, of_found = _condition(gold), _condition(found)
    try:
        read_found = read(of_found[0])
    except (UnreadableError, RecursionError):
        return None
    try:
        read_gold = read(of_gold[0])
        if any(lacks(read_found) and not lacks(read_gold) for lacks in (left_to_compute, is_unsolved)):
            return False
        if restates(read_found, read_gold, question):
            return False
        if of_gold[1]:
            read_found = renamed_variable(read_found, of_found[1] or _only_variable(read_found), of_gold[1])
        return same(read_gold, read_found)
    except UnreadableError:
        return False
    except RecursionError:
        return None


def _restates_fraction(gold: str, found: str, question: str) -> bool:
    """6/8, where that is to be simplified."""
    return bool(question) and not found.isdigit() and restates(read(found), read(gold), question)


def _condition(answer: str) -> tuple[str, str]:
    """(the answer without it, the name) of a trailing condition such as k in Z, whose name may be another."""
    match = _CONDITION.search(answer)
    return (answer[: match.start()], match[1]) if match and match.start() else (answer, "")


def _only_variable(node: Node) -> str:
    names = sorted(node.symbols() & set("kmn"))
    return names[0] if len(names) == 1 else ""


@lru_cache(KEPT)
def _plain(answer: str) -> str:
    """In plain LaTeX, without what leads in to an answer; a number that is written as a word as digits."""
    answer = normalised(answer)
    content, wrapped = _unwrapped(answer)
    if wrapped and not _is_words(answer):
        answer = content
    if lead := _LEAD.match(answer):
        answer = answer[lead.end() :]
    if answer.startswith("{") and "," in answer and _closed_at_end(answer):
        answer = answer[1:-1].strip()  # nobody sees these braces in LaTeX, so that it is no set
    return _IN_WORDS.get(_unwrapped(answer)[0].lower(), answer)


@lru_cache(KEPT)
def _rational(answer: str) -> Fraction | None:
    """The exact value of a number or a fraction, most answers of which there are many; None for all else."""
    match = _RATIONAL.fullmatch(answer) if len(answer) <= 100 else None
    if not match:
        return None
    above = _exact(match["number"] or match["a"] or match["c"]) * (-1 if match["sign2"] else 1)
    below = _exact(match["b"] or match["d"] or "1")
    return above / below * (-1 if match["sign"] == "-" else 1) if below else None


def _exact(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip("."))


def _is_decimal_comma(gold: str, found: str) -> bool:
    """3,14 for 3.14, which has no other meaning where the gold answer is one number; 3,5 as gold is a list of two."""
    point, comma, decimals = (gold, found, 1) if "." in gold else (found, gold, 2)
    is_decimal = re.fullmatch(rf"-?(?![1-9]\d{{0,2}},\d{{3}}$)\d+,\d{{{decimals},}}", comma) is not None
    return is_decimal and "." in point and point == comma.replace(",", ".")


def _closed_at_end(answer: str) -> bool:
    """Whether the brace that opens an answer is closed by its last character."""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", answer):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end() == len(answer)
    return False


def _unwrapped(answer: str) -> tuple[str, bool]:
    r"""The content of a \text{...} that is the whole answer, and whether there was one."""
    match = re.fullmatch(TEXT, answer)
    return (match[1].strip(), True) if match else (answer, False)


def _choice(answer: str) -> str | None:
    """The letter of a multiple-choice answer: C, (C), C) or (C) with what it says, not several letters."""
    match = _CHOICE.fullmatch(_unwrapped(re.sub(rf"^{TEXT}", r"\1", answer))[0].strip())
    if match is None or not match[1].isupper() or (match[2] and _ANOTHER_CHOICE.search(match[2])):
        return None
    return match[1]


def _letters(answer: str) -> str:
    """The letters of an answer to a question with several choices, in order: A, C and D is ACD. Else nothing."""
    content = re.sub(TEXT, r"\1", answer).strip()
    return "".join(sorted(set(re.findall("[A-H]", content)))) if _SEVERAL_LETTERS.fullmatch(content) else ""


def _is_words(answer: str) -> bool:
    """Whether an answer is words, not variables: as products of letters, `east` and `seat` would be equal."""
    content, wrapped = _unwrapped(answer)
    if not _WORDS.fullmatch(content):
        return False
    longest = max(len(word) for word in re.findall(r"\w+", content))
    known = content.lower() in ("infinity", "theta", "alpha", "beta", "gamma", "delta", "lambda", "omega", "sigma")
    return (longest >= 4 or (wrapped and longest > 1) or content.casefold() in ("yes", "no")) and not known
