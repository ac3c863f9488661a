"""The plan of a run: on which nodes, in which type it computes, and where its actors go."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.config import Config, PlacementConfig
from s2l_ray.errors import ConfigError, PlacementError
from s2l_ray.kinds import Dtype
from s2l_ray.placement.dtype import DtypeChoice, choose_dtype
from s2l_ray.placement.live_nodes import nodes_to_plan_for
from s2l_ray.placement.plan import Layout, Plan
from s2l_ray.planner.search import make_plan
from s2l_ray.reporter import Reporter


@dataclass(frozen=True)
class PlannedRun:
    """A plan that can be carried out."""

    settings: Config
    """The configuration, with the type that the run computes in for models.dtype."""
    dtype: DtypeChoice
    plan: Plan
    layout: Layout
    """Of the plan."""


def plan_run(config: Config, reporter: Reporter, begun_with: Dtype | None = None) -> PlannedRun:
    """Plan a run for the nodes of the Ray that this process is connected to.

    Args:
        config: of the run.
        reporter: told what is waited for, and in which type the run computes.
        begun_with: the type that a run which is being resumed began with; `auto` keeps it.

    Raises:
        ConfigError: the configuration asks for a plan that can be made, but not run.
        PlacementError: nothing fits, or the nodes are not there.
        ModelError: a model's shape is not known.
    """
    if config.placement.tensor_parallel_across_nodes:
        raise ConfigError("placement.tensor_parallel_across_nodes is for s2l plan; such a plan cannot be run")
    reporter.phase("planning")
    inventory = nodes_to_plan_for(config, reporter.phase)
    dtype = choose_dtype(config, inventory, begun_with=begun_with)
    reporter.note(f"computing in {dtype.describe()}")
    if dtype.advice:
        reporter.note(dtype.advice)
    settings = dtype.applied_to(config)
    plan = make_plan(settings, inventory, dtype=dtype)
    if plan.layout is None:
        raise PlacementError("no placement: " + "; ".join((*plan.problems, *part_planned_for(config.placement))))
    return PlannedRun(settings, dtype, plan, plan.layout)


def part_planned_for(placement: PlacementConfig) -> list[str]:
    """The keys that let the run be planned for a part of the cluster, which may be too small."""
    keys = {"nodes": placement.nodes, "cpus": placement.cpus}
    return [f"it was planned for placement.{key}={value:g} alone" for key, value in keys.items() if value is not None]
