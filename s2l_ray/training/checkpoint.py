"""A trainer's checkpoints: every rank writes what it holds into a file of its own, any number of ranks reads them.

trainer.json            format, number of optimizer steps, dtypes and shapes of the whole tensors; numbers of `ranks`
                        that share one copy of them, and of these copies (`replicas`)
rank-00000.safetensors  the rank's rows of every tensor (see `snapshot.StateTensors`), which only the first replica
                        writes, and its random states as text

Of a run with adapters it has these alone: frozen weights are those of the model directory. Nothing in these files can
run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from s2l_ray.errors import ModelError
from s2l_ray.machine.checksums import FileSum, write_summed
from s2l_ray.machine.disk import read_json, writing
from s2l_ray.training.random_state import random_state, set_random_state
from s2l_ray.training.shard_files import Part, Rows, ShardReader, rows_of, shard_file, write_shards, written_file
from s2l_ray.training.snapshot import HostShard, Snapshot, StateTensors, dtype_of, local_part

FORMAT = 2
ABOUT = "trainer.json"
REMEDY = "remove the checkpoint that it belongs to: the run then resumes from the one before it"


def save_checkpoint(
    directory: str, tensors: StateTensors, *, optimizer_steps: int, rank: int, ranks: int, replicas: int = 1
) -> dict[str, FileSum]:
    """Write this rank's part straight from the live tensors, of which one at a time is copied to the host.

    Not a collective. The checkpoint is complete when every rank has returned; all of them see one `directory`.

    Returns:
        What was written, by file name.

    Raises:
        DiskError: it cannot be written.
    """
    parts = {
        name: Part(dtype_of(tensor), tuple(local_part(tensor).shape), partial(_copied, tensor))
        for name, tensor in tensors.items()
    }
    whole = {name: (dtype_of(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return _write(Path(directory), parts, whole, random_state(), optimizer_steps, _Place(rank, ranks, replicas))


def save_snapshot(directory: str, snapshot: Snapshot) -> dict[str, FileSum]:
    """Write a snapshot as `save_checkpoint` would have written the trainer's state when it was taken, byte for byte.

    It needs no trainer, and may run in another thread than it.

    Raises:
        DiskError: it cannot be written.
    """
    parts = {name: Part(s.dtype, s.shape, partial(_data, s)) for name, s in snapshot.shards.items()}
    whole = {name: (shard.dtype, shard.whole) for name, shard in snapshot.shards.items()}
    place = _Place(snapshot.rank, snapshot.ranks, snapshot.replicas)
    return _write(Path(directory), parts, whole, snapshot.random, snapshot.optimizer_steps, place)


class _Place(NamedTuple):
    """Where a rank stands."""

    rank: int
    ranks: int
    replicas: int

    @property
    def sharing(self) -> int:
        """Ranks that share one copy of the model."""
        return self.ranks // self.replicas

    def rows(self, rows: int) -> Rows:
        """Those that the rank holds of so many."""
        return rows_of(rows, self.rank % self.sharing, self.sharing)


def _write(
    directory: Path,
    parts: Mapping[str, Part],
    whole: Mapping[str, tuple[str, tuple[int, ...]]],
    random: dict[str, Any],
    optimizer_steps: int,
    place: _Place,
) -> dict[str, FileSum]:
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path = shard_file(directory, place.rank)
    own = parts if place.rank < place.sharing else {}  # the other replicas have the same
    written = {path.name: write_shards(path, own, {"random": json.dumps(random)})}
    if place.rank == 0:
        tensors = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in whole.items()}
        ranks = {"ranks": place.sharing, "replicas": place.replicas}
        about = {"format": FORMAT, **ranks, "optimizer_steps": optimizer_steps, "tensors": tensors}
        written[ABOUT] = write_summed(directory / ABOUT, [json.dumps(about, indent=1).encode()])
    return written


def load_checkpoint(directory: str, tensors: StateTensors, *, rank: int, ranks: int, replicas: int = 1) -> int:
    """Read the state of this rank of so many from what any number of ranks wrote; return the count of optimizer steps.

    It may have been saved by ranks in any number of replicas.

    Not a collective. A rank that the saved run did not have keeps its own random states.

    Raises:
        ModelError: the directory holds no complete checkpoint of this format, or one of another model.
        DataError: it is damaged.
    """
    path = Path(directory)
    about = read_about(path)
    _check_tensors(path, about["tensors"], tensors)
    place, writers = _Place(rank, ranks, replicas), about["ranks"] * about.get("replicas", 1)
    for writer in range(writers):
        written_file(path, writer)
    with ShardReader(path, about["ranks"]) as reader:
        for name, tensor in tensors.items():
            if tensor.ndim == 0:
                reader.read_whole(name, tensor)
            else:
                rows = tensor.shape[0]
                reader.read_rows(name, place.rows(rows), rows, local_part(tensor))
        if rank < writers:
            set_random_state(json.loads(reader.metadata(rank)["random"]))
    return int(about["optimizer_steps"])


def read_about(directory: Path) -> dict[str, Any]:
    """Read trainer.json.

    Raises:
        ModelError: it is not there, or of another format.
        DataError: it is damaged.
    """
    path = directory / ABOUT
    if not path.is_file():
        raise ModelError(f"{directory} holds no trainer checkpoint (no {ABOUT}); name a complete one")
    about = read_json(path, REMEDY)
    if about.get("format") != FORMAT:
        raise ModelError(
            f"{directory} has checkpoint format {about.get('format')}, and this version of s2l-ray reads {FORMAT}; "
            "go on with the version that wrote it, or begin anew in another run_dir"
        )
    return about


def _check_tensors(directory: Path, theirs: Mapping[str, Any], tensors: StateTensors) -> None:
    ours = {name: (dtype_of(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    found = {name: (about["dtype"], tuple(about["shape"])) for name, about in theirs.items()}
    if differ := sorted(name for name in ours | found if ours.get(name) != found.get(name)):
        name = differ[0]
        raise ModelError(
            f"{directory} is of another model, or of one with other adapters: {name} is {_words(found.get(name))} "
            f"there and {_words(ours.get(name))} here"
        )


def _words(about: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{about[0]} {list(about[1])}" if about else "not"


def _copied(tensor: Tensor) -> Any:
    return HostShard.copy_of(tensor).data


def _data(shard: HostShard) -> Any:
    return shard.data
