"""What a trial asks Tune for: the bundles of its plan, as one placement group."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.tune import PlacementGroupFactory

from s2l_ray.config.loading import parse_config
from s2l_ray.placement.ray_binding import check_cluster
from s2l_ray.reporter import SilentReporter
from s2l_ray.run.planning import plan_run
from s2l_ray.trials.trial import launch_directory


def trial_resources(values: dict[str, Any]) -> PlacementGroupFactory:
    """Plan a trial, as its run does when it is set up.

    The first bundle is that of the trial's own process, which does no work to speak of: it is empty, and no bundle of
    the group. So the group's bundles are the plan's, in their order.

    Args:
        values: the configuration of the trial as a nested dictionary.

    Raises:
        S2LError: the configuration is wrong, or no plan for it fits the nodes that Ray has.
    """
    with contextlib.chdir(launch_directory()):  # where its relative paths begin
        config = parse_config(values)
        layout = plan_run(config, SilentReporter()).layout
    bundles = [bundle.resources for bundle in layout.bundles]
    if config.placement.inventory is None:  # else an autoscaler may bring nodes, for which Tune waits
        check_cluster(bundles)
    return PlacementGroupFactory([{}, *bundles])
