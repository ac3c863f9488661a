"""Copies of run directories in object stores: S3 and GCS by emulators, with real requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.machine.storage import Storage
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import mirror as mirroring
from s2l_ray.run import uploader as uploading
from s2l_ray.run.checkpoints import checkpoint_name, place_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.finished import next_free
from s2l_ray.run.from_mirror import fetch, open_mirror
from s2l_ray.run.mirror import Mirror
from s2l_ray.run.uploader import Uploader
from tests.support.notes import Notes
from tests.support.object_stores import CREDENTIALS, Store, gcs, s3
from tests.support.run_directories import RECORD, acquired, config, to_resume, write_checkpoint

WAIT_S = 120.0


@pytest.fixture(scope="module")
def in_s3() -> Iterator[Store]:
    with s3() as store:
        yield store


@pytest.fixture(scope="module")
def in_gcs() -> Iterator[Store]:
    with gcs() as store:
        yield store


@pytest.fixture
def store(in_s3: Store) -> Iterator[Store]:
    """S3 that answers, before a test and after."""
    yield in_s3
    in_s3.fails = lambda method, path: False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "RETRY_S", (0.05, 0.1))
    monkeypatch.setattr("s2l_ray.machine.storage.TRIES", 1)


def mirrored(folder: Path, url: str, **overrides: object) -> Config:
    """A run in `folder` whose mirror is a place of this test's own."""
    return config(folder, **{"checkpoint.mirror": url, **overrides})


def place(store: Store, tmp_path: Path) -> str:
    return store.uri(f"bucket/{tmp_path.name}")


def saved(run: RunDirectory, step: int, keep: int = 2) -> None:
    """A checkpoint with a trainer's state that names its step."""
    run.log.clear()
    for number in range(1, step + 1):
        run.log.append(replace(RECORD, step=number))
    write_checkpoint(run, step, {"rank-00000.safetensors": bytes([step]) * 1000, "trainer.json": b"{}"}, keep)


def files(storage: Storage) -> set[str]:
    return set(storage.tree(""))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_in(mirror: Mirror) -> list[int]:
    return [place_of(name)[1] for name in mirror.checkpoints()]


def go_on() -> None:
    pass


def silent(text: str) -> None:
    pass


def manifest_of(name: str) -> bytes:
    return json.dumps({"files": {name: {"bytes": 2, "sha256": "0" * 64}}}).encode()


# ---- there and back -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["disk", "in_s3", "in_gcs"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "mirror")
    return place(request.getfixturevalue(request.param), tmp_path)


def test_directories_are_those_that_files_are_in(anywhere: str):
    storage = Storage(anywhere, "storage")
    for path in ("a/b/file", "a/file", "c.json", "d/file"):
        storage.put(path, b"{}")
    assert storage.directories() == ["a", "d"]
    assert storage.directories("a") == ["b"]
    assert storage.directories("d") == storage.directories("missing") == []
    assert storage.files("", ".json") == [("c.json", 2)]


def test_an_empty_run_directory_resumes_from_the_mirror(anywhere: str, tmp_path: Path):
    settings = mirrored(tmp_path, anywhere)
    run, mirror, reporter = acquired(settings), open_mirror(settings), Notes()
    run.remember(mlflow_run_id="m1")
    with Uploader(mirror, run.path, 2, WAIT_S, reporter) as uploader:
        for step in (2, 4, 6):
            saved(run, step)
            uploader.copy(checkpoint_name(step))
            eventually(lambda step=step: steps_in(mirror)[-1:] == [step])
        (run.path / "rollouts").mkdir()
        (run.path / "rollouts" / "step-000001.jsonl").write_text("{}\n")
    run.close()
    assert reporter.notes == [f"all reports and the newest checkpoints are in {mirror}"]
    there = files(Storage(anywhere, "checkpoint.mirror"))
    names = {"trainer/rank-00000.safetensors", "trainer/trainer.json", "steps.jsonl", "state.json", "manifest.json"}
    of_checkpoints = {f"run/checkpoints/step-00000{step}/{name}" for step in (4, 6) for name in names}
    reports = {"run/config.yaml", "run/run.json", "run/steps.jsonl", "run/rollouts/step-000001.jsonl"}
    assert there == of_checkpoints | reports and steps_in(mirror) == [4, 6]

    elsewhere = mirrored(tmp_path, anywhere, run_dir=str(tmp_path / "new" / "run"))
    fresh = RunDirectory.acquire(elsewhere)
    fetch(open_mirror(elsewhere), fresh, elsewhere, silent, silent)
    fresh.adopt(elsewhere, run_contents(run))
    assert fresh.remembered()["mlflow_run_id"] == "m1" and fresh.remembered()["id"] == run.remembered()["id"]
    found = to_resume(fresh, elsewhere)
    assert found.step == 6 and [record.step for record in found.records] == list(range(1, 7))
    assert (found.trainer / "rank-00000.safetensors").read_bytes() == bytes([6]) * 1000
    assert (found.trainer / "trainer.json").read_bytes() == b"{}"
    fresh.close()


def run_contents(run: RunDirectory) -> dict[str, str]:
    return run.remembered()["contents"]


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Config:
    """Configuration of a run whose checkpoints of step 2 and 4 are in its directory and in its mirror."""
    settings = mirrored(tmp_path, place(store, tmp_path))
    run = acquired(settings)
    with Uploader(open_mirror(settings), run.path, 2, WAIT_S, SilentReporter()) as uploader:
        for step in (2, 4):
            saved(run, step)
            uploader.copy(checkpoint_name(step))
            eventually(lambda step=step: checkpoint_name(step) in uploader._uploaded)
    run.close()
    return settings


def test_the_newest_of_both_is_resumed_from(copied: Config, store: Store):
    mirror = open_mirror(copied)
    run = RunDirectory.acquire(copied)
    store.fails = lambda method, path: "trainer" in path  # nothing is fetched that is there already
    fetch(mirror, run, copied, silent, silent)
    store.fails = lambda method, path: False
    for _, directory in run.checkpoints:
        (directory / "state.json").unlink()
    said: list[str] = []
    fetch(mirror, run, copied, said.append, silent)
    assert run.checkpoints[-1][0] == 4 and said == [f"fetching checkpoint step-000004 from {mirror}"]


def test_a_mirror_that_holds_another_run_is_refused(copied: Config, tmp_path: Path):
    run = RunDirectory.acquire(copied)
    run.remember(id="another")
    with pytest.raises(ConfigError, match="hold different runs; choose another checkpoint.mirror, or another name"):
        fetch(open_mirror(copied), run, copied, silent, silent)
    run.close()
    empty = copied.model_copy(update={"run_dir": str(tmp_path / "new" / "run"), "seed": 2})
    fresh = RunDirectory.acquire(empty)
    fetch(open_mirror(empty), fresh, empty, silent, silent)
    with pytest.raises(ConfigError, match="seed was 1, now 2"):  # as in a run directory that holds it
        fresh.adopt(empty, run_contents(fresh))
    never = empty.model_copy(update={"resume": "never"})
    with pytest.raises(ConfigError, match="already holds a run and resume is never; choose another run_dir or check"):
        fetch(open_mirror(never), fresh, never, silent, silent)
    fresh.close()


def test_a_run_that_is_finished_in_the_mirror_is_not_trained_again(
    copied: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = copied.model_copy(update={"run_dir": str(tmp_path / "new" / "run")})
    assert next_free(elsewhere) == (elsewhere, None)
    (copied.run_path / "summary.json").write_text("{}")
    with Uploader(open_mirror(copied), copied.run_path, 2, WAIT_S, SilentReporter()):
        pass
    expected = (
        f"{open_mirror(copied)} already holds a finished run; choose another run_dir. .* copy that to {tmp_path}/new"
    )
    with pytest.raises(ConfigError, match=expected):
        next_free(elsewhere)


# ---- what fails -----------------------------------------------------------------------------------------------------


def test_an_interrupted_copy_is_no_checkpoint_and_the_one_before_it_stays(copied: Config, store: Store):
    mirror, run = open_mirror(copied), RunDirectory.acquire(copied)
    saved(run, 6)
    directory = run.checkpoints[-1][1]
    for last in ("trainer/rank-00000.safetensors", "steps.jsonl", "manifest.json", "state.json"):
        store.fails = lambda method, path, last=last: method in ("POST", "PUT") and path.endswith(f"06/{last}")
        with pytest.raises(StorageError, match=f"checkpoint.mirror: {mirror}/checkpoints/step-000006/{last}"):
            mirror.upload_checkpoint(directory, go_on, set())
        assert steps_in(mirror) == [2, 4]
    store.fails = lambda method, path: False
    parts = iter([None])

    def interrupted() -> None:
        if next(parts, "the second part") is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirror.upload_checkpoint(directory, interrupted, set())
    assert steps_in(mirror) == [2, 4]
    mirror.upload_checkpoint(directory, go_on, set())
    assert steps_in(mirror) == [2, 4, 6]
    store.fails = lambda method, path: path.endswith("06/steps.jsonl")
    with pytest.raises(StorageError, match="steps.jsonl"):
        mirror.upload_checkpoint(directory, go_on, set())  # of a step that is done again
    assert steps_in(mirror) == [2, 4]
    store.fails = lambda method, path: False
    mirror.upload_checkpoint(directory, go_on, set())
    mirror.prune(1)
    assert steps_in(mirror) == [6] and not any("step-000004" in name for name in mirror._storage.tree(mirror._name))
    run.close()


def test_a_damaged_checkpoint_is_one_clear_message(copied: Config, tmp_path: Path):
    mirror = open_mirror(copied)
    shard = mirror._at("checkpoints/step-000004/trainer/rank-00000.safetensors")
    mirror._storage.put(shard, b"cut off")
    target = tmp_path / "new" / "step-000004"
    with pytest.raises(StorageError, match=r"rank-00000.safetensors is damaged: it has 7 of 1000 bytes"):
        mirror.download_checkpoint(checkpoint_name(4), target, go_on)
    mirror._storage.put(shard, bytes([5]) * 1000)
    with pytest.raises(StorageError, match=r"rank-00000.safetensors is damaged: it has another SHA-256"):
        mirror.download_checkpoint(checkpoint_name(4), target, go_on)
    assert not (target / "state.json").exists()
    mirror._storage.put(mirror._at("checkpoints/step-000004/manifest.json"), manifest_of("../../x"))
    with pytest.raises(StorageError, match="names ../../x, which is no file of it"):
        mirror.download_checkpoint(checkpoint_name(4), target, go_on)


def test_the_copy_before_a_damaged_one_is_resumed_from_and_that_is_said(copied: Config, tmp_path: Path):
    mirror = open_mirror(copied)

    def damage(step: int, name: str) -> None:
        mirror._storage.put(mirror._at(f"checkpoints/step-00000{step}/{name}"), b"cut off")

    damage(4, "trainer/rank-00000.safetensors")
    empty = copied.model_copy(update={"run_dir": str(tmp_path / "new" / "run")})
    run, notes = RunDirectory.acquire(empty), []
    fetch(mirror, run, empty, silent, notes.append)
    assert [directory.name for _, directory in run.checkpoints] == [checkpoint_name(2)]
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == [checkpoint_name(2)]
    assert len(notes) == 1 and notes[0].startswith("step-000004 of the mirror is not resumed from: ")
    assert notes[0].endswith(f"is damaged: it has 7 of 1000 bytes; remove {mirror}/checkpoints/step-000004")
    run.close()
    for step in (2, 4):
        damage(step, "state.json")
    other = copied.model_copy(update={"run_dir": str(tmp_path / "other" / "run")})
    run = RunDirectory.acquire(other)
    with pytest.raises(StorageError, match="step-000004/state.json is damaged"):
        fetch(mirror, run, other, silent, silent)  # nothing to go on from: not begun anew without a word
    run.close()


def test_a_store_that_is_down_for_a_while_stalls_nothing_and_gets_the_newest_later(store: Store, tmp_path: Path):
    settings, reporter = mirrored(tmp_path, place(store, tmp_path)), Notes()
    run, mirror = acquired(settings), open_mirror(settings)
    with Uploader(mirror, run.path, 2, WAIT_S, reporter) as uploader:
        eventually(lambda: "run.json" in uploader._copied)
        store.fails = lambda method, path: True
        for step in (2, 4):
            saved(run, step)
            failures = uploader._failures
            uploader.copy(checkpoint_name(step))
            eventually(lambda failures=failures: uploader._failures > failures)  # the next attempt is with this one
        uploader.tell()
        assert len(reporter.notes) == 1 and reporter.notes[0].endswith("; it is tried again")
        assert reporter.notes[0].startswith(f"checkpoint.mirror: {mirror}/checkpoints/step-00000")
        store.fails = lambda method, path: False
        eventually(lambda: steps_in(mirror) == [4])
        eventually(lambda: uploader._problem is None)
        uploader.tell()
        assert reporter.notes[1] == f"{mirror} answers again"
    run.close()
    assert reporter.notes[2].startswith(f"all reports and the newest checkpoints are in {mirror}; checkpoints left out")
    assert "before they were copied: 1; failed attempts: " in reporter.notes[2]
    assert not any(secret in note for secret in CREDENTIALS.values() for note in reporter.notes)


def test_what_is_not_copied_in_time_is_said(store: Store, tmp_path: Path):
    settings, reporter = mirrored(tmp_path, place(store, tmp_path)), Notes()
    run, mirror = acquired(settings), open_mirror(settings)
    uploader = Uploader(mirror, run.path, 2, 0.5, reporter)
    saved(run, 2)
    store.fails = lambda method, path: True
    with uploader:
        uploader.copy(checkpoint_name(2))
        eventually(lambda: uploader._failures > 0)
    words = f"not copied to {mirror} within 0.5 s: checkpoint step-000002, config.yaml, run.json and 1 more ("
    assert reporter.notes[-1].startswith(words) and f"; all of it is in {run.path}; failed" in reporter.notes[-1]
    run.close()


def test_reports_are_in_the_mirror_before_the_run_ends_where_that_is_waited_for(store: Store, tmp_path: Path):
    settings, reporter = mirrored(tmp_path, place(store, tmp_path)), Notes()
    run, mirror = acquired(settings), open_mirror(settings)
    saved(run, 2)
    for name in ("summary.json", "undelivered.jsonl"):
        (run.path / name).write_text("{}")

    def there(name: str) -> bool:
        return mirror._storage.exists(mirror._name + "/" + name)

    with Uploader(mirror, run.path, 2, WAIT_S, reporter) as uploader:
        uploader.settle()
        assert there("summary.json") and there("checkpoints/step-000002/manifest.json") and reporter.notes == []
        assert not there("undelivered.jsonl")  # MLflow may take it before the run ends
        (run.path / "undelivered.jsonl").unlink()
    assert not there("undelivered.jsonl")
    assert reporter.notes == [f"all reports and the newest checkpoints are in {mirror}"]
    run.close()


def test_a_checkpoint_stays_in_the_run_directory_while_it_is_copied(store: Store, tmp_path: Path):
    settings = mirrored(tmp_path, place(store, tmp_path))
    run, mirror = acquired(settings), open_mirror(settings)
    held, reached = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> bool:
        if method != "GET" and "step-000002/trainer/rank-0" in path:
            reached.set()
            held.wait(WAIT_S)
        return False

    store.fails = hold
    with Uploader(mirror, run.path, 1, WAIT_S, SilentReporter()) as uploader:
        run.in_use = lambda: uploader.uploading
        saved(run, 2)
        uploader.copy(checkpoint_name(2))
        assert reached.wait(WAIT_S)
        saved(run, 4, keep=1)
        assert [step for step, _ in run.checkpoints] == [2, 4]
        held.set()
        eventually(
            lambda: uploader.uploading is None and {checkpoint_name(2), checkpoint_name(4)} <= uploader._uploaded
        )
        saved(run, 6, keep=1)
        assert [step for step, _ in run.checkpoints] == [6]
    run.close()


def test_the_checkpoint_of_a_step_that_is_done_again_is_copied_again(store: Store, tmp_path: Path):
    settings = mirrored(tmp_path, place(store, tmp_path))
    run, mirror = acquired(settings), open_mirror(settings)
    shard = mirror._at(f"checkpoints/{checkpoint_name(2)}/trainer/rank-00000.safetensors")
    held, reached = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> bool:
        if method != "GET" and "step-000002/trainer/trainer" in path:
            reached.set()
            held.wait(WAIT_S)
        return False

    with Uploader(mirror, run.path, 2, WAIT_S, SilentReporter()) as uploader:
        for again in (b"once", b"then", b"last"):
            if again == b"last":  # while the one before it is under way, of which the shard is copied already
                store.fails = hold
            write_checkpoint(run, 2, {"rank-00000.safetensors": again, "trainer.json": b"{}"})
            uploader.copy(checkpoint_name(2))
            if again == b"then":
                eventually(lambda: checkpoint_name(2) in uploader._uploaded)
                assert mirror._storage.read(shard) == b"then"
        assert reached.wait(WAIT_S)
        write_checkpoint(run, 2, {"rank-00000.safetensors": b"new!", "trainer.json": b"{}"})
        uploader.copy(checkpoint_name(2))
        held.set()
        eventually(lambda: checkpoint_name(2) in uploader._uploaded)
    assert mirror._storage.read(shard) == b"new!"
    mirror.download_checkpoint(checkpoint_name(2), tmp_path / "back", go_on)
    run.close()


@pytest.mark.parametrize(("kind", "reason"), [("in_s3", "bucket does not exist"), ("in_gcs", "NOT_FOUND")])
def test_a_wrong_bucket_is_one_error(kind: str, reason: str, tmp_path: Path, request: pytest.FixtureRequest):
    store = request.getfixturevalue(kind)
    settings = mirrored(tmp_path, store.uri("no-such-bucket/runs"))
    with pytest.raises(StorageError) as caught:
        open_mirror(settings)
    message = str(caught.value)
    assert "no-such-bucket/runs/run/.check-" in message and reason in message and "\n" not in message
    assert not any(secret in message for secret in CREDENTIALS.values())


def test_a_uri_of_no_kind_of_store_is_one_error():
    with pytest.raises(StorageError, match="^checkpoint.mirror: s33://bucket/x: a URI must begin with s3://"):
        Storage("s33://bucket/x", "checkpoint.mirror")


def test_a_store_that_does_not_answer_is_not_waited_for_without_bound(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirroring, "ANSWER_S", 0.3)
    let_go = threading.Event()
    store.fails = lambda method, path: let_go.wait(WAIT_S) and False
    with pytest.raises(StorageError, match="no answer within 0 s; is it reachable from here"):
        open_mirror(mirrored(tmp_path, place(store, tmp_path)))
    let_go.set()


def test_credentials_in_a_uri_are_refused_and_not_shown(tmp_path: Path):
    for url in ("s3://key:s3cr3t@bucket/x", "fsspec+abfs://bucket/x?account_secret=s3cr3t"):
        for key in ("checkpoint.mirror", "bank.path"):
            with pytest.raises(ConfigError, match=f"{key}: has credentials in it; give them in the environment"):
                config(tmp_path, **{key: url})


@pytest.mark.parametrize("name", ["../a", "/a", "trainer/../../a"])
def test_a_checkpoint_whose_list_names_other_files_is_refused_and_never_whole(name: str, tmp_path: Path):
    there = tmp_path / "mirror" / "run" / "checkpoints" / "step-000002"
    there.mkdir(parents=True)
    (there / "state.json").write_text("{}")
    (there / "manifest.json").write_bytes(manifest_of(name))
    mirror = mirroring.Mirror(str(tmp_path / "mirror"), "run")
    with pytest.raises(StorageError, match="which is no file of it"):
        mirror.download_checkpoint(checkpoint_name(2), tmp_path / "here", lambda: None)
    assert not (tmp_path / "here" / "state.json").exists()
    (there / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(StorageError, match="manifest.json is damaged"):
        mirror.download_checkpoint(checkpoint_name(2), tmp_path / "here", lambda: None)
