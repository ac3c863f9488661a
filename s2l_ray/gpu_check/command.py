"""The command line of `s2l gpu-check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from s2l_ray.errors import S2LError
from s2l_ray.gpu_check.stages import STAGES

DESCRIPTION = """\
Check training on this machine's GPU, stage by stage, and measure it. Without a
GPU the stages are skipped."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="s2l gpu-check", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except S2LError as error:
        parser.exit(1, f"error: {error}\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, and the list of stages under them."""
    parser.epilog = "stages:\n" + "\n".join(f"  {stage.name:11} {stage.about}" for stage in STAGES.values())
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="for all stages (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, after every stage")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help="only these, in their order"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen stages, and return the exit status: 1 if a stage failed.

    Raises:
        DiskError: the report cannot be written.
    """
    from s2l_ray.gpu_check.runner import run_stages
    from s2l_ray.machine.disk import output_file

    if arguments.json is not None:
        output_file(arguments.json, "--json")
    names = [name for name in STAGES if name in arguments.stages]
    results = run_stages(names, arguments.minutes, arguments.json)
    print("\n" + ", ".join(f"{result.stage} {result.status}" for result in results))
    return int(any(result.status == "FAIL" for result in results))
