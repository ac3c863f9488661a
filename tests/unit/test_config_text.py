"""Text keys take any text as it is written, in overrides, in files, and there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2l_ray.config import Config, load_config
from s2l_ray.config.run import directory_name
from s2l_ray.errors import ConfigError
from tests.support.examples import examples

MODELS = "models: {learner: a, explorer: b}\n"
MINIMAL = MODELS + "data: {train: x.jsonl}\n"
TEXTS = st.text(max_size=20) | st.text(
    alphabet="${}\\?:#'\"[]- \n\tnul~.,&*!|>%@`\r\x85\u2028\ufeff\U0010ffff", max_size=12
)


def written(folder: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("minimal"), MINIMAL)


def read_back(config: Config, beside: Path) -> Config:
    return load_config(written(beside.parent, config.to_yaml(), "again.yaml"))


@settings(max_examples=examples(40), deadline=None)
@given(TEXTS, TEXTS)
@example("", "~")
@example("???", "NULL")
@example("\\\\???", "${")
@example("a\\${b", "\\\\${data.prompt}\\")
def test_any_text_given_as_an_override_is_that_text_and_survives_a_file(minimal: Path, text: str, other: str):
    overrides = [f"name={text}", f"data.system={other}", f"data.prompt={text}{{question}}{other}"]
    config = load_config(minimal, overrides)
    assert config.name == text
    assert config.data.system == (None if other == "null" else other)
    assert config.data.prompt == f"{text}{{question}}{other}"
    assert read_back(config, minimal) == config


@settings(max_examples=examples(20), deadline=None)
@given(TEXTS)
@example("null")
@example("???")
def test_any_text_given_in_python_is_that_text(minimal: Path, text: str):
    config = load_config(minimal, {"name": text, "data": {"system": text}, "trainer.lora_targets": [text]})
    assert (config.name, config.data.system, config.trainer.lora_targets) == (text, text, (text,))
    assert read_back(config, minimal) == config


@settings(max_examples=examples(20), deadline=None)
@given(st.text(min_size=1, max_size=60).filter(lambda path: "\0" not in path and path[0] != "~"))
def test_any_legal_path_is_that_path(minimal: Path, path: str):
    config = load_config(minimal, [f"{key}={path}" for key in ("data.train", "bank.path", "models.learner", "resume")])
    assert {config.data.train, config.bank.path, config.models.learner, config.resume} == {path}
    assert read_back(config, minimal) == config


@settings(max_examples=examples(200))
@given(st.text(), st.text())
@example("", ".")
@example("a/b", "a_b")
@example("bank", "mlflow.db")
@example("x" * 300, "x" * 301)
def test_any_name_has_a_directory_of_its_own_in_outputs(name: str, other: str):
    directory = directory_name(name)
    assert len(directory.encode()) <= 200
    assert not set(directory) & {"/", "\0", "\n"}
    assert directory not in ("", ".", "..", "bank", "mlartifacts", "mlflow.db")
    assert (directory == directory_name(other)) == (name == other)


def test_a_name_that_can_be_a_directory_is_that_directory(minimal: Path):
    for name in ("quickstart", "-dash", "50%", " two words ", "lösung", "..."):
        assert load_config(minimal, [f"name={name}"]).run_path == Path.cwd() / "outputs" / name
    assert load_config(minimal, ["name=sweep/a"]).run_path.name.startswith("sweep_a-")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.prompt={question} >", "{question} >"),
        ("data.prompt={question} # not a comment", "{question} # not a comment"),
        ('data.prompt="{question}"', '"{question}"'),
        ("data.prompt=Q: {question}: A", "Q: {question}: A"),
        ("data.prompt=[{question}]", "[{question}]"),
        ("data.prompt=  {question}\t", "  {question}\t"),
        ("data.prompt=${seed} {question}", "${seed} {question}"),
        ("name=123", "123"),
        ("name=007", "007"),
        ("name=1e5", "1e5"),
        ("name=true", "true"),
        ("name=null", "null"),
        ("run_dir=20241126", "20241126"),
        ("run_dir=null", None),
        ("data.system=null", None),
        ("data.system=", ""),
        ("data.system=~", "~"),
        ("bank.path=1_000", "1_000"),
        ("models.learner=a=b", "a=b"),
        ("trainer.lora_targets=[q_proj, 007, no]", ("q_proj", "007", "no")),
        ("seed=1e3", 1000),
        ("trainer.ranks=", None),
        ("objective.pass_k=null", None),
        ("data.chat=no", False),
    ],
)
def test_the_type_of_a_key_decides_how_an_override_is_read(minimal: Path, override: str, value: object):
    found: object = load_config(minimal, [override])
    for part in override.partition("=")[0].split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_an_override_of_a_section_is_read_as_a_file_is(minimal: Path):
    config = load_config(minimal, ["data={train: 1e4, system: no, chat: yes, eval: null}"])
    assert (config.data.train, config.data.system, config.data.chat, config.data.eval) == ("1e4", "no", True, None)


@pytest.mark.parametrize(
    "scalar", ["007", "1e5", "2024-11-26", "yes", "0x10", "12:30:45", ".inf", "null", "~", "'a#b'"]
)
def test_a_plain_scalar_for_a_text_key_is_text(tmp_path: Path, scalar: str):
    file = written(tmp_path, f"{MINIMAL}name: {scalar}\nbank: {{path: {scalar}}}\n")
    config = load_config(file)
    assert config.name == config.bank.path == scalar.strip("'")


def test_null_in_a_file_is_none_unless_it_is_quoted(tmp_path: Path):
    for scalar, value in (("null", None), ("~", None), ("", None), ("'null'", "null"), ('"~"', "~"), ("''", "")):
        assert load_config(written(tmp_path, f"{MODELS}data: {{train: x, system: {scalar}}}\n")).data.system == value


def test_one_scalar_may_be_text_for_one_key_and_a_number_for_another(tmp_path: Path):
    config = load_config(written(tmp_path, MINIMAL + "name: &x 0010\nseed: *x\n"))
    assert (config.name, config.seed) == ("0010", 8)  # YAML 1.1: octal


def test_merge_keys_are_typed_like_the_section_they_are_merged_into(tmp_path: Path):
    text = "models: {learner: a, explorer: b}\ndata: {<<: {train: 007, train_limit: 7}, system: 1e1}\n"
    data = load_config(written(tmp_path, text)).data
    assert (data.train, data.train_limit, data.system) == ("007", 7, "1e1")


def test_interpolations_of_files_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHERE", "/somewhere")
    own = "name: r${seed}-\\${seed}\nseed: 3\nrun_dir: ${oc.env:WHERE}/${name}\ntracking:\n  experiment: ${seed}\n"
    file = written(tmp_path, MINIMAL + own)
    config = load_config(file)
    assert (config.name, config.run_dir, config.tracking.experiment) == ("r3-${seed}", "/somewhere/r3-${seed}", "3")
    assert load_config(file, ["name=${x}", "seed=4"]).run_dir == "/somewhere/${x}"
    assert load_config(file, {"run_dir": "${x}"}).run_dir == "${x}"
    assert load_config(file, ["schedule.mix_steps=${seed}"]).schedule.mix_steps == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=3", "override '=3': write it as key=value"),
        ("a..b=1", "override 'a..b': that is not a key"),
        (".seed=1", "override '.seed': that is not a key"),
        ("seed.x=1", "override 'seed.x': seed is a value and has no keys of its own"),
        ("data.prompt.x=1", "override 'data.prompt.x': data.prompt is a value"),
        ("name =x", "override name : unknown key; did you mean name?"),
        ("extends=x.yaml", "override extends: unknown key"),
        ("schedule=3", r"schedule: must be a mapping of keys to values \(got 3\)"),
        ("trainer=", "trainer: is empty; give it keys or leave it out"),
        ("seed=", "seed: must be a whole number"),
        ("seed=[1", r"override 'seed=\[1': the value is not valid YAML: did not find .* at line"),
        ("seed=!!int x", "override 'seed=!!int x': the value is not valid YAML: invalid literal"),
        ("seed=" + "9" * 5000, r"override 'seed=9*\.\.\.: the value is not valid YAML: Exceeds the limit"),
        ("seed=${nope}", "seed: \\${nope}: nope: unknown key; `s2l config` lists all keys$"),
        ("seed=${", r"seed: no viable alternative at input '\${'; for these characters themselves write \\\${$"),
        ("trainer={<<: &a [*a]}", "override 'trainer={<<: &a .*': the value is not valid YAML"),
        *[
            (
                f"{key}=${{oc.env:NOPE}}/x",
                f"override '{key}=.*' ?: text on the command line is taken as it is typed, and",
            )
            for key in ("data.train", "run_dir", "models.learner", "bank.path", "checkpoint.mirror")
        ],
        ("data.train=", "data.train: is empty; give a path"),
        ("run_dir=", "run_dir: is empty; give a path"),
        ("data.eval=a\0b", "data.eval: a path cannot have a NUL character"),
        ("run_dir=" + "x" * 256, "run_dir: is too long for a path"),
        ("bank.path=" + "x/" * 2048, r"bank.path: is too long for a path.*\.\.\.\)$"),
        ("name=\udcff", "name: is not Unicode text"),
        ("data.train=\udcff", "data.train: is not Unicode text"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_key(minimal: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(minimal, [override])
    assert len(str(error.value).removeprefix(f"{minimal}:\n").splitlines()) == 1
    assert len(str(error.value).removeprefix(str(minimal))) < 400


@pytest.mark.parametrize("key", ["a..b", "", 3, "seed.x", "data.prompt.x"])
def test_keys_given_in_python_are_checked_too(minimal: Path, key: object):
    with pytest.raises(ConfigError, match=f"override {key!r}: "):
        load_config(minimal, {key: 1})


def test_paths_may_be_given_as_paths_in_python(minimal: Path):
    config = load_config(minimal, {"run_dir": Path("a") / "b", "models": {"learner": Path("/m")}})
    assert (config.run_dir, config.models.learner) == ("a/b", "/m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# a comment\n", "models: missing"),
        *[(content, "run.yaml is empty; write keys into it, or, if a run wrote it, ") for content in ("", "\n")],
        ("# nothing but this", "models: missing"),
        (b"\xef\xbb\xbfname: x", "models: missing"),
        ("[1, 2]", "must be a mapping"),
        ("text", "must be a mapping"),
        ("extends:", "extends must be the path of a file, or a list of such paths"),
        ("extends: {a: b}", "extends must be the path"),
        ("extends: [[a]]", "extends must be the path"),
        ("extends: 007", "extends: /.*/007 does not exist"),
        ("extends: [null]", "extends: /.*/null does not exist"),
        ("extends: ${nope}", "extends: \\${nope}: nope: unknown key"),
        ("extends: .", "cannot be read: Is a directory"),
        ('extends: "a\\0b"', r"a\\x00b' cannot be read: embedded null byte"),
        ("seed: 1\nname: x\nseed: 2", "not valid YAML: found duplicate key seed at line 3, column 1"),
        ("seed: 1\n\tname: x", "not valid YAML: found a tab character .* at line 2, column 1"),
        ("name: a\n---\nname: b", "not valid YAML: .*another document at line 2"),
        ("name: {question} >", "not valid YAML: .* at line 1, column"),
        (b"name: \xff", "not valid YAML: .*UTF-8"),
        ("<<: &a [*a]", "not valid YAML"),
        ("&a\n<<: *a\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("seed: !foo x", "not valid YAML: could not determine a constructor for the tag '!foo' at line 1"),
        ("? [a]\n: b", "not valid YAML: found unhashable key at line 1"),
        (MINIMAL + "name:", "name: must be text"),
        (MINIMAL + "name: {a}", "name: must be text; put it in quotes"),
        (MINIMAL + "name: [a]", "name: must be one text, not a list; put it in quotes if it is text"),
        (MINIMAL + "trainer: {betas: [0.9]}", r"trainer.betas: has too few entries \(got \[0.9\]\)"),
        (MINIMAL + "trainer: {betas: [0.9, 0.9, 0.9]}", "trainer.betas: has too many entries"),
        (MINIMAL + "name: ${", r"name: no viable alternative at input '\${'; for these characters"),
        (MINIMAL + "on: 1", "on: unknown key"),
        (MINIMAL + "1: 2", "1: unknown key"),
        (MINIMAL + "schedule: 3", "schedule: must be a mapping"),
        (MINIMAL + "trainer:\n", "trainer: is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, content))


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path, message in (
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "one", "cannot be read: Symlink loop|cannot be read: Too many levels"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        ("a\0b", "cannot be read: embedded null byte"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path)
