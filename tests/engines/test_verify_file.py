from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.cli import main
from s2l_ray.errors import DataError, DiskError
from s2l_ray.tasks.verify_file import verify_file
from tests.support.examples import examples
from tests.support.paths import ROOT


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_verify_file_writes_one_row_per_row_in_order(tmp_path):
    source = write(
        tmp_path / "in.jsonl",
        {"answer": "gold\n#### 5", "response": r"\boxed{5}", "id": "a"},
        {"answer": 6, "response": "The answer is 5.", "question": "q"},
        {"answer": "6", "response": ""},
    )
    target = tmp_path / "deeper" / "out.jsonl"
    seen: list[tuple[int, int]] = []
    summary = verify_file(source, target, "math", 2, 20, lambda done, rows: seen.append((done, rows)))
    assert summary.counts == {"right": 1, "wrong": 1, "unparsable": 1, "timeout": 0, "failed": 0}
    assert (summary.rows, seen) == (3, [(1, 3), (2, 3), (3, 3)])
    assert [json.loads(line) for line in target.read_text().splitlines()] == [
        {"id": "a", "line": 1, "verdict": "right", "reward": 1.0, "detail": "5"},
        {"line": 2, "verdict": "wrong", "reward": 0.0, "detail": "5"},
        {"line": 3, "verdict": "unparsable", "reward": 0.0, "detail": "no answer found"},
    ]
    assert not target.with_name("out.jsonl.partial").exists()


def test_the_level_of_extraction_reaches_the_worker(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"answer": "7", "response": "I cannot solve problem 7"})
    for arguments, verdict in (([], "unparsable"), (["--extract", "lenient"], "right")):
        assert main(["verify", str(source), "--to", str(tmp_path / "out.jsonl"), "--workers", "1", *arguments]) == 0
        assert [row["verdict"] for row in verdicts(tmp_path / "out.jsonl")] == [verdict]


def test_other_verifiers_have_no_level_of_extraction(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write(tmp_path / "in.jsonl", {"answer": "7", "response": "7"})
    assert main(["verify", str(source), "--kind", "countdown", "--extract", "strict"]) != 0
    assert "--extract is for --kind math alone; countdown reads responses itself" in capsys.readouterr().err


def test_columns_of_the_file_are_given_to_a_function_of_your_own(tmp_path: Path, capsys) -> None:
    right = {"answer": "18", "response": r"\boxed{18}", "data_source": "gsm8k"}
    source = write(tmp_path / "in.jsonl", right, {"answer": "18", "response": "18"})
    to, kind = str(tmp_path / "out.jsonl"), "examples.verifier:by_data_source"
    assert main(["verify", str(source), "--to", to, "--kind", kind, "--columns", "data_source"]) == 0
    first, second = verdicts(tmp_path / "out.jsonl")
    assert first["verdict"] == "right"
    assert (second["verdict"], "field data_source: missing" in second["detail"]) == ("failed", True)
    assert main(["verify", str(source), "--to", to, "--kind", kind]) != 0
    assert "verifier.columns names what else it is called with" in capsys.readouterr().err
    assert main(["verify", str(source), "--to", to, "--columns", "data_source"]) != 0
    assert "columns are for a function of your own; math takes none" in capsys.readouterr().err


def verdicts(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]  # of bytes: only at line feeds


GOOD = b'{"answer": "6", "response": "The answer is 6."}'
COUNTDOWN = b'{"answer": "3 7 5 2 : 18", "response": "3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 18 ."}'
ROWS = [
    (GOOD, "right", "6"),
    (b'{"answer": "6", "response": "\\ud800 The answer is 6."}', "right", "6"),
    (b'{"answer": "\\ud800", "response": "The answer is 6."}', "wrong", "6"),
    (b'{"answer": "6", "response": "The answer is 6.", "question": "\\udfff"}', "right", "6"),
    (b'{"answer": "6", "response": "\\\\boxed{\\ud800}"}', "unparsable", r"cannot read \ud800"),
    (b'{"answer": "6", "response": "\\u0000 The answer is 6."}', "right", "6"),
    (b"\xef\xbb\xbf" + GOOD + b"\r", "right", "6"),
    (b'{"answer": 6.0, "response": "' + b"word " * 10**6 + b'The answer is 6."}', "right", "6"),
    (b'{"answer": "2^{2025}", "response": "The answer is 2^{2024}."}', "wrong", "2^{2024}"),
    (b'{"answer": "6"}', "failed", "field response: a text is needed; the row has answer"),
    (b'{"response": "6"}', "failed", "field answer: the gold answer is missing; the row has response"),
    (b'{"answer": null, "response": "6"}', "failed", "field answer must be a text or a number, not None"),
    (b'{"answer": 1e999, "response": "6"}', "failed", "field answer must be a text or a number, not inf"),
    (b'{"answer": "#### ", "response": "6"}', "failed", "field answer is empty"),
    (b'{"answer": "6", "response": ["6"]}', "failed", "field response: a text is needed"),
    (b'{"answer": "6", "response": "6", "question": 5}', "failed", "field question must be a text"),
    (b'{"answer": "6", "response": "6", "id": {}}', "failed", "field id must be a text or an integer"),
    (b'{"answer": "6", "response": "5", "response": "6"}', "failed", "not valid JSON ('response' is given twice)"),
    (b'{"answer": NaN, "response": "6"}', "failed", "not valid JSON (NaN is not a JSON value)"),
    (b'{"answer": ' + b"7" * 10_000 + b', "response": "6"}', "failed", "not valid JSON (Exceeds the limit"),
    (b"[" * 100_000, "failed", "not valid JSON (maximum recursion depth exceeded"),
    (b'["6", "6"]', "failed", "is not a JSON object"),
    (b'{"answer": "6", "response": "caf\xe9"}', "failed", "not UTF-8"),
    (b'{"answer": "6", "response": "6', "failed", "not valid JSON"),
]


def test_every_row_gets_a_verdict_whatever_it_is(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(row for row, _, _ in ROWS) + b"\n\n  \n" + GOOD)
    summary = verify_file(source, target, "math", 2, 20)
    rows = verdicts(target)
    assert [row["line"] for row in rows] == [*range(1, len(ROWS) + 1), len(ROWS) + 3]
    assert [row["verdict"] for row in rows] == [*[verdict for _, verdict, _ in ROWS], "right"]
    for row, (_, _, detail) in zip(rows, ROWS, strict=False):
        assert detail in row["detail"]
        assert row["verdict"] != "failed" or f"in.jsonl, line {row['line']}" in row["detail"]
    assert summary.counts == {"right": 7, "wrong": 2, "unparsable": 1, "timeout": 0, "failed": 15}
    assert summary.failure == f"{source}, line 10, field response: a text is needed; the row has answer"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
ANY_ROW = st.fixed_dictionaries({}, optional=dict.fromkeys(("answer", "response", "question", "id"), ANY_JSON))
ANY_LINE = ANY_JSON.map(json.dumps).map(str.encode) | ANY_ROW.map(json.dumps).map(str.encode) | st.binary(max_size=20)


@settings(max_examples=examples(10), deadline=None)
@given(st.lists(ANY_LINE.map(lambda line: b" " + line.replace(b"\n", b"")), min_size=1, max_size=20))
def test_any_lines_give_one_row_each_in_order(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("any")
    source, target = directory / "in.jsonl", directory / "out.jsonl"
    source.write_bytes(b"\n".join([GOOD, *lines, GOOD]))
    verify_file(source, target, "countdown", 1, 20)
    numbers = [number for number, line in enumerate([GOOD, *lines, GOOD], 1) if line.strip()]
    assert [row["line"] for row in verdicts(target)] == numbers


def test_parquet_rows_whose_text_is_not_utf8(tmp_path):
    responses = pyarrow.array([b"The answer is 6.", b"caf\xe9", b"5"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"answer": ["6", "6", "6"], "response": responses})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    summary = verify_file(tmp_path / "in.parquet", tmp_path / "out.jsonl", "math", 1, 20)
    assert [row["verdict"] for row in verdicts(tmp_path / "out.jsonl")] == ["right", "failed", "wrong"]
    assert "in.parquet, line 2: not UTF-8" in summary.failure


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"\x1f\x8b\x08\x00", "is compressed with gzip; convert it"),
        (b"PAR1\x15", "is a Parquet file"),
        ("{}".encode("utf-16"), "is in UTF-16"),
        (b" \n\n", "has no rows"),
        (b"", "has no rows"),
    ],
)
def test_files_that_are_something_else(tmp_path, beginning, message):
    source = tmp_path / "in.jsonl"
    source.write_bytes(beginning)
    with pytest.raises(DataError, match=rf"in.jsonl {message}"):
        verify_file(source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_targets_that_cannot_be_written(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD)
    with pytest.raises(DataError, match="the verdicts would replace .*in.jsonl"):
        verify_file(source, tmp_path / "." / "in.jsonl", "countdown")
    assert source.read_bytes() == GOOD
    with pytest.raises(DiskError, match="cannot be written: (Not a directory|File exists); .*choose another place"):
        verify_file(source, source / "out.jsonl", "countdown")


def test_what_is_no_file_is_refused_before_anything_is_checked_and_a_link_is_followed(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match=r"pipe is a pipe \(FIFO\), and what is written would take its place"):
        verify_file(source, tmp_path / "pipe", "countdown", on_progress=lambda *_: pytest.fail("it was checked"))
    assert (tmp_path / "pipe").is_fifo()
    target, link = tmp_path / "verdicts", tmp_path / "out.jsonl"
    link.symlink_to(target)
    verify_file(source, link, "countdown")
    assert link.is_symlink() and len(verdicts(target)) == 1


def test_a_full_disk_is_one_message(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes((COUNTDOWN + b"\n") * 20)
    (tmp_path / "out.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="out.jsonl cannot be written: No space left on device; free some space"):
        verify_file(source, target, "countdown", 1, 20)
    assert not target.exists()


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.jsonl", "--timeout", "-1"], "must be a number above 0, not '-1'"),
        (["in.jsonl", "--timeout", "nan"], "must be a number above 0, not 'nan'"),
        (["."], ". is a directory; name a JSONL file"),
    ],
)
def test_arguments_that_are_refused(arguments: list[str], message: str, capsys):
    try:
        status = main(["verify", *arguments])
    except SystemExit as ended:
        status = ended.code
    assert status != 0 and message in capsys.readouterr().err


def test_the_command_says_what_could_not_be_checked(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", {"answer": "3 7 5 2 : 18", "response": "6"}, {"answer": "6"})
    assert main(["verify", str(source), "--kind", "countdown"]) == 0
    printed = capsys.readouterr()
    assert "2 answers: 0 right, 0 wrong, 1 unparsable, 0 timeout, 1 failed" in printed.out
    assert f"1 of 2 rows could not be checked, the first so: {source}, line 2, field response: " in printed.err
    none = write(tmp_path / "none.jsonl", {"answer": "6", "response": "6"})  # 6 is not a problem of countdown
    assert main(["verify", str(none), "--kind", "countdown"]) == 1
    printed = capsys.readouterr()
    assert "\n1 answer: 0 right, " in printed.out
    assert f"1 of 1 rows could not be checked, the first so: {none}, line 1: '6' is not" in printed.err


def test_a_file_name_that_the_terminal_cannot_show(tmp_path):
    source = os.fsencode(tmp_path) + "/größe-".encode() + b"\xff.jsonl"
    Path(os.fsdecode(source)).write_bytes(COUNTDOWN)
    for encoding in ("ascii", "utf-8"):
        command = [sys.executable, "-m", "s2l_ray", "verify", source, "--kind", "countdown"]
        changes = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
        done = subprocess.run(command, capture_output=True, env=environment(**changes), timeout=120)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\udcff.verdicts.jsonl" in done.stdout
