"""Which names could have been meant by one that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.7
"""How alike two names are at least, of which one may be meant by the other; below it most are two different words."""
SHORTEST_BEGINNING = 3
"""Characters from which a name may be meant by its beginning alone."""
MOST = 3


def nearest(given: str, names: Iterable[str]) -> list[str]:
    """The name that is most like the one that was given; else those that begin with it, or have its letters."""
    names, given = list(names), given.lower()
    begun = [name for name in names if len(given) >= SHORTEST_BEGINNING and name.startswith(given)]
    swapped = [name for name in names if sorted(name) == sorted(given)]  # in short names these are not alike
    return difflib.get_close_matches(given, names, n=1, cutoff=CUTOFF) or (begun or swapped)[:MOST]
