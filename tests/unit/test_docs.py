"""The documents say what is so: commands parse or run, keys, metrics, messages and links exist, the site builds."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from s2l_ray.cluster.infra import Infra, load_infra
from s2l_ray.config import load_config
from s2l_ray.config.reference import keys
from s2l_ray.experiments.arms import study_of
from s2l_ray.experiments.reading import load_experiment
from s2l_ray.placement.inventory import load_inventory
from s2l_ray.run.identity import FREE_TO_CHANGE
from s2l_ray.tuning.keys import checked_space
from s2l_ray.tuning.reading import load_study
from tests.benchmarks.runner import names
from tests.support.documented_commands import (
    SECTIONS,
    check_command,
    help_texts,
    parse,
    shown_commands,
    unknown_keys,
)
from tests.support.documented_metrics import documented_names, logged_names
from tests.support.documents import DOCUMENTS, Block, blocks, braces, inline_code, links
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

ALL = [block for path in DOCUMENTS for block in blocks(path)]
SHELL = [block for block in ALL if block.language == "sh"]
OURS = ("s2l_ray", "actors", "examples")
NOT_CODE = {"text", "yaml", "python", "json"}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def named(found: list[Block]) -> list:
    return [pytest.param(block, id=block.name) for block in found]


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", named(SHELL))
def test_every_command_is_run_or_parsed_or_marked(block: Block):
    for words in block.commands:
        if words[0] == "s2l":
            parse(words[1 : words.index(">")] if ">" in words else words[1:])
        elif words[0] == "make":
            assert_target(words)
        else:
            assert block.marker, (
                f"{block.name}: {words[0]} is neither run nor parsed. Put <!-- run --> or <!-- not run: REASON --> on "
                "the line before the block"
            )
    if any(words[0] == "make" for words in block.commands):
        assert block.marker, f"{block.name}: say why make is not run"


def assert_target(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert words[1].split("=")[0] in targets, f"the Makefile has no target {words[1]}"


@pytest.mark.parametrize("block", named([block for block in SHELL if block.marker == "run"]))
def test_what_is_marked_runs(block: Block, tmp_path: Path):
    for name in ("configs", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = tmp_path / "bin" / "s2l"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m s2l_ray "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_says_what_it_is():
    unknown = [block.name for block in ALL if block.language not in NOT_CODE | {"sh"}]
    assert not unknown, f"name a language: {unknown}"


def inline_commands() -> Iterator[tuple[Path, str]]:
    for path in DOCUMENTS:
        yield from ((path, code) for code in inline_code(path) if re.match(r"s2l [a-z]", code))


@pytest.mark.parametrize("code", [pytest.param(code, id=f"{path.name}: {code}") for path, code in inline_commands()])
def test_commands_in_the_text_exist(code: str):
    """A whole command parses; of a part of one, such as `s2l plan --json`, the command and its options exist."""
    check_command(code)


@pytest.mark.parametrize(("name", "text"), [pytest.param(*found, id=found[0]) for found in help_texts()])
def test_help_names_keys_and_commands_that_exist(name: str, text: str):
    for command in shown_commands(text, "s2l"):
        check_command(command)
    assert unknown_keys(text) == []


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in EXAMPLES])
def test_examples_name_keys_and_commands_that_exist(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    commands = shown_commands(text, "s2l")
    programs = shown_commands(text, "python")
    assert commands or programs
    for command in commands:
        check_command(command)
    for _, file, *overrides in map(str.split, programs):
        assert ROOT / file == path
        load_config("quickstart", overrides)
    constants = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert unknown_keys("\n".join(constants)) == []


def test_functions_of_the_examples_exist():
    places = [*DOCUMENTS, ROOT / "CHANGELOG.md", *EXAMPLES, *(ROOT / "s2l_ray").rglob("*.py")]
    named_functions = {
        found for path in places for found in re.findall(r"\b(examples\.\w+):(\w+)", path.read_text(encoding="utf-8"))
    }
    assert named_functions
    assert not [f"{module}:{name}" for module, name in named_functions if not exists(module, name)]


def exists(module: str, name: str) -> bool:
    return (ROOT / f"{module.replace('.', '/')}.py").exists() and hasattr(importlib.import_module(module), name)


def test_benchmarks_in_the_text_exist():
    """In the change log the last of a line counts: what stands before it is an old name."""
    named_benchmarks = {
        re.findall(r"make bench ARGS=\"?([\w-]+)", line)[-1]
        for path in (*DOCUMENTS, ROOT / "CHANGELOG.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "make bench ARGS=" in line
    }
    assert named_benchmarks
    assert named_benchmarks - set(names()) == set()


def test_the_parser_refuses_what_is_renamed(capsys: pytest.CaptureFixture[str]):
    """That the checks above can fail."""
    with pytest.raises(Exception, match="unknown key"):
        parse(["train", "configs/quickstart.yaml", "rollout.no_such_key=1"])
    for command in ("train CONFIG rollout.no_such_key=1", "train my.yaml rollout.no_such_key=1 ..."):
        with pytest.raises(Exception, match="unknown key"):
            check_command(f"s2l {command}")
    assert unknown_keys("rollout.no_such_key, rollout.group_size") == ["rollout.no_such_key"]
    with pytest.raises(SystemExit):
        parse(["no-such-command"])
    assert "invalid choice" in capsys.readouterr().err


# ---- keys, files, code ----------------------------------------------------------------------------------------------


def mentioned_keys() -> Iterator[tuple[Path, str]]:
    for path in DOCUMENTS:
        for code in inline_code(path):
            name = re.split(r"[=: ]", code)[0]
            section = name.split(".")[0]
            if re.fullmatch(r"[a-z_]+\.[a-z_{},.]+", name) and difflib.get_close_matches(
                section, SECTIONS, cutoff=0.85
            ):
                yield from ((path, one) for one in braces(name))


def test_every_key_in_the_text_exists():
    known = {name for key in keys() for name in (key.name, key.section)}
    known |= {"engines.explorer.engines", "evaluation.json", "trainer.json"}  # files
    mappings = tuple(f"{key.name}." for key in keys() if key.type == "mapping")  # what is in them has the user's names
    metrics = {name.removeprefix("json:").split("/")[0] for name in documented_names()}  # `trainer.loss` is one
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in mentioned_keys()
        if name not in known and not name.startswith(mappings) and not (path.name == "metrics.md" and name in metrics)
    }
    assert not unknown


@pytest.mark.parametrize("block", named([block for block in ALL if block.language == "yaml"]))
def test_yaml_is_what_the_program_reads(block: Block, tmp_path: Path):
    file = tmp_path / "block.yaml"
    values = yaml.safe_load(block.text)
    if "nodes" in values:
        file.write_text(block.text)
        assert load_inventory(file).nodes
    elif "space" in values:
        file.write_text(block.text)
        assert checked_space(load_study(file))
    elif "arms" in values:
        file.write_text(block.text)
        assert study_of(load_experiment(file, ["config=embedded_experiment"])).runs
    elif "claims" in values:
        file.write_text(block.text)
        assert set(values) == set(Infra.model_fields) and load_infra(file)
    else:
        file.write_text(f"extends: {ROOT}/configs/quickstart.yaml\n{block.text}")
        load_config(file)


@pytest.mark.parametrize("block", named([block for block in ALL if block.language == "python"]))
def test_python_compiles_and_its_imports_exist(block: Block):
    for node in ast.walk(ast.parse(block.text)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("s2l_ray", "actors", "examples")
        ):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
    if block.marker == "run":
        exec(compile(block.text, block.name, "exec"), {"__name__": "block"})


def test_what_may_change_on_resume_is_what_the_program_lets_change():
    text = (ROOT / "docs/guides/resuming.md").read_text().split("## What may change\n")[1].split("\n## ")[0]
    listed = "".join(line for line in text.splitlines(keepends=True) if re.match(r"- |  ", line))
    names = {name for code in re.findall(r"`([^`]+)`", listed) for name in braces(code)}
    assert names == {*FREE_TO_CHANGE, "schedule.steps", "trainer.lr_schedule"}


def test_files_in_the_text_exist():
    pattern = re.compile(r"(?:s2l_ray|actors|configs|cluster|tests|requirements|examples)/[\w./-]+")
    named_files = [(path, code) for path in DOCUMENTS for code in inline_code(path) if pattern.fullmatch(code)]
    missing = [f"{path.relative_to(ROOT)}: {code}" for path, code in named_files if not (ROOT / code).exists()]
    assert named_files
    assert not missing


def test_the_architecture_has_the_layers_and_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert "\n".join(contracts[0]["layers"]).replace("s2l_ray.", "") in page
    rooms = [path.name for path in (ROOT / "s2l_ray").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`s2l_ray/{room}/`" not in page and f"`{room}/`" not in page] == []


# ---- metrics and messages -------------------------------------------------------------------------------------------


def test_every_metric_that_is_logged_is_documented_and_none_else(tmp_path: Path):
    logged, documented = logged_names(tmp_path), documented_names()
    assert logged - documented == set(), "not in docs/reference/metrics.md"
    assert documented - logged == set(), "in docs/reference/metrics.md, and not logged"


def texts_of_the_program() -> list[str]:
    """Every string constant, with the parts of an f-string between its values as strings of their own."""
    sources = [*(ROOT / "s2l_ray").rglob("*.py"), *(ROOT / "actors").rglob("*.py")]
    return [text for file in sources for text in strings(ast.parse(file.read_text(encoding="utf-8")))]


def strings(tree: ast.AST) -> list[str]:
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_every_message_of_the_faq_exists():
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = "\0".join(texts_of_the_program())
    parts = [(heading, part.strip(" ;,.:()")) for heading in headings for part in heading.split("…")]
    missing = [f"{part!r} of {heading}" for heading, part in parts if part not in texts]
    assert len(headings) > 15
    assert not missing


# ---- the README and the site ----------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_what_is_not_in_the_site_resolve(name: str):
    missing = []
    for target in links(ROOT / name):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", target):
            continue
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def anchors(file: Path) -> set[str]:
    """Ids of a document's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link, anchor or image that leads nowhere is an error (not with --quiet)."""
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_site_builds_and_fetches_nothing_from_elsewhere(site: Path):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    fetched = re.compile(
        r"""<(?:script|img|iframe)[^>]*\ssrc="(https?://[^"]+)|<link[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(https?://[^"]+)"""
    )
    assert not [found for page in pages for found in fetched.findall(page.read_text(encoding="utf-8"))]


def test_the_reference_has_every_key(site: Path):
    page = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    assert [key.name for key in keys() if f'id="{key.name}"' not in page] == []


def test_the_reference_has_every_command(site: Path):
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for command in ("s2l train", "s2l plan", "s2l bank show", "s2l bank import", "s2l verify", "s2l doctor"):
        assert f"usage: {command}" in page
