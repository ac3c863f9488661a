"""Kubernetes' resource quantities, such as 500m, 1.5 or 2Gi."""

from __future__ import annotations

import math
import re
from decimal import Decimal

UNITS = {"": Decimal(1), "m": Decimal("0.001")}
UNITS |= {letter: Decimal(1000**power) for power, letter in enumerate("kMGTPE", 1)}
UNITS |= {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)}
QUANTITY = re.compile(r"([\d.]+)(\D*)")


def value(quantity: str | float) -> int:
    """The number that a quantity stands for, rounded up to a whole one, as `Quantity.Value()` of Kubernetes does."""
    found = QUANTITY.fullmatch(str(quantity))
    assert found, f"{quantity!r} is no quantity"
    return math.ceil(Decimal(found[1]) * UNITS[found[2]])
