"""Snapshots of a trainer in host memory, restored in a trainer that is new: bitwise as if nothing had happened."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from s2l_ray.errors import ModelError
from s2l_ray.training.checkpoint import save_snapshot
from s2l_ray.training.trainer import PolicyTrainer
from tests.support.training_models import (
    make_trainer,
    objective,
    random_groups,
    trainer_config,
    weights_of,
    write_model,
)

LORA = {"lora_rank": 2, "learning_rate": 3e-3}
FALLING = {"lr_schedule": "cosine", "warmup_steps": 1, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model("llama", tmp_path_factory.mktemp("model"))


def outcome(trainer: PolicyTrainer) -> tuple[Any, ...]:
    """What an update of two mini-batches gives, to the last bit, with what is drawn after it."""
    metrics = trainer.update([random_groups(3, seed=1), random_groups(2, seed=2)])
    drawn = (torch.rand(()).item(), np.random.rand(), random.random())
    masters = [p.detach().to_local().numpy().tobytes() for p in trainer.parameters]
    sent = {name: weight.view(torch.uint8).numpy().tobytes() for name, weight in weights_of(trainer).items()}
    return metrics, masters, sent, drawn


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [FALLING, LORA])
def test_a_new_trainer_goes_on_from_a_snapshot_bit_for_bit(changes: Any, dtype: str, model_dir: str):
    options: dict[str, Any] = {"config": trainer_config(**changes), "goal": objective(kl=0.1), "total_steps": 5}
    trainer = make_trainer(model_dir, dtype=dtype, seed=3, **options)
    trainer.update([random_groups(3)])
    random.random()
    # Through a pickle with buffers of its own, as Ray hands objects on: read-only.
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(trainer.snapshot(), protocol=5, buffer_callback=buffers.append)
    snapshot = pickle.loads(pickled, buffers=[bytes(buffer) for buffer in buffers])
    size = trainer.snapshot_bytes
    expected = outcome(trainer)
    trainer.close()

    resumed = make_trainer(model_dir, dtype=dtype, seed=4, **options)
    resumed.restore(snapshot)
    assert outcome(resumed) == expected
    assert size == snapshot.nbytes
    numbers = sum(p.numel() for p in resumed.parameters)  # float32 weights with two moments, and a count each
    assert size == 4 * (3 * numbers + len(resumed.parameters))


def test_a_snapshot_stays_what_it_is_while_training_goes_on(model_dir: str):
    trainer = make_trainer(model_dir)
    trainer.update([random_groups(3)])
    snapshot = trainer.snapshot()
    before = {name: shard.data.tobytes() for name, shard in snapshot.shards.items()}
    first = outcome(trainer)
    assert {name: shard.data.tobytes() for name, shard in snapshot.shards.items()} == before
    trainer.restore(snapshot)  # back, in the same trainer, and again from the same snapshot
    assert outcome(trainer) == first
    trainer.restore(snapshot)
    assert outcome(trainer) == first


def test_a_snapshot_is_written_as_the_trainer_itself_is_byte_for_byte(model_dir: str, tmp_path: Path):
    trainer = make_trainer(model_dir, config=trainer_config(**LORA))
    trainer.update([random_groups(3)])
    sums = trainer.save(str(tmp_path / "trainer"))
    assert save_snapshot(str(tmp_path / "snapshot"), trainer.snapshot()) == sums
    files = {path.name: path.read_bytes() for path in (tmp_path / "trainer").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "snapshot").iterdir()} == files
    assert {name: (len(held), hashlib.sha256(held).hexdigest()) for name, held in files.items()} == sums
    assert set(files) == {"trainer.json", "rank-00000.safetensors"}  # nothing that could run code
    adapters = [name for name, p in trainer.policy.named_parameters() if p.requires_grad]
    kinds = ("model", "exp_avg", "exp_avg_sq", "step")
    assert set(load_file(tmp_path / "trainer" / "rank-00000.safetensors")) == {
        f"{k}/{n}" for k in kinds for n in adapters
    }


def test_an_update_that_takes_no_step_reports_the_rate_of_the_step_before(model_dir: str):
    options: dict[str, Any] = {"config": trainer_config(**FALLING), "total_steps": 5}
    trainer = make_trainer(model_dir, **options)
    trainer.update([random_groups(3), random_groups(3), random_groups(3)])
    snapshot = trainer.snapshot()
    trainer.trainer = trainer_config(**FALLING, skip_grad_norm=1e-9)
    expected = trainer.update([random_groups(3)])
    trainer.close()
    resumed = make_trainer(model_dir, **options)
    resumed.restore(snapshot)
    resumed.trainer = trainer_config(**FALLING, skip_grad_norm=1e-9)
    assert resumed.update([random_groups(3)]) == expected
    assert expected["skipped_updates"] == 1 and expected["learning_rate"] < 1e-2


def test_a_snapshot_that_does_not_fit_changes_nothing(model_dir: str, tmp_path: Path):
    trainer = make_trainer(model_dir, config=trainer_config(**LORA))
    snapshot = trainer.snapshot()
    trainer.close()
    other = make_trainer(write_model("qwen3", tmp_path))
    before = weights_of(other)
    with pytest.raises(ModelError, match="of another model or of other trainer settings: exp_avg/model"):
        other.restore(snapshot)
    other.rank, other.world_size = 1, 2
    with pytest.raises(ModelError, match="rank 0 of 1 cannot be restored on rank 1 of 2"):
        other.restore(snapshot)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(other).items())
