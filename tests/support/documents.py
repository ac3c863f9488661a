"""The documents of the repository, taken apart: fenced blocks, commands, inline code and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(?P<language>\S*)\s*$")
MARKER = re.compile(r"^ *<!-- (?P<marker>run|not run: \S.*) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    path: Path
    line: int
    """Of its opening fence, from 1."""
    language: str
    marker: str
    """What an HTML comment on the line before it says: `run`, `not run: REASON`, or nothing."""
    text: str

    @property
    def name(self) -> str:
        """Where it is, for the name of a test."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without comments; continued lines are one command."""
        found: list[list[str]] = []
        begun = ""
        for line in self.text.splitlines():
            begun += f"{line}\n"
            try:
                words = shlex.split(begun.replace("\\\n", " "), comments=True)
            except ValueError:  # a quotation that a later line closes
                continue
            if not begun.endswith("\\\n"):
                found += [words] if words else []
                begun = ""
        return found


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not (fence := FENCE.match(line)):
            continue
        if opened is None:
            opened, language = number, fence["language"]
            before = MARKER.match(lines[number - 1]) if number else None
            continue
        marker = before["marker"] if before else ""
        found.append(Block(path, opened + 1, language, marker, "\n".join(lines[opened + 1 : number])))
        opened = None
    assert opened is None, f"{path}, line {opened}: the block does not end"
    return found


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```\s*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(path: Path) -> list[str]:
    """What stands in single backticks outside fenced blocks, on one line or over two."""
    paragraphs = re.split(r"\n\s*\n|\n(?=[|-])", prose(path))
    found = (re.findall(r"(?<!`)`([^`]+)`(?!`)", paragraph) for paragraph in paragraphs)
    return [" ".join(code.split()) for codes in found for code in codes]


def links(path: Path) -> list[str]:
    """Targets of links and images outside fenced blocks."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))


def braces(text: str) -> list[str]:
    """`a.{b,c}.d` as `a.b.d` and `a.c.d`."""
    if not (found := re.search(r"\{([^{}]*)\}", text)):
        return [text]
    return [
        one for choice in found[1].split(",") for one in braces(text[: found.start()] + choice + text[found.end() :])
    ]
