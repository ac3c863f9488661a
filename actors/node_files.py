"""Before actors start: whether every node of a plan sees the run directory and the models that its actors use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s2l_ray.config import Config
from s2l_ray.errors import PlacementError
from s2l_ray.hub.names import Repository
from s2l_ray.placement.node_files import APPEARS_WITHIN_S, HubModel, ModelListing, NodeFiles, Token, token_in
from s2l_ray.placement.plan import Layout
from s2l_ray.placement.ray_binding import Place, Reservation
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.sources import hub_source

REMEDY = (
    "The run directory and the models have to be at the same path on every node: put them on a volume that all nodes "
    "mount (in Kubernetes a ReadWriteMany claim in every pod, the head's included), and name it in run_dir and models"
)


def check_node_files(config: Config, layout: Layout, reservation: Reservation, run_dir: Path | None) -> None:
    """Ask one process on each reserved node, other than this one, whether it sees what its actors need.

    Args:
        config: of the run.
        layout: says which actors run on which bundle, over all phases.
        reservation: where these bundles are.
        run_dir: directory that the actors write to; None if they write to none.

    Raises:
        PlacementError: some node lacks a file, cannot fetch a model from the Hub, or does not answer within
            cluster.start_timeout_s (and cluster.fetch_timeout_s, where it fetches); all such nodes are named, with what
            they lack.
        DiskError: the run directory cannot be written to.
    """
    own = ray.get_runtime_context().get_node_id()
    elsewhere = {place.node: place for place in reservation.places if place.node != own}
    if not elsewhere:
        return  # what the driver has checked, all actors see
    models = _models(config)
    bound_s = config.cluster.start_timeout_s
    if any(isinstance(model, HubModel) for model in models.values()):
        bound_s += config.cluster.fetch_timeout_s
    with ExitStack() as stack:
        token = stack.enter_context(token_in(run_dir)) if run_dir else None
        expected = {
            node: NodeFiles(token, tuple(models[key] for key in sorted(keys)))
            for node, keys in _models_read(layout, reservation).items()
        }
        problems = _ask(reservation, elsewhere, expected, token, bound_s)
    if problems:
        raise PlacementError(f"{'; '.join(problems)}. {REMEDY}")


def _models(config: Config) -> dict[str, ModelListing | HubModel]:
    """The models by key: what their directory holds here, or where each node gets them from."""
    found: dict[str, ModelListing | HubModel] = {}
    for key in ("models.learner", "models.explorer"):
        name = getattr(config.models, key.removeprefix("models."))
        source = hub_source(key, name)
        if isinstance(source, Repository):
            found[key] = HubModel(key, source, config.cluster.fetch_timeout_s)
        else:
            found[key] = ModelListing.of(key, model_directory(key, name))
    return found


def _models_read(layout: Layout, reservation: Reservation) -> dict[str, set[str]]:
    """Keys of the models that are read on each node (Ray node id), over all phases."""
    read: dict[str, set[str]] = {place.node: set() for place in reservation.places}
    for slot in (slot for phase in layout.phases for slot in phase.slots):
        model = "learner" if slot.role == "trainer" else slot.role
        read[reservation.places[slot.bundle].node].add(f"models.{model}")
    return read


def _ask(
    reservation: Reservation,
    places: Mapping[str, Place],
    expected: Mapping[str, NodeFiles],
    token: Token | None,
    timeout_s: float,
) -> list[str]:
    """What is wrong, a line for each node."""
    asked = {
        node: _problems.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                reservation.group, placement_group_bundle_index=place.index
            )
        ).remote(expected.get(node, NodeFiles(token)), APPEARS_WITHIN_S)
        for node, place in places.items()
    }
    answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    names = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})" for node in ray.nodes()}
    found = []
    for node, ref in sorted(asked.items(), key=lambda item: names[item[0]]):
        problem = _answer(ref) if ref in answered else f"no answer within {timeout_s:.0f} s (cluster.start_timeout_s)"
        if problem:
            found.append(f"node {names[node]}: {problem}")
        if ref not in answered:
            ray.cancel(ref, force=True)
    return found


def _answer(ref: ray.ObjectRef) -> str:
    try:
        return ", ".join(ray.get(ref))
    except ray.exceptions.RayError as error:
        return f"the check of its files failed ({str(error).strip().splitlines()[-1]})"


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]  # Ray has no types
def _problems(expected: NodeFiles, appears_within_s: float) -> list[str]:
    return expected.problems(appears_within_s)
