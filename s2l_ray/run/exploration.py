"""Recording explorer rollouts ahead of runs: explorer engines and verifiers on the nodes, for as long as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from actors.connection import connect
from actors.exploration import Exploration
from actors.private_ray import end_private_ray
from s2l_ray.bank.exploring import RecordingPlan
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.live_nodes import nodes_to_plan_for
from s2l_ray.planner.search.explorer_plan import plan_explorers
from s2l_ray.rollouts.records import Prompt, SetReport
from s2l_ray.tasks.compat import model_directory


@dataclass
class Recorded:
    """What has been recorded so far."""

    of: int
    """Number of rollouts that are to be recorded."""
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
def nodes(config: Config, say: Callable[[str], None]) -> Iterator[Inventory]:
    """The nodes that Ray has, or those that placement.inventory describes, for as long as Ray is needed.

    Raises:
        PlacementError: Ray cannot be joined or started, or its nodes are not those that were planned for.
    """
    owns_ray = connect(config.cluster, say)
    try:
        yield nodes_to_plan_for(config, say)
    finally:
        if owns_ray:
            end_private_ray()


def record(
    config: Config,
    plan: RecordingPlan,
    prompts: Sequence[Prompt],
    inventory: Inventory,
    done: Recorded,
    display: TaskDisplay,
) -> None:
    """Start explorer engines, record every request of a plan, and end the engines.

    What has been recorded stays when this is interrupted; a new plan has the rest.

    Args:
        config: models.dtype is not `auto` any more.
        plan: what is to be recorded.
        prompts: those that the plan's requests name, and maybe others.
        inventory: the nodes that engines are placed on.
        done: counts what is recorded.
        display: shows the progress and an ETA.

    Raises:
        PlacementError, EngineError, ActorLostError, StepTimeoutError, BankError: see `Exploration`.
    """
    config = _with_absolute_explorer(config)
    layout = plan_explorers(config, inventory)
    started = partial(display.update, "actors started")
    with Exploration(config, layout, plan.settings, prompts, display.say, started) as exploration:
        for report in exploration.record(plan.requests):
            done.add(report)
            display.update("recorded", done.rollouts, done.of, f"{done.solved:.1%} right")
        exploration.finish()


def _with_absolute_explorer(config: Config) -> Config:
    """The explorer by its absolute path: actors need not share the driver's working directory."""
    explorer = str(model_directory("models.explorer", config.models.explorer))
    return config.model_copy(update={"models": config.models.model_copy(update={"explorer": explorer})})
