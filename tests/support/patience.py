"""How long tests wait for what must happen.

A bound against hanging, not a measure of speed: a machine of two cores with a load of eight keeps it. What a test says
about a bound of ours that is reached sets that bound itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 900.0


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
