"""How many examples a property is tried on."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """`number`, or a tenth of it in `make check`, which sets S2L_QUICK_TESTS."""
    return max(1, number // 10) if "S2L_QUICK_TESTS" in os.environ else number
