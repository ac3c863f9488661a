"""`s2l experiment`: arms and seeds, compared with intervals and tests."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Run an experiment: a declared set of arms, each with several seeds, on one bank
of explorer rollouts. It ends in one figure and one table: means with intervals
over seeds, differences from a baseline, corrected p-values, and compute."""
EPILOG = """\
examples:
  s2l experiment figure4
  s2l experiment figure4 --dry-run          arms, runs, plans and time
  s2l experiment figure4 experiment.name=short experiment.seeds=3
  s2l experiment mine.yaml

experiment file (YAML):
  question: does the explorer help?
  hypothesis: it does, by its right answers   # fixed before the first run
  config: quickstart                          # what all runs share
  values: {evaluation.every: 20}              # overrides it
  arms:
    grpo: {schedule.kind: off}
    s2l_po: {objective.explorer_negatives: 1.0}
  seeds: 5
  baseline: grpo

`s2l experiment --keys` explains every key of it. key=value replaces a value of
the configuration, experiment.key=value one of the file.

outputs/NAME has experiment.json, runs.csv, figures/experiment.png and a run
directory for each run. The same command goes on with an experiment that was
interrupted, and tries runs that failed again; of a finished one it compares the
arms again. One whose file has changed is refused.

exit status: 0; 1 if a run failed (the others go on, and the table says why),
or if results could not be written"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "experiment",
        run,
        help="run an experiment: arms and seeds, compared with intervals and tests",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="YAML file of an experiment, or the name of one that s2l-ray ships"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the files")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check, plan and print the runs, and run none; only a Ray is joined, or started, to see the nodes",
    )
    parser.add_argument("--keys", action="store_true", help="print the keys of an experiment's file, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run an experiment. Returns 1 if a run failed, or results could not be written, else 0.

    Raises:
        S2LError: the experiment cannot be run.
    """
    if arguments.keys:
        return _print_keys()
    file, overrides = arguments.file, arguments.overrides
    if file is None or "=" in file:
        raise ConfigError(f"give the FILE of an experiment, such as s2l experiment figure4; {_shipped()}")
    _check(file, overrides)
    if arguments.dry_run:
        from s2l_ray.experiments.rehearsal import rehearse_experiment

        rehearse_experiment(file, overrides)
        return 0
    from s2l_ray.experiments.driver import run_experiment
    from s2l_ray.machine.console import CommandConsole

    result = run_experiment(file, overrides)
    console = CommandConsole()
    if result.again:
        console.print("The experiment is finished; its arms are compared again.", highlight=False)
    console.print(result.table)
    return 1 if result.failed or result.problems else 0


def _check(file: str, overrides: list[str]) -> None:
    """Refuse wrong keys and values at once: importing what runs an experiment takes longer than reading its files."""
    from s2l_ray.experiments.arms import study_of
    from s2l_ray.experiments.reading import load_experiment, split_overrides

    of_config, of_file = split_overrides(overrides)
    study_of(load_experiment(file, of_file), of_config)


def _shipped() -> str:
    from s2l_ray.config.shipped import EXPERIMENTS

    return f"s2l-ray ships {', '.join(EXPERIMENTS.paths())}"


def _print_keys() -> int:
    from s2l_ray.commands.config import print_keys
    from s2l_ray.config.reference import keys_of
    from s2l_ray.experiments.experiment_file import ExperimentFile

    print_keys(keys_of(ExperimentFile))
    return 0
