"""What a disk refuses is one error that names the path, and what was whole before stays whole."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.cli import main
from s2l_ray.config import TrackingConfig
from s2l_ray.errors import BankError, DiskError, ModelError
from s2l_ray.evaluation.summary import write_summary
from s2l_ray.machine.disk import REMEDIES, append, refusal, write_whole, writing
from s2l_ray.rollouts.records import write_groups
from s2l_ray.rollouts.stragglers import append_stragglers
from s2l_ray.run.directory import RunDirectory
from s2l_ray.step_log import StepLog
from s2l_ray.style import save_png
from s2l_ray.timing.spans import Span
from s2l_ray.timing.trace import TraceFile
from s2l_ray.tracking.tracker import open_tracker
from tests.support import bank_rollouts
from tests.support.patience import PATIENCE_S, until
from tests.support.run_directories import config
from tests.support.small_disk import fill, largest_file, read_only, small_disk
from tests.support.step_records import step
from tests.support.training_models import SHAPE, make_trainer, random_groups


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8192) as path:
        yield path


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of tensors larger than Python's buffer of a file: how a refusal comes out of torch depends on it."""
    directory = tmp_path_factory.mktemp("models")
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 1000, "intermediate_size": 600})).save_pretrained(directory)
    return str(directory)


# ---- checkpoints and models -----------------------------------------------------------------------------------------


def test_a_checkpoint_on_a_full_disk(disk: Path, model_dir: str) -> None:
    trainer = make_trainer(model_dir)
    trainer.update([random_groups(2)])
    before = disk / "step-1" / "trainer"
    trainer.save(str(before))
    whole = {file.name: file.read_bytes() for file in before.iterdir()}
    after = disk / "step-2" / "trainer"
    room = sum(map(len, whole.values())) // 2
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - room)  # half of what a checkpoint takes
    with pytest.raises(DiskError) as caught:
        trainer.save(str(after))
    assert str(caught.value) == (
        f"{after}/rank-00000.safetensors cannot be written: No space left on device; free some space there, then give "
        "the same command again"
    )
    assert not any(after.iterdir())  # what was written of it does not keep the disk full
    assert {file.name: file.read_bytes() for file in before.iterdir()} == whole
    ballast.unlink()
    trainer.save(str(after))
    assert {file.name for file in after.iterdir()} == set(whole)


@pytest.mark.parametrize("nbytes", [0, 100, 20_000, 300_000])
def test_a_checkpoint_beyond_the_limit_of_a_process(tmp_path: Path, model_dir: str, nbytes: int) -> None:
    trainer = make_trainer(model_dir)
    with largest_file(nbytes), pytest.raises(DiskError, match=r"cannot be written: File too large; .*ulimit -f"):
        trainer.save(str(tmp_path / "checkpoint"))
    assert not any((tmp_path / "checkpoint").iterdir())


def test_an_export_that_is_refused(disk: Path, model_dir: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_dir)
    fill(disk)
    with pytest.raises(DiskError, match=rf"^{disk}/model cannot be written: No space left on device"):
        trainer.export(str(disk / "model"))
    with largest_file(20_000), pytest.raises(DiskError, match="model cannot be written: File too large"):
        trainer.export(str(tmp_path / "model"))  # safetensors' own error, which has a number in its text alone
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file/model cannot be written: Not a directory"):
        trainer.export(str(tmp_path / "file" / "model"))


# ---- the files of a run ---------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], object]] = {
    "steps.jsonl": lambda path: StepLog(path).append(step(1)),
    "summary.json": lambda path: write_summary(path, {"name": "x" * 5000}),
    "trace.json": lambda path: TraceFile(path).append([Span("driver", "step", 1, 0.0, 1.0)] * 100),
    "stragglers.jsonl": lambda path: append_stragglers(path, 2, ["p" * 5000]),
    "step-000001.jsonl": lambda path: write_groups(path, random_groups(20), {f"p{i}": ("?", "1") for i in range(20)}),
    "run.json": lambda path: write_whole(path, "x" * 5000),
    "plan.png": lambda path: save_png(Figure, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_of_a_run_is_named(name: str, disk: Path) -> None:
    fill(disk)
    with pytest.raises(DiskError, match=rf"^{disk}/{name} cannot be written: No space left on device; free some"):
        WRITERS[name](disk / name)
    assert not list(disk.glob(".*partial"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_is_read_only(name: str, disk: Path) -> None:
    read_only(disk)
    with pytest.raises(DiskError, match=f"{name} cannot be written: Read-only file system; .* choose another place"):
        WRITERS[name](disk / name)


def test_a_run_directory_that_cannot_be_made(disk: Path) -> None:
    settings = config(disk)
    read_only(disk)
    with pytest.raises(DiskError, match=rf"^{disk}/run cannot be written: Read-only file system"):
        RunDirectory.acquire(settings)


def test_what_was_there_stays_and_half_a_line_is_mended(disk: Path) -> None:
    log, state = StepLog(disk / "steps.jsonl"), disk / "state.json"
    log.append(step(1))
    write_whole(state, "old")
    ballast = fill(disk)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - 4096)
    with pytest.raises(DiskError):
        for _ in range(100):
            log.append(step(1))
    with pytest.raises(DiskError):
        write_whole(state, "new" * 5000)
    assert state.read_text() == "old"
    ballast.unlink()
    kept = len(log.read())
    log.append(step(1))
    assert len(log.read()) == kept + 1 >= 2


def test_what_an_interrupted_save_left_is_cleared_when_the_run_goes_on(tmp_path: Path) -> None:
    run = RunDirectory.acquire(config(tmp_path))
    run.begin_checkpoint(2, {"step": 2}).complete({})
    (run.path / "checkpoints" / "step-000004" / "trainer").mkdir(parents=True)
    run.begin_checkpoint(2, {"step": 2})  # done again, and interrupted
    (run.path / "checkpoints" / "step-000002-my-copy").mkdir()
    run.close()
    checkpoints, names = tmp_path / "run" / "checkpoints", ["step-000002", "step-000002-my-copy"]
    again = RunDirectory.acquire(config(tmp_path))
    assert (checkpoints / "step-000004").exists()  # until it is known that this run goes on
    again.adopt(config(tmp_path), {})
    again.close()
    assert [path.name for path in sorted(checkpoints.iterdir())] == names
    assert not (checkpoints / "step-000002" / ".partial").exists()


def test_a_bank_keeps_what_it_could_not_write(disk: Path) -> None:
    asked = bank_rollouts.request("p1", 0)
    bank = RolloutBank(bank_rollouts.settings(str(disk)), bank_rollouts.PROMPTS)
    bank.record(asked, bank_rollouts.scored(asked))
    ballast = fill(disk)
    with pytest.raises(BankError, match=rf"bank.path: {disk}/made-by-hand/shards/.*: .*No space left on device"):
        bank.close()
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ["ballast"]
    ballast.unlink()
    bank.close()
    assert len(bank) == asked.count


def test_a_full_tracking_store_is_a_notice(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = open_tracker(TrackingConfig(timeout_s=PATIENCE_S), disk / "run", "full")
    ballast = fill(disk)
    tracker.log_step(step(1))
    said = f"MLflow at sqlite:///{disk}/mlflow.db: (sqlite3.OperationalError) database or disk is full"
    until(lambda: tracker.problem == said)
    assert "Traceback" not in capfd.readouterr().err
    ballast.unlink()
    tracker.finish()  # with what was not delivered
    assert tracker.problem is None


# ---- what is at the place already -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["summary.json", "step-000001.jsonl", "run.json", "plan.png"])
def test_what_is_no_file_stays_what_it_is(name: str, tmp_path: Path) -> None:
    pipe, directory, link, circle = (tmp_path / f"{kind}-{name}" for kind in ("pipe", "directory", "link", "circle"))
    os.mkfifo(pipe)
    directory.mkdir()
    link.symlink_to(pipe)
    circle.symlink_to(circle)
    for path, why in ((pipe, "a pipe"), (directory, "a directory"), (link, "a pipe"), (circle, "links go in a circle")):
        with pytest.raises(DiskError, match=f"^{path} .*{why}"):
            WRITERS[name](path)
    assert pipe.is_fifo() and directory.is_dir() and link.is_symlink() and circle.is_symlink()
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("name", ["summary.json", "step-000001.jsonl", "run.json", "plan.png"])
def test_a_link_stays_one_and_what_it_leads_to_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / name
    link.symlink_to(target)
    for old in (None, "old"):
        if old is not None:
            target.write_text(old)
        WRITERS[name](link)
        assert link.is_symlink() and target.stat().st_size > 100
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["target"]


@pytest.mark.parametrize("into", ["file", "pipe"])
def test_what_the_command_prints_into_is_not_replaced(into: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/fd/1")  # as /dev/stdout is one
    code = "import sys; from pathlib import Path; from s2l_ray.machine.disk import write_whole; "
    command = [sys.executable, "-c", code + "write_whole(Path(sys.argv[1]), 'x')", str(link)]
    with (tmp_path / "out").open("w") as out:
        to = out if into == "file" else subprocess.PIPE
        done = subprocess.run(command, stdout=to, stderr=subprocess.PIPE, text=True, timeout=60)
    why = "the file to which this command prints" if into == "file" else r"a pipe \(FIFO\)"
    assert re.search(f"DiskError: {link} is {why}.*; name", done.stderr)
    assert link.is_symlink() and not done.stdout and not (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("words", "name", "option"),
    [
        (["verify", "none.jsonl", "--to"], "v.jsonl", "--to"),
        (["report", "none", "--output"], "r.html", "--output"),
        (["trace", "none", "--png"], "t.png", "--png"),
        (["plan", "none.yaml", "--png"], "p.png", "--png"),
        (["gpu-check", "--stages", "machine", "--json"], "g.json", "--json"),
    ],
)
def test_commands_refuse_a_pipe_before_they_begin(
    words: list[str], name: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / name)
    assert main([*words, str(tmp_path / name)]) == 1  # nothing that they are to read is there
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (
        "",
        f"error: {option}: {tmp_path / name} is a pipe (FIFO), and what is written would take its place; name a file\n",
    )
    assert (tmp_path / name).is_fifo()


# ---- the mechanism --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", REMEDIES)
def test_every_refusal_has_a_reason_and_a_remedy(number: int, tmp_path: Path) -> None:
    told = refusal(OSError(number, os.strerror(number)), tmp_path)
    assert str(told) == (
        f"{tmp_path} cannot be written: {os.strerror(number)}; {REMEDIES[number]}, then give the same command again"
    )


def test_a_reason_is_found_under_the_errors_of_libraries(tmp_path: Path) -> None:
    def deep() -> None:
        try:
            try:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            finally:
                raise RuntimeError("unexpected pos 704 vs 598")
        except RuntimeError as error:
            raise ValueError("a third library") from error

    refused = pytest.raises(DiskError, match="quota exceeded; free some space there, or have the quota raised")
    with refused, writing(tmp_path):
        deep()


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError(1), ConnectionResetError(104, "reset"), ModelError("y"), KeyboardInterrupt()]
)
def test_what_is_not_a_disks_passes_as_it_is(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, writing(tmp_path):
        raise error
    assert caught.value is error


def test_the_command_tells_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"answer": "1", "response": "1"}) + "\n")
    target = answers / "verdicts.jsonl"
    assert main(["verify", str(answers), "--workers", "1", "--to", str(target)]) == 1
    assert capsys.readouterr().err == (
        f"error: {target} cannot be written: Not a directory; part of the path is a file: choose another place, then "
        "give the same command again\n"
    )
    with pytest.raises(DiskError, match="/dev/full cannot be written: No space left on device"):
        append(Path("/dev/full"), "x")
