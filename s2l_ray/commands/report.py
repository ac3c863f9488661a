"""`s2l report`: one page about runs, to send to somebody."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.report.sections import ResultSection

DESCRIPTION = """\
Write one HTML page about runs: results with intervals, curves, where the time
went, the plan beside what was measured, rollouts to read, and how the
configurations differ; of an experiment its arms with tests and cost; and what
`s2l evaluate` and `s2l diversity` measured. It needs no network and no other
file, and prints well. Runs need not be finished."""
EPILOG = """\
examples:
  s2l report outputs/quickstart
  s2l report outputs/quickstart outputs/grpo -o comparison.html
  s2l report outputs/figure4 outputs/evaluation outputs/diversity"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        run,
        help="write one HTML page about runs and what was measured",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "directories",
        nargs="+",
        type=existing_output,
        metavar="DIR",
        help="directory of a run, experiment, evaluation or comparison",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=html_file,
        metavar="FILE",
        help="where to write it (default: report.html in the first DIR)",
    )


def html_file(text: str) -> Path:
    """The path of a page to write."""
    if not text.endswith((".html", ".htm")):
        raise argparse.ArgumentTypeError(f"must end in .html, not {text!r}")
    return Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from s2l_ray.benchmark.directory import RESULTS as EVALUATION
    from s2l_ray.diversity.record import RECORD
    from s2l_ray.machine.disk import output_file
    from s2l_ray.report.experiment import RESULTS as EXPERIMENT
    from s2l_ray.report.experiment import experiment_section
    from s2l_ray.report.measured import diversity_section, evaluation_section
    from s2l_ray.report.page import write_report
    from s2l_ray.report.reading import read_runs, refuse_doubles

    path = arguments.output or arguments.directories[0] / "report.html"
    output_file(path, "--output")
    refuse_doubles(arguments.directories)
    kinds = {EXPERIMENT: experiment_section, EVALUATION: evaluation_section, RECORD: diversity_section}
    runs: list[Path] = []
    sections: list[ResultSection] = []
    for directory in arguments.directories:
        found = [section for name, section in kinds.items() if (directory / name).exists()]
        sections += [section(directory) for section in found]
        runs += [] if found else [directory]
    write_report(read_runs(runs), path, sections)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")
    return 0
