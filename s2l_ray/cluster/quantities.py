"""Amounts as Kubernetes writes them."""

from __future__ import annotations

MB = 10**6
SUFFIXES = {"G": 10**9, "M": MB, "k": 1000}
"""Decimal, as an inventory's GB are."""


def quantity(size: int) -> str:
    """Bytes with the largest suffix that leaves a whole number: 2_000_000_000 is `2G`, 7_500_000_000 is `7500M`."""
    for suffix, unit in SUFFIXES.items():
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)
