"""`s2l plan`: a configuration and nodes in, a plan out, as a report, JSON and a picture."""

from __future__ import annotations

from argparse import Namespace

from s2l_ray.config import Config, load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.plan import Plan


def plan_command(arguments: Namespace) -> int:
    """Plan and show it. Returns 0 if the run fits, else 1.

    Raises:
        S2LError: configuration, inventory or models cannot be read, or there is no Ray to ask.
    """
    from s2l_ray.placement.search import make_plan

    config = load_config(arguments.config, arguments.overrides)
    inventory = _inventory(config, arguments)
    plan = make_plan(config, inventory, mean_response_tokens=arguments.mean_response_tokens)
    title = f"{arguments.config} on {inventory.describe()}"
    _show(plan, title, arguments)
    return 0 if plan.fits else 1


def _inventory(config: Config, arguments: Namespace) -> Inventory:
    if arguments.live:
        return _live_inventory(config)
    path = arguments.inventory or config.placement.inventory
    if path is None:
        raise PlacementError(
            "which nodes? Give --inventory FILE (s2l plan --help has the format), --live for those of a running Ray, "
            "or placement.inventory=FILE"
        )
    return load_inventory(path)


def _live_inventory(config: Config) -> Inventory:
    from actors.connection import connect
    from s2l_ray.placement.ray_binding import live_inventory

    connect(config.cluster.address)
    return live_inventory()


def _show(plan: Plan, title: str, arguments: Namespace) -> None:
    if arguments.png:
        from s2l_ray.placement.drawing import draw_plan

        draw_plan(plan, title, arguments.png)
    if arguments.json:
        from s2l_ray.placement.serialise import plan_json

        print(plan_json(plan))
        return
    from rich.console import Console

    from s2l_ray.placement.report import PlanReport

    Console().print(PlanReport(plan, title))
    if arguments.png:
        print(f"drawn in {arguments.png}")
