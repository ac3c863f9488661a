r"""The final answers that a response gives, and where they stand.

What is read depends on the level of `verifier.extract`. Strict reads places that a response names as its answer:

1. nothing before the last `</think>`, and nothing at all if the thinking never ends;
2. between `<answer>` and `</answer>`;
3. in a `\boxed{}` whose braces are balanced. If the last box is not closed, the response was cut off in its answer;
4. what the last sentence of the kind "the answer is X" says, or the last line `#### X`, or the response's last
   sentence, if it says what the value is (`tasks.statements`).

Lenient reads the same, and what remains if that gives nothing: an open box, the last formula or number, the thinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.tasks.statements import concluded, last_value, marked, stated

LONGEST_ANSWER = 1000
"""Characters; a longer "answer" is a response that never came to one."""
MOST_ANSWERS = 20
"""Different answers that a response may give; a longer list is no list of boxes any more."""

_BOX = r"\\{1,4}(?:boxed|fbox)"  # more than one backslash: a new line before the box, or an escape too many
_BRACES = re.compile(rf"(?P<box>{_BOX}\s{{0,20}}\{{)|\\.|[{{}}]", re.DOTALL)
_BARE_BOX = re.compile(_BOX + r"\s{0,20}([^\s{}$\\]+)")
_BLANK = re.compile(
    r"(?:\\[hv]?phantom\s?\{[^{}]*\}|\\(?:q?quad|square|l?dots|[ ,;:!])|\\text\s?\{ *\}|[\s~_?.])*"
    r"|(?:\\text\s?\{)?<?(?:(?:your|the|my|final|numerical) )*answers?(?: here)?>?\}?",
    re.IGNORECASE,
)
"""What a box holds that is to be filled in: models repeat such boxes of the problem and of the prompt."""
_THINKING = re.compile(r"<(/?)(?:think|thinking)>", re.IGNORECASE)
_TAGS = re.compile(r"<(/?)answer>", re.IGNORECASE)


def final_answers(text: str, level: ExtractionLevel) -> tuple[str, ...]:
    """The different answers that a response gives as its final one, in order; none if it gives no answer.

    Answers that are written alike are one. Several may be a list, or be a response that does not commit itself;
    `tasks.math_answers` decides that.
    """
    part = _after_thinking(text)
    found = _given(part) if part is not None else ()
    if found or level == "strict":
        return found
    return (_guessed(part) if part is not None else ()) or _given(text) or _guessed(text)


def _after_thinking(text: str) -> str | None:
    """What follows the last thinking; None if that never ends."""
    marks = list(_THINKING.finditer(text))
    if not marks:
        return text
    return text[marks[-1].end() :] if marks[-1][1] else None


def _given(text: str) -> tuple[str, ...]:
    """The answers in places that are named as the answer's; none where the response was cut off in such a place."""
    contents, open_tag = _tagged(text)
    boxes, open_box = _boxes(text)
    cut_off = open_box is not None or (not boxes and _BARE_BOX.search(text) is not None)
    if open_tag is not None or (cut_off and not contents):
        return ()
    found = _different(map(_in_tag, contents)) or _different(boxes)
    if len(found) > 1 and not contents and (said := stated(_after_boxes(text))):
        return (said,)  # boxes of intermediate results, and then "The final answer is 7."
    return found or _different([_in_words(text)])


def _guessed(text: str) -> tuple[str, ...]:
    """What is most likely the answer where nothing is named so, or the response was cut off in it."""
    _, open_tag = _tagged(text)
    if open_tag is not None:
        return _different([_in_tag(open_tag)])
    boxes, open_box = _boxes(text)
    if boxes or open_box:
        return _different(boxes or [open_box])
    bare = _BARE_BOX.findall(text)
    return _different([bare[-1].rstrip(".,;:") if bare else last_value(text)])


def _different(answers: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer for answer in answers if answer))


def _in_words(text: str) -> str | None:
    return stated(text) or marked(text) or concluded(text)


def _in_tag(content: str) -> str:
    return ", ".join(_different(_boxes(content)[0])) or _in_words(content) or content


def _tagged(text: str) -> tuple[list[str], str | None]:
    """What stands between <answer> and </answer>, and what follows the last <answer> if it is not closed."""
    contents, start = [], None
    for tag in _TAGS.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            contents.append(text[start : tag.start()].strip())
            start = None
    return [content for content in contents if content], None if start is None else text[start:].strip()


def _after_boxes(text: str) -> str:
    *_, last = re.finditer(_BOX, text)
    return text[last.start() :].partition("}")[2]


def _boxes(text: str) -> tuple[list[str], str | None]:
    """What the innermost boxes hold, in order, and what one that is open at the end holds up to the end of its line."""
    # One pass with a stack, however often a degenerate response opens a box: (start, content's start) or None for a {.
    open_braces: list[tuple[int, int] | None] = []
    contents: list[str] = []
    last = -1
    first = re.search(_BOX, text)
    for token in _BRACES.finditer(text, first.start()) if first else ():
        if token["box"]:
            open_braces.append((token.start(), token.end()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces and (box := open_braces.pop()) is not None:
            content = text[box[1] : token.start()].strip() if token.start() - box[1] < 10 * LONGEST_ANSWER else ""
            if box[0] > last and not _BLANK.fullmatch(content):
                last = box[0]
                contents.append(content)
    left = [box for box in open_braces if box is not None and box[0] > last]
    return contents, text[left[-1][1] :].strip().partition("\n")[0].rstrip("$. ") if left else None
