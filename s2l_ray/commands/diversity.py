"""`s2l diversity`: what explorers add to the learner's rollouts, beside what a higher temperature adds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, positive, positive_number
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import TrackingConfig
    from s2l_ray.display import TaskDisplay
    from s2l_ray.diversity.record import DiversityRecord

DESCRIPTION = """\
Compare the rollouts of explorers (policy-level diversity) with the learner's at
its own and at other temperatures (token-level diversity) on the same held-out
problems: different solutions, coherence under the learner, correlations of
deviations, and signal and noise of the GRPO gradient, each with its interval."""
WIDE = 160
"""Columns of a table that goes into a file or a pipe."""
EPILOG = """\
examples:
  s2l diversity embedded:large embedded:small --benchmark embedded:heldout.jsonl
  s2l diversity embedded:large embedded:small embedded:large --hot 1.2 --hot 1.5
      --benchmark embedded:heldout.jsonl rollout.group_size=16
  s2l diversity RUN:learner RUN:explorer --match pass_at_1
      --config RUN/config.yaml --benchmark embedded:heldout.jsonl

MODEL, FILE and key=value are what they are for `s2l evaluate`. Samples are kept
in DIR/samples, so the same command goes on where it was ended."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "diversity",
        run,
        help="compare explorers with higher temperatures of the learner",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.set_defaults(overrides=[])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the learner, then explorers, and key=value")
    parser.add_argument(
        "--benchmark", required=True, metavar="FILE", help="problems that the learner is not trained on"
    )
    parser.add_argument("--config", metavar="CONFIG", help="take prompts, verifier, objective and engines from it")
    parser.add_argument(
        "--match",
        choices=("samples", "pass_at_1"),
        default="samples",
        help="samples: the learner at the temperatures of --hot; pass_at_1: at the one where it is right as often as "
        "the explorer, found by bisection (default: %(default)s)",
    )
    parser.add_argument(
        "--hot",
        type=positive_number,
        action="append",
        metavar="T",
        help="a temperature of the learner, once for each (default: 1.5)",
    )
    parser.add_argument(
        "--explorer-temperature", type=positive_number, metavar="T", help="of the explorers (default: the learner's)"
    )
    parser.add_argument(
        "--tolerance",
        type=positive_number,
        default=0.01,
        help="largest difference of matched pass@1 (default: %(default)s)",
    )
    parser.add_argument("--samples", type=positive, default=64, metavar="N", help="n of each problem (default: 64)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N problems")
    parser.add_argument(
        "--edit-threshold",
        type=positive_number,
        default=0.3,
        metavar="X",
        help="largest edit distance within a cluster, as a share of the tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--to",
        default="outputs/diversity",
        metavar="DIR",
        help="directory of samples, record and figure (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Sample what is missing, measure, print the tables, and write record and figure."""
    from s2l_ray.display import TaskDisplay
    from s2l_ray.display.text import with_short_paths
    from s2l_ray.diversity.figure import diversity_figure
    from s2l_ray.diversity.record import RECORD
    from s2l_ray.diversity.table import difference_table, diversity_table
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.machine.disk import write_whole
    from s2l_ray.machine.places import output_path, refuse_session_directory
    from s2l_ray.run.diversity_tracking import track
    from s2l_ray.style import save_png

    if arguments.match == "pass_at_1" and arguments.hot:
        raise ConfigError("--hot: with --match pass_at_1 the temperature is found, not given; leave it out")
    directory = output_path(arguments.to)
    refuse_session_directory("--to", directory)
    with TaskDisplay() as display:
        record, tracking = _compared(arguments, directory, display)
    written = directory / RECORD
    write_whole(written, json.dumps(record.to_json(), indent=1) + "\n")
    figure = save_png(lambda: diversity_figure(record), directory / "diversity.png")
    terminal = CommandConsole()
    console = terminal if terminal.is_terminal else CommandConsole(width=WIDE)
    for table in (diversity_table(record), difference_table(record)):
        console.print(table)
    print(f"{record.confidence:.0%} intervals over {record.problems} problems; *: the interval does not hold 0")
    for path in (written, figure):
        print(with_short_paths(str(path)))
    if problem := track(record, tracking, directory, [written, figure]):
        print(f"note: {with_short_paths(problem)}")
    return 0


def _compared(
    arguments: argparse.Namespace, directory: Path, display: TaskDisplay
) -> tuple[DiversityRecord, TrackingConfig]:
    from s2l_ray.benchmark.settings import Options, common_configuration
    from s2l_ray.diversity.comparing import compare
    from s2l_ray.diversity.gradients import check_objective
    from s2l_ray.run.diversity import Request, open_samples

    words = [word for word in arguments.models if "=" in word and not Path(word).exists()]
    request = Request(
        models=[word for word in arguments.models if word not in words],
        benchmark=arguments.benchmark,
        directory=directory,
        options=Options(samples=arguments.samples, file=arguments.config, overrides=(*words, *arguments.overrides)),
        temperatures=arguments.hot or (1.5,),
        explorer_temperature=arguments.explorer_temperature,
        limit=arguments.limit,
    )
    check_objective(common_configuration(request.options).objective)  # now, and not when all samples are drawn
    with open_samples(request, display) as samples:
        matched = arguments.match == "pass_at_1"
        sampled = samples.at_matches(arguments.tolerance) if matched else samples.at_temperatures()
    record = compare(
        sampled, samples.config, arguments.match, edit_threshold=arguments.edit_threshold, progress=display.update
    )
    return record, samples.config.tracking
