"""MkDocs hooks: pages of the reference that are generated from the code when the site is built.

- reference/configuration.md from the configuration's pydantic models, through `s2l_ray.config.reference`;
- reference/study.md and reference/experiment.md from the models of a study's and an experiment's file, in the same way;
- reference/command-line.md from the parser of the `s2l` command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["COLUMNS"] = "88"  # the width at which argparse wraps its help

from s2l_ray.cli import _parser
from s2l_ray.config.reference import Key, keys, keys_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.tuning.study_file import StudyFile

CONFIGURATION = """\
# Configuration

Every key, generated from the models in `s2l_ray/config/`. A key is given in a YAML file, or on the command line as
`key=value`. `s2l config PREFIX` prints the same text in a terminal.

A key's type decides how its value is read. Text is taken as it is typed: `name=007` is the text "007". Where a key can
be none, `null` says so. In a file, `${...}` is interpolated and `extends: other.yaml` names files that are read first.

"""
STUDY = """\
# Study file

Every key of a study's file, generated from `s2l_ray/tuning/study_file.py`; `s2l tune --keys` prints the same text in a
terminal. [Studies](../guides/studies.md) has an example. On the command line `tune.key=value` replaces a value.

"""
EXPERIMENT = """\
# Experiment file

Every key of an experiment's file, generated from `s2l_ray/experiments/experiment_file.py`; `s2l experiment --keys`
prints the same text in a terminal. [Experiments](../guides/experiments.md) has an example. On the command line
`experiment.key=value` replaces a value.

"""
COMMAND_LINE = """\
# Command line

Generated from the help of `s2l`. Each command prints its part with `--help`. Overrides (`key=value`) may stand before
or after options; the [configuration reference](configuration.md) has every key.

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/configuration.md", content=configuration_page()))
    files.append(File.generated(config, "reference/study.md", content=study_page()))
    files.append(File.generated(config, "reference/experiment.md", content=experiment_page()))
    files.append(File.generated(config, "reference/command-line.md", content=command_line_page()))
    return files


def configuration_page() -> str:
    """Markdown: a heading for each section, then its keys, each with an anchor of its name."""
    blocks = [CONFIGURATION]
    for section, members in groupby(sorted(keys(), key=_section_order), key=lambda key: key.section):
        blocks.append(f"## {section or 'Top level'}\n\n")
        blocks += [_key(key) for key in members]
    return "".join(blocks)


def study_page() -> str:
    """Markdown: the keys of a study's file."""
    return STUDY + "".join(_key(key) for key in keys_of(StudyFile))


def experiment_page() -> str:
    """Markdown: the keys of an experiment's file."""
    return EXPERIMENT + "".join(_key(key) for key in keys_of(ExperimentFile))


def _section_order(key: Key) -> int:
    """Keys at the top level first, then sections as the models have them."""
    sections = list(dict.fromkeys(["", *(found.section for found in keys())]))
    return sections.index(key.section)


def _key(key: Key) -> str:
    default = "must be given" if key.default is None else f"default `{key.default}`"
    return f"### `{key.name}` {{ #{key.name} }}\n\n`{key.type}`, {default}\n{{ .key }}\n\n{_markdown(key.text)}\n\n"


def _markdown(text: str) -> str:
    """A key's text, one paragraph or list item a line, with the blank lines that Markdown needs between them."""
    lines = [line for line in text.splitlines() if line]
    page = ""
    for before, line in pairwise(["", *lines]):
        within_list = before.startswith("- ") and line.startswith("- ")
        page += f"{line}\n" if within_list else f"\n{line}\n"
    return page


def command_line_page() -> str:
    """Markdown: the help of every command and sub-command."""
    return COMMAND_LINE + "".join(
        f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n\n" for parser in all_parsers(_parser())
    )


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and, depth first, those of its sub-commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in dict.fromkeys(action.choices):
                yield from all_parsers(action.choices[name])
