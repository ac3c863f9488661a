"""What a bank holds, for people: `s2l bank show`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.bank.index import THREADS
from s2l_ray.bank.recording import Recording, recordings
from s2l_ray.bank.storage import Storage
from s2l_ray.errors import BankError

COLUMNS = ["prompt_id", "draw", "tokens", "reward"]


@dataclass(frozen=True)
class Holding:
    """Of one recording."""

    prompts: int
    rollouts: int
    """Distinct ones: several recorders may have written the same."""
    tokens: int
    """Of the responses."""
    mean_reward: float
    shards: int
    nbytes: int
    """Of the shards as they are stored."""


def holding(storage: Storage, recording: Recording) -> Holding:
    """What a recording has. Reads a few columns of its shards, no tokens.

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


def bank_table(path: str) -> RenderableType:
    """All recordings of the bank at `path`: what they hold, and what made them.

    Raises:
        BankError: there is no bank, or it cannot be read.
    """
    storage = Storage(path)
    found = recordings(storage)
    if not found:
        raise BankError(f"{storage.url} holds no recordings; s2l explore CONFIG makes one (bank.path says where)")
    return Group(*(block for recording in found for block in (_block(storage, recording), Text(""))))


def _block(storage: Storage, recording: Recording) -> Table:
    has = holding(storage, recording)
    table = Table(title=f"recording {recording.name}", title_justify="left", title_style="bold", box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    table.add_row("rollouts", f"{has.rollouts} of {has.prompts} prompts, mean reward {has.mean_reward:.3f}")
    table.add_row("tokens", f"{has.tokens} in responses")
    table.add_row("stored", f"{has.nbytes / 1e6:.2f} MB in {has.shards} shards")
    for name, value in recording.fingerprint.fields.items():
        table.add_row(name, "null" if value is None else str(value))
    table.add_row("made with", ", ".join(f"{name} {version}" for name, version in recording.made_with.items()))
    return table


def _columns(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as file:
        return pq.ParquetFile(file, read_dictionary=["prompt_id"], pre_buffer=True).read(columns=COLUMNS)
