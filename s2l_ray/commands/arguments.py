"""What the parsers of several commands have in common."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    """What `ArgumentParser.add_subparsers` returns."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prints description and epilog as they are written, and leaves room for the longest command."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument; argparse itself forgets that the names of sub-commands are indented."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int] | None = None,
    *,
    help: str,
    description: str,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Add a parser whose description and epilog are printed as they are written, in lines of at most 80 characters.

    Args:
        run: does the command's work and returns the exit status; None for a command that only groups others.
    """
    parser = commands.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=HelpFormatter)
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add the configuration of a run, as `config`, and its `overrides`."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a configuration that s2l-ray ships")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values that replace those of the file, by dotted key"
    )


def positive_number(text: str) -> float:
    """The number that an option is given, which must be above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def png_file(text: str) -> Path:
    """The path of a picture to write."""
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, not {text!r}")
    return Path(text)


def positive(text: str) -> int:
    """The integer that an option is given, which must be at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)
