"""Is a response's final answer the gold answer? Extraction, normalisation, exact arithmetic, then math-verify.

Most answers never reach the symbolic comparison: equal texts are right, and two rational numbers are compared exactly.
The rest goes to math-verify 0.9 (`tasks.symbolic`) with its signal-based timeouts off, so call `check_math` where it
can be killed from outside (`tasks.pool`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.symbolic import TEXT, expressions_equal

LONGEST_ANSWER = 1000
"""Characters; a longer "answer" is a response that never came to one."""
RELATIVE_TOLERANCE = Fraction(1, 10**6)
"""Between a fraction and a decimal that rounds it; two decimals must be equal."""

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(
    r"\banswers?\s*\**\s*(?:is|are|:)\s*:?\s*\**\s*"
    r"(?:(?:therefore|thus|then|simply|just|exactly|approximately|about|probably|equal to|given by)\b[,:]?\s*)*",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s+(?:because|since|which|where|as)\b.*", re.DOTALL)
_MATH = r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\$[^$\n]+\$|\\begin\{(\w+)\}.+?\\end\{\1\}"
_SENTENCE = re.compile(rf"(?s:{_MATH})|\\.|\.(?=[^\s*])|[^.\n\\]")
_MARKED = re.compile(r"####[ \t]*(\S.*)")
_LAST_NUMBER = re.compile(
    r"(?:(?<![\w)}.])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?:\.\d+)?)?%?|(?<!\d)-?\.\d+%?"
)

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


def extract_answer(text: str) -> str | None:
    r"""The final answer that a response states.

    It is in the last `\boxed{}` with balanced braces, else after the last "answer is" (or "answer:") up to the end of
    the sentence, else after the last `####` up to the end of the line, else it is the last number.
    """
    for find in (_boxed, _stated, _marked, _last_number):
        if found := find(text):
            return found
    return None


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


def _boxed(text: str) -> str | None:
    # One pass with a stack, however often a degenerate response opens a box: (start, content's start) or None for a {.
    open_braces: list[tuple[int, int] | None] = []
    last = (-1, "")
    start = text.find("\\boxed")
    if start < 0:
        return None
    while start > 0 and text[start - 1] == "\\":
        start -= 1  # \\boxed is a new line and a word
    for token in _BRACES.finditer(text, start):
        if token[0].startswith("\\boxed"):
            open_braces.append((token.start(), token.end()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces and (box := open_braces.pop()) is not None:
            content = text[box[1] : token.start()].strip() if token.start() - box[1] < 10 * LONGEST_ANSWER else ""
            if content and box[0] > last[0]:
                last = (box[0], content)
    return last[1] or None


def _stated(text: str) -> str | None:
    for statement in reversed(list(_STATED.finditer(text))):
        end = statement.end()
        while token := _SENTENCE.match(text, end):
            end = token.end()
        if found := _REASON.sub("", text[statement.end() : end]).strip().strip("*").strip():
            return found
    return None


def _marked(text: str) -> str | None:
    marked = _MARKED.findall(text)
    return marked[-1].strip() if marked else None


def _last_number(text: str) -> str | None:
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else None


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
