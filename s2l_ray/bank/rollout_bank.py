"""An open recording, as a run uses it: which requests it can answer, the answers, and recording what was sampled."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from s2l_ray.bank.fingerprint import prompt_digest
from s2l_ray.bank.index import Index
from s2l_ray.bank.needed import describe, draws_of
from s2l_ray.bank.reader import CACHE_BYTES, Reader
from s2l_ray.bank.shard import ShardRow
from s2l_ray.bank.storage import bank_storage
from s2l_ray.bank.writer import SHARD_AGE_S, SHARD_BYTES, Receipt, Writer
from s2l_ray.errors import BankError
from s2l_ray.rollouts.records import Prompt, RolloutSet, SetReport, report_on
from s2l_ray.rollouts.requests import ExplorerRequest


@dataclass(frozen=True)
class BankSettings:
    """What opens a recording, in any process."""

    path: str
    """bank.path, as an absolute path or a URI."""
    shards: str
    """Directory of the recording's shards, relative to `path`."""
    reads: bool
    """Whether recorded rollouts are used. Sampled ones are recorded in either case."""
    is_local: bool
    """Whether it is a directory, which only nodes that mount it can open."""


class RolloutBank:
    """An open recording. Thread-safe.

    Args:
        settings: see `prepare`.
        prompts: the run's prompts, by id.
        cache_bytes: see `Reader`.
        shard_bytes: see `Writer`.
        shard_age_s: see `Writer`.

    Raises:
        BankError: see `Index`.
    """

    def __init__(
        self,
        settings: BankSettings,
        prompts: Mapping[str, Prompt],
        cache_bytes: int = CACHE_BYTES,
        shard_bytes: int = SHARD_BYTES,
        shard_age_s: float = SHARD_AGE_S,
    ) -> None:
        storage = bank_storage(settings.path)
        self._settings = settings
        self._prompts = prompts
        self._digests = {prompt.id: prompt_digest(prompt) for prompt in prompts.values()}
        self._index = Index(self._digests, storage, settings.shards)
        self._reader = Reader(storage, settings.shards, cache_bytes)
        self._writer = Writer(storage, settings.shards, self._add_shard, shard_bytes, shard_age_s)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of rollouts of the run's prompts, without those that are not written yet."""
        return len(self._index)

    def covers(self, requests: Sequence[ExplorerRequest]) -> list[bool]:
        """Which of these requests `read` can answer. In a bank that is only written to, none."""
        if not self._settings.reads:
            return [False] * len(requests)
        with self._lock:
            return [bool(there) for there in self._index.has([draws_of(request) for request in requests])]

    def missing(self, requests: Iterable[ExplorerRequest]) -> list[ExplorerRequest]:
        """Requests for those rollouts of `requests` that are not recorded."""
        with self._lock:
            return [
                replace(request, first_draw=part.first, count=part.count)
                for request in requests
                for part in self._index.missing(draws_of(request))
            ]

    def read(self, request: ExplorerRequest) -> tuple[RolloutSet, SetReport]:
        """The rollouts of a request, with their verdicts, and the report on them.

        Raises:
            BankError: some are not recorded, or a shard cannot be read.
        """
        wanted = draws_of(request)
        with self._lock:
            if not self._index.has([wanted])[0]:
                raise BankError(
                    f"the bank {self._settings.path} lacks some of {describe(request)}; s2l explore CONFIG records them"
                )
            places = self._index.find(wanted)
        prompt = self._prompts[request.prompt_id]
        found = RolloutSet(prompt.id, prompt.token_ids, self._reader.read(places))
        return found, report_on(found, verified=None)

    def record(self, request: ExplorerRequest, scored: RolloutSet) -> Receipt:
        """Record the verified rollouts of a request, without those that are recorded already.

        Returns:
            Which of all that was recorded here a death of this process would not lose.

        Raises:
            BankError: a shard cannot be written; its rollouts are kept and written with the next.
        """
        wanted = draws_of(request)
        with self._lock:
            new = {d for part in self._index.missing(wanted) for d in range(part.first, part.first + part.count)}
        digest = self._digests[request.prompt_id]
        rows = [
            ShardRow(request.step, wanted.first + rollout.index, digest, rollout)
            for rollout in scored.rollouts
            if wanted.first + rollout.index in new
        ]
        return self._writer.add(rows)

    def close(self) -> None:
        """Write the rollouts that are not written yet.

        Raises:
            BankError: they cannot be written.
        """
        self._writer.flush()

    def _add_shard(self, shard: str) -> None:
        with self._lock:
            self._index.add([shard])
