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
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(document: Mapping[str, Any]) -> str:
    """An object as YAML."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return text


def commented(text: str, comments: Mapping[str, str]) -> str:
    """YAML with comments, each above the first line that has its key. Texts in blocks must not have such lines."""
    for key, comment in comments.items():
        text = re.sub(rf"^( *)(- )?({key}:)", rf"\1# {comment}\n\1\2\3", text, count=1, flags=re.MULTILINE)
    return text
