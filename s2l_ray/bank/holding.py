"""How much a recording holds, from a few columns of its shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray.bank.index import THREADS
from s2l_ray.bank.recording import Recording
from s2l_ray.machine.storage import Storage

COLUMNS = ["prompt_id", "draw", "tokens", "reward"]


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
    files = storage.files(recording.shards, ".parquet")
    with ThreadPoolExecutor(THREADS) as threads:
        tables = list(threads.map(lambda file: _columns(storage, f"{recording.shards}/{file[0]}"), files))
    if not tables:
        return Holding(0, 0, 0, 0.0, 0, 0)
    whole = pa.concat_tables(tables).unify_dictionaries()
    distinct = whole.group_by(["prompt_id", "draw"]).aggregate([("tokens", "min"), ("reward", "min")])
    return Holding(
        prompts=len(distinct["prompt_id"].unique()),
        rollouts=len(distinct),
        tokens=pc.sum(distinct["tokens_min"]).as_py(),
        mean_reward=pc.mean(distinct["reward_min"]).as_py(),
        shards=len(files),
        nbytes=sum(size for _, size in files),
    )


def _columns(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as file:
        return pq.ParquetFile(file, read_dictionary=["prompt_id"], pre_buffer=True).read(columns=COLUMNS)
