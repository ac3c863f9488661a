"""Two and four gloo ranks, four also as two replicas of two, against one: the same losses, gradients and checkpoints.

The ranks run every scenario in one life, because starting them is most of the cost.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open
from torch.distributed import PrefixStore
from transformers import AutoModelForCausalLM

from s2l_ray.errors import DiskError, GroupError, ModelError
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.digest import tensor_digest
from s2l_ray.weights.rendezvous import Meeting, listen, open_store
from tests.support.patience import PATIENCE_S
from tests.support.small_disk import largest_file
from tests.support.training_models import (
    GRADIENT_READABLE,
    make_trainer,
    objective,
    packed_weights_of,
    random_groups,
    trainer_config,
    weights_of,
    write_model,
)

WHITENED = {"advantage": "reinforce++", "correction": {"explorer": "token"}}
SEPARATE = {"grouping": "separate", "loss": "gspo", "aggregation": "sequence", "kl": 0.1, "kl_in": "reward"}
KL = {"kl": 0.1, "aggregation": "sequence", "explorer_negatives": 0.5}


def readable(**changes: Any) -> Any:
    return trainer_config(**GRADIENT_READABLE | changes)


class Group(NamedTuple):
    """Where a trainer stands among the ranks."""

    rank: int = 0
    size: int = 1
    replicas: int = 1

    def share(self, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        """Unequal shares: rank 0 has the first group only."""
        if self.size == 1:
            return groups
        return groups[:1] if self.rank == 0 else self.share_without_the_first_rank(groups[1:])

    def share_without_the_first_rank(self, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        if self.size == 1:
            return groups
        return [] if self.rank == 0 else groups[self.rank - 1 :: self.size - 1]


def even(trainer: PolicyTrainer, group: Group) -> dict[str, float]:
    return trainer.update([group.share(random_groups(5))])


def mini_batches(trainer: PolicyTrainer, group: Group) -> dict[str, float]:
    """Two optimizer steps; rank 0 has nothing of the first, nor has the last of four."""
    first = group.share_without_the_first_rank(random_groups(2, seed=1))
    return trainer.update([first, group.share(random_groups(4, seed=2))])


ENGINE = {"old_logprobs": "engine", "clip_low": 0.9, "clip_high": 9.0}
DECAYED = {"weight_decay": 0.1, "lr_schedule": "cosine", "lr_min_ratio": 0.1, "skip_grad_norm": 1e3}
SHAPED = {"entropy": 0.2, "overlong_buffer_tokens": 5, "kl": 0.1, "reference_offload": True}
LORA = {"lora_rank": 3, "lora_alpha": 3.0, "learning_rate": 0.4, "gradient_checkpointing": "on"}
TOTAL_STEPS = 4  # of a falling learning rate

SCENARIOS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "token": (even, {}, {"micro_batch_tokens": 40}),
    "kl": (mini_batches, KL, {"micro_batch_tokens": 30}),
    "engine": (mini_batches, ENGINE, {"micro_batch_tokens": 30}),
    "recomputed": (even, {}, {"gradient_checkpointing": "on"}),
    "kept whole": (mini_batches, KL, {"micro_batch_tokens": 30, "reshard_after_forward": False}),
    "decayed": (mini_batches, {}, DECAYED),
    "lora": (mini_batches, KL, LORA),
    "reinforce++": (mini_batches, WHITENED, {}),
    "separate": (mini_batches, SEPARATE, {"micro_batch_tokens": 30, "learning_rate": 0.3}),
    "shaped": (mini_batches, SHAPED, {"cpu_offload": True}),
}


def run(model_dir: str, name: str, group: Group, **options: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    scenario, goal, changes = SCENARIOS[name]
    config = readable(**changes, replicas=group.replicas)
    options |= {"config": config, "total_steps": TOTAL_STEPS, "max_tokens": 9}
    trainer = make_trainer(model_dir, goal=objective(**goal), **options)
    metrics, weights, packed = scenario(trainer, group), weights_of(trainer), packed_weights_of(trainer)
    assert trainer.weights().digests() == [tensor_digest(weight) for weight in weights.values()]
    trainer.close()
    if group.rank == 0:
        assert_same(packed, weights, atol=0)
    return metrics, weights


def rank_main(rank: int, ranks: int, replicas: int, model_dir: str, meeting: Meeting, out: str) -> None:
    results: dict[str, Any] = {}
    store = open_store(meeting, PATIENCE_S)
    group = Group(rank, ranks, replicas)

    def joined(name: str) -> dict[str, Any]:
        return {"rank": rank, "world_size": ranks, "store": PrefixStore(name, store)}

    for name in SCENARIOS:
        results[name] = run(model_dir, name, group, **joined(name))

    config = trainer_config(replicas=replicas)
    trainer = make_trainer(model_dir, goal=objective(**KL), config=config, **joined("checkpoint"))
    with pytest.raises(GroupError, match="same number"):
        trainer.update([[]] * (rank + 1))
    mini_batches(trainer, group)
    results["parts"] = [part.name for part in trainer.parts]
    backends = [of._get_backend(torch.device("cpu")) for of in trainer.mesh.get_all_groups()]
    results["bounds"] = [backend.options._timeout.total_seconds() for backend in backends]
    # The disk refuses the last rank alone, which nobody has to wait for.
    if rank == ranks - 1:
        with largest_file(2000), pytest.raises(DiskError, match="refused.* cannot be written: File too large"):
            trainer.save(f"{out}/refused")
    else:
        trainer.save(f"{out}/refused")
    trainer.save(f"{out}/checkpoint")
    dist.barrier()
    trainer.export(f"{out}/export")
    results["exported"] = weights_of(trainer)
    results["continued"] = mini_batches(trainer, group), weights_of(trainer)
    trainer.load(f"{out}/checkpoint")
    results["loaded"] = weights_of(trainer)
    trainer.load(f"{out}/of one rank")
    results["from one rank"] = mini_batches(trainer, group), weights_of(trainer)
    trainer.close()
    moved = trainer_config(replicas=3 - replicas)
    trainer = make_trainer(model_dir, goal=objective(**KL), config=moved, **joined("other replicas"))
    trainer.load(f"{out}/checkpoint")
    results["moved"] = weights_of(trainer), mini_batches(trainer, group), weights_of(trainer)
    trainer.close()
    for name in ("mini", "lora"):
        results[f"snapshot {name}"] = after_a_snapshot(model_dir, group, LORA if name == "lora" else {}, joined)
    torch.save(results, f"{out}/rank{rank}.pt")


def after_a_snapshot(model_dir: str, group: Group, changes: dict[str, Any], joined: Any) -> list[Any]:
    """The second update of a trainer, and of a new one that restored a snapshot of the first after one update."""
    kind = "lora" if changes else "mini"
    options = {"config": readable(**changes, replicas=group.replicas), "goal": objective(**KL)}
    trainer = make_trainer(model_dir, **options, **joined(f"first {kind}"))
    mini_batches(trainer, group)
    snapshot = pickle.loads(pickle.dumps(trainer.snapshot()))
    outcomes = [(even(trainer, group), weights_of(trainer))]
    trainer.close()
    resumed = make_trainer(model_dir, seed=5, **options, **joined(f"second {kind}"))
    resumed.restore(snapshot)
    outcomes.append((even(resumed, group), weights_of(resumed)))
    resumed.close()
    return [(metrics, {name: weight.numpy().tobytes() for name, weight in of.items()}) for metrics, of in outcomes]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model("llama", tmp_path_factory.mktemp("model"))


FOUR = pytest.param((4, 1), marks=pytest.mark.long)  # four ranks on two cores: 2x2 are four, too


@pytest.fixture(scope="module", params=[(2, 1), FOUR, (4, 2), (2, 2)], ids=["2", "4", "2x2", "2x1"])
def several(request: Any, model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Where so many ranks wrote, and what each of them found."""
    (ranks, replicas), out = request.param, tmp_path_factory.mktemp("ranks")
    alone = make_trainer(model_dir, goal=objective(**KL))
    even(alone, Group())
    alone.save(str(out / "of one rank"))
    alone.close()
    context = mp.get_context("spawn")
    listener = listen("127.0.0.1")
    store = open_store(listener.meeting, PATIENCE_S, listener)  # the ranks meet here for as long as it lives
    arguments = (ranks, replicas, model_dir, listener.meeting, str(out))
    processes = [context.Process(target=rank_main, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    alive = [p.is_alive() for p in processes]
    for process in processes:
        process.kill()
    del store
    assert [p.exitcode for p in processes] == [0] * ranks, f"ranks failed (still running: {alive})"
    return out, [torch.load(out / f"rank{rank}.pt") for rank in range(ranks)]


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_several_ranks_equal_one(name: str, model_dir: str, several: tuple[Path, list[Any]]) -> None:
    metrics, weights = run(model_dir, name, Group())
    for rank in several[1]:
        got_metrics, got_weights = rank[name]
        assert set(got_metrics) == set(metrics)
        for key, value in metrics.items():
            assert got_metrics[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
        assert_same(got_weights, weights, atol=5e-6)
    start = dict(AutoModelForCausalLM.from_pretrained(model_dir).named_parameters())
    assert max((weights[n] - start[n]).abs().max() for n in weights) > 1e-2


def test_a_checkpoint_of_several_ranks_loads_on_one(model_dir: str, several: tuple[Path, list[Any]]) -> None:
    out, ranks = several
    first = ranks[0]
    trainer = make_trainer(model_dir, goal=objective(**KL))
    trainer.load(f"{out}/checkpoint")
    assert_same(weights_of(trainer), first["exported"], atol=0)
    metrics = mini_batches(trainer, Group())
    for got_metrics, got_weights in (rank["continued"] for rank in ranks):
        assert_same(got_weights, weights_of(trainer), atol=1e-5)
        for key, value in metrics.items():
            assert got_metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    trainer.close()


def test_a_checkpoint_of_one_rank_loads_on_several(model_dir: str, several: tuple[Path, list[Any]]) -> None:
    out, ranks = several
    trainer = make_trainer(model_dir, goal=objective(**KL))
    trainer.load(f"{out}/of one rank")
    metrics, weights = mini_batches(trainer, Group()), weights_of(trainer)
    trainer.close()
    for got_metrics, got_weights in (rank["from one rank"] for rank in ranks):
        assert_same(got_weights, weights, atol=1e-5)
        for key, value in metrics.items():
            assert got_metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_a_checkpoint_that_one_rank_could_not_write_is_not_complete(
    model_dir: str, several: tuple[Path, list[Any]]
) -> None:
    last = f"rank-{len(several[1]) - 1:05d}.safetensors"
    trainer = make_trainer(model_dir)
    with pytest.raises(ModelError, match=f"is no complete trainer checkpoint: it has no {last}"):
        trainer.load(str(several[0] / "refused"))
    trainer.close()


def test_loading_restores_every_rank(several: tuple[Path, list[Any]]) -> None:
    for rank in several[1]:
        assert_same(rank["loaded"], rank["exported"], atol=0)


def test_a_checkpoint_moves_between_one_copy_of_the_model_and_two(several: tuple[Path, list[Any]]) -> None:
    for rank in several[1]:
        loaded, metrics, weights = rank["moved"]
        assert_same(loaded, rank["exported"], atol=0)
        assert_same(weights, rank["continued"][1], atol=1e-5)
        for key, value in rank["continued"][0].items():
            assert metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_each_replica_holds_the_model_once_and_the_first_writes_it(several: tuple[Path, list[Any]]) -> None:
    out, found = several
    about = json.loads((out / "checkpoint" / "trainer.json").read_text())
    assert about["ranks"] * about["replicas"] == len(found)
    sizes = [(out / "checkpoint" / f"rank-{r:05d}.safetensors").stat().st_size for r in range(len(found))]
    one = sum(4 * 3 * weight.numel() for weight in found[0]["exported"].values())  # float32, and AdamW's two states
    random_states = 40_000  # at most, in each file
    assert one < sum(sizes[: about["ranks"]]) < one + about["ranks"] * random_states
    assert max(sizes[about["ranks"] :], default=0) < random_states
    with safe_open(out / "checkpoint" / f"rank-{len(found) - 1:05d}.safetensors", framework="pt") as last:
        assert bool(list(last.keys())) == (about["replicas"] == 1)


@pytest.mark.parametrize("name", ["mini", "lora"])
def test_new_ranks_go_on_from_the_snapshots_of_the_old_bit_for_bit(name: str, several: tuple[Path, list[Any]]) -> None:
    for rank in several[1]:
        undisturbed, resumed = rank[f"snapshot {name}"]
        assert resumed == undisturbed


def test_several_ranks_export_the_gathered_weights(several: tuple[Path, list[Any]]) -> None:
    out, (first, *_) = several
    exported = dict(AutoModelForCausalLM.from_pretrained(out / "export").named_parameters())
    assert_same({n: p.detach() for n, p in exported.items()}, first["exported"], atol=0)


def test_a_rank_that_is_ready_waits_for_the_others(several: tuple[Path, list[Any]]) -> None:
    before = ["wait_for_ranks", "prepare", "old_logprobs", "reference"]
    assert {tuple(found["parts"]) for found in several[1]} == {(*before, *["forward_backward", "optimizer"] * 2)}


def test_collectives_of_every_group_have_the_runs_bound(several: tuple[Path, list[Any]]) -> None:
    out, found = several
    replicas = json.loads((out / "checkpoint" / "trainer.json").read_text())["replicas"]
    assert [rank["bounds"] for rank in found] == [[PATIENCE_S] * (1 if replicas == 1 else 2)] * len(found)
