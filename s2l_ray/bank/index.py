"""Which rollouts a recording has, and in which shard. Read from the shards' key columns, about 20 bytes per rollout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.bank.shard import KEYS, opened_shard
from s2l_ray.errors import BankError
from s2l_ray.machine.storage import Storage

THREADS = 16
"""Number of shards whose keys are read concurrently: an object store has a high latency."""
_DRAWS = 2**32
"""More than the draws of any prompt. A rollout's key is prompt number * _DRAWS + draw."""


class Location(NamedTuple):
    """Where a rollout is stored."""

    shard: str
    row_group: int
    row: int
    """Its row within the row group."""


@dataclass(frozen=True, slots=True)
class DrawRange:
    """Draws `first` to `first + count - 1` of a prompt."""

    prompt_id: str
    first: int
    count: int


class _ShardKeys(NamedTuple):
    """The rollouts of one shard that are of the run's prompts."""

    keys: np.ndarray
    """int64 [rollouts]."""
    rows: np.ndarray
    """int32 [rollouts]: their rows in the shard."""
    starts: np.ndarray
    """int64 [row groups + 1]: the first row of each row group, and the number of rows."""


class Index:
    """The rollouts of a recording that are of a run's prompts. Those of other prompts take no memory.

    Args:
        prompts: the digest of each of the run's prompts, by id (see `prompt_digest`).
        storage: the bank.
        folder: the directory of the recording's shards.

    Raises:
        BankError: a prompt was recorded with another digest than the run's, or a shard cannot be read.
    """

    def __init__(self, prompts: Mapping[str, str], storage: Storage, folder: str) -> None:
        self._prompts = prompts
        self._numbers = {prompt_id: number for number, prompt_id in enumerate(prompts)}
        self._storage = storage
        self._folder = folder
        self._shards: list[str] = []
        self._starts: list[np.ndarray] = []
        self._keys = np.empty(0, np.int64)
        self._of_shard = np.empty(0, np.int32)
        self._rows = np.empty(0, np.int32)
        self.add(name for name, _ in storage.files(folder, ".parquet"))

    def __len__(self) -> int:
        """Number of rollouts of the run's prompts."""
        return len(self._keys)

    def add(self, shards: Iterable[str]) -> None:
        """Add shards by name. Where several have the same rollout, the first one is used; they are equal."""
        names = list(shards)
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(self._read, names))
        numbers = [np.full(len(part.keys), len(self._shards) + n, np.int32) for n, part in enumerate(found)]
        keys = np.concatenate([self._keys, *(part.keys for part in found)])
        self._keys, first = np.unique(keys, return_index=True)
        self._of_shard = np.concatenate([self._of_shard, *numbers])[first]
        self._rows = np.concatenate([self._rows, *(part.rows for part in found)])[first]
        self._shards += names
        self._starts += [part.starts for part in found]

    def has(self, ranges: Sequence[DrawRange]) -> np.ndarray:
        """Bool [ranges]: whether every draw of each range is recorded."""
        if not len(ranges) or not len(self._keys):
            return np.zeros(len(ranges), bool)
        first = np.array([self._key(r.prompt_id, r.first) for r in ranges])
        last = first + np.array([r.count for r in ranges]) - 1
        # Keys are distinct and sorted: if none is absent, a range's last key is `count - 1` places after its first.
        place = np.searchsorted(self._keys, first) + (last - first)
        found: np.ndarray = (place < len(self._keys)) & (self._keys[np.minimum(place, len(self._keys) - 1)] == last)
        return found

    def missing(self, wanted: DrawRange) -> list[DrawRange]:
        """The parts of a range that are not recorded."""
        draws = np.arange(wanted.count)
        first = self._key(wanted.prompt_id, wanted.first)
        absent = draws[~np.isin(first + draws, self._between(first, first + wanted.count))]
        runs = np.split(absent, np.flatnonzero(np.diff(absent) > 1) + 1) if len(absent) else []
        return [DrawRange(wanted.prompt_id, wanted.first + int(run[0]), len(run)) for run in runs]

    def find(self, wanted: DrawRange) -> list[Location]:
        """The locations of the draws of a range, all of which must be recorded, in order."""
        first = np.searchsorted(self._keys, self._key(wanted.prompt_id, wanted.first))
        found = []
        for place in range(first, first + wanted.count):
            shard, row = self._of_shard[place], self._rows[place]
            group = int(np.searchsorted(self._starts[shard], row, side="right")) - 1
            found.append(Location(self._shards[shard], group, int(row - self._starts[shard][group])))
        return found

    def _between(self, first: int, end: int) -> np.ndarray:
        low, high = np.searchsorted(self._keys, [first, end])
        return self._keys[low:high]

    def _key(self, prompt_id: str, draw: int) -> int:
        return self._numbers[prompt_id] * _DRAWS + draw

    def _read(self, shard: str) -> _ShardKeys:
        path = f"{self._folder}/{shard}"
        with self._storage.open(path) as file:
            parquet = opened_shard(file, f"{self._storage.url}/{path}")
            table = parquet.read(columns=KEYS).unify_dictionaries().combine_chunks()
            groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        if len(table) == 0:
            return _ShardKeys(np.empty(0, np.int64), np.empty(0, np.int32), np.zeros(1, np.int64))
        ids, digests = (table.column(name).chunk(0) for name in KEYS[:2])
        self._check_digests(ids, digests)
        numbers = np.array([self._numbers.get(id, -1) for id in ids.dictionary.to_pylist()], np.int64)
        numbers = numbers[ids.indices.to_numpy()]
        rows = np.flatnonzero(numbers >= 0).astype(np.int32)
        draws = table.column("draw").to_numpy().astype(np.int64)
        return _ShardKeys(numbers[rows] * _DRAWS + draws[rows], rows, np.cumsum([0, *groups]))

    def _check_digests(self, ids: pa.DictionaryArray, digests: pa.DictionaryArray) -> None:
        pairs = np.unique(np.stack([ids.indices.to_numpy(), digests.indices.to_numpy()]), axis=1)
        names, values = ids.dictionary.to_pylist(), digests.dictionary.to_pylist()
        for name, digest in ((names[i], values[j]) for i, j in pairs.T):
            if self._prompts.get(name, digest) != digest:
                raise BankError(
                    f"prompt {name} was recorded with other tokens, another question, answer or column for the "
                    f"verifier than it has in this run ({self._storage.url}/{self._folder}); give the prompts of the "
                    "two files different ids, or choose another bank.path"
                )
