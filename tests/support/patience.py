"""How long tests wait for what must happen.

A bound against hanging, not a measure of speed: a machine of two cores with a load of eight keeps it. What a test says
about a bound of ours that is reached sets that bound itself.
"""

from __future__ import annotations

PATIENCE_S = 900.0
