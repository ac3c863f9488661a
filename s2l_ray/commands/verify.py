"""`s2l verify`: check the answers in a file."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from s2l_ray.commands.arguments import add_command, positive, positive_number
from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.kinds import ExtractionLevel

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config.verifier import VerifierConfig

COLUMNS = r"\[?[\w,]+\]?"
"""Names of columns. What has other characters, such as those of a path, is FILE."""
DESCRIPTION = """\
Check the responses in a file against their gold answers. Each row is
{"answer": gold, "response": text}, with "question" and "id" if wanted; each
verdict is right, wrong, unparsable (no answer can be read), timeout or failed
(the check could not be done)."""
EPILOG = """\
examples:
  s2l verify answers.jsonl
  s2l verify answers.jsonl --kind my_rewards:check --columns data_source,level

exit status: 0, or 1 if no row could be checked"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "verify", run, help="check the answers in a file", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="JSONL or Parquet file; it must be given")
    parser.add_argument("--to", type=Path, metavar="FILE", help="JSONL file of verdicts (default: FILE.verdicts.jsonl)")
    parser.add_argument(
        "--kind", default="math", help=f"{', '.join(VERIFIERS.names)} or module:function (default: %(default)s)"
    )
    parser.add_argument(
        "--extract",
        choices=get_args(ExtractionLevel),
        help="what --kind math takes for a response's final answer, as verifier.extract does (default: strict)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of FILE that a function of your own is called with, too, as with verifier.columns: names "
        "separated by commas or spaces",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one per core, %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=5.0,
        metavar="SECONDS",
        help="limit for each answer (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check every row, write the verdicts, and print how many there are of each."""
    from s2l_ray.display import TaskDisplay
    from s2l_ray.machine.disk import output_file
    from s2l_ray.tasks.verify_file import verify_file

    _take_columns_apart(arguments)
    verifier = _verifier(arguments)
    if not arguments.file.name:  # such as . or /
        raise ConfigError(f"{arguments.file} is a directory; name a JSONL file")
    target = arguments.to or arguments.file.with_suffix(".verdicts.jsonl")
    output_file(target, "--to")
    with TaskDisplay() as display:
        summary = verify_file(
            arguments.file,
            target,
            arguments.kind,
            arguments.workers,
            arguments.timeout,
            lambda done, rows: display.update("verified", done, rows),
            verifier.options,
            verifier.columns,
        )
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    answers = "1 answer" if summary.rows == 1 else f"{summary.rows} answers"
    print(f"{answers}: {counts}; {summary.answers_per_second:.0f} answers/s; verdicts in {target}")
    if summary.failure is not None:
        failed = f"{summary.counts['failed']} of {summary.rows} rows could not be checked"
        print(f"{failed}, the first so: {summary.failure}", file=sys.stderr)
    return 1 if summary.counts["failed"] == summary.rows else 0


def _take_columns_apart(arguments: argparse.Namespace) -> None:
    """Names that are separated by commas, as verifier.columns has them; and FILE, where it follows `--columns`.

    Raises:
        ConfigError: FILE is not given.
    """
    if arguments.file is None and len(arguments.columns) > 1 and not re.fullmatch(COLUMNS, arguments.columns[-1]):
        arguments.file = Path(arguments.columns.pop())
    if arguments.file is None:
        raise ConfigError("FILE is missing; name a JSONL or Parquet file, as in s2l verify answers.jsonl")
    words = " ".join(arguments.columns).strip("[]")
    arguments.columns = [name for name in re.split(r"[,\s]+", words) if name]


def _verifier(arguments: argparse.Namespace) -> VerifierConfig:
    """What the command line says of the verifier, checked."""
    from pydantic import ValidationError

    from s2l_ray.config.problems import problems_of
    from s2l_ray.config.verifier import VerifierConfig

    kind, extract = arguments.kind, arguments.extract
    if kind != "math" and extract is not None:
        raise ConfigError(f"--extract is for --kind math alone; {kind} reads responses itself: leave it out")
    try:
        verifier = VerifierConfig(kind=kind, extract=extract or "strict", columns=arguments.columns)
    except ValidationError as error:
        raise ConfigError("; ".join(f"--{problem}" for problem in problems_of(error, VerifierConfig))) from None
    verifier.check()
    return verifier
