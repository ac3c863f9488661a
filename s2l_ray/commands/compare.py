"""`s2l compare`: runs side by side in the terminal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Show runs side by side: in which keys they differ, what they reached on held-out
problems with the difference paired by problem, where their time went, and what
they cost. Runs need not be finished. `s2l report` writes the same as a page."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "compare", run, help="show runs side by side", description=DESCRIPTION)
    parser.add_argument("directories", nargs="+", type=existing_output, metavar="RUN", help="run directory")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables.

    Raises:
        ConfigError: there is only one run, or it is none.
    """
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.report.reading import read_runs
    from s2l_ray.report.tables import comparison

    if len(arguments.directories) < 2:
        raise ConfigError("s2l compare takes two runs or more; s2l report RUN tells about one")
    CommandConsole().print(comparison(read_runs(arguments.directories)))
    return 0
