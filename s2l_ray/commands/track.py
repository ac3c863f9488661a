"""`s2l track`: send MLflow what it lacks of a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Send MLflow what it has not taken of a run: because its server was away, or the
run was killed. RUN/undelivered.jsonl has it. Nothing is sent twice. A run that
was killed, which MLflow still shows as running, is shown as KILLED after that.

Of a study, RUN is its directory, or that of one of its trials.

The server is that of the run; MLFLOW_TRACKING_URI names another, unless the run
has tracking.uri."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "track", run, help="send MLflow what it lacks of a run", description=DESCRIPTION)
    parser.add_argument("directory", type=existing_output, metavar="RUN", help="run directory, or that of a study")


def run(arguments: argparse.Namespace) -> int:
    """Send it, and say what was sent."""
    from s2l_ray.run.resending import resend
    from s2l_ray.tuning.resending import is_study, resend_study

    print(resend_study(arguments.directory) if is_study(arguments.directory) else resend(arguments.directory))
    return 0
