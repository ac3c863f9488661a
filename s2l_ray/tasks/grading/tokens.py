r"""The tokens of an answer in LaTeX or plain text.

Signs that mean the same are one token, however they are written: \le, \leq and <= are `<=`. Runs of letters are split
into names that are known (sqrt, pi, sin), units after a number, and single letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from s2l_ray.tasks.grading.nodes import UnreadableError
from s2l_ray.tasks.grading.text import TEXT
from s2l_ray.tasks.grading.units import canonical_unit


class Token(NamedTuple):
    """A piece of an answer."""

    kind: str
    """number, name, function, sign, command, text, unit, begin, end"""
    text: str
    spaced: bool = False
    """Whether blanks stand before it."""


_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log lg exp max min gcd lcm det arg Re Im
abs floor ceil cbrt sgn asin acos atan
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_SIGNS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "+-", "mp": "-+",
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=",
    "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "~=", "simeq": "~=", "doteq": "~=",
    "in": "in", "cup": "cup", "bigcup": "cup", "cap": "cap", "setminus": "setminus", "backslash": "setminus",
    "lbrace": "{(", "rbrace": ")}", "{": "{(", "}": ")}", "lbrack": "[", "rbrack": "]", "langle": "<(", "rangle": ")>",
    "lfloor": "floor(", "rfloor": ")floor", "lceil": "ceil(", "rceil": ")ceil",
    "vert": "|", "lvert": "|", "rvert": "|", "mid": "|", "|": "|", "Vert": "|", "colon": ":", "%": "%", "prime": "'",
    "lor": "or", "vee": "or", "land": "and", "wedge": "and", "degree": "degree", "equiv": "equiv", "\\": "\\\\",
    "newline": "\\\\",
}  # fmt: skip
_GREEK_WORDS = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon
phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar imath jmath
"""
_GREEK = frozenset(_GREEK_WORDS.split())
_GREEK_FORMS = {"varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "imath": "i", "jmath": "j"}
_CONSTANTS = {"infty": "oo", "pi": "pi", "emptyset": "empty", "varnothing": "empty", "oslash": "empty", "R": "reals"}
_PLAIN = {"infinity": "oo", "inf": "oo", "infty": "oo", "pi": "pi", "Pi": "pi", "sqrt": "sqrt", "oo": "oo"}
_DRESS_WORDS = """
mathbf mathit mathcal mathsf boldsymbol bm vec overrightarrow operatorname mathrm
"""
_DRESS = frozenset(_DRESS_WORDS.split())
_MARKS = frozenset(["angle", "triangle", "therefore", "displaystyle"])
_WORD_SIGNS = {"or": "or", "and": "and", "union": "cup", "times": "*", "divided by": "/", "plus": "+", "minus": "-"}
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    rf"|(?P<text>{TEXT})"
    r"|(?P<derivative>(?<![A-Za-z\\])d[A-Za-z]\s*/\s*d[A-Za-z](?![A-Za-z]))"
    r"|(?P<repeating>\d*\.\d*\\(?:overline|bar|dot)\s*(?:\{\s*\d+\s*\}|\d))"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4}(?![A-Za-z\d]))?)"
    r"|(?P<begin>\\begin\s*\{(?P<opened>\w+)\*?\}(?:\s*\{[lcr|]+\})?)"
    r"|(?P<end>\\end\s*\{\w+\*?\})"
    r"|(?P<blackboard>\\mathbb\s*\{?\s*(?P<board>[A-Z])\s*\}?)"
    r"|(?P<operator>\\operatorname\s*\*?\s*\{\s*(?P<operated>[A-Za-z]+)\s*\})"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<wide>[^\W\d_a-zA-Z]+|[€£])"
    r"|(?P<sign><=|>=|!=|==|->|[^\w\s])"
    r"|(?P<lone>_)"
)
_PLAIN_NAMES = re.compile(
    "|".join(sorted([*FUNCTIONS, *_PLAIN, *(g for g in _GREEK if len(g) > 2), "alpha"], key=len, reverse=True))
)
_PHRASE = re.compile(r"[A-Za-z]+\.?(?:\s*(?:/|\^\s*\{?-?\d\}?)\s*[A-Za-z]*|\s+[A-Za-z]+)*")
_CLOSES = frozenset({")", "}", "]", "%", ")}"})


def tokens(answer: str) -> list[Token]:
    """The tokens of a normalised answer (`grading.text.normalised`).

    Raises:
        UnreadableError: it has a command that is unknown, as those of integrals and sums.
    """
    found: list[Token] = []
    position, spaced = 0, False
    while position < len(answer):
        match = _TOKEN.match(answer, position)
        if match is None:
            raise UnreadableError(f"{answer[position]!r} has no meaning here")
        kind, position = str(match.lastgroup), match.end()  # the outermost group
        if kind == "space":
            spaced = True
            continue
        if kind == "word" and (unit := _unit_phrase(answer, match.start(), found, spaced)) is not None:
            found.append(Token("unit", unit[0], spaced))
            position = unit[1]
        else:
            found += _READERS[kind](match, spaced)
        spaced = False
    return found


def _unit_phrase(answer: str, start: int, before: list[Token], spaced: bool) -> tuple[str, int] | None:
    """(unit, end) of the plain words at `start`, if they are one, after a number, to the next comma or the end."""
    if not before or not (before[-1].kind == "number" or before[-1].text in _CLOSES or before[-1].text == "pi"):
        return None
    phrase = _PHRASE.match(answer, start)
    if phrase is None:
        return None
    words, end = phrase[0], phrase.end()
    if separator := re.search(r"\s+(?:and|or)\b", words):
        words, end = words[: separator.start()], start + separator.start()
    if len(words) == 1 or not words[1].isalpha():
        # A lone letter is a variable, unless it stands apart after the number that is the whole answer.
        alone = spaced and len(before) == 1 and not answer[end:].strip()
        if words not in tuple("mgLlshC") or not alone:
            return None
    unit = canonical_unit(words)
    return None if unit is None else (unit, end)


def _text(match: re.Match[str], spaced: bool) -> list[Token]:
    content = match["text"][match["text"].index("{") + 1 : -1].strip()
    command = match["text"][1 : match["text"].index("{")].strip()
    if content.lower().strip(", ") in ("and", "or"):
        return [Token("sign", content.lower().strip(", "), spaced)]
    if len(content) == 1 and content.isalnum() and command not in ("text", "mbox"):
        return [Token("number" if content.isdigit() else "name", content, spaced)]
    if content in FUNCTIONS and not (content == "min" and match.string[: match.start()].rstrip()[-1:].isdigit()):
        return [Token("function", content, spaced)]
    if content and re.fullmatch(r"[-+*/\d\s.]*", content):
        return tokens(content)
    return [Token("text", content, spaced)] if content else []


def _command(match: re.Match[str], spaced: bool) -> list[Token]:
    name = match["command"][1:]
    if name in _SIGNS:
        return [Token("sign", _SIGNS[name], spaced)]
    if name in FUNCTIONS:
        return [Token("function", name, spaced)]
    if name in _CONSTANTS:
        return [Token("name", _CONSTANTS[name], spaced)]
    if name in _GREEK:
        return [Token("name", _GREEK_FORMS.get(name, "\\" + name if len(name) > 1 else name), spaced)]
    if name in _DRESS or name in _MARKS or name == " ":
        return []
    return [Token("command", name, spaced)]


def _word(match: re.Match[str], spaced: bool) -> list[Token]:
    word = match["word"]
    if word.lower() in _WORD_SIGNS:
        return [Token("sign", _WORD_SIGNS[word.lower()], spaced)]
    found: list[Token] = []
    position = 0
    if glued := re.fullmatch("(or|and)[A-Za-z]", word):  # x=1orx=2
        found.append(Token("sign", glued[1], spaced))
        position = len(glued[1])
    while position < len(word):
        known = _PLAIN_NAMES.match(word, position)
        name = known[0] if known else word[position]
        position += len(name)
        if name in FUNCTIONS:
            token = Token("function", name, spaced)
        elif name == "sqrt":
            token = Token("command", name, spaced)
        elif name in _GREEK:
            token = Token("name", "\\" + name, spaced)
        else:
            token = Token("name", _PLAIN.get(name, name), spaced)
        found.append(token)
        spaced = False
    return found


def _sign(match: re.Match[str], spaced: bool) -> list[Token]:
    sign = match["sign"]
    if sign in ("->", "#", "?", "@", '"', "`"):
        raise UnreadableError(f"{sign!r} has no meaning here")
    return [Token("sign", {"==": "="}.get(sign, sign), spaced)]


def _operator(match: re.Match[str], spaced: bool) -> list[Token]:
    name = match["operated"]
    return [Token("function" if name in FUNCTIONS else "name" if len(name) == 1 else "text", name, spaced)]


_READERS: dict[str, Callable[[re.Match[str], bool], list[Token]]] = {
    "text": _text,
    "command": _command,
    "word": _word,
    "sign": _sign,
    "operator": _operator,
    "lone": lambda match, spaced: [Token("sign", "_", spaced)],
    "wide": lambda match, spaced: [Token("text", match[0], spaced)],
    "number": lambda match, spaced: [Token("number", match[0], spaced)],
    "derivative": lambda match, spaced: [Token("name", "".join(match[0].split()), spaced)],
    "repeating": lambda match, spaced: [Token("repeating", match[0], spaced)],
    "begin": lambda match, spaced: [Token("begin", match["opened"], spaced)],
    "end": lambda match, spaced: [Token("end", "", spaced)],
    "blackboard": lambda match, spaced: [Token("name", {"R": "reals"}.get(match["board"], match["board"] * 2), spaced)],
}
