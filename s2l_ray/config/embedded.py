"""Names for the embedded family, which the package carries: `embedded:large` is its large model, wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from s2l_ray.config.section import AfterValidator, LocalPath

PREFIX = "embedded:"
DIRECTORY = Path(__file__).parents[1] / "miniature" / "family"
PARTS = ("small", "large", "train.jsonl", "heldout.jsonl")


def _expand(text: str) -> str:
    """The path of a part of the embedded family. Any other text is returned as it is."""
    if not text.startswith(PREFIX):
        return text
    part = text.removeprefix(PREFIX)
    if part not in PARTS:
        raise ValueError(f"the embedded family has {', '.join(PREFIX + name for name in PARTS)}, and nothing else")
    return str(DIRECTORY / part)


SourcePath = Annotated[LocalPath, AfterValidator(_expand)]
"""The path of a file or directory to read, or the name of a part of the embedded family, which becomes its path."""
