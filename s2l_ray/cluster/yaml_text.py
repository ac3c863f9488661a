"""Objects as YAML that people read and edit: keys in the given order, texts as blocks, comments where they help."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write a value again wherever it stands."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(documents: Sequence[Mapping[str, Any]], comments: Mapping[str, str]) -> str:
    """The documents as one YAML stream.

    Args:
        comments: by key; each is put above the first line that has the key.
    """
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    for key, comment in comments.items():
        text = re.sub(rf"^( *)(- )?({key}:)", rf"\1# {comment}\n\1\2\3", text, count=1, flags=re.MULTILINE)
    return text
