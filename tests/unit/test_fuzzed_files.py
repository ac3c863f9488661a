"""Files of all kinds that are not what they should be: one error each that names the file, and nothing else happens."""

from __future__ import annotations

import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.cli import main
from s2l_ray.cluster.infra import load_infra
from s2l_ray.config import load_config
from s2l_ray.errors import S2LError
from s2l_ray.placement.inventory import load_inventory
from s2l_ray.rollouts.stragglers import read_stragglers
from s2l_ray.run.checkpoints import read_state
from s2l_ray.run.earlier import read_memory
from s2l_ray.step_log import StepLog
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.model_files import read_json
from s2l_ray.tuning.reading import load_study
from tests.support.bad_files import JSONL, PLACES, ROW, YAML
from tests.support.examples import examples
from tests.support.paths import ROOT

LOADERS: dict[str, Callable[[Path], Any]] = {
    "configuration": load_config,
    "infra": load_infra,
    "inventory": load_inventory,
    "study": load_study,
}
STARTS = {
    "configuration": ROOT / "configs" / "quickstart.yaml",
    "infra": ROOT / "cluster" / "infra" / "rdma.yaml",
    "inventory": ROOT / "cluster" / "inventories" / "2x8xH100.yaml",
    "study": ROOT / "configs" / "tune_schedule.yaml",
}
"""A good file of each kind."""
MAY_BE_EMPTY = {"infra"}
"""Of which every key has a default."""
LONGEST_S = 60.0
"""Bound on one file: many times what any of them takes, and far from what an unbounded one would."""
MOST_BYTES = 2**29
"""Bound on what this file's tests take of memory in all."""
LONGEST_MESSAGE = 8000


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


def contents(folder: Path) -> dict[str, Any]:
    """What a folder holds: names, times and contents of files, targets of links."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if plain else None)
    return found


def refusal(load: Callable[[Path], Any], path: Path) -> str | None:
    """The message with which a file is refused; None: it was taken. Anything but an S2LError is raised here."""
    before, began = contents(path.parent), time.monotonic()
    try:
        load(path)
        said = None
    except S2LError as error:
        said = str(error)
        assert str(path) in said or path.name in said or "/" in said, "no file is named"
        assert len(said) < LONGEST_MESSAGE + len(str(path)), said[:300]
    assert time.monotonic() - began < LONGEST_S
    assert contents(path.parent) == before
    return said


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("wrong", YAML)
def test_a_file_of_keys_that_is_none_is_refused(kind: str, wrong: str, tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_bytes(YAML[wrong])
    said = refusal(LOADERS[kind], path)
    assert said or (kind in MAY_BE_EMPTY and wrong in ("empty", "byte order mark alone")), wrong
    assert not Path("pwned").exists()


@pytest.mark.parametrize("wrong", JSONL)
def test_data_that_are_no_problems_are_refused(wrong: str, tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(JSONL[wrong])
    said = refusal(load_problems, path)
    assert said and str(path) in said


LEFT: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "memory": ("run.json", read_memory),
    "checkpoint": ("state.json", lambda path: read_state(path.parent)),
    "steps": ("steps.jsonl", lambda path: StepLog(path).read()),
    "stragglers": ("stragglers.jsonl", read_stragglers),
    "model": ("config.json", lambda path: read_json("models.learner", path)),
}
"""What runs and models leave, and what reads it."""
NOT_THERE = {"nothing", "a link to itself", "links in a circle", "a link to nothing"}


@pytest.mark.parametrize("kind", LEFT)
def test_damaged_files_of_runs_and_models_are_taken_or_refused(kind: str, tmp_path: Path):
    name, load = LEFT[kind]
    path = tmp_path / name
    refused = 0
    for content in (*JSONL.values(), b"null", b"[]", b"{}", b'{"step": 1e999}', b'{"stragglers": 5, "step": []}\n'):
        if len(content) < 2**20:
            path.write_bytes(content)
            refused += refusal(load, path) is not None
    assert refused > (2 if kind == "stragglers" else 10)  # a last row of those may be one that a crash cut off


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_of_a_run_is_not_waited_for(kind: str, place: str, tmp_path: Path):
    name, load = LEFT[kind]
    PLACES[place](tmp_path / name)
    assert refusal(load, tmp_path / name) is not None or (kind == "steps" and place in NOT_THERE)


@pytest.mark.parametrize("kind", [*LOADERS, "data"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_named_and_not_waited_for(kind: str, place: str, tmp_path: Path):
    path = tmp_path / ("own.jsonl" if kind == "data" else "own.yaml")
    PLACES[place](path)
    load = load_problems if kind == "data" else LOADERS[kind]
    said = refusal(load, path)
    assert said and str(path) in said
    kinds = {"a directory": "directory", "a pipe": "pipe", "a link to a device": "device", "a link to itself": "link"}
    assert kinds.get(place, "") in said.lower()


@pytest.mark.parametrize("kind", [*LOADERS, "data"])
def test_paths_that_the_system_refuses(kind: str, tmp_path: Path):
    load = load_problems if kind == "data" else LOADERS[kind]
    for name in ("n" * 300 + ".yaml", "\0.yaml", "file/below.yaml"):
        (tmp_path / "file").touch()
        with pytest.raises(S2LError):
            load(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="root reads everything; only it can become somebody who may not")
@pytest.mark.parametrize("kind", [*LOADERS, "data"])
def test_a_file_that_may_not_be_read_is_named(kind: str):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / ("own.jsonl" if kind == "data" else "own.yaml")
        path.write_bytes(ROW)
        path.chmod(0)
        load = load_problems if kind == "data" else LOADERS[kind]
        os.seteuid(65534)
        try:
            with pytest.raises(S2LError, match=r"own.*ermission denied"):
                load(path)
        finally:
            os.seteuid(0)


# ---- by chance ------------------------------------------------------------------------------------------------------

EDITS = st.lists(
    st.tuples(st.sampled_from(("cut", "drop", "put", "twice", "swap")), st.integers(0, 2**20), st.binary(max_size=12)),
    min_size=1,
    max_size=6,
)
TOKENS = [b"null", b"[", b"{", b"]", b"}", b": ", b"- ", b"&a ", b"*a", b"<<: *a", b"!!", b"${", b"???", b"|", b">"]
TOKENS += [b"'", b'"', b"#", b"\n", b"\t", b"\0", b"\xff", b".nan", b"1e999", b"-1", b"9" * 30, b"0x", b"true"]


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for edit, anywhere, new in edits:
        at = anywhere % (len(content) + 1)
        token = new or TOKENS[at % len(TOKENS)]
        match edit:
            case "cut":
                content = content[:at]
            case "drop":
                content = content[:at] + content[at + len(token) :]
            case "put":
                content = content[:at] + token + content[at:]
            case "twice":
                content = content + content[at:]
            case "swap":
                content = content[at:] + content[:at]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.mark.parametrize("kind", LOADERS)
def test_damaged_files_of_keys_are_taken_or_refused(kind: str, folder: Path):
    good = STARTS[kind].read_bytes()

    @settings(max_examples=examples(150), deadline=None, database=None)
    @given(EDITS)
    def check(edits: list[tuple[str, int, bytes]]) -> None:
        path = folder / "own.yaml"
        path.write_bytes(edited(good, edits))
        refusal(LOADERS[kind], path)

    check()


@settings(max_examples=examples(200), deadline=None, database=None)
@given(EDITS)
def test_damaged_rows_are_taken_or_refused(folder: Path, edits: list[tuple[str, int, bytes]]):
    path = folder / "own.jsonl"
    path.write_bytes(edited(ROW * 3 + b'{"prompt": [{"role": "user", "content": "q"}], "reward_model": {}}\n', edits))
    refusal(load_problems, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "question", "answer", "prompt", "reward_model", "extra_info", "role", "content", "ground_truth")


@settings(max_examples=examples(100), deadline=None, database=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5), max_size=4))
def test_rows_with_values_of_any_type_are_taken_or_refused(folder: Path, rows: list[dict[str, Any]]):
    path = folder / "typed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refusal(load_problems, path)


KEYS = ("models.learner", "data.train", "schedule.steps", "trainer.learning_rate", "trainer.betas", "bank", "extends")


@settings(max_examples=examples(150), deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), JSON, max_size=4))
def test_keys_with_values_of_any_type_are_taken_or_refused(folder: Path, values: dict[str, Any]):
    nested: dict[str, Any] = {"models": {"learner": "a", "explorer": "b"}, "data": {"train": "x"}}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        inner = nested.setdefault(section, {}) if section else nested
        if isinstance(inner, dict):
            inner[name] = value
    path = folder / "typed.yaml"
    path.write_text(json.dumps(nested))
    refusal(load_config, path)


def test_damaged_parquet_files_are_taken_or_refused(folder: Path):
    path = folder / "own.parquet"
    pq.write_table(pa.table({"question": [f"q{n}" for n in range(50)], "answer": ["1"] * 50}), path)
    good, chance, refused = path.read_bytes(), random.Random(17), 0
    for _ in range(examples(300)):
        content = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        refused += refusal(load_problems, path) is not None
    assert refused > examples(300) / 6


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([2**30], pa.date32()), "line 1: a value that cannot be read"),
        (pa.array([2**62], pa.duration("s")), "line 1: a value that cannot be read"),
        (pa.array([b"\xff"]), "field answer must be a text or a number"),
        (pa.array([None]), "field answer must be a text or a number"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "field answer must be a text or a number"),
    ],
)
def test_columns_of_other_types_are_refused(column: pa.Array, said: str, tmp_path: Path):
    pq.write_table(pa.table({"question": ["q"], "answer": column}), tmp_path / "own.parquet")
    assert said in str(refusal(load_problems, tmp_path / "own.parquet"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["question", "question", "answer"])
    pq.write_table(table, tmp_path / "own.parquet")
    assert "it has two columns 'question'" in str(refusal(load_problems, tmp_path / "own.parquet"))


# ---- as a command says it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["a pipe", "deep list", "python call", "laughs by interpolation", "17 MiB"])
def test_the_command_says_it_in_one_line_and_makes_nothing(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    PLACES[wrong](path) if wrong in PLACES else path.write_bytes(YAML[wrong])
    for command in (["train", str(path)], ["plan", str(path)], ["config", str(path)]):
        assert main(command) == 1
        said = capsys.readouterr()
        assert "own.yaml" in said.out + said.err and "Traceback" not in said.out + said.err
    assert [file.name for file in tmp_path.iterdir()] == ["own.yaml"]
