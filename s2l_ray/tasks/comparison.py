"""Do two final answers mean the same? Normalisation, exact arithmetic, then symbolic comparison.

Most answers never reach the symbolic comparison: equal texts are right, and two rational numbers are compared exactly.
The rest goes to math-verify 0.9 (`tasks.symbolic`) with its signal-based timeouts off, so call `answers_equal` where it
can be killed from outside (`tasks.pool`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from s2l_ray.tasks.symbolic import TEXT, expressions_equal

RELATIVE_TOLERANCE = Fraction(1, 10**6)
"""Between a fraction and a decimal that rounds it; two decimals must be equal."""

_SYMBOLS = str.maketrans(
    # What models write for the signs of LaTeX.
    {"−": "-", "∞": r"\infty ", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "°": r"^\circ", "∪": r"\cup "}  # noqa: RUF001
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),  # delimiters of mathematics, and currency
        (r"\\(?:left|right)\.|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"(?<=\d)(?:\{,\}|,?\\!|\\,)\s*(?=\d{3}(?!\d))", ""),  # thousands: 10{,}080, 10,\!080, 10\,080
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", ""),
        (r"\\%|\s*\bper\s?cent\b", "%"),
        (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
        (r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", ","),
        (r"\*\*", "^"),
        (r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*", ""),  # x \in [0, 1]
    )
]
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(rf"(\d)\s*(?:\\\w+\s*\{{\s*)?({'|'.join(_SCALES)})s?(?![A-Za-z])[A-Za-z ]*\}}?", re.IGNORECASE)
_NOT_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|infinity|times|plus|minus|half|halves|thirds?|quarters?|squared"
    r"|cubed|am|pm)\b",
    re.IGNORECASE,
)
_EXPONENT = r"(?:\s*\^\s*\{?\d\}?)?"
_UNIT_TEXT = re.compile(rf"(.*\d.*?|.*\\pi.*?)\s*({TEXT}){_EXPONENT}", re.DOTALL)
_UNIT_WORDS = re.compile(
    r"([-+]?[\d,]*\.?\d+(?:\s*/\s*\d+)?%?)\s*"
    rf"((?:[A-Za-z]{{3,}}|[ckm]m|[km]?g|m?[lL]|ft|mi|oz|lb|hr)\b[A-Za-z .,/'()-]*?){_EXPONENT}"
)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_RATIONAL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<number>{_NUMBER})|(?:(?P<whole>\d+)\s+)?(?P<a>{_NUMBER})\s*/\s*(?P<b>{_NUMBER})"
    rf"|(?P<whole2>\d*)\s*\\frac\s*\{{\s*(?P<sign2>-?)\s*(?P<c>{_NUMBER})\s*\}}\s*\{{\s*(?P<d>{_NUMBER})\s*\}})\s*(?P<percent>%?)"
)
_BASE = re.compile(r"-?[0-9][0-9A-Fa-f]*_(?:\d|\{\d+\})")
_WORDS = re.compile(r"[^\W\d_][^\W\d_\\]*(?:[ '.,-]+[^\W\d_]+)*\.?")
_CHOICE = re.compile(r"\(?([A-Z])\)?[.:]?(?:(?<=[).:])\s.*)?", re.DOTALL)
_EQUALS = re.compile(r"(?<![\\<>!:=])=(?!=)")


def answers_equal(gold: str, found: str) -> bool | None:
    """Whether two final answers mean the same. None: `found` is not something that can be read."""
    gold, found = _normalise(gold), _normalise(found)
    if (choice := _choice(gold)) is not None and (other := _choice(found)) is not None:
        return choice == other
    if _is_words(gold) or _is_words(found):
        return _folded(gold) == _folded(found)
    gold, found = _match_equation(gold, found)
    gold, found = _without_unit(gold), _without_unit(found)
    if _compact(gold) == _compact(found):
        return True
    if _BASE.fullmatch(gold) or _BASE.fullmatch(found):
        return False  # 52 in base 8 is not 52, whatever math-verify says
    gold_values, found_values = _rationals(gold), _rationals(found)
    if gold_values and found_values:
        return _rationals_equal(gold, gold_values, found, found_values)
    return expressions_equal(gold, found)


def _normalise(answer: str) -> str:
    answer = answer.translate(_SYMBOLS).strip().strip("*")
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = _SCALED.sub(lambda match: rf"{match[1]} \cdot {_SCALES[match[2].lower()]}", answer)
    return answer.strip().rstrip(".,;: \n")


def _unwrapped(answer: str) -> tuple[str, bool]:
    r"""The content of a \text{...} that is the whole answer, and whether there was one."""
    match = re.fullmatch(TEXT, answer)
    return (match[1].strip(), True) if match else (answer, False)


def _choice(answer: str) -> str | None:
    """The letter of a multiple-choice answer: C, (C), C) or (C) with what it says."""
    match = _CHOICE.fullmatch(_unwrapped(re.sub(rf"^{TEXT}", r"\1", answer))[0].strip())
    return match[1] if match else None


def _is_words(answer: str) -> bool:
    """Whether an answer is words, not variables: as products of letters, `east` and `seat` would be equal."""
    content, wrapped = _unwrapped(answer)
    if not _WORDS.fullmatch(content):
        return False
    longest = max(len(word) for word in re.findall(r"\w+", content))
    return longest >= 4 or (wrapped and longest > 1) or content.casefold() in ("yes", "no")


def _folded(answer: str) -> str:
    return re.sub(r"[\W_]+", " ", _unwrapped(answer)[0].casefold()).strip()


def _match_equation(gold: str, found: str) -> tuple[str, str]:
    """Reduce `x = 5` to `5` on the side that has an equation where the other has none.

    A chain in the response counts by its last part: 3 * 6 = 18 answers 18.
    """
    parts, found_parts = _EQUALS.split(gold), _EQUALS.split(found)
    if len(parts) == 1 and len(found_parts) > 1 and "," not in found.rpartition("=")[0]:
        return gold, found_parts[-1].strip()
    if len(parts) == 2 and len(found_parts) == 1 and re.fullmatch(r"\\?\w+(?:\([a-z]\))?", parts[0].strip()):
        return parts[1].strip(), found
    return gold, found


def _without_unit(answer: str) -> str:
    for pattern in (_UNIT_TEXT, _UNIT_WORDS):
        match = pattern.fullmatch(answer)
        if match and not _NOT_UNITS.search(match[2]):
            return match[1].strip()
    return answer


def _compact(answer: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(TEXT, r"\1", answer))


def _rationals(answer: str) -> list[Fraction]:
    """The exact value of a number or a fraction; two values for a percentage (50% is 50 or 1/2); else nothing."""
    match = _RATIONAL.fullmatch(answer) if len(answer) <= 100 else None
    if not match:
        return []
    above = _exact(match["number"] or match["a"] or match["c"]) * (-1 if match["sign2"] else 1)
    below = _exact(match["b"] or match["d"] or "1")
    if below == 0:
        return []
    whole = _exact(match["whole"] or match["whole2"] or "0")  # mixed numbers: 1 1/2
    value = (whole + above / below) * (-1 if match["sign"] == "-" else 1)
    return [value, value / 100] if match["percent"] else [value]


def _exact(number: str) -> Fraction:
    return Fraction(number.replace(",", "").rstrip("."))


def _rationals_equal(gold: str, gold_values: list[Fraction], found: str, found_values: list[Fraction]) -> bool:
    if len(gold_values) == len(found_values):
        gold_values, found_values = gold_values[:1], found_values[:1]
    one_is_rounded = ("." in gold) != ("." in found) and ("/" in gold + found or "frac" in gold + found)
    tolerance = RELATIVE_TOLERANCE if one_is_rounded else 0
    return any(abs(a - b) <= tolerance * abs(a) for a in gold_values for b in found_values)
