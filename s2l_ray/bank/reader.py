"""Reads rollouts from the shards of a recording, through a bounded cache of row groups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.bank.index import Location
from s2l_ray.bank.shard import SCHEMA, rollouts_of
from s2l_ray.machine.storage import Storage
from s2l_ray.rollouts.records import Rollout

CACHE_BYTES = 256 * 2**20
"""Bound on the row groups in the cache."""
FOOTERS = 64
"""Number of shards whose Parquet footers are kept; one has some hundred kilobytes."""
COLUMNS = [name for name in SCHEMA.names if name not in ("prompt_digest", "draw", "tokens")]

RowGroup = tuple[str, int]
"""A shard's name, and the number of one of its row groups."""


class Reader:
    """Reads rollouts by their location. Thread-safe; a row group that two threads need at once is read once.

    Args:
        storage: the bank.
        folder: the directory of the recording's shards.
        cache_bytes: bound on the row groups in the cache; those being read come on top.
    """

    def __init__(self, storage: Storage, folder: str, cache_bytes: int = CACHE_BYTES) -> None:
        self._storage = storage
        self._folder = folder
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._groups: OrderedDict[RowGroup, Future[pa.Table]] = OrderedDict()
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self.held_bytes = 0
        """Size of the row groups in the cache."""
        self.loads = 0
        """Number of row groups read so far."""

    def read(self, locations: list[Location]) -> list[Rollout]:
        """The rollouts at these locations, in this order, with indices from 0.

        Raises:
            BankError: a shard cannot be read.
        """
        rollouts: list[Rollout] = []
        for (shard, group), members in groupby(locations, key=lambda place: (place.shard, place.row_group)):
            rows = [place.row for place in members]
            indices = range(len(rollouts), len(rollouts) + len(rows))
            rollouts += rollouts_of(self._group((shard, group)), rows, indices)
        return rollouts

    def _group(self, key: RowGroup) -> pa.Table:
        """A row group from the cache, else from its shard. A second thread waits for the first one's future."""
        with self._lock:
            held = self._groups.get(key)
            if held is None:
                mine = self._groups[key] = Future()
                self.loads += 1
            else:
                self._groups.move_to_end(key)
        if held is not None:
            return held.result()
        try:
            table = self._load(*key)
        except BaseException as error:
            with self._lock:
                del self._groups[key]
            mine.set_exception(error)
            raise
        mine.set_result(table)
        self._make_room(table.nbytes)
        return table

    def _make_room(self, added: int) -> None:
        with self._lock:
            self.held_bytes += added
            for key, future in list(self._groups.items()):
                if self.held_bytes <= self._cache_bytes:
                    break
                if future.done():
                    self.held_bytes -= future.result().nbytes
                    del self._groups[key]

    def _load(self, shard: str, group: int) -> pa.Table:
        with self._lock:
            footer = self._footers.get(shard)
        with self._storage.open(f"{self._folder}/{shard}") as file:
            parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
            table = parquet.read_row_group(group, columns=COLUMNS, use_threads=False)
            self._keep_footer(shard, parquet.metadata)
            return table.combine_chunks()

    def _keep_footer(self, shard: str, footer: pq.FileMetaData) -> None:
        with self._lock:
            self._footers[shard] = footer
            self._footers.move_to_end(shard)
            if len(self._footers) > FOOTERS:
                self._footers.popitem(last=False)
