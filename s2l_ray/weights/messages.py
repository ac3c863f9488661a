"""Messages to the two ends of a weight sync: plain data that goes by Ray to an engine and on to its workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.weights.admission import Meeting
from s2l_ray.weights.buckets import WeightSpec


@dataclass(frozen=True)
class Invitation:
    """How an engine's workers join a broadcast group: a worker's rank is `rank_offset` plus its rank in the engine."""

    host: str
    port: int
    secret: str = field(repr=False)
    """Of the store at host:port, see `Meeting`."""
    group: str
    """Never used twice, so that a latecomer of an older group cannot meet a newer one."""
    rank_offset: int
    size: int
    timeout_s: float
    """Bound on joining, and on every wait within a weight sync."""

    @classmethod
    def to(cls, meeting: Meeting, group: str, rank_offset: int, size: int, timeout_s: float) -> Invitation:
        """The invitation to a meeting."""
        return cls(meeting.host, meeting.port, meeting.secret, group, rank_offset, size, timeout_s)

    @property
    def meeting(self) -> Meeting:
        """Where the members meet."""
        return Meeting(self.host, self.port, self.secret)


def update_info(specs: Iterable[WeightSpec]) -> dict[str, Any]:
    """The description of what arrives over gloo or nccl: the whole model, in the order of the stream."""
    specs = list(specs)
    return {
        "names": [s.name for s in specs],
        "dtype_names": [s.dtype for s in specs],
        "shapes": [list(s.shape) for s in specs],
    }


def merge_chunks(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One ipc chunk as every trainer rank shows it: the same tensors, a handle for each GPU.

    Raises:
        ValueError: the ranks do not show the same tensors.
    """
    first = {key: value for key, value in chunks[0].items() if key != "handles"}
    for chunk in chunks[1:]:
        if chunk | {"handles": None} != first | {"handles": None}:
            raise ValueError(f"trainer ranks are at different tensors: {chunks[0]['names']} and {chunk['names']}")
    return first | {"handles": {gpu: handle for chunk in chunks for gpu, handle in chunk["handles"].items()}}
