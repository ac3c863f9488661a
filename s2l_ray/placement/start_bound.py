"""How long actors may take to start: longer where many engines compile on one node, or where much has to be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from s2l_ray.config import Config
from s2l_ray.hub.fetching import cached_model
from s2l_ray.hub.names import model_repository
from s2l_ray.placement.plan import Layout

COMPILING_S = 60.0
"""For each engine beyond the first that compiles and captures graphs on a node. Two of Qwen3-0.6B beside each other
took 115 s on 16 cores of an H200's node with nothing cached, 28 s of it with all cached."""
READ_BYTES_S = 0.5e9
"""Of weights that a node reads, from a disk that other nodes read too."""


class StartBound(NamedTuple):
    """Longest time for starting actors."""

    seconds: float
    text: str
    """Seconds, and where they come from, for messages."""


def start_bound(config: Config, layout: Layout) -> StartBound:
    """cluster.start_timeout_s, and what the busiest node needs beyond what that is made for.

    Engines of one phase start together. Each model is read once by a node, whose page cache serves the others.
    """
    compiling, size = _most_compiling(config, layout), _most_read(config, layout)
    base, longer, why = config.cluster.start_timeout_s, 0.0, []
    if compiling > 1:
        longer += COMPILING_S * (compiling - 1)
        why.append(f"{compiling} engines that compile on one node")
    if (reading_s := size / READ_BYTES_S) >= 1:
        longer += reading_s
        why.append(f"{size / 1e9:.3g} GB of weights that a node reads")
    if not why:
        return StartBound(base, f"{base:.0f} s (cluster.start_timeout_s)")
    return StartBound(
        base + longer,
        f"{base + longer:.0f} s (cluster.start_timeout_s, {base:.0f} s, and {longer:.0f} s more for "
        f"{' and '.join(why)})",
    )


def _most_compiling(config: Config, layout: Layout) -> int:
    counts = Counter(
        (phase.name, layout.bundles[slot.bundle].node)
        for phase in layout.phases
        for slot in phase.engines
        if not config.engines.of(slot.role).enforce_eager
    )
    return max(counts.values(), default=0)


def _most_read(config: Config, layout: Layout) -> int:
    """Bytes of the models of which a node reads weights: learner engines get theirs from the trainer."""
    reading = {
        (layout.bundles[slot.bundle].node, config.models.explorer if slot.role == "explorer" else config.models.learner)
        for phase in layout.phases
        for slot in phase.slots
        if slot.role != "learner"
    }
    sizes = {model: _weights_bytes(model) for _, model in reading}
    of_nodes: Counter[int] = Counter()
    for node, model in reading:
        of_nodes[node] += sizes[model]
    return max(of_nodes.values(), default=0)


def _weights_bytes(model: str) -> int:
    """Size of a model's safetensors files, in a directory or in the Hub's cache; 0 if it is not on this machine."""
    directory: Path | None = Path(model).expanduser()
    if not (directory and directory.is_dir()):
        repository = model_repository(model)
        directory = cached_model(repository) if repository else None
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) if directory else 0
