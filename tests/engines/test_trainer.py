"""The trainer on one rank, against a plain transformers model, full logits and torch's AdamW."""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from s2l_ray.config import ObjectiveConfig, TrainerConfig
from s2l_ray.errors import ConfigError, GroupError, ModelError
from s2l_ray.rollouts.records import RolloutGroup, Verdict
from s2l_ray.training.process_group import whole
from s2l_ray.training.trainer import PolicyTrainer
from tests.support.training_models import (
    GRADIENT_READABLE,
    make_trainer,
    objective,
    random_groups,
    random_model,
    trainer_config,
    weights_of,
    write_model,
)

SOURCES = ("explorer", "learner")


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {f: write_model(f, tmp_path_factory.mktemp("models") / f) for f in ("qwen3", "llama")}


class NaiveTrainer:
    """The definition, spelled out: every rollout forwarded by itself, nothing skipped, one loss per mini-batch."""

    def __init__(self, family: str, goal: ObjectiveConfig, config: TrainerConfig, temperature: float = 0.8):
        self.model, self.reference = random_model(family), random_model(family)
        self.goal, self.config, self.temperature = goal, config, temperature
        self.steps = 0
        spared = () if config.decay_norms_and_embeddings else ("norm.weight", "embed_tokens.weight")
        decays = [(p, 0.0 if n.endswith(spared) else config.weight_decay) for n, p in self.model.named_parameters()]
        groups = [{"params": [p], "weight_decay": decay} for p, decay in decays]
        self.optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)

    def scores(self, model: torch.nn.Module, group: RolloutGroup, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies of a response's tokens."""
        response = group.rollouts[k].token_ids
        ids = torch.from_numpy(np.concatenate([group.prompt_token_ids, response]).astype(np.int64))[None]
        logp = F.log_softmax(model(input_ids=ids).logits[0, -len(response) - 1 : -1] / self.temperature, -1)
        return logp.gather(1, ids[0, -len(response) :, None])[:, 0], -(logp.exp() * logp).sum(-1)

    def logprobs(self, model: torch.nn.Module, group: RolloutGroup, k: int) -> torch.Tensor:
        return self.scores(model, group, k)[0]

    def loss(self, groups: list[RolloutGroup], old: dict[tuple[str, int], torch.Tensor]) -> torch.Tensor:
        token_losses = []
        for group in groups:
            rewards = [r.reward for r in group.rollouts]
            mean = sum(rewards) / len(rewards)
            deviation = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
            for k, rollout in enumerate(group.rollouts):
                advantage = (rewards[k] - mean) / (deviation + 1e-6)
                if rollout.source == "explorer" and advantage < 0:
                    advantage *= self.goal.explorer_negatives
                logprobs, entropy = self.scores(self.model, group, k)
                before = old[group.prompt_id, k]
                if self.goal.old_logprobs == "engine" and rollout.source == "learner":
                    before = torch.from_numpy(rollout.logprobs)
                ratio = (logprobs - before).exp()
                bounded = ratio.clamp(1 - self.goal.clip_low, 1 + self.goal.clip_high)
                loss = -torch.minimum(ratio * advantage, bounded * advantage)
                if self.goal.kl:
                    d = self.logprobs(self.reference, group, k).detach() - logprobs
                    loss = loss + self.goal.kl * (d.exp() - d - 1)
                token_losses.append(loss - self.goal.entropy * entropy)
        if self.goal.aggregation == "token":
            return torch.cat(token_losses).mean()
        return torch.stack([t.mean() for t in token_losses]).mean()

    def update(self, mini_batches: list[list[RolloutGroup]]) -> list[float]:
        groups = [g for mini in mini_batches for g in mini]
        old = {
            (g.prompt_id, k): self.logprobs(self.model, g, k).detach() for g in groups for k in range(len(g.rollouts))
        }
        return [self.step(mini, old) for mini in mini_batches]

    def step(self, groups: list[RolloutGroup], old: dict[tuple[str, int], torch.Tensor]) -> float:
        loss = self.loss(groups, old)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.steps += 1
        for g in self.optimizer.param_groups:
            g["lr"] = self.config.learning_rate * min(1.0, self.steps / max(1, self.config.warmup_steps))
        self.optimizer.step()
        return loss.item()


def assert_same_weights(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 1e-5) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"aggregation": "sequence", "explorer_negatives": 0.5},
    {"kl": 0.1, "clip_low": 0.01, "clip_high": 0.02},
    {"kl": 0.05, "aggregation": "sequence", "explorer_negatives": 0.0},
    {"entropy": 0.5, "clip_low": 0.01, "clip_high": 0.02},
    {"entropy": 0.2, "kl": 0.05, "aggregation": "sequence"},
    {"old_logprobs": "engine", "clip_low": 0.9, "clip_high": 9.0, "kl": 0.1},
]


@pytest.mark.parametrize("changes", OBJECTIVES)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_updates_equal_the_naive_trainer(family: str, changes: dict[str, Any], model_dirs: dict[str, str]) -> None:
    goal, config = objective(**changes), trainer_config(warmup_steps=3)
    naive, trainer = NaiveTrainer(family, goal, config), make_trainer(model_dirs[family], goal=goal, config=config)
    start = {n: p.detach().clone() for n, p in naive.model.named_parameters()}
    for seed in (0, 1):
        groups = random_groups(4, seed=seed)
        groups[1] = same_rewards(groups[1])
        mini_batches = [groups[:2], groups[2:]]
        losses = naive.update(mini_batches)
        metrics = trainer.update(mini_batches)
        assert metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    expected = {n: p.detach() for n, p in naive.model.named_parameters()}
    assert_same_weights(weights_of(trainer), expected)
    assert max((expected[n] - start[n]).abs().max() for n in start) > 1e-2  # neither model stood still


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_weight_decay_equals_the_naive_trainers(family: str, everything: bool, model_dirs: dict[str, str]) -> None:
    config = trainer_config(weight_decay=10.0, decay_norms_and_embeddings=everything)
    naive, trainer = NaiveTrainer(family, objective(), config), make_trainer(model_dirs[family], config=config)
    for seed in (0, 1):
        groups = random_groups(2, seed=seed)
        naive.update([groups])
        trainer.update([groups])
    assert_same_weights(weights_of(trainer), {n: p.detach() for n, p in naive.model.named_parameters()})


def same_rewards(group: RolloutGroup) -> RolloutGroup:
    return replace(group, rollouts=[replace(r, verdict=Verdict("wrong", 0.0)) for r in group.rollouts])


def first_step(
    model_dir: str, groups: list[RolloutGroup], goal: ObjectiveConfig, **changes: Any
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    trainer = make_trainer(model_dir, goal=goal, config=trainer_config(**GRADIENT_READABLE | changes))
    metrics = trainer.update([groups])
    weights = weights_of(trainer)
    trainer.close()
    return metrics, weights


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_loss_and_gradient_do_not_depend_on_micro_batches_chunks_order_or_checkpointing(
    aggregation: str, model_dirs: dict[str, str]
) -> None:
    groups, goal = random_groups(5), objective(aggregation=aggregation, kl=0.1)
    metrics, weights = first_step(model_dirs["qwen3"], groups, goal, micro_batch_tokens=10_000)
    shuffled = [replace(g, rollouts=g.rollouts[::-1]) for g in groups[::-1]]
    same = [
        (groups, {"micro_batch_tokens": 1}),
        (shuffled, {"logprob_chunk_tokens": 3}),
        (groups, {"gradient_checkpointing": "on"}),
    ]
    for order, changes in same:
        other_metrics, other_weights = first_step(model_dirs["qwen3"], order, goal, **changes)
        assert_same_weights(other_weights, weights, atol=2e-6)
        for name, value in metrics.items():
            assert other_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_groups_without_variance_are_skipped_but_counted(model_dirs: dict[str, str]) -> None:
    groups = random_groups(3)
    flat = [same_rewards(groups[0]), *groups[1:]]
    metrics, _ = first_step(model_dirs["llama"], flat, objective())
    alone, _ = first_step(model_dirs["llama"], groups[1:], objective())
    tokens = [sum(len(r.token_ids) for r in g.rollouts) for g in groups]
    assert metrics["zero_variance_groups"] == 1
    assert metrics["skipped_rollouts"] == 4
    assert metrics["trained_tokens"] == tokens[1] + tokens[2]
    share = (tokens[1] + tokens[2]) / sum(tokens)
    assert metrics["grad_norm"] == pytest.approx(alone["grad_norm"] * share, rel=1e-5)
    assert metrics["loss"] == pytest.approx(alone["loss"] * share, abs=1e-7)


def test_dropped_explorer_negatives_are_not_forwarded(model_dirs: dict[str, str]) -> None:
    groups = random_groups(1, rewards=[1, 0, 1, 0])
    metrics, _ = first_step(model_dirs["llama"], groups, objective(explorer_negatives=0.0))
    kept = [len(groups[0].rollouts[k].token_ids) for k in (0, 2, 3)]
    assert metrics["skipped_rollouts"] == 1
    assert metrics["trained_tokens"] == sum(kept)
    assert metrics["advantage_mass/explorer"] == pytest.approx(kept[0] / sum(kept))


def test_nothing_to_train_leaves_the_weights_and_says_so(model_dirs: dict[str, str]) -> None:
    trainer = make_trainer(model_dirs["qwen3"], config=trainer_config(weight_decay=0.0))
    before = weights_of(trainer)
    metrics = trainer.update([[same_rewards(g) for g in random_groups(2)]])
    assert_same_weights(weights_of(trainer), before, atol=0)
    assert metrics["loss"] == metrics["grad_norm"] == metrics["trained_tokens"] == metrics["skipped_updates"] == 0
    assert not {"ratio_mean", "clip_fraction", "logprob/learner", "logprob_gap/learner"} & set(metrics)


def test_metrics_by_source(model_dirs: dict[str, str]) -> None:
    groups = random_groups(4)
    naive = NaiveTrainer("qwen3", objective(), trainer_config())
    seen: dict[str, list[float]] = {f"{name}/{s}": [] for name in ("ours", "engine") for s in ("explorer", "learner")}
    for g in groups:
        for k, rollout in enumerate(g.rollouts):
            seen[f"ours/{rollout.source}"] += naive.logprobs(naive.model, g, k).tolist()
            seen[f"engine/{rollout.source}"] += rollout.logprobs.tolist()
    # Two mini-batches: the second one's statistics too must be under the weights before the update.
    metrics = make_trainer(model_dirs["qwen3"]).update([groups[:2], groups[2:]])
    for source in ("explorer", "learner"):
        ours, engine = np.array(seen[f"ours/{source}"]), np.array(seen[f"engine/{source}"])
        gap = np.abs(ours - engine)
        assert metrics[f"logprob/{source}"] == pytest.approx(ours.mean(), abs=1e-5)
        assert metrics[f"perplexity/{source}"] == pytest.approx(np.exp(-ours.mean()), rel=1e-5)
        assert metrics[f"logprob_gap/{source}"] == pytest.approx(gap.mean(), abs=1e-5)
        k3 = np.exp(ours - engine) - 1 - (ours - engine)
        assert metrics[f"sampler_kl/{source}"] == pytest.approx(k3.mean(), rel=1e-5)
    assert metrics["logprob_gap/learner_max"] == pytest.approx(gap.max(), abs=1e-5)
    assert "kl" not in metrics


def test_entropy_by_source(model_dirs: dict[str, str]) -> None:
    groups = random_groups(3)
    naive = NaiveTrainer("qwen3", objective(), trainer_config())
    metrics = make_trainer(model_dirs["qwen3"]).update([groups])
    for source in ("explorer", "learner"):
        entropies = [
            naive.scores(naive.model, g, k)[1].numpy(force=True)
            for g in groups
            for k, r in enumerate(g.rollouts)
            if r.source == source
        ]
        assert metrics[f"entropy/{source}"] == pytest.approx(np.concatenate(entropies).mean(), abs=1e-5)


def test_an_entropy_bonus_alone_raises_entropy(model_dirs: dict[str, str]) -> None:
    """Groups without variance: the bonus is all there is."""
    groups = [same_rewards(g) for g in random_groups(3)]
    trainer = make_trainer(model_dirs["llama"], goal=objective(entropy=1.0), config=trainer_config(weight_decay=0.0))
    before, after = (trainer.update([groups]) for _ in range(2))
    tokens = {s: sum(len(r.token_ids) for g in groups for r in g.rollouts if r.source == s) for s in SOURCES}
    mean = sum(before[f"entropy/{s}"] * tokens[s] for s in SOURCES) / sum(tokens.values())
    assert before["loss"] == pytest.approx(-mean, rel=1e-5)
    assert all(after[f"entropy/{s}"] > before[f"entropy/{s}"] + 0.01 for s in SOURCES)


def test_engine_logprobs_that_are_not_numbers_leave_the_gap_out_and_not_the_update(model_dirs: dict[str, str]) -> None:
    """The condition `health.logprob_gap` goes by this."""
    groups = random_groups(2)
    learner = next(r for r in groups[0].rollouts if r.source == "learner")
    learner.logprobs[0] = np.nan
    metrics = make_trainer(model_dirs["qwen3"]).update([groups])
    assert {"logprob/learner", "logprob_gap/explorer"} <= metrics.keys() and "logprob_gap/learner" not in metrics
    assert (metrics["updates"], metrics["skipped_updates"]) == (1, 0)


def test_the_ratio_of_a_single_mini_batch_is_exactly_one(model_dirs: dict[str, str]) -> None:
    metrics = make_trainer(model_dirs["qwen3"], dtype="bfloat16").update([random_groups(3)])
    assert metrics["ratio_mean"] == 1.0
    assert metrics["clip_fraction"] == 0.0


def test_a_gradient_that_is_not_finite_is_not_applied(model_dirs: dict[str, str]) -> None:
    trainer = make_trainer(model_dirs["qwen3"])
    before = weights_of(trainer)
    bad = random_groups(2)
    broken = replace(bad[0].rollouts[0], verdict=Verdict("right", float("inf")))
    bad[0] = replace(bad[0], rollouts=[broken, *bad[0].rollouts[1:]])
    with np.errstate(invalid="ignore"):
        metrics = trainer.update([bad])
    assert (metrics["updates"], metrics["skipped_updates"]) == (0, 1)
    assert "loss" not in metrics
    assert np.isfinite(list(metrics.values())).all()
    assert_same_weights(weights_of(trainer), before, atol=0)
    assert trainer.update([random_groups(2)])["skipped_updates"] == 0


def test_a_gradient_that_is_too_large_is_not_applied(model_dirs: dict[str, str]) -> None:
    small, large = random_groups(2), random_groups(2, seed=1)
    norms = [first_step(model_dirs["qwen3"], g, objective())[0]["grad_norm"] for g in (small, large)]
    assert norms[0] < norms[1]
    still = {"learning_rate": 1e-9, "skip_grad_norm": sum(norms) / 2}  # the second norm is that of the first weights
    trainer = make_trainer(model_dirs["qwen3"], config=trainer_config(**GRADIENT_READABLE | still))
    metrics = trainer.update([small, large])
    assert (metrics["updates"], metrics["skipped_updates"]) == (1, 1)
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / 2, rel=1e-4)  # a mean that says how large it was
    assert trainer.optimizer_steps == 1
    before = weights_of(trainer)
    assert trainer.update([large])["skipped_updates"] == 1
    assert_same_weights(weights_of(trainer), before, atol=0)


def test_gradient_checkpointing_recomputes_layers_and_changes_nothing(model_dirs: dict[str, str]) -> None:
    results, forwards = {}, {}
    for choice in ("off", "on", "auto"):
        config = trainer_config(**GRADIENT_READABLE | {"gradient_checkpointing": choice})
        trainer = make_trainer(model_dirs["qwen3"], config=config)
        calls: list[int] = []
        trainer.policy.model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        results[choice] = trainer.update([random_groups(2)]), weights_of(trainer)
        forwards[choice] = len(calls)
        trainer.close()
    assert forwards["on"] == 2 * forwards["off"] == 2 * forwards["auto"] > 0
    assert results["on"][0] == pytest.approx(results["off"][0], rel=1e-6)
    assert_same_weights(results["on"][1], results["off"][1], atol=1e-7)


def test_so_many_layers_are_recomputed_and_nothing_changes(model_dirs: dict[str, str]) -> None:
    results, forwards = [], []
    for count in (0, 1, 2):
        trainer = make_trainer(model_dirs["qwen3"], config=trainer_config(recomputed_layers=count))
        calls = [0, 0]
        for number, layer in enumerate(trainer.policy.model.base_model.layers):

            def counting(*_: object, number: int = number, calls: list[int] = calls) -> None:
                calls[number] += 1

            layer.mlp.register_forward_pre_hook(counting)
        trainer.update([random_groups(2)])
        results.append(weights_of(trainer))
        forwards.append(calls)
        trainer.close()
    once = forwards[0][0]
    assert forwards == [[once, once], [2 * once, once], [2 * once, 2 * once]]
    for other in results[1:]:
        assert_same_weights(other, results[0], atol=0)


@pytest.fixture
def nondeterministic_after() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_deterministic_updates_are_bit_equal(
    model_dirs: dict[str, str], nondeterministic_after: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    results = []
    for _ in range(2):
        config = trainer_config(deterministic=True, gradient_checkpointing="on")
        trainer = make_trainer(model_dirs["llama"], dtype="bfloat16", config=config, goal=objective(kl=0.1))
        results.append((trainer.update([random_groups(3), random_groups(3, seed=1)]), weights_of(trainer)))
        trainer.close()
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert results[0][0] == results[1][0]
    assert_same_weights(results[0][1], results[1][1], atol=0)


def test_malformed_input_is_an_error(model_dirs: dict[str, str]) -> None:
    trainer = make_trainer(model_dirs["qwen3"])
    with pytest.raises(GroupError, match="mini-batches"):
        trainer.update([])
    with pytest.raises(GroupError, match="prompt p0 has no tokens"):
        trainer.update([[replace(random_groups(1)[0], prompt_token_ids=np.zeros(0, np.int32))]])


def test_a_checkpoint_goes_on_as_if_nothing_happened(model_dirs: dict[str, str], tmp_path: Path) -> None:
    config = trainer_config(warmup_steps=10)
    trainer = make_trainer(model_dirs["llama"], config=config, goal=objective(kl=0.1))
    trainer.update([random_groups(3)])
    trainer.save(str(tmp_path))
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    metrics = trainer.update([random_groups(3, seed=5)])
    weights = weights_of(trainer)
    trainer.close()

    resumed = make_trainer(model_dirs["llama"], config=config, goal=objective(kl=0.1), seed=99)
    resumed.load(str(tmp_path))
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.array_equal(np.random.rand(3), drawn[1])
    assert random.random() == drawn[2]
    assert resumed.update([random_groups(3, seed=5)]) == metrics
    assert_same_weights(weights_of(resumed), weights, atol=0)


def test_a_resumed_learning_rate_goes_on_falling(model_dirs: dict[str, str], tmp_path: Path) -> None:
    def trainer_of(total: int) -> PolicyTrainer:
        config = trainer_config(learning_rate=0.1, lr_schedule="linear", warmup_steps=1, lr_min_ratio=0.5)
        return make_trainer(model_dirs["llama"], config=config, total_steps=total)

    trainer = trainer_of(5)
    rates = [trainer.update([random_groups(1)])["learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([0.1, 0.1, 0.0875])
    trainer.save(str(tmp_path))
    trainer.close()
    resumed = trainer_of(5)
    resumed.load(str(tmp_path))
    # The fourth and fifth of five steps, in one update: the last one is reported.
    assert resumed.update([random_groups(1), random_groups(1)])["learning_rate"] == pytest.approx(0.0625)


def test_a_checkpoint_loads_with_another_weight_decay(model_dirs: dict[str, str], tmp_path: Path) -> None:
    """From one parameter group to two and back: the configuration decides, the moments stay."""
    trainer = make_trainer(model_dirs["llama"], config=trainer_config(weight_decay=0.0))
    trainer.update([random_groups(3)])
    trainer.save(str(tmp_path / "one"))
    trainer.close()

    decaying = make_trainer(model_dirs["llama"], config=trainer_config(weight_decay=0.1))
    decaying.load(str(tmp_path / "one"))
    assert [g["weight_decay"] for g in decaying.optimizer.param_groups] == [0.1, 0.0]
    decaying.save(str(tmp_path / "two"))
    decaying.close()

    back = make_trainer(model_dirs["llama"], config=trainer_config(weight_decay=0.0))
    back.load(str(tmp_path / "two"))
    assert [g["weight_decay"] for g in back.optimizer.param_groups] == [0.0]
    metrics = back.update([random_groups(3, seed=5)])
    weights = weights_of(back)
    back.load(str(tmp_path / "one"))
    assert back.update([random_groups(3, seed=5)]) == metrics
    assert_same_weights(weights_of(back), weights, atol=0)


def test_after_an_exploit_the_state_is_the_donors_bit_for_bit_and_the_settings_are_its_own(
    model_dirs: dict[str, str], tmp_path: Path
) -> None:
    """A trainer that trained with other settings, and is rebuilt with new ones, as population-based training does."""

    def moments(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
        names = {parameter: name for name, parameter in trainer.policy.named_parameters()}
        states = {names[parameter]: state for parameter, state in trainer.optimizer.state.items()}
        return {f"{name}.{key}": whole(value).clone() for name, of in states.items() for key, value in of.items()}

    donor = make_trainer(model_dirs["llama"], config=trainer_config(learning_rate=1e-2), goal=objective(kl=0.1), seed=1)
    donor.update([random_groups(3), random_groups(2, seed=1)])
    donor.save(str(tmp_path))
    weights, state, drawn = weights_of(donor), moments(donor), (torch.rand(3), np.random.rand(3), random.random())
    donor.close()

    trainer = make_trainer(
        model_dirs["llama"], config=trainer_config(learning_rate=0.1), goal=objective(kl=0.3), seed=2
    )
    trainer.update([random_groups(3, seed=7)])
    own = {"learning_rate": 3e-2, "warmup_steps": 6, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    settings = {"trainer": trainer_config(**own), "objective": objective(kl=0.2, entropy=0.01), "temperature": 1.0}
    trainer.rebuild(**settings, seed=2)
    trainer.load(str(tmp_path))
    assert trainer.optimizer_steps == 2
    for got, expected in ((weights_of(trainer), weights), (moments(trainer), state)):
        assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.array_equal(np.random.rand(3), drawn[1]) and random.random() == drawn[2]
    kept = [(g["betas"], g["eps"], g["weight_decay"]) for g in trainer.optimizer.param_groups]
    assert kept == [((0.8, 0.9), 1e-6, 0.1), ((0.8, 0.9), 1e-6, 0.0)]
    # Its third optimizer step, the first with its own settings: half of the warm-up.
    assert trainer.update([random_groups(1)])["learning_rate"] == pytest.approx(3e-2 * 3 / 6)


def test_loading_what_is_no_checkpoint_is_an_error(model_dirs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="trainer.json"):
        make_trainer(model_dirs["llama"]).load(str(tmp_path))


def test_a_checkpoint_of_another_version_or_of_other_adapters_is_refused(
    model_dirs: dict[str, str], tmp_path: Path
) -> None:
    trainer = make_trainer(model_dirs["llama"], config=trainer_config(lora_rank=2))
    trainer.save(str(tmp_path / "adapters"))
    trainer.close()
    trainer = make_trainer(model_dirs["llama"], config=trainer_config(lora_rank=4))
    with pytest.raises(
        ModelError, match=r"other adapters: \S*lora_A\S* is float32 \[2, 48\] there and float32 \[4, 48\]"
    ):
        trainer.load(str(tmp_path / "adapters"))
    trainer.close()
    trainer = make_trainer(model_dirs["llama"])
    with pytest.raises(ModelError, match=r"embed_tokens.weight is not there and float32 \[64, 32\] here"):
        trainer.load(str(tmp_path / "adapters"))
    trainer.save(str(tmp_path / "whole"))
    about = tmp_path / "whole" / "trainer.json"
    about.write_text(about.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ModelError, match="has checkpoint format 1, and this version of s2l-ray reads 2"):
        trainer.load(str(tmp_path / "whole"))


@pytest.mark.parametrize(("family", "dtype"), [("qwen3", "float32"), ("llama", "bfloat16")])
def test_an_export_loads_in_transformers_with_the_same_logits(
    family: str, dtype: str, model_dirs: dict[str, str], tmp_path: Path
) -> None:
    trainer = make_trainer(model_dirs[family], dtype=dtype)
    trainer.update([random_groups(3)])
    templates = Path(model_dirs[family]) / "additional_chat_templates"
    templates.mkdir(exist_ok=True)
    (templates / "rag.jinja").write_text("{{ messages }}")
    target = tmp_path / "model"
    trainer.export(str(target))
    assert (target / "additional_chat_templates" / "rag.jinja").read_text() == "{{ messages }}"
    assert (target / "tokenizer.json").read_text() == (Path(model_dirs[family]) / "tokenizer.json").read_text()
    assert {file.stat().st_mode & 0o444 for file in target.iterdir()} == {target.stat().st_mode & 0o444}
    exported = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    expected = AutoModelForCausalLM.from_pretrained(model_dirs[family], dtype=getattr(torch, dtype))
    expected.load_state_dict(weights_of(trainer), strict=family == "qwen3")  # the tied output layer comes once
    ids = torch.arange(12)[None]
    assert exported.dtype == getattr(torch, dtype)
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, expected(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_weight_specs_describe_the_weights(family: str, model_dirs: dict[str, str]) -> None:
    trainer = make_trainer(model_dirs[family], dtype="bfloat16")
    specs = [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in trainer.weights()]
    assert specs == trainer.weight_specs()
    names = [name for name, _, _ in specs]
    assert names[0] == "model.embed_tokens.weight"
    assert ("lm_head.weight" in names) == (family == "qwen3")


def test_bfloat16_models_become_float32_masters(tmp_path: Path) -> None:
    random_model("qwen3").to(torch.bfloat16).save_pretrained(tmp_path)
    trainer: PolicyTrainer = make_trainer(str(tmp_path), dtype="bfloat16")
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    assert trainer.update([random_groups(2)])["grad_norm"] > 0


OFFLOADED = {"config": trainer_config(cpu_offload=True), "goal": objective(kl=0.1, reference_offload=True)}


def test_offloading_changes_no_number(model_dirs: dict[str, str], tmp_path: Path) -> None:
    """On CPUs FSDP takes the same path, from host memory to host memory."""
    results = []
    for options in ({"goal": objective(kl=0.1)}, OFFLOADED):
        trainer = make_trainer(model_dirs["qwen3"], dtype="bfloat16", **options)
        first = trainer.update([random_groups(3)])
        directory = str(tmp_path / str(len(results)))
        trainer.save(directory)
        trainer.load(directory)
        results.append((first, trainer.update([random_groups(3, seed=1)]), weights_of(trainer)))
        offloaded = [
            parameter.offload_to_cpu
            for policy in (trainer.policy, trainer.reference)
            for parameter in policy._get_fsdp_state()._fsdp_param_group.fsdp_params
        ]
        assert offloaded and set(offloaded) == {options is OFFLOADED}
        trainer.close()
    assert results[0][:2] == results[1][:2]
    assert_same_weights(results[1][2], results[0][2], atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offloading_on_cuda_keeps_shards_on_the_host(model_dirs: dict[str, str]) -> None:
    weights = []
    for options in ({"goal": objective(kl=0.1)}, OFFLOADED):
        trainer = make_trainer(model_dirs["qwen3"], dtype="bfloat16", device="cuda", **options)
        trainer.update([random_groups(3)])
        host = options is OFFLOADED
        states = [x for s in trainer.optimizer.state.values() for x in s.values() if x.ndim]
        for tensor in (*trainer.parameters, *trainer.reference.parameters(), *states):
            assert tensor.to_local().is_cuda != host
        assert all(tensor.is_cuda for _, tensor in trainer.weights())  # what engines are sent
        weights.append({name: tensor.cpu() for name, tensor in trainer.weights()})
        trainer.close()
    assert_same_weights(weights[1], weights[0], atol=2e-2)


def test_overlong_shaping_needs_the_limit_it_counts_back_from(model_dirs: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="overlong_buffer_tokens needs max_tokens"):
        make_trainer(model_dirs["llama"], goal=objective(overlong_buffer_tokens=4))


def test_overlong_shaping_gives_equal_answers_an_order(model_dirs: dict[str, str]) -> None:
    """Both wrong, 4 and 8 tokens of at most 8: rewards 0 and -1 of their group, so a group with variance."""
    group = same_rewards(random_groups(1, size=2)[0])
    rollouts = [
        replace(r, token_ids=np.arange(n, dtype=np.int32), logprobs=np.zeros(n, np.float32))
        for r, n in zip(group.rollouts, (4, 8), strict=True)
    ]
    group = replace(group, rollouts=rollouts)
    goal = objective(overlong_buffer_tokens=4, normalise_std=False)
    metrics = make_trainer(model_dirs["llama"], goal=goal, max_tokens=8).update([[group]])
    assert metrics["zero_variance_groups"] == 0
    # ratio 1: the loss is minus the mean over 12 tokens of advantages +1/2 and -1/2
    assert metrics["loss"] == pytest.approx(-(4 * 0.5 - 8 * 0.5) / 12)


def test_an_updates_parts_in_order(model_dirs: dict[str, str]) -> None:
    trainer = make_trainer(model_dirs["qwen3"], goal=objective(kl=0.1))
    trainer.update([random_groups(2), random_groups(2, seed=1)])
    stepped = ["forward_backward", "optimizer"]
    assert [part.name for part in trainer.parts] == ["prepare", "old_logprobs", "reference", *stepped, *stepped]
    trainer.update([random_groups(2)])
    assert [part.name for part in trainer.parts] == ["prepare", "reference", *stepped]
    trainer.close()
    penalised = make_trainer(model_dirs["qwen3"], goal=objective(kl=0.1, kl_in="reward"))
    penalised.update([random_groups(2)])
    assert [part.name for part in penalised.parts] == ["prepare", "reference", "prepare", *stepped]


def test_old_log_probs_of_the_engine_spare_the_learners_rollouts_a_forward(model_dirs: dict[str, str]) -> None:
    config = trainer_config(**GRADIENT_READABLE | {"learning_rate": 1e-6})
    trainer = make_trainer(model_dirs["qwen3"], goal=objective(old_logprobs="engine"), config=config)
    mini_batches = [random_groups(2), random_groups(2, seed=1)]
    mixed = trainer.update(mini_batches)
    assert [part.name for part in trainer.parts][:3] == ["prepare", "old_logprobs", "forward_backward"]
    assert mixed["ratio/explorer"] == pytest.approx(1, abs=1e-4) and abs(mixed["ratio/learner"] - 1) > 0.01
    alone = [[replace(g, rollouts=[replace(r, source="learner") for r in g.rollouts]) for g in m] for m in mini_batches]
    trainer.update(alone)
    assert [part.name for part in trainer.parts][:2] == ["prepare", "forward_backward"]
    trainer.close()
    # Measured nevertheless: under the weights before the update, on the mini-batch that meets them.
    published = make_trainer(model_dirs["qwen3"], goal=objective(), config=config)
    of_first = published.update(alone[:1])
    published.close()
    fast = trainer_config(**GRADIENT_READABLE | {"learning_rate": 0.1})
    metrics = make_trainer(model_dirs["qwen3"], goal=objective(old_logprobs="engine"), config=fast).update(alone)
    for name in ("logprob", "perplexity", "logprob_gap", "sampler_kl"):
        assert metrics[f"{name}/learner"] == pytest.approx(of_first[f"{name}/learner"], rel=1e-5)
    assert metrics["logprob_gap/learner_max"] == pytest.approx(of_first["logprob_gap/learner_max"], rel=1e-5)
    assert metrics["trained_tokens"] > of_first["trained_tokens"]


def test_a_rebuilt_trainer_is_bit_for_bit_one_that_was_constructed_so(model_dirs: dict[str, str]):
    """After updates of another objective, with adapters and a reference that the first has not."""
    lora = trainer_config(lora_rank=2, learning_rate=3e-3, lr_schedule="linear", weight_decay=0.1)
    goal = objective(kl=0.2, overlong_buffer_tokens=4)
    settings: dict[str, Any] = {"total_steps": 9, "max_tokens": 10, "seed": 5, "temperature": 1.1}

    def train(trainer: PolicyTrainer) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], float]:
        metrics = [trainer.update([random_groups(3, seed=step)]) for step in range(2)]
        drawn = torch.rand(()).item() + random.random() + np.random.rand()
        return metrics, weights_of(trainer), drawn

    trainer = make_trainer(model_dirs["qwen3"], seed=1, goal=objective(loss="gspo"))
    train(trainer)
    old = weakref.ref(trainer.policy), weakref.ref(trainer.optimizer)
    trainer.rebuild(trainer=lora, objective=goal, **settings)
    assert [reference() for reference in old] == [None, None]  # their memory is free for the new ones
    again = train(trainer)
    trainer.close()
    fresh = train(make_trainer(model_dirs["qwen3"], config=lora, goal=goal, **settings))
    assert again[0] == fresh[0] and again[2] == fresh[2]
    assert again[1].keys() == fresh[1].keys()
    assert all(torch.equal(again[1][name], fresh[1][name]) for name in fresh[1])


def test_a_trainer_is_not_rebuilt_with_what_it_cannot_have(model_dirs: dict[str, str]):
    trainer = make_trainer(model_dirs["llama"])
    before = weights_of(trainer)
    with pytest.raises(RuntimeError, match=r"trainer\.deterministic is settled"):
        trainer.rebuild(trainer=trainer_config(deterministic=True), objective=objective(), temperature=1.0)
    with pytest.raises(ConfigError, match="needs total_steps"):
        trainer.rebuild(trainer=trainer_config(lr_schedule="cosine"), objective=objective(), temperature=1.0)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())
