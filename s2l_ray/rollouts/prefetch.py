"""A bounded buffer of explorer requests for coming steps. Pure: no Ray, no tokens.

The explorer is frozen, so its rollouts of coming steps can be sampled at any time; and the schedule says how many each
step takes, so nothing is sampled that is not used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from s2l_ray.rollouts.requests import ExplorerRequest


class Prefetch:
    """Hands out explorer requests in the order in which steps need them, as many as the buffer has room for.

    Args:
        requests: the explorer's requests of a step.
        last_step: T.
        steps: number of steps after the present one that may be prefetched.
        capacity: bytes of rollouts of those steps, finished or under way.
        bytes_per_rollout: the most that one rollout can take; what is under way counts as much.
    """

    def __init__(
        self,
        requests: Callable[[int], list[ExplorerRequest]],
        last_step: int,
        steps: int,
        capacity: int,
        bytes_per_rollout: int,
    ) -> None:
        self._requests = requests
        self._last_step = last_step
        self._steps = steps
        self._capacity = capacity
        self._bytes_per_rollout = bytes_per_rollout
        self._present = 0
        self._pending: dict[int, deque[ExplorerRequest]] = {}
        self._sizes: dict[int, dict[str, int]] = {}
        self.held = 0
        """Bytes that rollouts of coming steps take, or may take."""

    def begin(self, step: int) -> list[ExplorerRequest]:
        """Make `step` the present one. Returns those of its requests that `next` has not handed out."""
        self._present = step
        for past in [coming for coming in self._sizes if coming <= step]:
            self.held -= sum(self._sizes.pop(past).values())
        rest = list(self._of(step))
        self._pending = {coming: pending for coming, pending in self._pending.items() if coming > step}
        return rest

    def next(self) -> ExplorerRequest | None:
        """The next request of a coming step; None: there is none, or no room for it before others are used."""
        for step in range(self._present + 1, min(self._present + self._steps, self._last_step) + 1):
            if pending := self._of(step):
                size = pending[0].count * self._bytes_per_rollout
                if self.held + size > self._capacity:
                    return None
                request = pending.popleft()
                self._sizes.setdefault(step, {})[request.prompt_id] = size
                self.held += size
                return request
        return None

    def finished(self, request: ExplorerRequest, nbytes: int) -> None:
        """A request is done, and its rollouts take `nbytes`."""
        if (sizes := self._sizes.get(request.step)) is not None and request.prompt_id in sizes:
            self.held += nbytes - sizes[request.prompt_id]
            sizes[request.prompt_id] = nbytes

    def _of(self, step: int) -> deque[ExplorerRequest]:
        if step not in self._pending:
            self._pending[step] = deque(self._requests(step))
        return self._pending[step]
