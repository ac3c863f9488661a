"""Checkpoints whose files do not hold any more what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError, DataError
from s2l_ray.run.checkpoints import read_checkpoint
from s2l_ray.run.damaged import damaged_aside
from s2l_ray.run.directory import RunDirectory
from tests.support.run_directories import acquired, config, learner, save, to_resume


def silent(text: str) -> None:
    pass


def flip(path: Path) -> None:
    """One bit, as a disk that fails silently does it."""
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a bit of a shard": (
        "trainer/shard",
        flip,
        r"trainer/shard is damaged \(its SHA-256 is not that of manifest.json\)",
    ),
    "a shard's end": ("trainer/shard", cut, r"trainer/shard is damaged \(it has 999 of 1000 bytes\)"),
    "a shard": ("trainer/shard", Path.unlink, "trainer/shard is not there"),
    "a bit of the log": ("steps.jsonl", flip, r"steps.jsonl is damaged \(its SHA-256"),
    "the log": ("steps.jsonl", Path.unlink, "steps.jsonl is not there"),
    "the manifest": ("manifest.json", Path.unlink, r"manifest.json is damaged \(.*No such file"),
    "the manifest's end": ("manifest.json", lambda path: path.write_text("{"), r"manifest.json is damaged \("),
    "the manifest's contents": ("manifest.json", lambda path: path.write_text("{}"), "is no manifest"),
    "a value of the state": (
        "state.json",
        lambda path: path.write_text(path.read_text().replace("digest 11", "digest 12")),
        r"state.json is damaged \(its SHA-256",
    ),
    "the state's end": ("state.json", lambda path: path.write_text("{"), "state.json is damaged"),
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """With whole checkpoints of steps 2 and 4."""
    run = acquired(config(tmp_path))
    save(run, 2)
    save(run, 4)
    return run


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_it_resumed_from(
    what: str, run: RunDirectory, tmp_path: Path
):
    name, damage, message = DAMAGE[what]
    newest = run.checkpoints[-1][1]
    damage(newest / name)
    with pytest.raises(DataError, match=message):
        read_checkpoint(newest, learner(run))
    notes: list[str] = []
    with damaged_aside(run, silent, notes.append):
        pass
    assert to_resume(run, config(tmp_path)).step == 2
    (note,) = notes
    assert note.startswith(f"step-000004 is not resumed from, since {newest}/{name} ")
    assert note.endswith("; it is kept as damaged-step-000004, which can be removed")
    assert (newest.parent / "damaged-step-000004" / "trainer").is_dir()
    save(run, 4)  # the step is done again
    with damaged_aside(run, silent, notes.append):
        pass
    assert to_resume(run, config(tmp_path)).step == 4 and len(notes) == 1


def test_without_a_whole_one_nothing_is_begun_anew(run: RunDirectory, tmp_path: Path):
    for _, directory in run.checkpoints:
        flip(directory / "trainer" / "shard")
    before = {path.name for path in (run.path / "checkpoints").iterdir()}
    message = r"^no checkpoint of .*/run is whole\. .*step-000004/trainer/shard is damaged"
    with pytest.raises(DataError, match=message), damaged_aside(run, silent, silent):
        pass
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == before


def test_one_that_is_fetched_meanwhile_is_gone_on_from(run: RunDirectory, tmp_path: Path):
    for _, directory in run.checkpoints:
        flip(directory / "trainer" / "shard")
    notes: list[str] = []
    with damaged_aside(run, silent, notes.append):
        assert run.checkpoints == []
        save(run, 4)
    assert to_resume(run, config(tmp_path)).step == 4 and len(notes) == 2


def test_a_second_damaged_one_of_a_step_has_a_name_of_its_own(run: RunDirectory):
    for _ in range(3):
        flip(run.checkpoints[-1][1] / "trainer" / "shard")
        with damaged_aside(run, silent, silent):
            pass
        save(run, 4)
    names = sorted(path.name for path in (run.path / "checkpoints").glob("damaged-*"))
    assert names == ["damaged-step-000004", "damaged-step-000004-2", "damaged-step-000004-3"]


def test_a_checkpoint_of_another_version_is_refused_and_stays_where_it_is(run: RunDirectory):
    state = run.checkpoints[-1][1] / "state.json"
    values = json.loads(state.read_text())
    del values["format"]
    state.write_text(json.dumps(values))
    message = r"another version of s2l-ray \(its format is 1, and this version reads 2\)"
    with pytest.raises(ConfigError, match=message), damaged_aside(run, silent, silent):
        pass
    assert state.exists()
