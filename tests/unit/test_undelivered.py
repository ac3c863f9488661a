"""The file of what MLflow lacks, and the thread that delivers it, with a delivery of our own in MLflow's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from s2l_ray.errors import DataError
from s2l_ray.tracking import writer as writing
from s2l_ray.tracking.undelivered import Entry, Undelivered, damaged_aside, in_words, read_undelivered
from s2l_ray.tracking.writer import Refused, Writer
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S, until


def metrics(step: int, size: int = 1) -> Entry:
    return Entry("metrics", "r", {"step": step, "time": 5, "metrics": {f"m{i}": step + 0.5 for i in range(size)}})


def tag(value: str) -> Entry:
    return Entry("tags", "r", {"a": value})


class Server:
    """Takes entries, unless it is down; refuses tags with the value "no"."""

    def __init__(self) -> None:
        self.requests: list[list[Entry]] = []
        self.down = False
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, entries: Sequence[Entry]) -> None:
        self.hold.wait(PATIENCE_S)
        if self.down:
            raise ConnectionError("down")
        if any(entry.values.get("a") == "no" or entry.values.get("step") == 1300 for entry in entries):
            raise Refused("no means no")
        self.requests.append(list(entries))

    @property
    def taken(self) -> list[Entry]:
        return [entry for request in self.requests for entry in request]


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FIRST_RETRY_S", 0.01)


@pytest.fixture
def server() -> Server:
    return Server()


def started(path: Path, server: Server, entries: Sequence[Entry] = ()) -> Writer:
    writer = Writer(Undelivered(path, entries), entries, server, str)
    writer.start()
    return writer


def delivered(writer: Writer) -> bool:
    return writer.wait(time.monotonic() + PATIENCE_S)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_file_has_what_is_not_delivered_in_order(tmp_path: Path):
    path = tmp_path / "u.jsonl"
    file = Undelivered(path, [metrics(1)])
    for entry in (metrics(2), tag("x"), metrics(3)):
        file.add(entry)
    assert read_undelivered(path) == [metrics(1), metrics(2), tag("x"), metrics(3)]
    file.delivered(2)
    assert read_undelivered(path) == [tag("x"), metrics(3)]
    file.delivered(4)
    assert path.read_text() == ""
    file.add(metrics(4))
    assert read_undelivered(path) == [metrics(4)]


def test_another_process_takes_it_over(tmp_path: Path):
    path = tmp_path / "u.jsonl"
    first = Undelivered(path)
    first.add(metrics(1))
    first.add(metrics(2))
    first.delivered(1)
    first.close()
    second = Undelivered(path, read_undelivered(path))
    first.add(metrics(9))  # a thread that is still about
    first.delivered(2)
    second.add(metrics(3))
    assert read_undelivered(path) == [metrics(2), metrics(3)]


def test_part_of_a_line_counts_as_not_written(tmp_path: Path):
    path = tmp_path / "u.jsonl"
    Undelivered(path, [metrics(1), metrics(2)])
    path.write_bytes(path.read_bytes()[:-20])
    assert read_undelivered(path) == [metrics(1)]
    assert read_undelivered(tmp_path / "none") == []
    with pytest.raises(DataError, match="cannot be read"):
        read_undelivered(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        *('"delivered"', '{"delivered": null}', "[]", "[" * 100_000),
        *(
            json.dumps({"number": 9, "kind": "metrics", "run_id": "r", "values": {"step": 1, "metrics": {}}} | changed)
            for changed in (
                *({"kind": "of a later version"}, {"kind": []}, {"number": []}, {"values": None}, {"values": []}),
                *({"values": {}}, {"values": {"step": [], "metrics": {}}}, {"values": {"step": 1, "metrics": [1]}}),
                *({"run_id": 1}, {"kind": "traces"}, {"kind": "tags"}, {"kind": "text", "values": {"text": "t"}}),
                {"kind": "file", "values": {"path": None, "folder": None}},
                {"kind": "model", "values": {"name": "m", "step": "1", "params": {}}},
                {"kind": "status", "values": {"status": "FINI", "time": 1}},
            )
        ),
    ],
)
def test_a_line_that_is_no_entry_spoils_no_other(tmp_path: Path, damage: str):
    path = tmp_path / "u.jsonl"
    Undelivered(path, [metrics(1)])
    path.write_text(damage + "\n" + path.read_text() + damage)
    assert read_undelivered(path) == [metrics(1)]


def test_lines_that_are_damaged_are_named_and_kept_in_a_copy(tmp_path: Path):
    path = tmp_path / "u.jsonl"
    assert damaged_aside(path) is None
    Undelivered(path, [metrics(1), metrics(2), metrics(3)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # by a process that was killed while it wrote
    assert damaged_aside(path) is None
    first, second, third = whole.splitlines(keepends=True)
    for number, damage in enumerate((b"nonsense\n", bytes(range(128, 200)) + b"\n"), start=1):
        path.write_bytes(first + damage + third)
        said = f"{path}: line 2 cannot be read, so that MLflow may lack what was there; damaged-{number}-u.jsonl is a"
        assert str(damaged_aside(path)).startswith(said)
        assert (tmp_path / f"damaged-{number}-u.jsonl").read_bytes() == first + damage + third
    path.write_bytes(b"x\n" + second + b"y\n")
    assert f"{path}: 2 lines, the first of them 1, cannot be read" in str(damaged_aside(path))


def test_what_was_put_survives_a_killed_process(tmp_path: Path):
    code = """
import os, signal, sys
from pathlib import Path
from s2l_ray.tracking.undelivered import Entry, Undelivered
from s2l_ray.tracking.writer import Writer
def down(entries): raise ConnectionError
writer = Writer(Undelivered(Path(sys.argv[1])), [], down, str)
writer.start()
for step in range(100):
    writer.put(Entry("metrics", "r", {"step": step, "time": 5, "metrics": {"m0": step + 0.5}}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "u.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, timeout=PATIENCE_S, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_undelivered(path) == [metrics(step) for step in range(100)]


# ---- the thread -----------------------------------------------------------------------------------------------------


def test_entries_arrive_in_order_and_the_file_is_empty(tmp_path: Path, server: Server):
    writer = started(tmp_path / "u", server, [tag("0")])
    entries = [metrics(1), tag("x"), metrics(2), metrics(3)]
    for entry in entries:
        writer.put(entry)
    assert delivered(writer) and server.taken == [tag("0"), *entries]
    assert (tmp_path / "u").read_text() == "" and writer.problem is None and writer.pending == []


def test_metrics_that_wait_go_together_up_to_what_a_request_may_have(tmp_path: Path, server: Server):
    server.hold.clear()
    writer = started(tmp_path / "u", server)
    for entry in (tag("first"), *(metrics(step, 300) for step in range(1, 6)), tag("x"), metrics(6)):
        writer.put(entry)
    server.hold.set()
    assert delivered(writer)
    assert [[e.values.get("step") for e in request] for request in server.requests] == [
        [None], [1, 2, 3], [4, 5], [None], [6],
    ]  # fmt: skip


def test_what_a_server_misses_while_it_is_down_it_gets_once_and_in_order(tmp_path: Path, server: Server):
    writer = started(tmp_path / "u", server)
    server.down = True
    for step in range(50):
        writer.put(metrics(step))
    until(lambda: writer.problem == "down")
    assert len(read_undelivered(tmp_path / "u")) == len(writer.pending) == 50
    server.down = False
    until(lambda: writer.problem is None)
    assert server.taken == [metrics(step) for step in range(50)]


def test_what_is_refused_is_lost_alone_and_counted(tmp_path: Path, server: Server):
    server.hold.clear()
    writer = started(tmp_path / "u", server)
    for entry in (tag("no"), metrics(12), metrics(1300), metrics(14), tag("x")):
        writer.put(entry)
    server.hold.set()
    assert delivered(writer)
    assert server.taken == [metrics(12), metrics(14), tag("x")]
    assert writer.refused == [(tag("no"), "no means no"), (metrics(1300), "no means no")]
    assert in_words([entry for entry, _ in writer.refused]) == "1 set of tags, 1 step or evaluation"


def test_metrics_pass_an_artifact_whose_store_is_down_and_it_comes_later(tmp_path: Path, server: Server):
    store_is_down = True

    def deliver(entries: Sequence[Entry]) -> None:
        if store_is_down and entries[0].kind == "file":
            raise ModuleNotFoundError("boto3")
        server(entries)

    file, path = Entry("file", "r", {"path": "a", "folder": None}), tmp_path / "u.jsonl"
    writer = Writer(Undelivered(path), [], deliver, str)
    writer.start()
    for entry in (file, metrics(1), tag("a"), metrics(2)):
        writer.put(entry)
    until(lambda: writer.pending == [file])
    assert server.taken == [metrics(1), tag("a"), metrics(2)]
    assert read_undelivered(path) == [file] and writer.problem == "boto3"
    store_is_down = False
    assert writer.wait(time.monotonic() + PATIENCE_S)
    assert server.taken[-1] == file and path.read_text() == "" and writer.problem is None
    writer.stop()


def test_nobody_waits_for_a_server_that_hangs(tmp_path: Path, server: Server):
    server.hold.clear()
    writer = started(tmp_path / "u", server)
    for step in range(3):
        writer.put(metrics(step))
    assert not writer.wait(time.monotonic() + 0.05)
    writer.stop()
    assert len(writer.pending) == len(read_undelivered(tmp_path / "u")) == 3
    server.hold.set()  # its late answer to a request of a run that has ended
    until(lambda: not writer._thread.is_alive())
    assert len(read_undelivered(tmp_path / "u")) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_stops_no_delivery(tmp_path: Path, server: Server):
    file = Undelivered(tmp_path / "u")
    file._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    server.hold.clear()
    writer = Writer(file, [], server, str)
    writer.put(metrics(1))
    assert "No space left on device" in str(writer.problem)
    writer.start()
    server.hold.set()
    assert delivered(writer) and server.taken == [metrics(1)] and writer.problem is None


def test_a_line_that_a_full_disk_cut_spoils_no_other(tmp_path: Path):
    file = Undelivered(tmp_path / "u")
    file.add(metrics(1))
    whole = metrics(2).to_line(2)
    with (tmp_path / "u").open("a") as other:
        other.write(whole[:10])
    file._torn = True
    file._last += 1
    file.add(metrics(3))
    assert read_undelivered(tmp_path / "u") == [metrics(1), metrics(3)]
    assert json.loads((tmp_path / "u").read_text().splitlines()[-1])["number"] == 3
    assert os.path.getsize(tmp_path / "u") < 1000
