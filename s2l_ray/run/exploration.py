"""Recording explorer rollouts ahead of runs: explorer engines and verifiers on the nodes, for as long as it takes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from actors.connection import connect
from actors.exploration import Exploration
from actors.private_ray import end_private_ray
from s2l_ray.bank.exploring import RecordingPlan
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.errors import ActorLostError, EngineDiedError, StepTimeoutError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.live_nodes import nodes_to_plan_for
from s2l_ray.placement.plan import Layout
from s2l_ray.planner.search.explorer_plan import plan_explorers
from s2l_ray.recovery.budget import RestartBudget
from s2l_ray.recovery.causes import short_cause
from s2l_ray.rollouts.records import SetReport
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tasks.compat import model_directory

LOSSES = (ActorLostError, EngineDiedError, StepTimeoutError)
"""What ends a recording that may go on with other actors."""


@dataclass
class Recorded:
    """What has been recorded so far."""

    of: int
    """Number of rollouts that are to be recorded."""
    counts: Counter[str] = field(default_factory=Counter)
    """rollouts, tokens (of responses) and right (answers)."""

    @property
    def rollouts(self) -> int:
        """Number of rollouts."""
        return self.counts["rollouts"]

    @property
    def tokens(self) -> int:
        """Number of their response tokens."""
        return self.counts["tokens"]

    @property
    def solved(self) -> float:
        """Share of right answers."""
        return self.counts["right"] / self.rollouts if self.rollouts else 0.0


def counts_of(report: SetReport) -> Counter[str]:
    """What `Recorded` counts of a request."""
    rows = report.rows
    return Counter(
        rollouts=len(rows),
        tokens=sum(row.response_tokens for row in rows),
        right=sum(row.status == "right" for row in rows),
    )


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


def record(plans: Sequence[RecordingPlan], inventory: Inventory, done: Recorded, display: TaskDisplay) -> None:
    """Start explorer engines, record every request of these plans, and end the engines.

    Where one of the actors is lost all are started again, for what the bank lacks then, as often as
    recovery.max_restarts allows. What has been recorded stays when this is interrupted; a new plan has the rest.

    Args:
        plans: one, or several whose configurations mean the same to engines and verifiers: their fingerprints differ in
            rollout.explorer_seed at most, and prompts with equal ids are equal. models.dtype is not `auto` any more.
        inventory: the nodes that engines are placed on.
        done: counts what is recorded.
        display: shows the progress and an ETA.

    Raises:
        PlacementError, EngineError, ActorLostError, BankError: see `Exploration`.
    """
    left = deque(plan for plan in plans if plan.requests)
    if not left:
        return
    config = _with_absolute_explorer(left[0].config)
    layout, recovery = plan_explorers(config, inventory), config.recovery
    budget = RestartBudget(recovery.max_restarts, recovery.window_s, recovery.backoff_s)
    while left:
        recorded: dict[ExplorerRequest, Counter[str]] = {}  # of the first plan
        try:
            _record_until_lost(config, layout, left, recorded, done, display)
        except LOSSES as error:
            cause = short_cause(error)
            time.sleep(budget.spend("an actor of the recording", cause))
            display.say(f"note: all actors are started again: {cause}")
            left[0] = left[0].again()
            for request in lost_of(recorded, left[0].requests):
                done.counts -= recorded.pop(request)


def _record_until_lost(
    config: Config,
    layout: Layout,
    left: deque[RecordingPlan],
    recorded: dict[ExplorerRequest, Counter[str]],
    done: Recorded,
    display: TaskDisplay,
) -> None:
    """Record these plans with the same actors; one that is recorded is taken from `left`."""
    prompts = list({prompt.id: prompt for plan in left for prompt in plan.prompts}.values())
    started = partial(display.update, "actors started")
    with Exploration(config, layout, left[0].settings, prompts, display.say, started) as exploration:
        while left:
            for request, report in exploration.record(left[0].requests):
                recorded[request] = counts_of(report)
                done.counts += recorded[request]
                display.update("recorded", done.rollouts, done.of, f"{done.solved:.1%} right")
            if len(left) > 1:
                exploration.reopen(left[1].settings)
            else:
                exploration.finish()
            left.popleft()
            recorded.clear()


def lost_of(recorded: Iterable[ExplorerRequest], missing: Sequence[ExplorerRequest]) -> list[ExplorerRequest]:
    """Requests whose rollouts the bank had taken but not written when it was lost."""
    gone = {draw for request in missing for draw in _draws(request)}
    return [request for request in recorded if not gone.isdisjoint(_draws(request))]


def _draws(request: ExplorerRequest) -> Iterator[tuple[str, int]]:
    return ((request.prompt_id, request.first_draw + i) for i in range(request.count))


def _with_absolute_explorer(config: Config) -> Config:
    """The explorer by its absolute path: actors need not share the driver's working directory."""
    explorer = str(model_directory("models.explorer", config.models.explorer))
    return config.model_copy(update={"models": config.models.model_copy(update={"explorer": explorer})})
