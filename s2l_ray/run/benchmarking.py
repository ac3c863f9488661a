"""Sampling benchmarks: the engines of several models side by side where they fit, else one round after the other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from actors.exploration import Exploration, record_together
from s2l_ray.bank.exploring import RecordingPlan
from s2l_ray.benchmark.jobs import Job
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.plan import Layout
from s2l_ray.planner.search.explorer_plan import plan_explorers
from s2l_ray.recovery.budget import RestartBudget
from s2l_ray.recovery.causes import short_cause
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.run.exploration import LOSSES, Recorded, counts_of, lost_of

NOTHING = 1e-3
"""CPUs of a node that has none left, since a node without any cannot be described."""


class Planned(NamedTuple):
    """A job with samples that are missing."""

    job: Job
    plan: RecordingPlan


def sample(planned: Sequence[Planned], inventory: Inventory, done: Recorded, display: TaskDisplay) -> None:
    """Draw every missing sample, and end the engines. What has been drawn stays when this is interrupted.

    Where an actor is lost, those of its round are started again for what is missing then, as often as
    recovery.max_restarts allows.

    Args:
        planned: models.dtype of each is not `auto` any more.
        inventory: the nodes that engines are placed on.
        done: counts what is drawn.
        display: shows it, with an ETA.

    Raises:
        PlacementError, EngineError, ActorLostError, BankError: see `Exploration`.
    """
    recovery = planned[0].job.config.recovery
    budget = RestartBudget(recovery.max_restarts, recovery.window_s, recovery.backoff_s)
    for placed in rounds([one.job.config for one in planned], inventory):
        layouts = [layout for _, layout in placed]
        together = [planned[number] for number, _ in placed]
        display.say("sampling " + ", ".join(map(_described, together, layouts)))
        recorded: list[dict[ExplorerRequest, Counter[str]]] = [{} for _ in together]
        while any(one.plan.requests for one in together):
            try:
                _sample_once(together, layouts, recorded, done, display)
                break
            except LOSSES as error:
                cause = short_cause(error)
                time.sleep(budget.spend("an actor of the evaluation", cause))
                display.say(f"note: all actors are started again: {cause}")
            together = [Planned(one.job, one.job.plan()) for one in together]
            for one, counted in zip(together, recorded, strict=True):
                for request in lost_of(counted, one.plan.requests):
                    done.counts -= counted.pop(request)


def rounds(configs: Sequence[Config], inventory: Inventory) -> Iterator[list[tuple[int, Layout]]]:
    """Which configurations have engines at one time: in each round as many as there is room for, in their order.

    A model takes as many GPUs as it has use for unless engines.explorer.count says less. On CPUs an engine is counted
    with all of its threads.

    Yields:
        The (number, layout) pairs of a round.

    Raises:
        PlacementError: one does not even fit alone.
    """
    waiting = list(range(len(configs)))
    while waiting:
        placed: list[tuple[int, Layout]] = []
        left = inventory
        for number in list(waiting):
            config = configs[number]
            if placed and inventory.gpus and config.placement.device == "auto":  # not on the CPUs that are left
                config = config.model_copy(update={"placement": config.placement.model_copy(update={"device": "gpu"})})
            try:
                layout = plan_explorers(config, left)
            except PlacementError:
                if not placed:
                    raise
                continue
            placed.append((number, layout))
            waiting.remove(number)
            left = remaining(left, layout, config.engines.explorer.threads)
        yield placed


def remaining(inventory: Inventory, layout: Layout, threads: int) -> Inventory:
    """What a layout leaves of the nodes; their numbers stay."""
    nodes = []
    for number, node in enumerate(one for group in inventory.nodes for one in [group] * group.count):
        taken = [bundle for bundle in layout.bundles if bundle.node == number]
        cpus = sum(max(one.resources["CPU"], 0 if one.gpus else threads) for one in taken)
        gpus = sum(len(one.gpus) for one in taken)
        left = {"count": 1, "gpus": node.gpus - gpus, "cpus": max(node.spec().cpus - cpus, NOTHING)}
        nodes.append(node.model_copy(update=left))
    # Not a copy: that would keep what the inventory has computed of its nodes.
    return Inventory.model_construct(nodes=tuple(nodes), efficiency=inventory.efficiency, fixed=inventory.fixed)


def _sample_once(
    together: Sequence[Planned],
    layouts: Sequence[Layout],
    recorded: Sequence[dict[ExplorerRequest, Counter[str]]],
    done: Recorded,
    display: TaskDisplay,
) -> None:
    """Start the engines of a round, all at the same time, and end them."""
    with ExitStack() as stack:
        explorations = []
        for (job, plan), layout in zip(together, layouts, strict=True):
            started = partial(display.update, f"{job.model.label}: actors started")
            exploration = Exploration(job.config, layout, plan.settings, job.prompts, _quiet, started)
            stack.push(exploration)
            explorations.append(exploration)
        for (_, plan), exploration in zip(together, explorations, strict=True):
            exploration.__enter__()
            exploration.begin(plan.requests)
        timeout = max(job.config.cluster.step_timeout_s for job, _ in together)
        for number, request, report in record_together(explorations, timeout):
            recorded[number][request] = counts_of(report)
            done.counts += recorded[number][request]
            display.update("samples", done.rollouts, done.of, f"{done.solved:.1%} right")
        for exploration in explorations:
            exploration.finish()


def _described(one: Planned, layout: Layout) -> str:
    engines = len(layout.phases[0].engines)
    names = " and ".join(benchmark.name for benchmark in one.job.benchmarks)
    return f"{one.job.model.label} on {names} ({engines} engine{'s' * (engines > 1)})"


def _quiet(message: str) -> None:
    """Rounds say themselves what they do."""
