r"""Sentences that state an answer: "The answer is 42.", `#### 42`, "So the largest n is 42.", "**C**".

Of any text a bounded part is read, and formulas in it are hidden first, each behind one character: a full stop in one
does not end a sentence, and no number is read out of it.
"""

from __future__ import annotations

import re

WINDOW = 2000
"""Characters that are read of a statement, and at the end of a response."""
TRIED = 8
"""Statements that are looked at, from the last one on, until one says something."""

_FORMULA = re.compile(
    r"\$\$[^$]{1,1000}?\$\$|\\\[.{1,1000}?\\\]|\\\(.{1,1000}?\\\)|\\begin\{\w+\}.{1,1000}?\\end\{\w+\}"
    # Not from $5 to $6: no blanks at its ends, or no words in it.
    r"|\$(?=[^\s$])[^$\n]{1,1000}?(?<=[^\s$])\$(?!\d)|\$(?>\\[A-Za-z]+|(?![A-Za-z]{3})[^$\n]){1,1000}?\$(?!\d)",
    re.DOTALL,
)
_F = "[\ue000-\uf8ff]"
"""A hidden formula: a character for private use."""
_HIDDEN = re.compile(_F)
_FIRST_HIDDEN = 0xE000

_NOUN = r"(?:answers?(?: to [^.:\n]{1,100}?)?|(?:correct|right|best) (?:option|choice)s?)"
_STATED = re.compile(
    rf"\b{_NOUN}[\s*]{{0,9}}(?:(?:would|should|must) be\b|is\b|are\b|equals\b|[:：=])[\s*:：]{{0,9}}"  # noqa: RUF001
    r"(?:(?:therefore|thus|then|simply|just|exactly|approximately|about|probably|equal to|given by)\b[,:]?\s{0,9})*"
    r"|^[#* \t]{0,9}(?:the )?(?:final |correct )?answer[* \t]{0,9}\n\s{0,9}"
    r"|答案\s?(?:应该是|应为|是|为|选|[:：])[\s:：]{0,9}|选择?[\s:：]{0,3}(?=[(（]?[A-Z](?![A-Za-z]))",  # noqa: RUF001
    re.IGNORECASE | re.MULTILINE,
)
_SUPPOSED = re.compile(r"\b(?:if|suppose|assum(?:e|ing)|unless|whether)(?: that)?(?: the)?\s$", re.IGNORECASE)
_STATEMENT_ENDS = re.compile(r"(?=[.?](?:[\s*`\"']|$)|[\n。？])")  # noqa: RUF001
_REASON = re.compile(r"[,;]? \(?(?:because|since|which(?! (?:could|might|may)\b)|where|as(?! well\b)|so)(?![A-Za-z]).*")
_MARKED = re.compile(r"^####[ \t]{0,9}([^\s#].{0,2000})", re.MULTILINE)
_DECORATION = "*_`# \t>"

_SENTENCE_ENDS = re.compile(r"(?<=[.!?])(?<!\\!)\s+|[。\n]")
_TOKEN = (
    rf"(?:{_F}|\d[\d,]*(?:\.\d+)?%?|\.\d+|[-+*/^=()\[\]{{}}|,;!√π°×÷·−∞½⅓¼¾]|\\?\$(?=[\d.])|\\[A-Za-z]+|\\[{{}},!;%]"  # noqa: RUF001
    r"|(?<![A-Za-z])(?:[A-Za-z](?:_\w)?|sqrt|pi|sin|cos|tan|log|ln|exp|and|or)(?![A-Za-z]))"
)
_UNIT = (
    r"(?<= )(?:(?:every|each|per) [A-Za-z]+|in (?:total|all)"
    r"|(?:square |cubic )?[A-Za-z]+(?: (?:per|a|an|of|every|each) [A-Za-z]+| in (?:total|all))?)"
)
_VALUE = re.compile(
    rf"(?<![\w.\\])(?=[-+(\[{{√π$\d.\\½⅓¼¾]|{_F}|[A-Za-z](?:_\w)?(?:\([a-z]\))? ?=)"
    rf"(?=[^\n]*?(?:\d|{_F}|\\[A-Za-z]|[π∞½⅓¼¾]))"
    rf"(?P<value>(?>{_TOKEN} ?)+)(?:{_UNIT})?$"
)
_SAYS = re.compile(
    r"(?:^|[,:：=是为有得]|\b(?:is|are|was|were|be|equals?|equal to|gives?|giving|gets?|have|has|had|obtain"  # noqa: RUF001
    r"|finds?|yields?|makes?|costs?|pays?|earns?|needs?|so|thus|therefore|hence|then|conclude that|approximately|about"
    r"|only|exactly|total of|(?:comes|adds up|sums|simplifies|reduces|evaluates) to|(?:written|expressed) as),?)$",
    re.IGNORECASE,
)
_SAYS_NOT = re.compile(
    r"(?:\b(?:not|never|cannot|than|most|least|between|if|suppose|assume|unless|none|neither|exclud\w*|reject\w*|wrong|false"
    r"|contradiction)|n't)\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\b(?:for|at|when|where|if|let|suppose|assume|with|since|because|from|using|by|in|of|on|than|take|setting|consider"
    r"|try|put|not|such that)$",
    re.IGNORECASE,
)
_COMPUTED = re.compile(
    r"(?P<left>\d[^=]{0,80}?[-+*/×÷x^–−] ?\(?\\?[$€£¥]?[\d.][^=]{0,80})"  # noqa: RUF001
    r"= ?\\?[$€£¥]?(?P<value>-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?)(?![A-Za-z]{0,2}\d)"
    r"(?:[A-Za-z]{0,5}(?:[ /-](?!(?:or|and|if|is|was|does|did|can|cannot|fails)\b)[^\d=\ue000-\uf8ff]*)?)$"
)
"""A computation, `48 + 24 = 72 clips in April and May`. What follows its last value is words."""
_VARIABLE = re.compile(r"\d[A-Za-z](?![A-Za-z])|(?<![A-Za-z'])[a-wyz] ?[-+*/^=]", re.IGNORECASE)
_IS_ANSWER = re.compile(r"[\s*]{0,9}\bis (?:the|our|my) (?:final |correct |right )?answer$", re.IGNORECASE)

_LETTER = r"[(\[（]?(?P<letter>[A-Z])[)\]）]?"  # noqa: RUF001
_TEXT = re.compile(r"\\(?:text|mbox|textbf|textrm|mathrm|mathbf|boldsymbol)\s?\{([^{}]*)\}")
_CHOICES = [
    re.compile(pattern)
    for pattern in (
        rf"(?i:(?:so|thus|therefore|hence),? )?(?i:the )?(?i:option|choice|answer)?:? ?{_LETTER}[.:]?",
        rf"{_LETTER}, (?!(?:or|and|but|maybe|perhaps|possibly|unless|if|not)\b)[a-z]{{2}}.*",
        rf".*\b(?i:it's|it is|it must be) {_LETTER}",
        rf".*\b(?i:choose|select|pick|chose|go with)(?i: option| choice)? {_LETTER}",
        rf"(?:.*[\s,])?{_LETTER} is (?i:the )?(?:correct|right|best)(?: answer| option| choice| one)?",
    )
]
_OR_ANOTHER = re.compile(r"(?<!\w)[A-Z]\)?,? (?:or|and|nor)$")
_CHOICE_WITH_TEXT = re.compile(r"\(?(?P<letter>[A-Z])(?:\)|[.:](?= ))[.:]? ?(?P<text>[^=\n]{1,80})")
_NOT_CHOSEN = re.compile(r"\b(?:is|are|was|were|not|isn't|wrong|incorrect|false)\b|\b[A-Z]\)|^[A-Z]$")

_NUMBER = (
    r"(?:(?<![\w)}.])-|(?<![A-Za-z_]))\\?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?:\.\d+)?)?%?"
    r"|(?<!\d)-?\.\d+%?"
)
_LAST = re.compile(rf"{_F}|{_NUMBER}")


def stated(text: str) -> str | None:
    """What the last "answer is", "Answer:" or 答案是 is followed by, up to the end of the sentence."""
    for statement in list(_STATED.finditer(text))[: -TRIED - 1 : -1]:
        if _SUPPOSED.search(text[max(0, statement.start() - 40) : statement.start()]):
            continue
        hidden, formulas = _hide(text[statement.end() : statement.end() + WINDOW])
        sentence, end = (*_STATEMENT_ENDS.split(hidden, maxsplit=1), "")[:2]
        said = _REASON.sub("", sentence).strip(_DECORATION)
        if said and end[:1] not in ("?", "？"):  # noqa: RUF001
            return choice(said) or _shown(_value(said, formulas) or said, formulas)
    return None


def marked(text: str) -> str | None:
    """What follows the last `####` on its line, unless it is a heading with more text below it."""
    marks = list(_MARKED.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    is_heading = re.match(r"[A-Za-z]{2}", last[1]) and text[last.end() :].strip()
    return None if is_heading else last[1].strip(_DECORATION)


def concluded(text: str) -> str | None:
    """The value that the last sentence of a text says something is; or its last line, if that is an answer alone."""
    hidden, formulas = _hide(text[-WINDOW:])
    lines = [line.strip(_DECORATION) for line in hidden.splitlines() if re.search(rf"[^\W_]|{_F}", line)]
    if not lines or lines[-1].endswith("?"):
        return None
    if _choice_with_text(lines[-1]) and any(map(_choice_with_text, lines[-2:-1])):
        return None  # the question's choices, written down again
    if letter := choice(lines[-1]) or _choice_with_text(lines[-1]):
        return letter
    sentence = [part for part in _SENTENCE_ENDS.split(lines[-1]) if part.strip()][-1].strip().rstrip(".! ")
    if letter := choice(sentence):
        return letter
    sentence = sentence.replace("**", "")
    said = _value(sentence, formulas)
    return _shown(said, formulas) if said else choice(_shown(lines[-1], formulas))


def choice(text: str) -> str | None:
    """The letter of a multiple-choice answer that is all that a text says: C, (C)., Option C, "So C is correct"."""
    text = _TEXT.sub(r"\1", text).strip("*$. 。")
    for pattern in _CHOICES:
        if match := pattern.fullmatch(text):
            before = " ".join(text[: match.start("letter")].split()[-4:])
            clause = re.split(r"\b(?:and|but)\b", before)[-1]
            return None if _SAYS_NOT.search(clause) or _OR_ANOTHER.search(before) else match["letter"]
    return None


def last_value(text: str) -> str | None:
    """The last formula or number of a text, whatever is said of it."""
    hidden, formulas = _hide(text[-WINDOW:])
    found = _LAST.findall(hidden)
    return _shown(found[-1], formulas) if found else None


def _choice_with_text(line: str) -> str | None:
    """The letter of a line such as `C) library`."""
    match = _CHOICE_WITH_TEXT.fullmatch(line)
    return match["letter"] if match and not _NOT_CHOSEN.search(match["text"]) else None


def _value(sentence: str, formulas: list[str]) -> str | None:
    """The value that a sentence ends with, if it says that something is it."""
    is_answer = _IS_ANSWER.search(sentence)
    match = _VALUE.search(sentence[: is_answer.start()] if is_answer else sentence)
    computed = _COMPUTED.search(sentence) if match is None or match.start() else None
    if computed and not _VARIABLE.search(computed["left"]):
        return computed["value"]
    if match is None:
        return None
    before = sentence[: match.start()].strip(_DECORATION)
    if _SAYS_NOT.search(" ".join(before.split()[-4:])):
        return None
    is_equation = "=" in _shown(match["value"], formulas) and not _GIVEN.search(before)
    return match[0].strip() if is_equation or _SAYS.search(before) else None


def _hide(text: str) -> tuple[str, list[str]]:
    """The text with a character for each formula, and the formulas."""
    formulas: list[str] = []

    def hidden(formula: re.Match[str]) -> str:
        formulas.append(formula[0])
        return chr(_FIRST_HIDDEN + len(formulas) - 1)

    return _FORMULA.sub(hidden, _HIDDEN.sub("", text)), formulas


def _shown(hidden: str, formulas: list[str]) -> str:
    return _HIDDEN.sub(lambda character: formulas[ord(character[0]) - _FIRST_HIDDEN], hidden)
