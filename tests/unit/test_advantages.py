"""Advantages, policy losses, KL estimates and aggregation, by hand and against a second implementation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import ObjectiveConfig
from s2l_ray.errors import ConfigError, GroupError
from s2l_ray.objective import (
    KL_ESTIMATORS,
    BatchMoments,
    batch_moments,
    estimated,
    group_advantages,
    is_over_batch,
    policy_loss,
    token_weights,
)
from s2l_ray.training.update import by_source, mini_batch_moments, prepare_share, train_sequence
from tests.support import looped_objective as looped
from tests.support.examples import examples
from tests.support.objective_inputs import advantages_of, estimate_of, loss_tokens, rewards_of
from tests.support.training_models import random_groups

HALF = np.array([True, True, False, False])


def test_rloo_of_one_right_answer_in_four() -> None:
    # the right one: 1 - 0; a wrong one: 0 - mean of (1, 0, 0)
    np.testing.assert_allclose(estimate_of([1.0, 0, 0, 0], advantage="rloo"), [1, -1 / 3, -1 / 3, -1 / 3])


def test_pass_at_2_of_one_right_answer_in_four() -> None:
    # 3 of 6 pairs hold it: mean 1/2, deviation 1/2. A wrong one is in 3 pairs, 1 of them right: (1/3 - 1/2) / (1/2).
    rewards, goal = [1.0, 0, 0, 0], {"advantage": "pass_at_k", "pass_k": 2}
    np.testing.assert_allclose(estimate_of(rewards, **goal), [1, -1 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(estimate_of(rewards, **goal, normalise_std=False), [0.5, *[-1 / 6] * 3])


def test_pass_at_1_is_grpo_with_the_population_deviation() -> None:
    rewards = np.array([1.0, 0, 0, 1, 0])
    expected = (rewards - rewards.mean()) / rewards.std()
    np.testing.assert_allclose(estimate_of(rewards, advantage="pass_at_k", pass_k=1), expected, rtol=1e-12)


def test_pass_at_k_teaches_nothing_once_every_subset_is_right() -> None:
    assert estimate_of([1.0, 1, 1, 0], advantage="pass_at_k", pass_k=2, normalise_std=True).tolist() == [0, 0, 0, 0]


def test_pass_at_k_refuses_a_partial_reward() -> None:
    with pytest.raises(GroupError, match="0 or 1"):
        estimate_of([1.0, 0.5, 0], advantage="pass_at_k", pass_k=2, normalise_std=True)


def test_reinforce_plus_plus_counts_a_rollout_once_per_token() -> None:
    # tokens 1 1 1 0: mean 3/4, sample variance (3/16 + 9/16) / 3 = 1/4
    moments = batch_moments(np.array([1.0, 0.0]), np.array([3, 1]), lambda sums: sums)
    assert moments == BatchMoments(0.75, 0.25)
    got = advantages_of(np.array([1.0, 0.0]), np.zeros(2, bool), batch=moments, advantage="reinforce++")
    np.testing.assert_allclose(got.values, [0.5, -1.5], rtol=1e-6)


def test_moments_over_ranks_are_those_of_all_their_tokens() -> None:
    values, lengths = np.array([1.0, 0, 0.5, 0.25]), np.array([3, 0, 2, 7])
    whole = batch_moments(values, lengths, lambda sums: sums)
    others = [[9.0, 0.5 * 2 + 0.25 * 7], [2 * (0.5 - whole.mean) ** 2 + 7 * (0.25 - whole.mean) ** 2]]
    part = batch_moments(values[:2], lengths[:2], lambda sums: sums + np.array(others.pop(0)))
    assert (part.mean, part.variance) == pytest.approx((whole.mean, whole.variance), rel=1e-14)


def test_equal_rewards_over_the_batch_have_no_advantage() -> None:
    rewards, lengths = np.full(3, 0.1), np.array([3, 5, 4])
    moments = batch_moments(rewards, lengths, lambda sums: sums)
    assert (rewards != moments.mean).any()  # rounded
    got = advantages_of(rewards, np.zeros(3, bool), batch=moments, advantage="reinforce++")
    assert got.values.tolist() == [0, 0, 0]


def test_the_baseline_of_reinforce_plus_plus_is_the_group_mean() -> None:
    assert estimate_of([1.0, 0, 0, 0], advantage="reinforce++").tolist() == [1, 0, 0, 0]
    assert estimate_of([1.0, 0, 0, 0], advantage="reinforce++_baseline").tolist() == [0.75, -0.25, -0.25, -0.25]
    assert estimate_of([0.1] * 3, advantage="reinforce++_baseline").tolist() == [0, 0, 0]


def test_recentring_takes_what_explorer_negatives_leave_over_from_everyone() -> None:
    # 0.5 -0.5 0.5 -0.5; the explorer's negative dropped: 0.5 0 0.5 -0.5, of mean 1/8
    got = advantages_of(np.array([1, 0, 1, 0]), HALF, normalise_std=False, explorer_negatives=0, recentre=True)
    assert got.values.tolist() == [0.375, -0.125, 0.375, -0.625]


def test_separate_grouping_splits_every_mini_batch_explorer_first() -> None:
    groups = random_groups(3)
    learner_only = replace(groups[2], rollouts=groups[2].rollouts[2:])
    steps = by_source([groups[:2], [learner_only]])
    seen = [[(g.prompt_id, [(r.source, r.index) for r in g.rollouts]) for g in step] for step in steps]
    explorer, learner = [("explorer", 0), ("explorer", 1)], [("learner", 2), ("learner", 3)]
    assert seen == [[("p0", explorer), ("p1", explorer)], [("p0", learner), ("p1", learner)], [], [("p2", learner)]]


ADVANTAGES: list[dict[str, Any]] = [
    {},
    {"normalise_std": False},
    {"advantage": "rloo", "explorer_negatives": 0.25},
    {"advantage": "reinforce++"},
    {"advantage": "reinforce++_baseline", "explorer_negatives": 0.5},
    {"advantage": "pass_at_k", "pass_k": 2},
    {"advantage": "pass_at_k", "pass_k": 3, "normalise_std": False},
    {"explorer_negatives": 0.3, "recentre": True},
]


@pytest.mark.parametrize("changes", ADVANTAGES)
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_advantages_equal_the_loop(changes: dict[str, Any], data: st.DataObject) -> None:
    goal = ObjectiveConfig(**changes)
    size = data.draw(st.integers(4, 7))
    reward = st.sampled_from([0.0, 1.0]) if goal.advantage == "pass_at_k" else st.sampled_from([0.0, 0.1, 0.5, 1.0])
    shape = {"min_size": size, "max_size": size}
    rewards = data.draw(st.lists(st.lists(reward, **shape), min_size=1, max_size=3))
    explorer = [data.draw(st.lists(st.booleans(), **shape)) for _ in rewards]
    lengths = [data.draw(st.lists(st.integers(1, 5), **shape)) for _ in rewards]
    moments = None
    if is_over_batch(goal.advantage):
        values = np.concatenate([estimated(rewards_of(r), goal) for r in rewards])
        moments = batch_moments(values, np.concatenate(lengths), lambda sums: sums)
    expected = looped.advantages(rewards, explorer, lengths, goal)
    for group, sources, wanted in zip(rewards, explorer, expected, strict=True):
        got = group_advantages(rewards_of(group, sources), goal, moments)
        np.testing.assert_allclose(got.values, wanted, rtol=1e-9, atol=1e-9)
        assert got.zero_variance == (len(set(group)) == 1)


def test_gspo_clips_whole_responses() -> None:
    # Two responses of 2 and 1 tokens, ratios (2, 1/2) -> 1 and 1.5 -> 1.5, the second clipped at 1.25 where A > 0.
    logprobs = torch.tensor([2.0, 0.5, 1.5], dtype=torch.float64).log().requires_grad_()
    old, lengths = torch.zeros(3, dtype=torch.float64), torch.tensor([2, 1])
    for last, loss, slope in ((1.0, -1.25, 0.0), (-1.0, 1.5, 1.5)):
        logprobs.grad = None
        advantages = torch.tensor([3.0, 3.0, last], dtype=torch.float64)
        got = policy_loss(
            loss_tokens(logprobs, old, advantages, lengths),
            ObjectiveConfig(loss="gspo", clip_low=0.25, clip_high=0.25),
        )
        np.testing.assert_allclose(got.ratio, [1, 1, 1.5])
        np.testing.assert_allclose(got.loss.detach(), [-3, -3, loss])
        assert got.clipped.tolist() == [False, False, slope == 0]
        got.loss.sum().backward()
        np.testing.assert_allclose(logprobs.grad, [-3, -3, slope])  # d(-2 s A)/d logp, ds/d logp = s / 2


def test_cispo_bounds_the_weight_and_keeps_every_gradient() -> None:
    logprobs = torch.tensor([0.25, 1.0, 2.0], dtype=torch.float64).log().requires_grad_()
    zeros, advantages = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    goal = ObjectiveConfig(loss="cispo", clip_low=0.5, clip_high=0.5)
    got = policy_loss(loss_tokens(logprobs, zeros, advantages), goal)
    np.testing.assert_allclose(got.loss.detach(), [-0.5 * math.log(0.25), 0, -1.5 * math.log(2)], atol=1e-15)
    assert got.clipped.tolist() == [True, False, True]
    got.loss.sum().backward()
    np.testing.assert_allclose(logprobs.grad, [-0.5, 2, -1.5])


def test_sapo_has_the_gradient_of_r_a_at_one_and_a_smaller_one_elsewhere() -> None:
    logprobs = torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64).log().requires_grad_()
    zeros, advantages = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    goal = ObjectiveConfig(loss="sapo", sapo_positive=0.5, sapo_negative=2.0)
    got = policy_loss(loss_tokens(logprobs, zeros, advantages), goal)
    # t = 1/2: 8 sigmoid(0) = 4; t = 2: 2 sigmoid(0) * 2 = 2; t = 1/2 at r - 1 = 2: 8 sigmoid(1)
    sigmoid = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(got.loss.detach(), [-4, 2, -8 * sigmoid])
    got.loss.sum().backward()
    np.testing.assert_allclose(logprobs.grad, [-1, 2, -4 * sigmoid * (1 - sigmoid) * 3])


@pytest.mark.parametrize("loss", ["ppo", "gspo", "cispo", "sapo"])
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_policy_losses_equal_the_loop(loss: str, data: st.DataObject) -> None:
    goal = ObjectiveConfig(loss=loss, clip_low=0.1, clip_high=0.3)
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    advantages = rng.normal(0, 1, len(lengths))
    new, old = rng.normal(-2, 0.3, sum(lengths)), rng.normal(-2, 0.3, sum(lengths))
    per_token = np.repeat(advantages, lengths)
    tokens = loss_tokens(*map(torch.from_numpy, (new, old, per_token)), torch.tensor(lengths))
    got = policy_loss(tokens, goal).loss
    ends = np.cumsum(lengths)
    expected = [
        looped.policy_losses(new[e - n : e], old[e - n : e], a, goal)
        for e, n, a in zip(ends, lengths, advantages, strict=True)
    ]
    np.testing.assert_allclose(got.numpy(), np.concatenate(expected), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("k1", [-math.log(2), 0, math.log(2)], [1, 1, 1]),
        ("k2", [math.log(2) ** 2 / 2, 0, math.log(2) ** 2 / 2], [-math.log(2), 0, math.log(2)]),
        ("k3", [1 - math.log(2), 0, math.log(2) - 0.5], [-1, 0, 0.5]),
    ],
)
def test_kl_estimates_and_their_gradients(name: Any, value: list[float], gradient: list[float]) -> None:
    logprobs = torch.full((3,), -2.0, dtype=torch.float64, requires_grad=True)
    reference = -2.0 + torch.tensor([math.log(2), 0.0, -math.log(2)], dtype=torch.float64)
    got = KL_ESTIMATORS[name](logprobs, reference)
    np.testing.assert_allclose(got.detach(), value, atol=1e-15)
    got.sum().backward()
    np.testing.assert_allclose(logprobs.grad, gradient, atol=1e-15)


def test_expected_gradients_of_the_kl_estimates() -> None:
    """Over samples of the policy: k1 pulls nowhere, k2 along KL(p || q), k3 along KL(q || p)."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)

    def gradient(loss: torch.Tensor) -> np.ndarray:
        return torch.autograd.grad(loss, logits)[0].numpy()

    def log_p() -> torch.Tensor:
        return logits.log_softmax(0)

    expected = {name: (log_p().exp().detach() * kl(log_p(), q.log())).sum() for name, kl in KL_ESTIMATORS.items()}
    np.testing.assert_allclose(gradient(expected["k1"]), 0, atol=1e-15)
    np.testing.assert_allclose(gradient(expected["k2"]), gradient((log_p().exp() * (log_p() - q.log())).sum()))
    np.testing.assert_allclose(gradient(expected["k3"]), gradient((q * (q.log() - log_p())).sum()))


def test_a_constant_divides_every_sequence_alike() -> None:
    weights = [token_weights(n, "constant", total_tokens=8, total_sequences=3, constant_tokens=10) for n in (3, 1, 4)]
    assert weights == [1 / 30] * 3


def test_truncated_responses_are_filtered_but_counted() -> None:
    group = random_groups(1, rewards=[1, 0, 1, 0])[0]
    group.rollouts[1] = replace(group.rollouts[1], finish_reason="length")
    goal = ObjectiveConfig(overlong="filter", normalise_std=False)
    share = prepare_share([group], goal, total_tokens=100, total_sequences=4)
    assert [s.advantage for s in share.sequences] == [0.5, 0.5, -0.5]
    assert [s.weight for s in share.sequences] == [0.01] * 3
    assert share.skipped_rollouts == 1
    kept = [len(group.rollouts[k].token_ids) for k in (0, 2, 3)]
    assert share.mass == 0.5 * sum(kept)


def test_moments_are_only_asked_for_where_they_are_used() -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a collective that other ranks would not join")

    assert mini_batch_moments(random_groups(1), ObjectiveConfig(), fail) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["objective.advantage=pass_at_k"], "needs pass_k"),
        (["objective.pass_k=2"], "only for advantage: pass_at_k"),
        (["objective.advantage=pass_at_k", "objective.pass_k=8"], "less than rollout.group_size"),
        (["objective.advantage=pass_at_k", "objective.pass_k=2", "objective.grouping=separate"], "grouping: mixed"),
        (["objective.aggregation=constant"], "needs aggregation_tokens"),
        (["objective.aggregation_tokens=64"], "only for aggregation: constant"),
        (["objective.recentre=true", "objective.explorer_negatives=1"], "explorer_negatives below 1"),
        (
            ["objective.recentre=true", "objective.explorer_negatives=0", "objective.advantage=reinforce++"],
            "set recentre: false",
        ),
        (["objective.kl_in=reward"], "needs kl above 0"),
        (
            ["objective.advantage=pass_at_k", "objective.pass_k=2", "objective.overlong_buffer_tokens=4"],
            "rewards other than 0 and 1",
        ),
        (["objective.correction.cap=1"], "objective.correction.cap"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(override: list[str], message: str) -> None:
    pytest.importorskip("omegaconf")
    from s2l_ray.config import load_config

    with pytest.raises(ConfigError, match=message):
        load_config("configs/quickstart.yaml", ["rollout.group_size=8", "objective.kl=0", *override])


def test_the_sequence_a_rollout_becomes() -> None:
    group = random_groups(1)[0]
    sequence = train_sequence(group, group.rollouts[0], 0.5, 0.25)
    assert sequence.token_ids.tolist() == [*group.prompt_token_ids, *group.rollouts[0].token_ids]
    assert (sequence.response_tokens, sequence.from_explorer) == (len(group.rollouts[0].token_ids), True)
