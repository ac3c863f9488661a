"""A broadcast that fails: whether its group broke, which may be formed anew, or the walk of the weights did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from s2l_ray.errors import BroadcastError
from s2l_ray.weights.rendezvous import SecretStore
from s2l_ray.weights.sender import GroupSender


class Sender(GroupSender):
    """Walks five parts, of which each is a collective of the ranks; breaks in the walk or on the wire."""

    def __init__(self, *, rank: int = 0, walk_breaks: bool = False, wire_breaks: bool = False) -> None:
        super().__init__([], rank, "127.0.0.1", 1.0)
        self._walk_breaks, self._wire_breaks = walk_breaks, wire_breaks
        self.walked: list[int] = []

    def walk(self, weights: Any) -> Iterator[int]:
        for part in range(5):
            if self._walk_breaks and part == 2:
                raise RuntimeError("CUDA out of memory")
            self.walked.append(part)
            yield part

    def _broadcast(self, walk: Iterator[Any]) -> float:
        for part in walk:
            if self._wire_breaks and part == 1:
                raise RuntimeError("connection closed by peer")
        return 1.0

    def _join(self, store: SecretStore, group: str, size: int) -> Any: ...

    def _leave(self) -> None: ...


def test_where_the_group_breaks_the_rank_walks_on_with_the_others() -> None:
    sender = Sender(wire_breaks=True)
    with pytest.raises(BroadcastError, match="the broadcast failed: connection closed"):
        sender.send(None)
    assert sender.walked == [0, 1, 2, 3, 4]


def test_where_the_walk_breaks_nothing_may_be_tried_again() -> None:
    """The other ranks have begun collectives that this one never will: it says what it was, not that a group broke."""
    for sender in (Sender(walk_breaks=True), Sender(walk_breaks=True, rank=1)):
        with pytest.raises(RuntimeError, match="^CUDA out of memory$"):
            sender.send(None)
        assert sender.walked == [0, 1]


def test_a_broadcast_that_ends() -> None:
    assert Sender().send(None).broadcast_s == 1.0 and Sender(rank=1).send(None).broadcast_s == 0.0
