"""The final answer that a response states, and where it stands."""

from __future__ import annotations

import re

LONGEST_ANSWER = 1000
"""Characters; a longer "answer" is a response that never came to one."""

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


def extract_answer(text: str) -> str | None:
    r"""The final answer that a response states.

    It is in the last `\boxed{}` with balanced braces, else after the last "answer is" (or "answer:") up to the end of
    the sentence, else after the last `####` up to the end of the line, else it is the last number.
    """
    for find in (_boxed, _stated, _marked, _last_number):
        if found := find(text):
            return found
    return None


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
