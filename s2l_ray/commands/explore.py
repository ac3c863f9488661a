"""`s2l explore`: record explorer rollouts ahead of any run, without trainer and learner.

Needs the explorer and the training problems alone: the learner need not be on the machine.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of, made_with
from s2l_ray.bank.date import dated
from s2l_ray.bank.needed import every_request, needed_requests
from s2l_ray.bank.preparing import settings_of, training_prompts
from s2l_ray.bank.recording import create
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.storage import Storage
from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import Prompt, SetReport
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tasks.compat import model_directory

if TYPE_CHECKING:
    from s2l_ray.display import TaskDisplay


@dataclass(frozen=True)
class Task:
    """What is to be recorded, and where."""

    config: Config
    settings: BankSettings
    name: str
    """Of the recording."""
    train: list[Prompt]
    requests: list[ExplorerRequest]
    """For what the bank lacks."""
    recorded: int
    """Rollouts that were asked for and are there already."""

    @property
    def rollouts(self) -> int:
        return sum(request.count for request in self.requests)


@dataclass
class Progress:
    """What has been recorded so far."""

    rollouts: int = 0
    tokens: int = 0
    right: int = 0

    def add(self, report: SetReport) -> None:
        self.rollouts += len(report.rows)
        self.tokens += sum(row.response_tokens for row in report.rows)
        self.right += sum(row.status == "right" for row in report.rows)

    @property
    def solved(self) -> float:
        return self.right / self.rollouts if self.rollouts else 0.0


def explore_command(arguments: Namespace) -> int:
    """Record, and say what was recorded; interrupted, it goes on where it stopped when it is called again.

    Raises:
        S2LError: anything that a user can mend.
    """
    from s2l_ray.display import TaskDisplay

    config = dated(load_config(arguments.config, arguments.overrides), bank=True)
    train = training_prompts(config)
    with TaskDisplay() as display, _nodes(config, display.say) as inventory:
        dtype = choose_dtype(config, inventory)
        display.say(f"computing in {dtype.describe()}")
        if dtype.advice:
            display.say(f"note: {dtype.advice}")
        task = plan_recording(dtype.applied_to(config), train, arguments.rollouts)
        begin, done = time.monotonic(), Progress()
        try:
            if task.requests:
                _record(task, inventory, done, display)
        except KeyboardInterrupt:
            print(f"stopped after {done.rollouts} of {task.rollouts} rollouts; the same command goes on from there")
            raise
    print(_summary(task, done, time.monotonic() - begin))
    return 0


@contextmanager
def _nodes(config: Config, say: Callable[[str], None]) -> Iterator[Inventory]:
    """The nodes that Ray has, or those that placement.inventory describes, for as long as Ray is needed."""
    import ray

    from actors.connection import connect
    from s2l_ray.placement.inventory import load_inventory
    from s2l_ray.placement.ray_binding import live_inventory

    owns_ray = connect(config.cluster, say)
    try:
        yield load_inventory(config.placement.inventory) if config.placement.inventory else live_inventory()
    finally:
        if owns_ray:
            ray.shutdown()


def plan_recording(config: Config, train: list[Prompt], rollouts: int | None = None) -> Task:
    """Find out what there is to record; makes the recording if it is not there.

    Args:
        config: with models.dtype settled.
        train: its training prompts, in file order.
        rollouts: draws 0 to N - 1 of every training prompt; default: what a run with this configuration may use.

    Raises:
        ConfigError: bank.recording is given, or the run never explores.
        BankError: the bank cannot be read or written, or has one of the prompts with other tokens.
        ModelError: the explorer cannot be used.
    """
    if config.bank.recording is not None:
        raise ConfigError(
            "bank.recording: s2l explore records under this configuration's own fingerprint; leave it out"
        )
    ids = [prompt.id for prompt in train]
    wanted = every_request(config, ids, rollouts) if rollouts else needed_requests(config, ids)
    if not wanted:
        raise ConfigError("schedule: the explorer never samples with this configuration; --rollouts N records anyway")
    storage, fingerprint = Storage(config.bank.path), fingerprint_of(config)
    recording = create(storage, fingerprint, made_with())
    settings = settings_of(storage, recording, reads=True)
    bank = RolloutBank(settings, {prompt.id: prompt for prompt in train})
    requests = bank.missing(wanted)
    recorded = sum(request.count for request in wanted) - sum(request.count for request in requests)
    return Task(config, settings, recording.name, train, requests, recorded)


def _record(task: Task, inventory: Inventory, done: Progress, display: TaskDisplay) -> None:
    from actors.exploration import Exploration
    from s2l_ray.planner.search.explorer_plan import plan_explorers

    config = _located(task.config)
    layout = plan_explorers(config, inventory)
    started = partial(display.update, "actors started")
    with Exploration(config, layout, task.settings, task.train, display.say, started) as exploration:
        for report in exploration.record(task.requests):
            done.add(report)
            display.update("recorded", done.rollouts, task.rollouts, f"{done.solved:.1%} right")
        exploration.finish()


def _located(config: Config) -> Config:
    """The explorer by its absolute path: actors need not share the driver's working directory."""
    explorer = str(model_directory("models.explorer", config.models.explorer))
    return config.model_copy(update={"models": config.models.model_copy(update={"explorer": explorer})})


def _summary(task: Task, done: Progress, seconds: float) -> str:
    where = f"{task.settings.path}/{task.name}"
    there = f"; {task.recorded} were there already" if task.recorded else ""
    if not done.rollouts:
        return f"nothing to record: all {task.recorded} rollouts are in {where}"
    prompts = len({request.prompt_id for request in task.requests})
    return (
        f"recorded {done.rollouts} rollouts of {prompts} prompts, {done.tokens} tokens, {done.solved:.1%} right, in "
        f"{seconds:.0f} s{there}; they are in {where}"
    )
