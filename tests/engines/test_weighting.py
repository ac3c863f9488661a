"""Importance weights per source, and every option of the objective in the trainer against one rollout at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import ObjectiveConfig
from s2l_ray.errors import GroupError
from s2l_ray.objective import correction
from s2l_ray.rollouts.records import RolloutGroup, Verdict
from tests.support import looped_objective as looped
from tests.support.examples import examples
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

READABLE = GRADIENT_READABLE | {"learning_rate": 0.3}
"""Small enough that four steps do not blow up the rounding of the first."""
RATIOS = torch.tensor([1.5, 3.0, 0.25, 0.5, 1.0])
LENGTHS = torch.tensor([2, 2, 1])
MAX_TOKENS = 9  # the longest response of random_groups


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model("llama", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("level", "mode", "weights", "kept"),
    [
        ("none", "truncate", [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ("token", "truncate", [1.5, 2, 0.25, 0.5, 1], [1, 0, 0, 1, 1]),
        ("token", "mask", [1.5, 0, 0, 0.5, 1], [1, 0, 0, 1, 1]),
        ("sequence", "truncate", [2, 2, 0.125, 0.125, 1], [0, 0, 0, 0, 1]),  # products 4.5, 1/8, 1
        ("sequence", "mask", [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]),
    ],
)
def test_weights_at_a_cap_of_two(level: Any, mode: Any, weights: list[float], kept: list[int]) -> None:
    got = correction(RATIOS.log(), LENGTHS, source="learner", level=level, mode=mode, cap=2.0000001)
    np.testing.assert_allclose(got.weights, weights, rtol=1e-6)
    assert got.kept.tolist() == [bool(k) for k in kept]


def test_an_impossible_token_has_a_finite_weight() -> None:
    got = correction(
        torch.tensor([-1e4, 1e4]), torch.tensor([1, 1]), source="learner", level="token", mode="truncate", cap=2.0
    )
    np.testing.assert_allclose(got.weights, [math.exp(-20), 2], rtol=1e-5)


@given(data=st.data(), level=st.sampled_from(["token", "sequence"]), mode=st.sampled_from(["truncate", "mask"]))
@settings(max_examples=examples(60), deadline=None)
def test_weights_equal_the_loop(data: st.DataObject, level: Any, mode: Any) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    log_ratio, ends = rng.normal(0, 1, sum(lengths)), np.cumsum(lengths)
    got = correction(
        torch.from_numpy(log_ratio), torch.tensor(lengths), source="learner", level=level, mode=mode, cap=2.5
    )
    parts = [log_ratio[e - n : e] for e, n in zip(ends, lengths, strict=True)]
    expected = np.concatenate([looped.importance(part, level, mode, 2.5) for part in parts])
    np.testing.assert_allclose(got.weights, expected, rtol=1e-9)


OPTIONS: dict[str, dict[str, Any]] = {
    "rloo": {"advantage": "rloo", "kl": 0.1, "kl_estimator": "k1"},
    "reinforce++": {"advantage": "reinforce++", "aggregation": "sequence"},
    "reinforce++_baseline": {"advantage": "reinforce++_baseline", "explorer_negatives": 0.5},
    "pass_at_k": {"advantage": "pass_at_k", "pass_k": 2, "kl": 0.1, "kl_estimator": "k2"},
    "dr_grpo": {"normalise_std": False, "aggregation": "constant", "aggregation_tokens": 9},
    "recentre": {"explorer_negatives": 0.0, "recentre": True},
    "gspo": {"loss": "gspo", "aggregation": "sequence", "clip_low": 0.05, "clip_high": 0.05},
    "cispo": {"loss": "cispo", "clip_low": 1.0, "clip_high": 0.1},
    "sapo": {"loss": "sapo"},
    "overlong": {"overlong": "filter", "kl": 0.05},
    "token_correction": {"correction": {"explorer": "token", "learner": "token"}},
    "explorer_correction": {"correction": {"explorer": "sequence", "mode": "mask", "cap": 5.0}, "kl": 0.1},
    "learner_correction": {"correction": {"learner": "sequence", "cap": 3.0}, "loss": "gspo"},
    "kl_in_reward": {"kl": 0.05, "kl_in": "reward", "kl_estimator": "k1"},
    "entropy": {"entropy": 0.3, "explorer_negatives": 0.5},
    "overlong_shaping": {"overlong_buffer_tokens": 4},
    "overlong_everything": {"overlong_buffer_tokens": 6, "overlong_penalty": 0.3, "overlong": "filter"}
    | {"kl": 0.05, "kl_in": "reward", "entropy": 0.1},
    "separate": {"grouping": "separate"},
    "separate_reinforce++": {"grouping": "separate", "advantage": "reinforce++", "kl": 0.05, "kl_in": "reward"},
}


def groups_of_six(seed: int = 3) -> list[RolloutGroup]:
    """Five groups, three rollouts of either source, the last of each cut off; behaviour near the learner's log-probs.

    The second has no variance, and the last has no explorer.
    """
    groups = random_groups(5, size=6, seed=seed)
    model = random_model("llama")
    rng = np.random.default_rng(seed)
    result = []
    for i, group in enumerate(groups):
        rollouts = []
        for k, rollout in enumerate(group.rollouts):
            near = logprobs_of(model, group, k).detach().numpy() + rng.normal(0, 0.5, len(rollout.token_ids))
            changes: dict[str, Any] = {"logprobs": near.astype(np.float32)}
            changes["finish_reason"] = "length" if k in (2, 5) else "stop"
            right = i != 1 and k in (i, 5 - i // 3)
            changes["verdict"] = Verdict("right" if right else "wrong", float(right))
            rollouts.append(replace(rollout, **changes))
        result.append(replace(group, rollouts=rollouts[3:] if i == 4 else rollouts))
    return result


def all_logprobs_of(model: torch.nn.Module, group: RolloutGroup, k: int) -> torch.Tensor:
    """[response tokens, vocabulary]"""
    response = group.rollouts[k].token_ids
    ids = torch.from_numpy(np.concatenate([group.prompt_token_ids, response]).astype(np.int64))[None]
    return (model(input_ids=ids).logits[0, -len(response) - 1 : -1] / 0.8).log_softmax(-1)


def logprobs_of(model: torch.nn.Module, group: RolloutGroup, k: int) -> torch.Tensor:
    chosen = torch.from_numpy(group.rollouts[k].token_ids.astype(np.int64))[:, None]
    return all_logprobs_of(model, group, k).gather(1, chosen)[:, 0]


KL = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": lambda d: (-d).exp() - 1 + d}


class LoopedTrainer:
    """Every rollout forwarded by itself; the gradient of each policy loss is written out, not left to autograd."""

    def __init__(self, goal: ObjectiveConfig, config: Any):
        self.goal, self.model, self.reference = goal, random_model("llama"), random_model("llama")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=0.0
        )

    def update(self, mini_batches: list[list[RolloutGroup]]) -> float:
        groups = [g for mini in mini_batches for g in mini]
        with torch.no_grad():
            self.old = {id(r): logprobs_of(self.model, g, k) for g in groups for k, r in enumerate(g.rollouts)}
            self.first = {id(r): logprobs_of(self.reference, g, k) for g in groups for k, r in enumerate(g.rollouts)}
        steps = mini_batches
        if self.goal.grouping == "separate":
            steps = [
                [replace(g, rollouts=[r for r in g.rollouts if r.source == source]) for g in mini]
                for mini in mini_batches
                for source in ("explorer", "learner")
            ]
            steps = [[g for g in step if g.rollouts] for step in steps]
        return float(np.mean([self.step(step) for step in steps if step]))

    def reward(self, rollout: Any) -> float:
        reward = rollout.reward
        if (over := self.goal.overlong_buffer_tokens) is not None:
            beyond = max(0, len(rollout.token_ids) - (MAX_TOKENS - over))
            reward -= (self.goal.overlong_penalty or 1) * beyond / over
        if self.goal.kl_in == "reward":
            d = self.old[id(rollout)] - self.first[id(rollout)]
            reward -= self.goal.kl * KL[self.goal.kl_estimator](d).sum().item()
        return reward

    def step(self, groups: list[RolloutGroup]) -> float:
        goal = self.goal
        values = looped.advantages(
            [[self.reward(r) for r in g.rollouts] for g in groups],
            [[r.source == "explorer" for r in g.rollouts] for g in groups],
            [[len(r.token_ids) for r in g.rollouts] for g in groups],
            goal,
        )
        lengths = [len(r.token_ids) for g in groups for r in g.rollouts]
        total = torch.zeros(())
        for group, advantages in zip(groups, values, strict=True):
            for k, (rollout, advantage) in enumerate(zip(group.rollouts, advantages, strict=True)):
                if goal.overlong == "filter" and rollout.finish_reason == "length":
                    continue
                losses = self.losses(group, k, advantage)
                if goal.aggregation == "token":
                    total = total + losses.sum() / sum(lengths)
                else:
                    over = len(losses) if goal.aggregation == "sequence" else goal.aggregation_tokens
                    total = total + losses.sum() / over / len(lengths)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return total.item()

    def losses(self, group: RolloutGroup, k: int, advantage: float) -> torch.Tensor:
        goal, rollout = self.goal, group.rollouts[k]
        new, old = logprobs_of(self.model, group, k), self.old[id(rollout)]
        value = torch.tensor(looped.policy_losses(new.tolist(), old.tolist(), advantage, goal))
        slope = torch.tensor(slopes(new.tolist(), old.tolist(), advantage, goal))
        own = slope * (new - new.detach()) + value
        level = getattr(goal.correction, rollout.source)
        log_ratios = (old - torch.from_numpy(rollout.logprobs)).tolist()
        own = own * torch.tensor(looped.importance(log_ratios, level, goal.correction.mode, goal.correction.cap))
        if goal.kl and goal.kl_in == "loss":
            own = own + goal.kl * KL[goal.kl_estimator](new - self.first[id(rollout)])
        logp = all_logprobs_of(self.model, group, k)
        return own + goal.entropy * (logp.exp() * logp).sum(1)


def slopes(new: list[float], old: list[float], a: float, goal: ObjectiveConfig) -> list[float]:
    """Of each token's policy loss by its own log-prob; of gspo, its share of the response's."""
    ratios = [math.exp(n - o) for n, o in zip(new, old, strict=True)]
    low, high = 1 - goal.clip_low, 1 + goal.clip_high
    if goal.loss == "cispo":
        return [-min(max(r, low), high) * a for r in ratios]
    if goal.loss == "sapo":
        t = goal.sapo_positive if a > 0 else goal.sapo_negative
        gates = [1 / (1 + math.exp(-t * (r - 1))) for r in ratios]
        return [-4 * g * (1 - g) * r * a for g, r in zip(gates, ratios, strict=True)]
    if goal.loss == "gspo":
        ratios = [math.prod(ratios) ** (1 / len(ratios))] * len(ratios)
    return [0.0 if (a > 0 and r > high) or (a < 0 and r < low) else -r * a for r in ratios]


def updates(goal: ObjectiveConfig) -> int:
    """The KL to the reference under the weights before the update is 0 at the first."""
    return 2 if goal.kl_in == "reward" else 1


def trained(model_dir: str, goal: ObjectiveConfig, order: list[list[RolloutGroup]], **changes: Any) -> tuple[Any, Any]:
    trainer = make_trainer(model_dir, goal=goal, config=trainer_config(**READABLE | changes), max_tokens=MAX_TOKENS)
    for _ in range(updates(goal)):
        metrics = trainer.update(order)
    weights = weights_of(trainer)
    trainer.close()
    return metrics, weights


@pytest.mark.parametrize("name", list(OPTIONS))
def test_every_option_equals_the_loop_and_does_not_depend_on_packing_or_order(name: str, model_dir: str) -> None:
    goal, groups = objective(**OPTIONS[name]), groups_of_six()
    mini_batches = [groups[:2], groups[2:]]
    naive = LoopedTrainer(goal, trainer_config(**READABLE))
    start = {n: p.detach().clone() for n, p in naive.model.named_parameters()}
    for _ in range(updates(goal)):
        loss = naive.update(mini_batches)
    metrics, weights = trained(model_dir, goal, mini_batches, micro_batch_tokens=10_000)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-5)
    expected = {n: p.detach() for n, p in naive.model.named_parameters()}
    assert max((expected[n] - start[n]).abs().max() for n in start) > 1e-3
    for n, tensor in expected.items():
        torch.testing.assert_close(weights[n], tensor, rtol=0, atol=1e-5)
    shuffled = [[replace(g, rollouts=g.rollouts[::-1]) for g in mini[::-1]] for mini in mini_batches]
    other, others = trained(model_dir, goal, shuffled, micro_batch_tokens=1, logprob_chunk_tokens=3)
    for n, tensor in weights.items():
        torch.testing.assert_close(others[n], tensor, rtol=0, atol=1e-5)
    assert set(other) == set(metrics)
    for key, value in metrics.items():
        assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_metrics_of_corrections_and_of_who_solved(model_dir: str) -> None:
    goal, groups = objective(correction={"explorer": "token", "cap": 1.5}), groups_of_six()
    metrics, _ = trained(model_dir, goal, [groups])
    model = random_model("llama")
    weights, kept = [], []
    for g in (groups[i] for i in (0, 2, 3)):  # 1 has no variance, 4 no explorer
        for k in range(3):
            ratios = np.exp(logprobs_of(model, g, k).detach().numpy() - g.rollouts[k].logprobs)
            weights += list(np.minimum(ratios, 1.5))
            kept += [1 / 1.5 <= r <= 1.5 for r in ratios]
    assert metrics["correction_weight/explorer"] == pytest.approx(np.mean(weights), rel=1e-5)
    assert metrics["correction_kept/explorer"] == pytest.approx(np.mean(kept))
    assert "correction_kept/learner" not in metrics
    # 0 and 2 have a right rollout of either source, 1 none, 3 and 4 the learner's only, 4 no explorer to fail
    assert [metrics[f"solved_only/{s}"] for s in ("explorer", "learner")] == [0, 1]
    assert metrics["mixed_groups"] == 4
    only = replace(groups[0], rollouts=[*groups[0].rollouts[:3], *groups[1].rollouts[3:]])
    assert trained(model_dir, objective(), [[only]])[0]["solved_only/explorer"] == 1


def test_ratio_and_clip_fraction_are_by_source_too(model_dir: str) -> None:
    groups = groups_of_six()
    both, _ = trained(model_dir, objective(grouping="separate"), [groups])
    assert both["ratio/explorer"] == 1  # the first step
    assert both["clip_fraction/explorer"] == 0
    assert both["ratio/learner"] != pytest.approx(1, abs=1e-4)
    assert both["clip_fraction/learner"] > 0


def test_a_source_without_rollouts_takes_no_optimizer_step(model_dir: str) -> None:
    groups = [replace(g, rollouts=[r for r in g.rollouts if r.source == "learner"]) for g in groups_of_six()]
    counts = {}
    for grouping in ("mixed", "separate"):
        trainer = make_trainer(model_dir, goal=objective(grouping=grouping))
        trainer.update([groups])
        counts[grouping] = trainer.optimizer_steps, weights_of(trainer)
        trainer.close()
    assert counts["mixed"][0] == counts["separate"][0] == 1
    for name, tensor in counts["mixed"][1].items():
        assert torch.equal(tensor, counts["separate"][1][name])
    with pytest.raises(GroupError, match="no rank has a group"):
        make_trainer(model_dir, goal=objective(grouping="separate")).update([[]])


def test_kl_in_the_reward_is_of_every_rollout_and_leaves_the_loss_alone(model_dir: str) -> None:
    groups, goal = groups_of_six(), objective(kl=0.5, kl_in="reward")
    trainer = make_trainer(model_dir, goal=goal)
    first = trainer.update([groups])
    assert first["kl"] == 0  # policy and reference still agree: rewards are as they were
    assert first["trained_tokens"] == sum(len(r.token_ids) for i in (0, 2, 3, 4) for r in groups[i].rollouts)
    second = trainer.update([groups])
    assert second["kl"] > 0
    assert second["trained_tokens"] == sum(len(r.token_ids) for g in groups for r in g.rollouts)
    assert second["zero_variance_groups"] == 0  # the KL tells apart rollouts of equal reward
