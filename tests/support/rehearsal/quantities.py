"""Kubernetes' resource quantities, such as 500m, 1.5 or 2Gi."""

from __future__ import annotations

import math
from decimal import Decimal

SUFFIXES = {"m": Decimal("0.001")}
SUFFIXES |= {letter: Decimal(1000**power) for power, letter in enumerate("kMGTPE", 1)}
SUFFIXES |= {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)}


def value(quantity: str | float) -> int:
    """The number that a quantity stands for, rounded up to a whole one, as `Quantity.Value()` of Kubernetes does."""
    text = str(quantity)
    number = text.rstrip("kKMGTPEim") if not text.upper().replace("E", "").isdigit() else text
    return math.ceil(Decimal(number) * SUFFIXES.get(text[len(number) :], Decimal(1)))
