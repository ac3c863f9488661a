"""`s2l config`: what each key means, what a configuration comes to, and in which keys two runs differ."""

from __future__ import annotations

import argparse
import sys
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
    from s2l_ray.config.reference import Difference, Key

INDENT = "    "
DESCRIPTION = """\
Print every key of a configuration with its type, its default and what it means;
or a configuration as `s2l train` would read it, checked, with all its values;
or the keys in which two runs differ."""
EPILOG = """\
examples:
  s2l config                                   all keys
  s2l config rollout                           the keys of a section
  s2l config trainer.learning_rate             one key
  s2l config quickstart seed=3                 all values, as YAML for s2l train
  s2l config outputs/a                         those of a run
  s2l config --diff outputs/a outputs/b        what two runs did differently
  s2l config --diff quickstart my.yaml         what my.yaml changes"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "config", run, help="explain keys, print configurations", description=DESCRIPTION, epilog=EPILOG
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="KEY|CONFIG",
        help="a section or a key (default: all); or a YAML file, the name of a configuration that s2l-ray ships, or a "
        "run directory",
    )
    choice.add_argument(
        "--diff",
        nargs=2,
        metavar="RUN",
        help="print the keys whose values differ between two runs, each a run directory, a YAML file or the name of a "
        "configuration that s2l-ray ships: one row a key, with the two values",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of CONFIG")


def run(arguments: argparse.Namespace) -> int:
    """Print the keys, a configuration, or the differences."""
    from s2l_ray.config.loading import load_incomplete
    from s2l_ray.config.reference import differences, keys

    what: str = arguments.what
    if arguments.diff:
        first, second = (load_incomplete(_file_of(place)) for place in arguments.diff)
        for row in _rows(differences(first, second)):
            print(row)
    elif arguments.overrides or _is_configuration(what):
        _print_configuration(what, arguments.overrides)
    else:
        print_keys(keys(what))
        if "=" in what:
            hint = f"a value is checked together with the configuration that it is for: s2l config CONFIG {what}"
            print(f"note: {hint}", file=sys.stderr)
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


def _is_configuration(what: str) -> bool:
    """Whether it names a configuration and no key.

    Raises:
        ConfigError: it is neither, and like the name of a configuration; that one is named.
    """
    from s2l_ray.config.nearest import nearest
    from s2l_ray.config.shipped import CONFIGURATIONS
    from s2l_ray.config.unknown import is_known, meant_by

    if not what or is_known(what.partition("=")[0]):
        return False
    if "/" in what or what.endswith(".yaml") or Path(what).is_dir() or CONFIGURATIONS.find(what).is_file():
        return True
    if (near := nearest(what, CONFIGURATIONS.paths())) and not meant_by(what):
        raise ConfigError(f"{what}: there is no such key, section or configuration; did you mean {' or '.join(near)}?")
    return False


def _print_configuration(what: str, overrides: list[str]) -> None:
    """As YAML that `s2l train` reads, without passwords."""
    from s2l_ray.config import load_config
    from s2l_ray.redaction import redact

    text = load_config(_file_of(what), overrides).to_yaml()
    print(redacted := redact(text), end="")
    if redacted != text:
        print("note: what looks like a password is printed as ***", file=sys.stderr)


def _file_of(place: str) -> str | Path:
    """The configuration in a run directory, or the file of this name.

    Raises:
        ConfigError: it is a directory that holds none.
    """
    directory = existing_output(place) if "/" in place else Path(place)  # else it may be the name of a configuration
    if not directory.is_dir():
        return place
    file = directory / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{place} holds no config.yaml: it is no run directory")
    return file


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
