"""Objects as YAML that people read and edit: keys in the given order, texts as blocks, comments where they help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write a value again wherever it stands."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if "\x85" in text else "|" if "\n" in text else None  # PyYAML writes it as it is, and reads a blank
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(document: Mapping[str, Any]) -> str:
    """An object as YAML."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return text


def commented(text: str, comments: Mapping[str, str]) -> str:
    """YAML with comments, each above the first line that has its key; texts in blocks are left as they are."""
    left, lines = dict(comments), []
    block: int | None = None  # indentation of the key whose text the line belongs to
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip(" "))
        if block is None or (line.strip() and indent <= block):
            found = re.match(r" *(?:- )?(\w+):", line)
            if found and (comment := left.pop(found[1], None)):
                lines.append(f"{' ' * indent}# {comment}\n")
            block = indent if re.search(r": \|[-+\d]*$", line) else None
        lines.append(line)
    return "".join(lines)
