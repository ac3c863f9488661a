"""`s2l tune`: a study, many runs as trials of Ray Tune."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Run a study: trials of one configuration whose values differ in a few keys, with
Ray Tune. What the explorer samples is recorded once, before they begin, and
read by all of them."""
EPILOG = """\
examples:
  s2l tune quickstart tune_schedule
  s2l tune quickstart study.yaml schedule.steps=40 tune.trials=4
  s2l tune quickstart study.yaml --dry-run   the trials and the plan of each
  s2l tune --resume outputs/study            after it was stopped

study file (YAML):
  trials: 8
  space:                                     any keys of the configuration
    schedule.kind: [linear, cosine]
    schedule.mix_steps: {randint: [10, 60]}
    trainer.learning_rate: {loguniform: [5.0e-5, 5.0e-4]}
    seed: {grid: [1, 2]}
  scheduler: {kind: asha, grace: 20}         or pbt, or none
  config: {evaluation.every: 20}             the same in all trials

`s2l tune --keys` explains every key of it. key=value replaces a value of the
configuration, tune.key=value one of the study's file.

outputs/NAME has tune.json, best.yaml (for s2l train), figures/study.png and a
run directory for each trial. The same command goes on with a study that was
interrupted; where outputs/NAME holds a finished one, the new one is written to
outputs/NAME-2, and so on.

exit status: 0, also if some trials failed (the table says why); 1 if all did,
or if results could not be written"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "tune",
        run,
        help="run a study: many trials of a configuration, with Ray Tune",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="YAML file, or the name of a configuration that s2l-ray ships"
    )
    parser.add_argument(
        "study", nargs="?", metavar="TUNE", help="YAML file of a study, or the name of one that s2l-ray ships"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the files")
    parser.add_argument("--resume", metavar="DIR", help="go on with the study in this directory, or at this URI")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="draw, check, plan and print the trials, and run none; only a Ray is joined, or started, to see the nodes",
    )
    parser.add_argument("--keys", action="store_true", help="print the keys of a study's file, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run a study. Returns 1 if its results could not all be written, else 0.

    Raises:
        S2LError: the study cannot be run, or every trial failed.
    """
    files = [word for word in (arguments.config, arguments.study) if word and "=" not in word]
    overrides = [word for word in (arguments.config, arguments.study) if word and "=" in word] + arguments.overrides
    if arguments.keys:
        return _print_keys()
    if arguments.resume:
        if files or arguments.dry_run:
            raise ConfigError("--resume goes on with a study as it was given; leave CONFIG, TUNE and --dry-run out")
    elif len(files) != 2:
        raise ConfigError("give CONFIG and TUNE, such as s2l tune quickstart tune_schedule; or --resume DIR")
    else:
        _check(files[0], files[1], overrides)
    from s2l_ray.tuning.driver import resume_study, run_study

    if arguments.dry_run:
        return _dry_run(files[0], files[1], overrides)
    result = resume_study(arguments.resume, overrides) if arguments.resume else run_study(files[0], files[1], overrides)
    from s2l_ray.machine.console import CommandConsole

    CommandConsole().print(result.table)
    if result.first_error:
        raise ConfigError(f"every trial failed, the first one with: {result.first_error}")
    return 1 if result.problems else 0


def _check(config: str, study: str, overrides: list[str]) -> None:
    """Refuse wrong keys and values at once: the import of what runs a study takes longer than reading its files."""
    from s2l_ray.tuning.reading import load_study, split_overrides
    from s2l_ray.tuning.samples import StudyConfigs

    of_config, of_study = split_overrides(overrides)
    StudyConfigs.read(config, of_config, load_study(study, of_study), resolve=lambda read: {})


def _dry_run(config: str, study: str, overrides: list[str]) -> int:
    from s2l_ray.tuning.rehearsal import rehearse

    rehearse(config, study, overrides)
    return 0


def _print_keys() -> int:
    from s2l_ray.commands.config import print_keys
    from s2l_ray.config.reference import keys_of
    from s2l_ray.tuning.study_file import StudyFile

    print_keys(keys_of(StudyFile))
    return 0
