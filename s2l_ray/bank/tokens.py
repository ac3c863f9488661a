"""How many tokens recorded rollouts have, by prompt and draw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from s2l_ray.bank.holding import distinct_rollouts
from s2l_ray.bank.needed import draws_of
from s2l_ray.machine.storage import Storage
from s2l_ray.rollouts.requests import ExplorerRequest


class RecordedTokens:
    """The response tokens of a recording's rollouts. Tokens and texts themselves are not read.

    Args:
        storage: the bank.
        folder: the directory of a recording's shards.

    Raises:
        BankError: a shard cannot be read.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._before: dict[str, np.ndarray] = {}
        """By prompt, int64 [largest draw + 2]: the tokens of all draws before this one."""
        table = distinct_rollouts(storage, folder, ["tokens"])
        if table is None:
            return
        ids = table["prompt_id"].cast("string").to_numpy()
        draws, tokens = (table[name].to_numpy() for name in ("draw", "tokens_min"))
        order = np.lexsort((draws, ids))
        ids, draws, tokens = ids[order], draws[order], tokens[order]
        names, starts = np.unique(ids, return_index=True)
        for name, first, end in zip(names, starts, [*starts[1:], len(ids)], strict=True):
            of_draw = np.zeros(int(draws[end - 1]) + 1, np.int64)
            of_draw[draws[first:end]] = tokens[first:end]
            self._before[name] = np.concatenate([[0], np.cumsum(of_draw)])

    def of(self, requests: Iterable[ExplorerRequest]) -> int:
        """Number of tokens in the rollouts of these requests; one that is not recorded counts as none."""
        total = 0
        for wanted in map(draws_of, requests):
            before = self._before.get(wanted.prompt_id)
            if before is not None:
                end, first = (min(draw, len(before) - 1) for draw in (wanted.first + wanted.count, wanted.first))
                total += int(before[end] - before[first])
        return total
