"""`s2l train`: a training run, from its configuration to its final table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, add_configuration

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = "Train a learner with an explorer, as a configuration describes."
EPILOG = """\
examples:
  s2l train quickstart
  s2l train quickstart schedule.kind=off name=grpo     plain GRPO, same all else
  s2l train quickstart schedule.steps=20 schedule.mix_steps=10 run_dir=outputs/a
  s2l train my.yaml                             a file; it may extend quickstart

A run that was interrupted resumes from its last checkpoint when the same
command is given again. Where outputs/NAME holds a finished run and no run_dir
is given, the new run is written to outputs/NAME-2, and so on. With run_dir, the
same command again finds the run finished and has nothing to do.

`s2l config` explains every key. RUN_DIR/config.yaml lists the values of a run."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "train", run, help="train a learner with an explorer", description=DESCRIPTION, epilog=EPILOG
    )
    add_configuration(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train until the schedule is done."""
    from s2l_ray.config import load_config
    from s2l_ray.display import RunDisplay, final_table
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.run.finished import done_already, next_free

    config = load_config(arguments.config, arguments.overrides)
    if done := done_already(config):
        CommandConsole().print(done, soft_wrap=True, highlight=False, markup=False)
        return 0
    config, notice = next_free(config)
    from s2l_ray.algorithm import S2LPO

    with RunDisplay(config.schedule.steps, config.name) as display:
        if notice:
            display.note(notice)
        algorithm = S2LPO(config, display)
        try:
            while not algorithm.train()["done"]:
                pass
        except KeyboardInterrupt:
            display.note(f"stopped; the same command goes on from the last checkpoint in {config.run_path}")
            raise
        finally:
            algorithm.stop()
    CommandConsole().print(final_table(algorithm.summary))
    return 0
