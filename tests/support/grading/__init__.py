"""The labelled corpus of the verifier `math`: what a fair human grader pays, decided before any code was run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Labelled:
    """A response, and what it is worth at each level of `verifier.extract`."""

    kind: str
    gold: str
    response: str
    strict: int
    """Reward, 1 or 0."""
    lenient: int
    """Likewise; never less than strict pays."""
    why: str
    """What the labels were decided by."""
    question: str = ""
    """Where the label depends on it."""


@cache
def corpus() -> tuple[Labelled, ...]:
    """Every row of the files in this folder."""
    files = sorted(Path(__file__).parent.glob("*.jsonl"))
    return tuple(
        Labelled(**json.loads(line)) for file in files for line in file.read_text(encoding="utf-8").splitlines()
    )
