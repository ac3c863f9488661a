"""Bytes of tensors that are alive in this process, as torch's CPU allocator hands them out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile


@dataclass
class AllocatedBytes:
    """Bytes that a block of code allocated."""

    peak: int = 0
    """Most that was allocated at one time since the block began."""
    end: int = 0
    """Still allocated when the block ended; negative if it freed more than it allocated."""


@contextmanager
def metered() -> Iterator[AllocatedBytes]:
    """Every allocation and release of torch's CPU allocator within the block, work spaces inside operators included.

    Not seen: scratch memory that oneDNN takes from malloc itself, and what other threads release, as gloo's do with
    more than one rank.
    """
    usage = AllocatedBytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield usage
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        usage.end += event.nbytes()
        usage.peak = max(usage.peak, usage.end)
