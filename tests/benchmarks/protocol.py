"""What a benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One figure of benchmarks.json; the runner adds the command that measures it again."""

    name: str
    """Unique over all benchmarks, in snake_case."""
    value: float
    aim: float | None
    """The figure that would be good enough; None where there is no aim."""
    unit: str
    """Such as "tokens/s", "ratio" or "bytes"."""


class Skipped(Exception):
    """This machine cannot run the benchmark. The message says what is missing and how to get it."""
