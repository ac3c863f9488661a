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
    from s2l_ray.display import TaskDisplay
    from s2l_ray.diversity.record import DiversityRecord

DESCRIPTION = """\
Compare the rollouts of explorers (policy-level diversity) with the learner's at
its own and at other temperatures (token-level diversity) on the same held-out
problems: different solutions, coherence under the learner, correlations of
deviations, and signal and noise of the GRPO gradient, each with its interval."""
EPILOG = """\
examples:
  s2l diversity --config quickstart
  s2l diversity embedded:large embedded:small embedded:large --config quickstart
  s2l diversity --config quickstart --match pass_at_1
  s2l diversity --config quickstart --hot 1.2 --hot 1.5 rollout.group_size=16

Samples are kept in DIR/samples, so the same command goes on where it was ended."""


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
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="the learner, then explorers (default: those of the configuration)"
    )
    parser.add_argument(
        "--config", required=True, metavar="CONFIG", help="of a training run: held-out problems, verifier, objective"
    )
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
        "--tolerance",
        type=positive_number,
        default=0.01,
        help="largest difference of matched pass@1 (default: %(default)s)",
    )
    parser.add_argument("--samples", type=positive, default=64, metavar="N", help="of each problem (default: 64)")
    parser.add_argument("--problems", type=positive, metavar="N", help="only the first N (default: all)")
    parser.add_argument(
        "--edit-threshold",
        type=positive_number,
        default=0.3,
        metavar="X",
        help="largest edit distance within a cluster, as a share of the tokens (default: %(default)s)",
    )
    parser.add_argument("--confidence", type=_confidence, default=0.95, help="of intervals (default: %(default)s)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="for what is written (default: outputs/diversity/NAME)")
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> int:
    """Sample, measure, print the table, and write record and figure."""
    from s2l_ray.display import TaskDisplay
    from s2l_ray.diversity.figure import diversity_figure
    from s2l_ray.diversity.table import difference_table, diversity_table
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.machine.disk import write_whole
    from s2l_ray.style import save_png

    if arguments.match == "pass_at_1" and arguments.hot:
        raise ConfigError("--hot: with --match pass_at_1 the temperature is found, not given; leave it out")
    with TaskDisplay() as display:
        record, directory = _compare(arguments, display)
    write_whole(directory / "diversity.json", json.dumps(record.to_json(), indent=1) + "\n")
    figure = save_png(lambda: diversity_figure(record), directory / "diversity.png")
    console = CommandConsole()
    console.print(diversity_table(record))
    console.print(difference_table(record))
    print(f"{record.confidence:.0%} intervals over {record.problems} problems; * does not hold 0")
    print(f"all measures are in {directory / 'diversity.json'}, the figure is {figure}")
    return 0


def _compare(arguments: argparse.Namespace, display: TaskDisplay) -> tuple[DiversityRecord, Path]:
    """The record of the comparison, and the directory for what is written."""
    from s2l_ray.config.run import directory_name
    from s2l_ray.diversity.comparing import compare
    from s2l_ray.diversity.gradients import check_objective
    from s2l_ray.machine.places import output_path
    from s2l_ray.run.diversity import Comparison, load_models, open_samples

    models, overrides = _told_apart(arguments.models)
    config, explorers = load_models(arguments.config, overrides + arguments.overrides, models, display)
    check_objective(config.objective)
    if arguments.samples < config.rollout.group_size:
        raise ConfigError(
            f"--samples {arguments.samples}: a group has {config.rollout.group_size} (rollout.group_size)"
        )
    directory = output_path(arguments.to or Path("outputs/diversity") / directory_name(config.name))
    comparison = Comparison(
        config, explorers, arguments.hot or [1.5], arguments.samples, arguments.problems, directory / "samples"
    )
    with open_samples(comparison, display) as samples:
        matched = arguments.match == "pass_at_1"
        sampled = samples.at_matches(arguments.tolerance) if matched else samples.at_temperatures()
    record = compare(
        sampled,
        samples.dtype.applied_to(config),
        arguments.match,
        edit_threshold=arguments.edit_threshold,
        confidence=arguments.confidence,
        progress=display.update,
    )
    return record, directory


def _told_apart(words: list[str]) -> tuple[list[str], list[str]]:
    """Models and overrides, which may stand side by side."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def _confidence(text: str) -> float:
    number = positive_number(text)
    if number >= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, such as 0.95, not {text!r}")
    return number
