"""The bank as a run sees it: which requests it can answer, the answers, and what was sampled put by."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from s2l_ray.bank.fingerprint import prompt_digest
from s2l_ray.bank.index import Index
from s2l_ray.bank.needed import describe, draws_of
from s2l_ray.bank.reader import CACHE_BYTES, Reader
from s2l_ray.bank.shard import Entry
from s2l_ray.bank.storage import Storage
from s2l_ray.bank.writer import SHARD_AGE_S, SHARD_BYTES, Writer
from s2l_ray.errors import BankError
from s2l_ray.rollouts.records import Prompt, RolloutSet, SetReport, report_on
from s2l_ray.rollouts.requests import ExplorerRequest


@dataclass(frozen=True)
class BankSettings:
    """What opens a recording: all that has to reach another process."""

    path: str
    """bank.path: absolute, or a URI."""
    shards: str
    """Directory of the recording's shards, relative to `path`."""
    reads: bool
    """Whether recorded rollouts are used; what is sampled is recorded all the same."""
    is_local: bool
    """Only nodes that mount the same directory can open it."""


class RolloutBank:
    """One recording, open. For several threads at once.

    Args:
        settings: see `prepare`.
        prompts: of the run, by id.

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
        storage = Storage(settings.path)
        self._settings = settings
        self._prompts = prompts
        self._digests = {prompt.id: prompt_digest(prompt) for prompt in prompts.values()}
        self._index = Index(self._digests, storage, settings.shards)
        self._reader = Reader(storage, settings.shards, cache_bytes)
        self._writer = Writer(storage, settings.shards, self._take_in, shard_bytes, shard_age_s)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Rollouts of the run's prompts, without those that are still to be written."""
        return len(self._index)

    def covers(self, requests: Sequence[ExplorerRequest]) -> list[bool]:
        """Which of these requests `read` can answer. In a bank that is only written to, none."""
        if not self._settings.reads:
            return [False] * len(requests)
        with self._lock:
            return [bool(there) for there in self._index.has([draws_of(request) for request in requests])]

    def missing(self, requests: Iterable[ExplorerRequest]) -> list[ExplorerRequest]:
        """Requests for those of their rollouts that are not recorded."""
        with self._lock:
            return [
                replace(request, first_draw=part.first, count=part.count)
                for request in requests
                for part in self._index.missing(draws_of(request))
            ]

    def read(self, request: ExplorerRequest) -> tuple[RolloutSet, SetReport]:
        """The rollouts of a request as the explorer sampled them and the verifier scored them.

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

    def record(self, request: ExplorerRequest, scored: RolloutSet) -> None:
        """Put by what was sampled and verified for a request; rollouts that are recorded already are left out.

        Raises:
            BankError: a shard cannot be written; its rollouts are kept and tried again.
        """
        wanted = draws_of(request)
        with self._lock:
            new = {d for part in self._index.missing(wanted) for d in range(part.first, part.first + part.count)}
        digest = self._digests[request.prompt_id]
        entries = [
            Entry(request.step, wanted.first + rollout.index, digest, rollout)
            for rollout in scored.rollouts
            if wanted.first + rollout.index in new
        ]
        if entries:
            self._writer.add(entries)

    def close(self) -> None:
        """Write what is still held.

        Raises:
            BankError: it cannot be written.
        """
        self._writer.flush()

    def _take_in(self, shard: str) -> None:
        with self._lock:
            self._index.add([shard])
