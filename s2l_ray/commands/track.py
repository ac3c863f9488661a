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
A run that was not tracked is logged from the files in its directory.

RUN is the directory of a run, of a study, of one of its trials, or of an
experiment. A study or an experiment in an object store can be given as its URI,
on the machine on which it ran.

The server is that of the run; MLFLOW_TRACKING_URI names another, unless the run
has tracking.uri."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "track", run, help="send MLflow what it lacks of a run", description=DESCRIPTION)
    parser.add_argument("directory", metavar="RUN", help="run directory, or that of a study or an experiment")


def run(arguments: argparse.Namespace) -> int:
    """Send it, and say what was sent."""
    from s2l_ray.run.resending import resend
    from s2l_ray.tuning.resending import find_study, resend_study

    study = find_study(arguments.directory)
    print(resend(existing_output(arguments.directory)) if study is None else resend_study(study))
    return 0
