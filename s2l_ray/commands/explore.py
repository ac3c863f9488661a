"""`s2l explore`: record explorer rollouts ahead of any run, without trainer and learner.

The explorer and the training problems are enough: the learner need not be on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, add_configuration, positive

if TYPE_CHECKING:
    from s2l_ray.bank.exploring import RecordingPlan
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import Config
    from s2l_ray.display import TaskDisplay
    from s2l_ray.placement.inventory import Inventory
    from s2l_ray.rollouts.records import Prompt, SetReport

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
    from s2l_ray.tasks.sources import fetch_sources

    config = load_config(arguments.config, arguments.overrides)
    with TaskDisplay() as display:
        config, _ = fetch_sources(config, FetchDisplay(display))
    config = dated(config, bank=True)
    if "://" not in config.bank.path:
        refuse_session_directory("bank.path", output_path(config.bank.path))
    train = training_prompts(config)
    with TaskDisplay() as display, _nodes(config, display.say) as inventory:
        dtype = choose_dtype(config, inventory)
        display.say(f"computing in {dtype.describe()}")
        if dtype.advice:
            display.say(f"note: {dtype.advice}")
        config = dtype.applied_to(config)
        plan = plan_recording(config, train, arguments.rollouts)
        begin, done = time.monotonic(), Progress()
        try:
            if plan.requests:
                _record(config, plan, train, inventory, done, display)
        except KeyboardInterrupt:
            print(f"stopped after {done.rollouts} of {plan.rollouts} rollouts; the same command goes on from there")
            raise
    print(_summary(plan, done, time.monotonic() - begin))
    return 0


@dataclass
class Progress:
    """What has been recorded so far."""

    rollouts: int = 0
    tokens: int = 0
    right: int = 0

    def add(self, report: SetReport) -> None:
        """Count a set of rollouts."""
        self.rollouts += len(report.rows)
        self.tokens += sum(row.response_tokens for row in report.rows)
        self.right += sum(row.status == "right" for row in report.rows)

    @property
    def solved(self) -> float:
        """Share of right answers."""
        return self.right / self.rollouts if self.rollouts else 0.0


@contextmanager
def _nodes(config: Config, say: Callable[[str], None]) -> Iterator[Inventory]:
    """The nodes that Ray has, or those that placement.inventory describes, for as long as Ray is needed."""
    from actors.connection import connect
    from actors.private_ray import end_private_ray
    from s2l_ray.placement.live_nodes import nodes_to_plan_for

    owns_ray = connect(config.cluster, say)
    try:
        yield nodes_to_plan_for(config, say)
    finally:
        if owns_ray:
            end_private_ray()


def _record(
    config: Config, plan: RecordingPlan, train: list[Prompt], inventory: Inventory, done: Progress, display: TaskDisplay
) -> None:
    """Start explorer engines and record every request, counting in `done`."""
    from actors.exploration import Exploration
    from s2l_ray.planner.search.explorer_plan import plan_explorers

    config = _with_absolute_explorer(config)
    layout = plan_explorers(config, inventory)
    started = partial(display.update, "actors started")
    with Exploration(config, layout, plan.settings, train, display.say, started) as exploration:
        for report in exploration.record(plan.requests):
            done.add(report)
            display.update("recorded", done.rollouts, plan.rollouts, f"{done.solved:.1%} right")
        exploration.finish()


def _with_absolute_explorer(config: Config) -> Config:
    """The explorer by its absolute path: actors need not share the driver's working directory."""
    from s2l_ray.tasks.compat import model_directory

    explorer = str(model_directory("models.explorer", config.models.explorer))
    return config.model_copy(update={"models": config.models.model_copy(update={"explorer": explorer})})


def _summary(plan: RecordingPlan, done: Progress, seconds: float) -> str:
    there = f"; {plan.recorded} were there already" if plan.recorded else ""
    if not done.rollouts:
        return f"nothing to record: all {plan.recorded} rollouts are in {plan.path}"
    return (
        f"recorded {done.rollouts} rollouts of {plan.prompts} prompts, {done.tokens} tokens, {done.solved:.1%} right, "
        f"in {seconds:.0f} s{there}; they are in {plan.path}"
    )
