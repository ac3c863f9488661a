"""Names for what the package carries: `embedded:large` is the large model of the embedded family, wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from s2l_ray.config.section import AfterValidator, LocalPath

PREFIX = "embedded:"
DIRECTORY = Path(__file__).parents[1] / "miniature" / "family"
PARTS = ("small", "large", "train.jsonl", "heldout.jsonl")


def _expand(text: str) -> str:
    """The path of a part of the embedded family; any other text as it is."""
    if not text.startswith(PREFIX):
        return text
    part = text.removeprefix(PREFIX)
    if part not in PARTS:
        raise ValueError(f"the package carries {', '.join(PREFIX + name for name in PARTS)}, and nothing else")
    return str(DIRECTORY / part)


SourcePath = Annotated[LocalPath, AfterValidator(_expand)]
"""The path of what is read, or the name of a part of the embedded family, which becomes its path."""
