"""Trainer checkpoints through torch.distributed.checkpoint: every rank writes its shards, any number of ranks reads.

The directory is the trainer's own; like every checkpoint of torch.distributed it contains pickled metadata, so load
only those that you wrote.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from s2l_ray.errors import DiskError, ModelError
from s2l_ray.machine.disk import writing
from s2l_ray.training.model import PackedPolicy
from s2l_ray.training.random_state import random_state, set_random_state

FORMAT = 1


def save_checkpoint(
    directory: str, policy: PackedPolicy, optimizer: torch.optim.Optimizer, *, optimizer_steps: int, rank: int
) -> None:
    """Write model, optimizer, step count and every rank's random state. A collective; all ranks see one `directory`.

    Raises:
        DiskError: it cannot be written. The incomplete checkpoint is removed, to free the disk.
    """
    path = Path(directory)
    try:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            model_state, optimizer_state = get_state_dict(policy, optimizer)
            save({"model": model_state, "optimizer": optimizer_state}, storage_writer=_ShardWriter(path))
            _random_file(path, rank).write_text(json.dumps(random_state()))
            if rank == 0:  # last: a directory with trainer.json is complete
                about = {"format": FORMAT, "optimizer_steps": optimizer_steps, "ranks": dist.get_world_size()}
                (path / "trainer.json").write_text(json.dumps(about))
    except DiskError:
        if rank == 0:
            shutil.rmtree(path, ignore_errors=True)
        raise
    dist.barrier()


class _ShardWriter(FileSystemWriter):
    """Tells why the disk refused: torch's zip writer raises an error of its own on top, which alone is passed on."""

    def write_data(self, *args: Any) -> Any:
        with writing(Path(self.path)):
            return super().write_data(*args)


def load_checkpoint(directory: str, policy: PackedPolicy, optimizer: torch.optim.Optimizer, *, rank: int) -> int:
    """Read what `save_checkpoint` wrote, on any number of ranks, and return the optimizer step count. A collective.

    A rank that the saved run did not have keeps its own random state.

    Raises:
        ModelError: the directory holds no checkpoint of this format.
    """
    path = Path(directory)
    if not (path / "trainer.json").is_file():
        raise ModelError(f"{directory} holds no trainer checkpoint (no trainer.json); name a complete one")
    about = json.loads((path / "trainer.json").read_text())
    if about["format"] != FORMAT:
        raise ModelError(f"{directory} has checkpoint format {about['format']}, this version reads {FORMAT}")
    model_state, optimizer_state = get_state_dict(policy, optimizer)
    # The configuration decides the parameter groups and their hyperparameters, not the checkpoint.
    state: dict[str, Any] = {"model": model_state, "optimizer": {"state": optimizer_state["state"]}}
    load(state, checkpoint_id=path)
    optimizer_state["state"] = state["optimizer"]["state"]
    set_state_dict(policy, optimizer, model_state_dict=state["model"], optim_state_dict=optimizer_state)
    if _random_file(path, rank).is_file():
        set_random_state(json.loads(_random_file(path, rank).read_text()))
    dist.barrier()
    return int(about["optimizer_steps"])


def _random_file(path: Path, rank: int) -> Path:
    return path / f"random-{rank:05d}.json"
