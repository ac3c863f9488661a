r"""One way of writing for each sign: Unicode, full-width forms and the dress of LaTeX to plain LaTeX.

Only what has no meaning is dropped: sizes of brackets, spaces, colours, delimiters of mathematics.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_WORD_COMMANDS = "mbox|mathrm|mathbf|mathit|mathsf|bf|rm|text(?:bf|it|rm|up|sf|tt|normal)?"
TEXT = rf"\\(?:{_WORD_COMMANDS})\s*\{{([^{{}}]*)\}}"
"""A piece of words in LaTeX; its content is group 1."""

_TABLE = r"""
− -   – -   — -   ‐ -   ‑ -   ‒ -   ﹣ -   － -   ± \pm   ∓ \mp   ÷ /   ∕ /   ⁄ /   √ \sqrt   ∛ \sqrt[3]
× \cdot   ✕ \cdot   ⋅ \cdot   · \cdot   ∙ \cdot   • \cdot   ∗ \cdot   ∞ \infty   ° ^\circ   ′ '   ″ ''   ’ '
≤ \le   ⩽ \le   ≥ \ge   ⩾ \ge   ≠ \ne   ≈ \approx   ≅ \approx   ∈ \in   ∪ \cup   ∩ \cap   ∖ \setminus
∅ \emptyset   ⌀ \emptyset   ℝ \mathbb{R}   ℤ \mathbb{Z}   ℕ \mathbb{N}   ℚ \mathbb{Q}   ℂ \mathbb{C}
⟨ \langle   ⟩ \rangle   ⌊ \lfloor   ⌋ \rfloor   ⌈ \lceil   ⌉ \rceil   ∠ \angle   △ \triangle   、 ,   。 .
π \pi   α \alpha   β \beta   γ \gamma   δ \delta   ε \epsilon   θ \theta   λ \lambda   μ \mu   ρ \rho   σ \sigma
τ \tau   φ \phi   ϕ \phi   ψ \psi   ω \omega
"""
_SIGNS = str.maketrans(
    {
        sign: meaning + " " if meaning.startswith("\\") else meaning
        for sign, meaning in (entry.split(" ") for line in _TABLE.split("\n") for entry in line.split("   ") if entry)
    }
    | {"“": '"', "”": '"'}
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060\u2066\u2068\u2069\ufeff", "")  # unseen
)
_SUPERSCRIPTS, _SUBSCRIPTS = (
    str.maketrans(row, "0123456789+-=()n") for row in ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ")
)
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")

_NUMBER_WORDS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES = _NUMBER_WORDS | {"dozen": 12, "万": 10**4, "亿": 10**8}
_SCALED = re.compile(
    rf"(\d)\s*(?:\\(?:text|mbox|textrm|mathrm)\s*\{{\s*)?({'|'.join(_SCALES)})s?(?![A-Za-z])(?:([A-Za-z ]*)\}})?", re.I
)
_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:tiny|small|large|Large|huge|displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![A-Za-z])", " "),
        (
            r"\\(?:textcolor|colorbox)\s*\{[^{}]*\}|\\color\s*\{[^{}]*\}|\\(?:boxed|fbox|underline|ensuremath)(?![A-Za-z])",
            "",
        ),
        (r"\\phantom\s*\{[^{}]*\}|\\(?:hspace|vspace)\*?\s*\{[^{}]*\}", " "),
        (r"\\\$|(?<!\\)\$|(?<!\\)\\[()\[\]]", ""),  # delimiters of mathematics, and currency
        (r"\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
        (r"(?<=\d)(?:\s*\{\s*,\s*\}|,?\\!|\\,|\\ )\s*(?=\d{3}(?!\d))", ""),  # thousands: 10{,}080, 10,\!080, 10\,080
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad|\\(?:thin|med|thick)?space(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"^(-?\d{1,3})((?: \d{3})+)(?=\.\d|$)", lambda match: match[1] + match[2].replace(" ", "")),
        (r"(?<=\d)\s*\(([A-Za-z. ]{2,})\)$", r"\\text{\1}"),  # 36 (sq. inches)
        (r"\\mathbb\s*\{?R\}?\s*\^\s*\{?\s*\+\s*\}?", r"(0,\\infty)"),
        (r"(?i)(?<=\d)\s*(?:\\text\s*\{\s*)?([ap])\.?\s?m\b\.?\s*\}?$", r"\\text{\1m}"),  # 10:30 a.m.
        (r"^[£€¥]\s*(?=\d)", ""),
        (r"\*\*", "^"),
        (r"(?i)\\%|\s*\b(?:per\s?cent(?:age)?|pct)\b|\\text\s*\{\s*per\s?cent\s*\}", "%"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", r"\\degree "),
        (r"(?<=\d)\s*+\^?\s*+\{?\s*+\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
        (r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", ""),
    )
]
_LINES = re.compile(
    r"\\begin\s*\{(?P<kind>aligned|align|gathered|gather|split|cases)\*?\}(?P<lines>(?:(?!\\begin).)*?)"
    r"\\end\s*\{(?P=kind)\*?\}",
    re.DOTALL,
)
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")  # 1 000 000
_THOUSANDS = re.compile(r"(?<![\d.,^_{}])(\d{1,3}(?:,\d{3})+)(?![\d,])")


def normalised(answer: str) -> str:
    """The same answer in plain LaTeX on one line, and without a full stop."""
    answer = _without_unicode(answer) if not answer.isascii() else answer
    answer = _LINES.sub(_joined_lines, answer)
    answer = " ".join(answer.split()).strip("*").strip()
    if "\\\\" in answer and "\\begin" not in answer:
        answer = re.sub(r"\\\\(?=[A-Za-z])", r"\\", answer)  # as JSON writes it
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = _SCALED.sub(_scaled, answer)
    if _SPACED.fullmatch(answer):
        answer = answer.replace(" ", "")
    return answer.strip().rstrip(".,;:\\ \n")


def _joined_lines(environment: re.Match[str]) -> str:
    """Lines of equations below each other as a list; one that begins with = goes on with the line before it."""
    if environment["kind"] == "cases" and "&" in environment["lines"]:
        return environment[0]  # a function by cases
    lines = [line.replace("&", " ").strip(" ,;\n") for line in environment["lines"].split("\\\\")]
    return re.sub(r",\s*(?==|\\approx)", " ", ", ".join(line for line in lines if line))


def without_thousands_separators(answer: str) -> str:
    """12,345 as 12345. In brackets, as in (1,234), commas separate elements."""
    if not _THOUSANDS.search(answer) or re.search(r"[\[({]", answer.replace(r"\frac{", "")):
        return answer
    return _THOUSANDS.sub(lambda match: match[1].replace(",", ""), answer)


def folded(answer: str) -> str:
    """Words to compare: no case, no punctuation, no commands around them."""
    return re.sub(r"[\W_]+", " ", re.sub(TEXT, r" \1 ", answer).casefold()).strip()


def compact(answer: str) -> str:
    """Without the blanks that mean nothing: all but those between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(TEXT, r"\1", answer))


def _without_unicode(answer: str) -> str:
    answer = _VULGAR.sub(lambda match: _fraction(match[0]), answer)
    answer = re.sub(r"√\s*(\d+(?:\.\d+)?)", r"\\sqrt{\1}", answer)
    answer = _RAISED.sub(lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", answer)
    answer = _LOWERED.sub(lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", answer)
    return unicodedata.normalize("NFKC", answer.translate(_SIGNS)).translate(_SIGNS)


def _fraction(sign: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _scaled(match: re.Match[str]) -> str:
    rest = (match[3] or "").strip()
    return rf"{match[1]} \cdot {_SCALES[match[2].lower()]}" + (rf"\text{{{rest}}}" if rest else "")
