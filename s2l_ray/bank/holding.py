"""How much a recording holds, from a few columns of its shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.bank.index import THREADS
from s2l_ray.bank.recording import Recording
from s2l_ray.bank.shard import opened_shard
from s2l_ray.machine.storage import Storage


@dataclass(frozen=True)
class Holding:
    """How much one recording holds."""

    prompts: int
    rollouts: int
    """Number of distinct rollouts; several recorders may have written the same one."""
    tokens: int
    """Number of tokens in all responses."""
    mean_reward: float
    shards: int
    nbytes: int
    """Size of the shards in storage."""


def holding(storage: Storage, recording: Recording) -> Holding:
    """How much a recording holds. Tokens and texts are not read.

    Raises:
        BankError: a shard cannot be read.
    """
    distinct = distinct_rollouts(storage, recording.shards, ["tokens", "reward"])
    if distinct is None:
        return Holding(0, 0, 0, 0.0, 0, 0)
    files = storage.files(recording.shards, ".parquet")
    return Holding(
        prompts=len(distinct["prompt_id"].unique()),
        rollouts=len(distinct),
        tokens=pc.sum(distinct["tokens_min"]).as_py(),
        mean_reward=pc.mean(distinct["reward_min"]).as_py(),
        shards=len(files),
        nbytes=sum(size for _, size in files),
    )


def distinct_rollouts(storage: Storage, folder: str, columns: list[str]) -> pa.Table | None:
    """The columns prompt_id, draw and, for each of `columns`, COLUMN_min; a row per rollout, however often recorded.

    None if there are no shards.

    Raises:
        BankError: a shard cannot be read.
    """
    names = [f"{folder}/{name}" for name, _ in storage.files(folder, ".parquet")]
    with ThreadPoolExecutor(THREADS) as threads:
        tables = list(threads.map(lambda name: _columns(storage, name, ["prompt_id", "draw", *columns]), names))
    if not tables:
        return None
    whole = pa.concat_tables(tables).unify_dictionaries()
    return whole.group_by(["prompt_id", "draw"]).aggregate([(column, "min") for column in columns])


def _columns(storage: Storage, path: str, columns: list[str]) -> pa.Table:
    with storage.open(path) as file:
        return opened_shard(file, f"{storage.url}/{path}").read(columns=columns)
