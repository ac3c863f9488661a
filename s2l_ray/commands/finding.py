"""One line of `s2l doctor`'s report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    what: str
    good: bool
    detail: str
    remedy: str = ""
    needed: bool = True
    """False: only some uses need it."""
