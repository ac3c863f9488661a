"""The parser of `s2l`: every help, and `s2l config`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from s2l_ray import cli
from s2l_ray.config import load_config
from s2l_ray.errors import ConfigError
from tests.support.paths import ROOT

LONGEST_LINE = 80
HEAVY = ("torch", "ray", "vllm", "transformers", "pyarrow", "pydantic", "omegaconf", "mlflow", "matplotlib", "numpy")


def parsers(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command and action with its words, such as ("bank", "show")."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, *words, name)


EVERY = dict(parsers(cli._parser()))


def test_the_commands():
    names = [words[0] for words in EVERY if len(words) == 1]
    assert names == [
        "train",
        "tune",
        "experiment",
        "evaluate",
        "diversity",
        "plan",
        "explore",
        "bank",
        "family",
        "report",
        "compare",
        "trace",
        "track",
        "export",
        "verify",
        "config",
        "doctor",
        "gpu-check",
    ]
    assert ("bank", "import") in EVERY and ("family", "build") in EVERY


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_is_readable_at_80_columns(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(LONGEST_LINE))
    lines = EVERY[words].format_help().splitlines()
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
    assert EVERY[words].description and EVERY[words].description[-1] in ".)"


def test_every_help_imports_nothing_heavy():
    """A process that has printed all of them; so that each is there at once."""
    code = f"""
import sys
from s2l_ray.cli import main
for words in {[list(words) for words in EVERY]}:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
print("imported:", *sorted({set(HEAVY)} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: s2l") == len(EVERY)
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_count_is_at_least_one(number: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        cli.main(["explore", "x.yaml", f"--rollouts={number}"])
    assert f"--rollouts: must be an integer of at least 1, not '{number}'" in capsys.readouterr().err


# ---- s2l verify -----------------------------------------------------------------------------------------------------

OWN = "def check(response, answer, question, **columns):\n    return sorted(columns) == ['a', 'b']\n"


@pytest.mark.parametrize(
    "words",
    [
        ["{file}", "--columns", "a,b"],
        ["{file}", "--columns", "a", "b"],
        ["{file}", "--columns", "[a,b]"],
        ["{file}", "--columns", "[a,", "b]"],
        ["--columns", "a,b", "{file}"],
        ["--columns", "a", "b", "{file}"],
        ["--columns", "a", "b", "--workers=1", "{file}"],
    ],
)
def test_columns_are_separated_by_commas_or_spaces_and_a_file_may_follow_them(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[Path, tuple[str, ...]]] = []

    def verify_file(source: Path, *others: object) -> SimpleNamespace:
        asked.append((source, others[-1]))
        return SimpleNamespace(counts={"right": 1, "failed": 0}, rows=1, answers_per_second=1, failure=None)

    monkeypatch.setattr("s2l_ray.tasks.verify_file.verify_file", verify_file)
    (tmp_path / "own_columns.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "answers.jsonl"
    assert cli.main(["verify", "--kind", "own_columns:check", *[word.format(file=file) for word in words]]) == 0
    assert asked == [(file, ("a", "b"))]


@pytest.mark.parametrize("words", [[], ["--columns", "a", "b"], ["--columns", "answers.jsonl"]])
def test_without_a_file_there_is_nothing_to_verify(words: list[str], capsys: pytest.CaptureFixture):
    assert cli.main(["verify", *words]) == 1
    assert capsys.readouterr().err.startswith("error: FILE is missing; name a JSONL or Parquet file")


# ---- s2l config -----------------------------------------------------------------------------------------------------


def test_config_explains_keys(capsys: pytest.CaptureFixture):
    assert cli.main(["config", "checkpoint"]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "checkpoint.every   integer > 0   default 20",
        "    Steps between checkpoints; the last step is always saved.",
        "",
        "checkpoint.keep   integer > 0   default 2",
        "    Number of checkpoints that are kept, the newest ones. A trial of Ray Tune",
    ]
    assert cli.main(["config", "models.learner"]) == 0
    assert capsys.readouterr().out.startswith("models.learner   path   must be given\n    The large model")


def test_config_prints_every_key_in_lines_that_fit(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(line) and not line.startswith(" ") for line in lines) > 100
    assert [line for line in lines if line.startswith(" ") and len(line) > 80] == []


def test_an_unknown_key_is_one_line(capsys: pytest.CaptureFixture):
    assert cli.main(["config", "schedule.mixsteps"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert told.err.startswith("error: schedule.mixsteps: unknown key; did you mean schedule.mix_")


def test_config_prints_what_a_configuration_comes_to(capsys: pytest.CaptureFixture, tmp_path: Path):
    overrides = ["schedule.steps=20", "schedule.mix_steps=9", "data.prompt=${x} {question}"]
    assert cli.main(["config", "quickstart", *overrides]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out == load_config("quickstart", overrides).to_yaml()
    (tmp_path / "config.yaml").write_text(printed.out)
    assert load_config(tmp_path / "config.yaml") == load_config("quickstart", overrides)
    for place in (ROOT / "configs" / "quickstart.yaml", tmp_path, tmp_path / "config.yaml"):
        assert cli.main(["config", str(place)]) == 0
        assert capsys.readouterr().out.startswith("name: quickstart\n")


def test_a_configuration_is_checked_before_it_is_printed(capsys: pytest.CaptureFixture):
    for words, message in (
        (["quickstart", "trainer.lora_rank=abc"], "quickstart: trainer.lora_rank: must be a whole number (got 'abc')"),
        (["gsm8k_smollm2"], "data.train must be given"),
        (["nowhere/run.yaml"], "nowhere/run.yaml does not exist"),
        (["quickstrat"], "quickstrat: there is no such key, section or configuration; did you mean quickstart?"),
        (["quickstrat", "seed=3"], "quickstrat does not exist; did you mean quickstart?"),
        (["seed=3", "seed=4"], "the file or name comes first, then keys such as seed=3"),
    ):
        assert cli.main(["config", *words]) == 1
        told = capsys.readouterr()
        assert told.out == "" and len(told.err.splitlines()) == 1 and message in told.err


def test_a_configuration_is_printed_without_passwords(capsys: pytest.CaptureFixture):
    assert cli.main(["config", "quickstart", "tracking.uri=https://me:hush@host/x"]) == 0
    told = capsys.readouterr()
    assert "uri: https://***@host/x\n" in told.out and "hush" not in told.out and "password" in told.err


def test_a_value_without_its_configuration_is_said_to_be_unchecked(capsys: pytest.CaptureFixture):
    assert cli.main(["config", "trainer.lora_rank=abc"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("trainer.lora_rank   integer")
    assert told.err == (
        "note: a value is checked together with the configuration that it is for: "
        "s2l config CONFIG trainer.lora_rank=abc\n"
    )


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory, and a YAML file that differs from its configuration in three keys."""
    base = tmp_path / "base.yaml"
    base.write_text("models: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(load_config(base, ["name=one", "evaluation.k=[1,4]"]).to_yaml())
    other = tmp_path / "other.yaml"
    other.write_text('extends: base.yaml\nname: "two\\nlines"\ntrainer: {lora_rank: 8}\n')
    return run, other


def test_diff_has_one_row_for_each_key_that_differs(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture):
    assert cli.main(["config", "--diff", *map(str, two_runs)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "one", '"two\\nlines"'],
        ["trainer.lora_rank", "0", "8"],
        ["evaluation.k", "[1,", "4]", "[1,", "8]"],
    ]
    assert cli.main(["config", "--diff", str(two_runs[0]), str(two_runs[0])]) == 0
    assert capsys.readouterr().out == ""


def test_diff_shows_a_value_that_a_file_leaves_open(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture):
    open_ = two_runs[1].with_name("open.yaml")
    open_.write_text(two_runs[0].joinpath("config.yaml").read_text().replace("train: x.jsonl", "train: ???"))
    assert cli.main(["config", "--diff", str(two_runs[0]), str(open_)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["data.train", "x.jsonl", "???"]]
    with pytest.raises(ConfigError, match=r"data.train must be given"):
        load_config(open_)


def test_diff_says_in_a_line_what_is_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("models: {learner: a, explorer: b}\ndata: {train: x}\nsead: 3\n")
    for place, message in (
        ("empty", "empty holds no config.yaml: it is no run directory"),
        ("old", "old/config.yaml: sead: unknown key; did you mean seed?"),
        ("nothing", "nothing does not exist"),
    ):
        assert cli.main(["config", "--diff", str(tmp_path / place), str(tmp_path / place)]) == 1
        told = capsys.readouterr()
        assert told.out == "" and len(told.err.splitlines()) == 1 and message in told.err


def test_an_empty_configuration_of_a_run_is_named(capsys: pytest.CaptureFixture, tmp_path: Path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-000001").mkdir(parents=True)
    (run / "checkpoints" / "step-000001" / "state.json").write_text('{"format": 2, "step": 1}')
    (run / "config.yaml").touch()
    for words in (
        ["export", str(run), "--to", str(tmp_path / "model")],
        ["track", str(run)],
        ["config", str(run)],
        ["train", str(run / "config.yaml")],
    ):
        assert cli.main(words) == 1
        told = capsys.readouterr()
        assert f"{run / 'config.yaml'} is empty; write keys into it, or, if a run wrote it, restore it" in told.err


@pytest.mark.parametrize("key", ["objective.loss", "verifier.kind"])
def test_plan_refuses_a_function_that_the_run_could_not_use(key: str, capsys: pytest.CaptureFixture):
    words = ["plan", "paper/qwen3_1.7b_to_8b", "--inventory", "8xH100", f"{key}=no_such_module:function"]
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"error: {key}: cannot import no_such_module:function")


def test_where_nothing_can_be_printed_the_command_says_so_and_where_nobody_reads_it_ends():
    command = [sys.executable, "-m", "s2l_ray", "config"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    said = "error: output cannot be written: No space left on device; make room, or send it elsewhere\n"
    assert (ended.returncode, ended.stderr) == (1, said)
    first_line = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first_line.stdout.readline()
    first_line.stdout.close()
    assert first_line.stderr.read() == "" and first_line.wait(120) == 141
