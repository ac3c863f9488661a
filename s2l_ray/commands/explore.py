"""`s2l explore`: record explorer rollouts ahead of any run, without trainer and learner.

The explorer and the training problems are enough: the learner need not be on the machine.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, add_configuration, positive

if TYPE_CHECKING:
    from s2l_ray.bank.exploring import RecordingPlan
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.run.exploration import Recorded

DESCRIPTION = """\
Record explorer rollouts in the bank (bank.path): by default all that a training
run with this configuration may use. Rollouts that the bank already has are not
sampled again, so an interrupted recording continues with the same command."""
EPILOG = """\
examples:
  s2l explore quickstart
  s2l train quickstart bank.mode=read     no explorer engine, the same groups
  s2l explore quickstart --rollouts 32    32 for every prompt, for any schedule"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "explore",
        run,
        help="record explorer rollouts, for training with bank.mode=read or readwrite",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_configuration(parser)
    parser.add_argument("--rollouts", type=positive, metavar="N", help="the first N rollouts of every prompt")


def run(arguments: argparse.Namespace) -> int:
    """Record what the bank lacks, and print what was recorded."""
    from s2l_ray.bank.date import dated
    from s2l_ray.bank.exploring import plan_recording
    from s2l_ray.bank.preparing import training_prompts
    from s2l_ray.config import load_config
    from s2l_ray.display import FetchDisplay, TaskDisplay
    from s2l_ray.machine.places import output_path, refuse_session_directory
    from s2l_ray.placement.dtype import choose_dtype
    from s2l_ray.run.exploration import Recorded, nodes, record
    from s2l_ray.tasks.sources import fetch_sources

    config = load_config(arguments.config, arguments.overrides)
    with TaskDisplay() as display:
        config, _ = fetch_sources(config, FetchDisplay(display))
    config = dated(config, bank=True)
    if "://" not in config.bank.path:
        refuse_session_directory("bank.path", output_path(config.bank.path))
    train = training_prompts(config)
    with TaskDisplay() as display, nodes(config, display.say) as inventory:
        dtype = choose_dtype(config, inventory)
        display.say(f"computing in {dtype.describe()}")
        if dtype.advice:
            display.say(f"note: {dtype.advice}")
        config = dtype.applied_to(config)
        plan = plan_recording(config, train, arguments.rollouts)
        begin, done = time.monotonic(), Recorded(plan.rollouts)
        try:
            if plan.requests:
                record([plan], inventory, done, display)
        except KeyboardInterrupt:
            print(f"stopped after {done.rollouts} of {done.of} rollouts; the same command goes on from there")
            raise
    print(_summary(plan, done, time.monotonic() - begin))
    return 0


def _summary(plan: RecordingPlan, done: Recorded, seconds: float) -> str:
    there = f"; {plan.recorded} were there already" if plan.recorded else ""
    if not done.rollouts:
        return f"nothing to record: all {plan.recorded} rollouts are in {plan.path}"
    return (
        f"recorded {done.rollouts} rollouts of {plan.sampled_prompts} prompts, {done.tokens} tokens, "
        f"{done.solved:.1%} right, in {seconds:.0f} s{there}; they are in {plan.path}"
    )
