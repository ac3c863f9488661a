"""`s2l plan`: a configuration and nodes in, a plan out, as a report, JSON and a picture."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, add_configuration, png_file, positive_number
from s2l_ray.commands.plan_help import DESCRIPTION, EPILOG
from s2l_ray.errors import ConfigError, PlacementError
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import Config
    from s2l_ray.placement.inventory import Inventory
    from s2l_ray.placement.plan import Plan
    from s2l_ray.planner.simulate.constants import Constants
    from s2l_ray.planner.simulate.simulated_run import Simulation

    Simulated = tuple[str, Simulation]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plan",
        run,
        help="say what a run puts where, whether it fits, and how long a step takes",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_configuration(parser)
    nodes = parser.add_mutually_exclusive_group()
    nodes.add_argument(
        "--inventory",
        metavar="NODES",
        help="YAML file of nodes, or the name of one that s2l-ray ships (default: placement.inventory of the run)",
    )
    nodes.add_argument(
        "--live",
        action="store_true",
        help="the nodes a run would get now: Ray at cluster.address or RAY_ADDRESS, else this machine",
    )
    parser.add_argument(
        "--mean-response-tokens",
        type=positive_number,
        metavar="N",
        help="mean length of a response (default: half of rollout.max_tokens)",
    )
    parser.add_argument(
        "--simulate", action="store_true", help="also simulate the run, event by event (needs the extra simulate)"
    )
    parser.add_argument(
        "--calibrate",
        type=existing_output,
        metavar="RUN",
        help="simulate with constants measured in this run directory",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, instead of the report")
    parser.add_argument(
        "--png", type=png_file, metavar="FILE", help="draw the plan too; with --simulate also FILE_timeline"
    )
    parser.add_argument(
        "--emit",
        choices=("rayjob", "raycluster"),
        help="print the plan as a Kubernetes manifest for KubeRay, instead of the report",
    )
    parser.add_argument(
        "--infra", type=Path, metavar="FILE", help="with --emit: YAML file of what the plan cannot know of the pods"
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan the run and show the plan. Returns 0 if the run fits, else 1.

    Raises:
        S2LError: configuration, inventory or models cannot be read, a function that the configuration names cannot be
            used, or there is no Ray to ask.
    """
    from s2l_ray.config import load_config
    from s2l_ray.config.extension_points import check_extensions
    from s2l_ray.machine.disk import output_file
    from s2l_ray.planner.search import make_plan

    if arguments.png:
        for path in (arguments.png, _timeline_path(arguments.png)):
            output_file(path, "--png")
    config = load_config(arguments.config, arguments.overrides)
    check_extensions(config)
    mean, longest = arguments.mean_response_tokens, config.rollout.max_tokens
    if mean is not None and mean > longest:
        raise ConfigError(f"--mean-response-tokens {mean:g} is more than rollout.max_tokens, which is {longest}")
    inventory = _inventory(config, arguments)
    if arguments.emit:
        return _emit(config, inventory, arguments)
    if arguments.infra:
        raise ConfigError("--infra is for --emit")
    plan = make_plan(config, inventory, mean_response_tokens=mean)
    title = f"{' '.join([arguments.config, *arguments.overrides])} on {inventory.describe()}"
    simulated = _simulate(config, plan, inventory, arguments)
    _draw(plan, title, simulated, arguments.png)
    _print(config, plan, title, simulated, arguments)
    return 0 if plan.fits else 1


def _emit(config: Config, inventory: Inventory, arguments: argparse.Namespace) -> int:
    """Print the manifest of a plan that fits; else nothing, and on stderr why there is none."""
    from s2l_ray.cluster.infra import Infra, load_infra
    from s2l_ray.cluster.manifest import manifest
    from s2l_ray.cluster.node_groups import by_kind
    from s2l_ray.planner.search import make_plan

    for option in ("json", "png", "simulate", "calibrate"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} shows a plan and --emit prints a manifest; choose one of them")
    infra = load_infra(arguments.infra) if arguments.infra else Infra()
    inventory = by_kind(inventory)
    plan = make_plan(config, inventory, mean_response_tokens=arguments.mean_response_tokens)
    if not plan.fits:
        raise PlacementError("nothing is emitted, since the plan does not fit: " + "; ".join(plan.problems))
    print(manifest(arguments.emit, config, inventory, plan, infra), end="")
    _warn_of_idle_nodes(plan, inventory)
    return 0


def _warn_of_idle_nodes(plan: Plan, inventory: Inventory) -> None:
    used = {bundle.node for bundle in plan.layout.bundles} if plan.layout else set()
    if idle := len(inventory.specs) - len(used):
        print(f"{idle} of {len(inventory.specs)} nodes hold no actor; a smaller inventory would do", file=sys.stderr)


def _inventory(config: Config, arguments: argparse.Namespace) -> Inventory:
    from s2l_ray.placement.inventory import load_inventory
    from s2l_ray.placement.slicing import slice_of

    if arguments.live:
        return slice_of(_live_inventory(config), config.placement)
    path = arguments.inventory or config.placement.inventory
    if path is None:
        raise PlacementError(
            "which nodes? Give --inventory FILE (s2l plan --help has the format), --live for those of a running Ray, "
            "or placement.inventory=FILE"
        )
    return slice_of(load_inventory(path), config.placement)


def _live_inventory(config: Config) -> Inventory:
    from actors.connection import connect
    from s2l_ray.placement.live_nodes import live_inventory

    connect(config.cluster)
    return live_inventory()


def _simulate(config: Config, plan: Plan, inventory: Inventory, arguments: argparse.Namespace) -> Simulated | None:
    """Whose constants were used, and the simulated run."""
    if not ((arguments.simulate or arguments.calibrate) and plan.layout):
        return None
    from s2l_ray.planner.simulate.scope import check_packages

    check_packages()
    from s2l_ray.planner.simulate.simulation import simulate

    if arguments.calibrate:
        return f"constants of {arguments.calibrate}", simulate(config, plan.layout, _measured(inventory, arguments))
    from s2l_ray.planner.simulate.plan_constants import constants_of_plan

    constants = constants_of_plan(config, plan, inventory, mean_response_tokens=arguments.mean_response_tokens)
    return "the plan's costs", simulate(config, plan.layout, constants)


def _measured(inventory: Inventory, arguments: argparse.Namespace) -> Constants:
    """A run's constants, on nodes with as many cores as the inventory's."""
    from s2l_ray.planner.simulate.calibration import calibrate

    constants = calibrate(arguments.calibrate).constants
    return constants if constants.cores is None else replace(constants, cores=min(n.cpus for n in inventory.specs))


def _draw(plan: Plan, title: str, simulated: Simulated | None, path: Path | None) -> None:
    if path is None:
        return
    from s2l_ray.planner.show.drawing import draw_plan

    draw_plan(plan, title, path)
    if simulated:
        from s2l_ray.planner.show.simulation_timeline import draw_timeline

        draw_timeline(simulated[1], f"{title}\nsimulated with {simulated[0]}", _timeline_path(path))


def _timeline_path(path: Path) -> Path:
    """plan.png -> plan_timeline.png."""
    return path.with_stem(f"{path.stem}_timeline")


def _print(config: Config, plan: Plan, title: str, simulated: Simulated | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        from s2l_ray.planner.show.serialise import plan_json

        print(plan_json(plan, config.models, simulated))
        return
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.planner.show.report import PlanReport

    CommandConsole().print(PlanReport(plan, title, simulated))
    if arguments.png:
        drawn = [str(arguments.png), *([str(_timeline_path(arguments.png))] if simulated else [])]
        print(f"drawn in {', '.join(drawn)}")
