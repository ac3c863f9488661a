"""Where a step's time goes: spans of work, the seconds of a step by cause, the trace file and its picture.

Nothing here imports Ray, torch or (before something is drawn) matplotlib.
"""

from __future__ import annotations

from s2l_ray.timing.attribution import PARTS, attribute, busy_shares
from s2l_ray.timing.clock import StepClock
from s2l_ray.timing.spans import Span, busy, number_of, role_of
from s2l_ray.timing.time_sheet import StepTimes, TimeSheet
from s2l_ray.timing.trace import TraceFile, read_trace

__all__ = [
    "PARTS",
    "Span",
    "StepClock",
    "StepTimes",
    "TimeSheet",
    "TraceFile",
    "attribute",
    "busy",
    "busy_shares",
    "number_of",
    "read_trace",
    "role_of",
]
