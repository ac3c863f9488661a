"""Stage 8: two FSDP ranks, each on a GPU of its own, move the weights as one does; so do two replicas (HSDP)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.distributed import FileStore  # type: ignore[attr-defined]  # in no __all__

from s2l_ray.config import ObjectiveConfig, TrainerConfig
from s2l_ray.gpu_check.check import Check, Skip
from s2l_ray.gpu_check.stage_update import (
    BOUNDS,
    LENGTHS,
    MODEL,
    PROMPT,
    READABLE,
    UPDATES,
    VOCABULARY,
    Weights,
    difference,
    master_weights,
)
from s2l_ray.gpu_check.workload import groups_of, write_qwen3
from s2l_ray.kinds import TorchDevice
from s2l_ray.training.trainer import PolicyTrainer

RANKS = 2


def run(check: Check) -> None:
    """Compare two ranks with one."""
    check.need_gpu("the tests compare ranks on CPUs")
    if (gpus := torch.cuda.device_count()) < RANKS:
        raise Skip(f"there is {gpus} GPU, and it takes {RANKS}; the tests compare ranks on CPUs")
    compare(check, "cuda")


def compare(check: Check, device: TorchDevice) -> None:
    """Two ranks against one, that share one copy of the model or hold one each, over nccl or gloo."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_qwen3(Path(directory) / "model", **MODEL)
        alone = _moved(model, device, 1, 1, Path(directory))
        for replicas, what in ((1, "ranks"), (RANKS, "replicas")):
            error = difference(_moved(model, device, RANKS, replicas, Path(directory)), alone)
            check.measure(**{f"error_of_{what}": error})
            check.expect(
                error <= BOUNDS["float32"], f"two {what} on {device} move the weights as one: error {error:.1e}"
            )


def _moved(model: str, device: TorchDevice, ranks: int, replicas: int, directory: Path) -> Weights:
    """The change of every weight in a run of `ranks` processes, dealt to this many copies of the model."""
    result, store = (directory / f"{what}-{ranks}-{replicas}" for what in ("moved", "store"))
    arguments = (model, device, ranks, replicas, str(store), str(result))
    mp.spawn(_rank, arguments, ranks)  # type: ignore[attr-defined,no-untyped-call]  # torch gives it no types
    moved: Weights = torch.load(result, weights_only=True)
    return moved


def _rank(rank: int, model: str, device: TorchDevice, ranks: int, replicas: int, store: str, result: str) -> None:
    os.environ["NCCL_CUMEM_ENABLE"] = "0"  # as in a run
    trainer = PolicyTrainer(
        model,
        trainer=TrainerConfig(**READABLE, replicas=replicas),
        objective=ObjectiveConfig(kl=0.1),
        dtype="float32",
        temperature=0.9,
        rank=rank,
        world_size=ranks,
        store=FileStore(store, ranks),
        timeout_s=60,
        device=device,
    )
    before = master_weights(trainer)
    groups = groups_of(LENGTHS, prompt_tokens=PROMPT, vocabulary=VOCABULARY)
    for _ in range(UPDATES):
        trainer.update([groups[rank::ranks]])
    moved = {name: after - before[name] for name, after in master_weights(trainer).items()}
    if rank == 0:
        torch.save(moved, result)
    trainer.close()
