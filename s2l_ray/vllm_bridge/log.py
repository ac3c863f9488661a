"""The log of an engine that did not start."""

from __future__ import annotations

import re
from pathlib import Path


def first_error_in(log: Path) -> str | None:
    """The first exception in an engine's log, as "Type: message"; None if there is none, or no log.

    Exceptions with which vLLM points at an earlier one are passed over.
    """
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = [match[1] for line in lines if (match := re.search(r"\b(\w+(?:Error|Exception): .+)", line))]
    return next((line for line in found if "See root cause above" not in line), None)
