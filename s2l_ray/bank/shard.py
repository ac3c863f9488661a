"""A shard: a Parquet file with some of a recording's rollouts, one a row.

Rows are sorted as runs request them, by step, prompt and draw, in row groups of about a mebibyte. So the rollouts of a
step are next to each other, and reading them reads little else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.errors import BankError, GroupError
from s2l_ray.rollouts.records import Rollout, Verdict

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt_digest", pa.string()),
        ("draw", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("status", pa.string()),
        ("detail", pa.string()),
        ("model", pa.string()),
    ]
)
"""draw: which of its prompt's rollouts it is, from 0; tokens: the length of token_ids and of logprobs; all others are
fields of `Rollout` and `Verdict`."""
KEYS = ["prompt_id", "prompt_digest", "draw"]
"""The columns that say which rollouts a shard has."""
ROW_GROUP_BYTES = 2**20
"""Size of a row group in memory, about."""
_OF_FEW_VALUES = ["prompt_id", "prompt_digest", "finish_reason", "status", "model"]
_OF_NUMBERS = ["token_ids.list.element", "logprobs.list.element"]
"""Split into byte streams, numbers compress to three quarters of their size otherwise, and read three times as fast."""
_ROW_BYTES = 64
"""Size of the columns of fixed size, in a row."""


def opened_shard(file: Any, path: str) -> pq.ParquetFile:
    """A shard in an open file, for its keys.

    Raises:
        BankError: it is a Parquet file of another kind.
    """
    try:
        parquet = pq.ParquetFile(file, read_dictionary=KEYS[:2], pre_buffer=True)
        lacks = next((name for name in SCHEMA.names if name not in parquet.schema_arrow.names), None)
    except KeyError as error:  # pyarrow's, of a column that is to be read as a dictionary
        lacks = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
    if lacks is not None:
        raise BankError(
            f"{path} is no shard of a recording, since it has no column {lacks}; move the file out of the bank"
        )
    return parquet


class ShardRow(NamedTuple):
    """A verified rollout that is to be written."""

    step: int
    """The step for which it was sampled."""
    draw: int
    prompt_digest: str
    rollout: Rollout

    @property
    def verdict(self) -> Verdict:
        """The rollout's verdict.

        Raises:
            GroupError: it was not verified.
        """
        if self.rollout.verdict is None:
            raise GroupError(
                f"draw {self.draw} of prompt {self.rollout.prompt_id} was not verified; a bank needs verdicts"
            )
        return self.rollout.verdict

    @property
    def nbytes(self) -> int:
        """Its size in memory, about."""
        rollout = self.rollout
        texts = len(rollout.text) + len(self.verdict.detail)
        return rollout.token_ids.nbytes + rollout.logprobs.nbytes + texts + _ROW_BYTES

    @property
    def order(self) -> tuple[int, str, int]:
        """What the rows of a shard are sorted by."""
        return self.step, self.rollout.prompt_id, self.draw


def encode(unsorted: Iterable[ShardRow]) -> pa.Buffer:
    """The content of a shard with these rows."""
    rows = sorted(unsorted, key=lambda row: row.order)
    table = _table(rows)
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "use_dictionary": _OF_FEW_VALUES, "use_byte_stream_split": _OF_NUMBERS}
    with pq.ParquetWriter(sink, SCHEMA, **options) as writer:
        for first, count in _row_groups([row.nbytes for row in rows]):
            writer.write_table(table.slice(first, count), row_group_size=count)
    return sink.getvalue()


def rollouts_of(table: pa.Table, rows: Sequence[int], indices: Iterable[int]) -> list[Rollout]:
    """Some rows of a row group, as rollouts of an explorer with these indices in their set.

    Token arrays are copies, so that a rollout does not keep its row group in memory.
    """
    columns = {name: table.column(name).take(pa.array(rows)).to_pylist() for name in _SCALARS}
    token_ids, logprobs = (_lists(table.column(name).chunk(0), rows) for name in ("token_ids", "logprobs"))
    return [
        Rollout(
            prompt_id=columns["prompt_id"][n],
            source="explorer",
            model=columns["model"][n],
            weight_version=0,
            index=index,
            token_ids=token_ids[n],
            logprobs=logprobs[n],
            text=columns["text"][n],
            finish_reason=columns["finish_reason"][n],
            verdict=Verdict(columns["status"][n], columns["reward"][n], columns["detail"][n]),
        )
        for n, index in enumerate(indices)
    ]


_SCALARS = ("prompt_id", "model", "text", "finish_reason", "reward", "status", "detail")


def _table(rows: Sequence[ShardRow]) -> pa.Table:
    rollouts = [row.rollout for row in rows]
    columns = {
        "prompt_id": [r.prompt_id for r in rollouts],
        "prompt_digest": [row.prompt_digest for row in rows],
        "draw": [row.draw for row in rows],
        "token_ids": _list_array([r.token_ids for r in rollouts], np.int32),
        "logprobs": _list_array([r.logprobs for r in rollouts], np.float32),
        "tokens": [len(r.token_ids) for r in rollouts],
        "text": [r.text for r in rollouts],
        "finish_reason": [r.finish_reason for r in rollouts],
        "reward": [row.verdict.reward for row in rows],
        "status": [row.verdict.status for row in rows],
        "detail": [row.verdict.detail for row in rows],
        "model": [r.model for r in rollouts],
    }
    return pa.table(columns, schema=SCHEMA)


def _list_array(arrays: Sequence[np.ndarray], dtype: type) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(arrays).astype(dtype, copy=False))


def _lists(column: pa.ListArray, rows: Sequence[int]) -> list[np.ndarray]:
    values = column.values.to_numpy(zero_copy_only=True)
    offsets = column.offsets.to_numpy()
    return [values[offsets[row] : offsets[row + 1]].copy() for row in rows]


def _row_groups(sizes: Sequence[int]) -> Iterable[tuple[int, int]]:
    """(first row, number of rows) of each row group, of about ROW_GROUP_BYTES."""
    first = held = 0
    for row, size in enumerate(sizes, 1):
        held += size
        if held >= ROW_GROUP_BYTES or row == len(sizes):
            yield first, row - first
            first, held = row, 0
