"""How many trials of a study run at the same time: what each is planned for, and what the cluster has."""

from __future__ import annotations

import math

from s2l_ray.config import Config, PlacementConfig
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory, NodeSpec, cpus_text
from s2l_ray.placement.slicing import slice_of
from s2l_ray.run.planning import part_planned_for
from s2l_ray.tuning.study_file import StudyFile


def sliced(config: Config, file: StudyFile) -> Config:
    """The configuration of a run on one trial's part of the cluster."""
    placement = config.placement.model_copy(update={"nodes": file.nodes_per_trial, "cpus": file.cpus_per_trial})
    return config.model_copy(update={"placement": placement})


def number_at_once(inventory: Inventory, placement: PlacementConfig, trials: int) -> int:
    """How many trials run at the same time.

    Args:
        inventory: the whole cluster.
        placement: of a trial; without nodes and cpus it has the whole cluster.
        trials: how many there are.

    Raises:
        PlacementError: the cluster has less than one trial's part.
    """
    try:
        part = slice_of(inventory, placement)
    except PlacementError as error:
        words = str(error).replace("placement.nodes", "nodes_per_trial").replace("placement.cpus", "cpus_per_trial")
        raise PlacementError(words) from None
    if placement.nodes is None and placement.cpus is None:
        return 1
    kind = part.nodes[0].spec()
    if placement.nodes is not None:
        alike = [spec for spec in inventory.specs if _kind(spec) == _kind(kind)]
        return min(trials, len(alike) // placement.nodes)
    cpus = placement.cpus or 1.0
    alone = [spec for spec in inventory.specs if spec.gpus == 0 and spec.cpus >= cpus] or inventory.specs
    return min(trials, sum(math.floor(spec.cpus / cpus) for spec in alone))


def _kind(spec: NodeSpec) -> tuple[int, str | None, float]:
    return spec.gpus, spec.gpu, spec.cpus


def reworded(reason: str, file: StudyFile) -> str:
    """Why a trial cannot be placed, with the study's key for its part of the cluster in place of the run's."""
    section = PlacementConfig(nodes=file.nodes_per_trial, cpus=file.cpus_per_trial)
    if file.cpus_per_trial:
        part, less = f"cpus_per_trial: {file.cpus_per_trial:g}", "engines.learner.count or trainer.cpus"
    else:
        part, less = f"nodes_per_trial: {file.nodes_per_trial}", "engines.*.count or trainer.ranks"
    ours = f"each trial has no more than {part}. Raise it, or lower {less} in the study's config"
    for said in part_planned_for(section):
        reason = reason.replace(said, ours)
    return reason


def described(at_once: int, trials: int, inventory: Inventory, file: StudyFile) -> str:
    """One line for people."""
    has = (
        f"{file.nodes_per_trial} node{'s' if (file.nodes_per_trial or 0) > 1 else ''}"
        if file.nodes_per_trial
        else cpus_text(file.cpus_per_trial)
        if file.cpus_per_trial
        else "the whole cluster"
    )
    how = "one trial at a time" if at_once == 1 else f"{at_once} trials at a time"
    return f"{trials} trials, {how}: each has {has}, of {inventory.describe()}"
