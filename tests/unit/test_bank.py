"""Shards, index and reader of the bank, with pyarrow as the second reader."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.bank.fingerprint import prompt_digest
from s2l_ray.bank.holding import distinct_rollouts
from s2l_ray.bank.index import DrawRange, Index, Location
from s2l_ray.bank.reader import Reader
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.errors import BankError
from s2l_ray.rollouts.records import Rollout, RolloutSet, report_on
from s2l_ray.rollouts.requests import ExplorerRequest
from tests.support.bank_rollouts import PROMPTS, request, requests, rollout, scored, settings
from tests.support.object_stores import Store, gcs, s3
from tests.support.patience import PATIENCE_S
from tests.support.undisturbed import ROOT

LAST_DRAW = 15
DIGESTS = {prompt.id: prompt_digest(prompt) for prompt in PROMPTS.values()}
STORES = os.environ.get("S2L_TEST_STORES", "").split()
"""Object stores to try as well: URIs with {} in place of a new folder's name."""
KIND_OF_STORE = ["disk", "fsspec+memory://{}/bank", "s3", "gcs", *STORES]


def new_bank(folder: Path | str, **limits: int) -> RolloutBank:
    return RolloutBank(settings(str(folder)), PROMPTS, **limits)


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "made-by-hand" / "shards").glob("*.parquet"))


def rows_of(folder: Path) -> list[dict]:
    """All rows of all shards, by pyarrow alone."""
    return [row for shard in shards_of(folder) for row in pq.read_table(shard).to_pylist()]


def equal(a: Rollout, b: Rollout) -> bool:
    arrays = [(a.token_ids, b.token_ids), (a.logprobs, b.logprobs)]
    same = all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in arrays)
    fields = [
        "prompt_id",
        "source",
        "model",
        "weight_version",
        "index",
        "text",
        "finish_reason",
        "verdict",
        "weight_syncs",
    ]
    return same and all(getattr(a, field) == getattr(b, field) for field in fields)


def equal_sets(a: RolloutSet, b: RolloutSet) -> bool:
    return np.array_equal(a.prompt_token_ids, b.prompt_token_ids) and all(
        equal(x, y) for x, y in zip(a.rollouts, b.rollouts, strict=True)
    )


@pytest.fixture(scope="module")
def in_s3() -> Iterator[Store]:
    with s3() as store:
        yield store


@pytest.fixture(scope="module")
def in_gcs() -> Iterator[Store]:
    with gcs() as store:
        yield store


@pytest.fixture(params=KIND_OF_STORE)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local directory; fsspec's store in memory, which is written to as an object store is; S3; GCS; and STORES."""
    if request.param in ("s3", "gcs"):
        store: Store = request.getfixturevalue(f"in_{request.param}")
        return store.uri(f"bucket/{uuid.uuid4().hex}")
    return str(tmp_path) if request.param == "disk" else request.param.format(uuid.uuid4().hex)


def record(folder: Path | str, asked: list[ExplorerRequest], **limits: int) -> None:
    bank = new_bank(folder, **limits)
    for one in asked:
        bank.record(one, scored(one))
    bank.close()


# ---- what was recorded is what is read ------------------------------------------------------------------------------


def test_what_is_read_is_what_was_recorded(place: str) -> None:
    record(place, requests(LAST_DRAW), shard_bytes=12_000)
    bank = new_bank(place)
    assert len(bank) == 12 * 16
    for asked in [*requests(LAST_DRAW), request("p3", 5, 1), request("p3", 2, 9), request("p11", 0, 16)]:
        found, report = bank.read(asked)
        assert equal_sets(found, scored(asked))
        assert found.sampled is None and report == report_on(scored(asked), None) and report.verified is None


def test_rows_are_plain_parquet(tmp_path: Path) -> None:
    """pyarrow alone reads the same: every column of every row against the function that made it."""
    record(tmp_path, requests(LAST_DRAW), shard_bytes=12_000)
    rows = rows_of(tmp_path)
    assert len(shards_of(tmp_path)) > 3 and len(rows) == 12 * 16
    for row in rows:
        made = rollout(row["prompt_id"], row["draw"], 0)
        assert row["token_ids"] == made.token_ids.tolist() and row["logprobs"] == made.logprobs.tolist()
        assert row["tokens"] == len(made.token_ids) and row["prompt_digest"] == DIGESTS[made.prompt_id]
        verdict = made.verdict
        assert (row["reward"], row["status"], row["detail"]) == (verdict.reward, verdict.status, verdict.detail)
        assert (row["text"], row["finish_reason"], row["model"]) == (made.text, made.finish_reason, "small")


def test_a_step_lies_together(tmp_path: Path) -> None:
    """Whatever order rollouts arrive in, a shard has them by step, then prompt and draw."""
    shuffled = [request(p, first, step=first // 4) for first in (8, 0, 4) for p in reversed(PROMPTS)]
    record(tmp_path, shuffled)
    rows = rows_of(tmp_path)
    assert len(shards_of(tmp_path)) == 1
    order = [(row["draw"] // 4, row["prompt_id"], row["draw"]) for row in rows]
    assert order == sorted(order) and len(order) == 12 * 12


def test_what_is_covered_and_what_is_missing(tmp_path: Path) -> None:
    record(tmp_path, [request("p1", 0, 4), request("p1", 6, 3), request("p2", 0, 2)])
    bank = new_bank(tmp_path)
    asked = [
        (request("p1", 0, 4), True),
        (request("p1", 1, 2), True),
        (request("p1", 3, 2), False),
        (request("p1", 4, 2), False),
        (request("p1", 6, 3), True),
        (request("p2", 0, 3), False),
        (request("p0", 0, 1), False),
        (request("p11", 0, 1), False),
    ]
    assert bank.covers([one for one, _ in asked]) == [there for _, there in asked]
    assert bank.covers([]) == []
    assert bank.missing([request("p1", 0, 12, 7)]) == [request("p1", 4, 2, 7), request("p1", 9, 3, 7)]
    assert bank.missing([request("p1", 0, 4), request("p0", 2, 5)]) == [request("p0", 2, 5)]
    with pytest.raises(BankError, match=r"lacks some of step 1, prompt p1, draws 3\.\.4; s2l explore CONFIG"):
        bank.read(request("p1", 3, 2))


def test_covered_against_a_set_of_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    have = {(f"p{rng.integers(12)}", int(rng.integers(30))) for _ in range(150)}
    record(tmp_path, [request(p, draw, 1) for p, draw in have], shard_bytes=5_000)
    bank = new_bank(tmp_path)
    asked = [request(f"p{rng.integers(12)}", int(rng.integers(30)), int(rng.integers(1, 6))) for _ in range(500)]
    draws = [[(one.prompt_id, one.first_draw + n) for n in range(one.count)] for one in asked]
    assert bank.covers(asked) == [set(wanted) <= have for wanted in draws]
    for one, wanted in zip(asked, draws, strict=True):
        gaps = {(r.prompt_id, r.first_draw + n) for r in bank.missing([one]) for n in range(r.count)}
        assert gaps == set(wanted) - have


def test_what_was_written_can_be_read_at_once(tmp_path: Path) -> None:
    bank = new_bank(tmp_path, shard_bytes=1)
    assert bank.covers([request("p1", 0)]) == [False]
    bank.record(request("p1", 0), scored(request("p1", 0)))
    assert bank.covers([request("p1", 0)]) == [True]
    assert equal_sets(bank.read(request("p1", 0))[0], scored(request("p1", 0)))


def test_a_bank_that_is_only_written_to_answers_nothing(tmp_path: Path) -> None:
    record(tmp_path, [request("p1", 0)])
    only_written = BankSettings(str(tmp_path), "made-by-hand/shards", reads=False, is_local=True)
    assert RolloutBank(only_written, PROMPTS).covers([request("p1", 0)]) == [False]


def test_what_is_there_is_not_recorded_again(tmp_path: Path) -> None:
    record(tmp_path, requests(7))
    record(tmp_path, [*requests(7), request("p4", 6, 4)])  # draws 8 and 9 of p4 are new
    assert len(rows_of(tmp_path)) == 12 * 8 + 2


def test_a_shard_that_is_old_enough_is_written_though_nothing_more_comes(tmp_path: Path) -> None:
    bank = new_bank(tmp_path, shard_age_s=0.1)
    for _ in range(2):  # the second one's age counts from its own first rollout
        asked = request("p1", 4 * len(shards_of(tmp_path)))
        bank.record(asked, scored(asked))
        eventually(lambda asked=asked: bank.covers([asked]) == [True])
    assert [len(pq.read_table(shard)) for shard in shards_of(tmp_path)] == [4, 4]


def test_an_old_shard_that_cannot_be_written_is_the_next_ones_error(tmp_path: Path) -> None:
    bank = new_bank(tmp_path, shard_age_s=0.1)
    folder = tmp_path / "made-by-hand"
    folder.mkdir(exist_ok=True)
    (folder / "shards").write_text("in the way")
    bank.record(request("p1", 0), scored(request("p1", 0)))
    eventually(lambda: bank._writer._overdue)
    with pytest.raises(BankError, match="made-by-hand/shards"):
        bank.record(request("p1", 4), scored(request("p1", 4)))
    (folder / "shards").unlink()
    bank.record(request("p1", 8), scored(request("p1", 8)))
    assert [len(pq.read_table(shard)) for shard in shards_of(tmp_path)] == [12]  # nothing was lost


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shard_is_due_by_size(tmp_path: Path) -> None:
    by_size = new_bank(tmp_path, shard_bytes=10**9, shard_age_s=10**9)
    by_size.record(request("p2", 0), scored(request("p2", 0)))
    assert len(shards_of(tmp_path)) == 0
    by_size.close()
    by_size.close()
    assert len(shards_of(tmp_path)) == 1


# ---- killed, and side by side ---------------------------------------------------------------------------------------


def recorder(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.support.bank_rollouts", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.parametrize("ending", ["between", "within"])
def test_a_killed_recorder_leaves_whole_shards_and_another_goes_on(tmp_path: Path, ending: str) -> None:
    killed = recorder(tmp_path, str(LAST_DRAW), ending)
    assert killed.wait(PATIENCE_S) == -9
    left = rows_of(tmp_path)
    assert len(shards_of(tmp_path)) == 2 and 0 < len(left) < 12 * 16
    partial = list((tmp_path / "made-by-hand" / "shards").glob("*.partial"))
    assert len(partial) == (ending == "within")
    bank = new_bank(tmp_path)
    assert len(bank) == len(left)
    missing = bank.missing(requests(LAST_DRAW))
    assert sum(part.count for part in missing) == 12 * 16 - len(left)
    for part in missing:
        bank.record(part, scored(part))
    bank.close()
    rows = rows_of(tmp_path)
    assert len(rows) == 12 * 16 == len({(row["prompt_id"], row["draw"]) for row in rows})
    reopened = new_bank(tmp_path)
    assert all(equal_sets(reopened.read(one)[0], scored(one)) for one in requests(LAST_DRAW))


def test_two_processes_record_side_by_side(tmp_path: Path) -> None:
    both = [recorder(tmp_path, str(LAST_DRAW)) for _ in range(2)]
    assert [process.wait(PATIENCE_S) for process in both] == [0, 0]
    rows = rows_of(tmp_path)
    assert {(row["prompt_id"], row["draw"]) for row in rows} == {(p, d) for p in PROMPTS for d in range(16)}
    bank = new_bank(tmp_path)
    assert len(bank) == 12 * 16  # however many of them were recorded twice
    assert all(equal_sets(bank.read(one)[0], scored(one)) for one in requests(LAST_DRAW))


def test_threads_share_one_bank(place: str) -> None:
    bank = new_bank(place, shard_bytes=6_000, cache_bytes=20_000)
    asked = requests(LAST_DRAW)

    def work(part: list[ExplorerRequest]) -> None:
        for one in part:
            bank.record(one, scored(one))
            if bank.covers([one])[0]:
                assert equal_sets(bank.read(one)[0], scored(one))

    threads = [threading.Thread(target=work, args=(asked[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    bank.close()
    assert all(bank.covers(asked)) and all(equal_sets(bank.read(one)[0], scored(one)) for one in asked)


# ---- never the whole bank -------------------------------------------------------------------------------------------


def big_recording(folder: Path, shards: int = 4) -> list[ExplorerRequest]:
    """64 requests of 4 rollouts, 16 KiB each: four row groups of about a mebibyte in all, one to a shard."""

    def big(asked: ExplorerRequest) -> RolloutSet:
        rng = np.random.default_rng(asked.first_draw)
        made = scored(asked).rollouts
        tokens = [rng.integers(0, 2**31 - 1, 2048, dtype=np.int32) for _ in made]
        logprobs = [rng.normal(size=2048).astype(np.float32) for _ in made]
        parts = zip(made, tokens, logprobs, strict=True)
        return RolloutSet(asked.prompt_id, PROMPTS[asked.prompt_id].token_ids, [replaced(r, t, p) for r, t, p in parts])

    asked = [request("p1", 4 * n) for n in range(64)]
    for n in range(shards):
        bank = new_bank(folder)
        for one in asked[n::shards]:
            bank.record(one, big(one))
        bank.close()
    return asked


def replaced(rollout: Rollout, tokens: np.ndarray, logprobs: np.ndarray) -> Rollout:
    return Rollout(**{**vars(rollout), "token_ids": tokens, "logprobs": logprobs})


def test_memory_is_bounded_while_reading(tmp_path: Path) -> None:
    """A recording of four mebibytes through a cache of one and a half: Arrow's own count of what it holds."""
    asked = big_recording(tmp_path)
    storage = bank_storage(str(tmp_path))
    index = Index(DIGESTS, storage, "made-by-hand/shards")
    reader = Reader(storage, "made-by-hand/shards", cache_bytes=3 * 2**19)
    before, most = pa.total_allocated_bytes(), 0
    for one in asked:
        reader.read(index.find(DrawRange("p1", one.first_draw, 4)))
        most = max(most, pa.total_allocated_bytes() - before)
        assert reader.held_bytes <= 3 * 2**19
    assert 2**20 <= most < 2 * 2**20 + 2**19  # one row group, or two for a moment; never four


def test_row_groups_are_read_once_while_they_are_held(tmp_path: Path) -> None:
    asked = big_recording(tmp_path)
    storage = bank_storage(str(tmp_path))
    index = Index(DIGESTS, storage, "made-by-hand/shards")
    groups = {index.find(DrawRange("p1", one.first_draw, 1))[0][:2] for one in asked}
    assert len(groups) == 4
    whole = Reader(storage, "made-by-hand/shards")
    for one in asked:
        whole.read(index.find(DrawRange("p1", one.first_draw, 4)))
    assert whole.loads == 4
    none = Reader(storage, "made-by-hand/shards", cache_bytes=0)
    for one in asked[:8]:  # of four shards in turn
        none.read(index.find(DrawRange("p1", one.first_draw, 4)))
    assert none.loads == 8 and none.held_bytes == 0


def test_rollouts_of_other_prompts_take_no_room_in_the_index(tmp_path: Path) -> None:
    record(tmp_path, requests(LAST_DRAW))
    index = Index({"p5": DIGESTS["p5"]}, bank_storage(str(tmp_path)), "made-by-hand/shards")
    assert len(index) == 16
    where = index.find(DrawRange("p5", 3, 2))
    rows = pq.read_table(shards_of(tmp_path)[0], columns=["prompt_id", "draw"]).to_pylist()
    found = [rows[place.row] for place in where]  # small enough for one row group
    assert found == [{"prompt_id": "p5", "draw": 3}, {"prompt_id": "p5", "draw": 4}]
    assert isinstance(where[0], Location) and where[0].row_group == 0


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["answer", "question", "token_ids"])
def test_a_prompt_that_was_recorded_as_another_is_refused_by_name(tmp_path: Path, field: str) -> None:
    record(tmp_path, requests(3))
    changed = {"answer": "other", "question": "other", "token_ids": np.arange(3, dtype=np.int32)}[field]
    prompts = PROMPTS | {"p7": type(PROMPTS["p7"])(**{**vars(PROMPTS["p7"]), field: changed})}
    with pytest.raises(BankError, match="prompt p7 was recorded with other tokens"):
        RolloutBank(settings(str(tmp_path)), prompts)


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    record(tmp_path, requests(3))
    shard = shards_of(tmp_path)[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(BankError, match=shard.name):
        new_bank(tmp_path)


def test_a_parquet_file_of_another_kind_is_named(tmp_path: Path) -> None:
    record(tmp_path, requests(3))
    shard = shards_of(tmp_path)[0]
    whole = pq.read_table(shard)
    other = shard.with_name("other.parquet")
    others = [(whole.drop_columns([column]), column) for column in ("draw", "prompt_digest", "text")]
    for table, lacks in [*others, (pa.table({"question": ["1 + 1"]}), "prompt_id")]:
        pq.write_table(table, other)
        message = rf"other.parquet is no shard of a recording, since it has no column {lacks}; move"
        with pytest.raises(BankError, match=message):
            new_bank(tmp_path)
        with pytest.raises(BankError, match=message):
            distinct_rollouts(bank_storage(str(tmp_path)), str(shard.parent.relative_to(tmp_path)), ["tokens"])
    pq.write_table(whole.slice(0, 0), other)
    assert len(new_bank(tmp_path)) == len(whole)  # without rows it is one, which holds nothing


def test_a_store_that_cannot_be_reached_says_why(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="bank.path: nosuch://x: a URI must begin with s3://, gs://, file:// or fsspec"):
        bank_storage("nosuch://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(BankError, match="bank.path: .*file"):
        record(tmp_path / "file", requests(3))


def test_a_receipt_says_what_a_death_would_lose(tmp_path: Path) -> None:
    bank = new_bank(tmp_path, shard_bytes=10**9)
    asked = [request("p1", first) for first in (0, 4, 8)]
    receipts = [bank.record(one, scored(one)) for one in asked]
    assert [(r.number, r.written) for r in receipts] == [(1, 0), (2, 0), (3, 0)]
    bank.close()
    again = bank.record(asked[0], scored(asked[0]))  # there is nothing new to write
    assert (again.number, again.written) == (4, 4)
