"""`s2l config`: what each key of a configuration means, and in which keys two runs differ."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from rich.text import Text

    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import Config
    from s2l_ray.config.reference import Difference, Key

INDENT = "    "
DESCRIPTION = """\
Print every key of a configuration with its type, its default and what it means;
or the keys in which two runs differ."""
EPILOG = """\
examples:
  s2l config                                   all keys
  s2l config rollout                           the keys of a section
  s2l config trainer.learning_rate             one key
  s2l config --diff outputs/a outputs/b        what two runs did differently
  s2l config --diff quickstart my.yaml         what my.yaml changes"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "config", run, help="explain the keys of a configuration", description=DESCRIPTION, epilog=EPILOG
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="a section or a key (default: all)")
    choice.add_argument(
        "--diff",
        nargs=2,
        metavar="RUN",
        help="print the keys whose values differ between two runs, each a run directory, a YAML file or the name of a "
        "configuration that s2l-ray ships: one row a key, with the two values",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the keys, or the differences."""
    from s2l_ray.config.reference import differences, keys

    if arguments.diff:
        first, second = (_config_of(place) for place in arguments.diff)
        for row in _rows(differences(first, second)):
            print(row)
        return 0
    print_keys(keys(arguments.prefix))
    return 0


def print_keys(keys: Sequence[Key]) -> None:
    """Print keys with what they mean."""
    from s2l_ray.machine.console import CommandConsole

    console = CommandConsole()
    for number, key in enumerate(keys):
        if number:
            console.print()
        console.print(_heading(key), soft_wrap=True)
        for line in _text_lines(key.text, console.width):
            console.print(line, soft_wrap=True)


def _config_of(place: str) -> Config:
    """The configuration of a run directory, or the file of this name; values that a file leaves open stay `???`.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    from s2l_ray.config.loading import load_incomplete

    directory = existing_output(place) if "/" in place else Path(place)  # else it may be the name of a configuration
    if not directory.is_dir():
        return load_incomplete(place)
    file = directory / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{place} holds no config.yaml: it is no run directory")
    return load_incomplete(file)


def _heading(key: Key) -> Text:
    """Such as "rollout.max_tokens   integer > 0   default 256"."""
    from rich.text import Text

    default = ("must be given", "red") if key.default is None else (f"default {key.default}", "green")
    return Text.assemble((key.name, "bold"), "   ", (key.type, "cyan"), "   ", default)


def _text_lines(text: str, width: int) -> Iterator[Text]:
    """A key's text, indented and wrapped, with what stands in backquotes in colour."""
    from rich.text import Text

    for paragraph in text.splitlines():
        hanging = INDENT + "  " * paragraph.startswith("- ")
        for line in textwrap.wrap(paragraph, width, initial_indent=INDENT, subsequent_indent=hanging):
            shown = Text(line)
            shown.highlight_regex(r"`[^`]+`", "cyan")
            yield shown


def _rows(found: Sequence[Difference]) -> Iterator[str]:
    """Aligned columns: key, first value, second value."""
    widths = [max((len(row[column]) for row in found), default=0) for column in (0, 1)]
    return (f"{name:{widths[0]}}  {first:{widths[1]}}  {second}" for name, first, second in found)
