"""The objective, against numbers worked out by hand and a loop over Python floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from s2l_ray.config import ObjectiveConfig
from s2l_ray.objective import k3, overlong_punishment, policy_loss, token_weights
from tests.support.objective_inputs import advantages_of, loss_tokens

NOBODY = np.zeros(4, dtype=bool)


def test_advantages_of_one_right_answer_in_four() -> None:
    # mean 1/4; sample variance (0.75**2 + 3 * 0.25**2) / 3 = 1/4, so the deviation is 1/2
    result = advantages_of(np.array([1, 0, 0, 0]), NOBODY, normalise_std=True)
    np.testing.assert_allclose(result.values, [1.5, -0.5, -0.5, -0.5], rtol=3e-6)
    assert result.values[0] == 0.75 / (0.5 + 1e-6)
    assert not result.zero_variance


def test_advantages_without_the_deviation() -> None:
    result = advantages_of(np.array([1, 0, 0, 0]), NOBODY, normalise_std=False)
    assert result.values.tolist() == [0.75, -0.25, -0.25, -0.25]


def test_negative_advantages_of_the_explorer_are_weighted_after_normalising() -> None:
    from_explorer = np.array([True, True, False, False])
    result = advantages_of(np.array([1, 0, 1, 0]), from_explorer, normalise_std=False, explorer_negatives=0.25)
    assert result.values.tolist() == [0.5, -0.125, 0.5, -0.5]


def test_equal_rewards_give_exactly_zero_though_their_mean_is_rounded() -> None:
    rewards = np.full(3, 0.1)
    assert (rewards - rewards.mean() != 0).any()
    result = advantages_of(rewards, NOBODY[:3], normalise_std=True)
    assert result.zero_variance
    assert result.values.tolist() == [0.0, 0.0, 0.0]


def looped_advantages(rewards: list[float], explorer: list[bool], normalise: bool, weight: float) -> list[float]:
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    result = []
    for reward, from_explorer in zip(rewards, explorer, strict=True):
        advantage = reward - mean
        if normalise:
            advantage /= deviation + 1e-6
        result.append(advantage * weight if from_explorer and advantage < 0 else advantage)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_advantages_equal_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 17))
    rewards, explorer = rng.random(size), rng.random(size) < 0.5
    for normalise in (True, False):
        got = advantages_of(rewards, explorer, normalise_std=normalise, explorer_negatives=0.3).values
        np.testing.assert_allclose(got, looped_advantages(list(rewards), list(explorer), normalise, 0.3), rtol=1e-12)


def test_clipped_loss_in_its_six_cases() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.25])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, 1.0])
    logprobs = ratio.log().requires_grad_()
    goal = ObjectiveConfig(clip_low=0.2, clip_high=0.28)
    loss, got_ratio, clipped = policy_loss(loss_tokens(logprobs, torch.zeros(6), advantages), goal)
    torch.testing.assert_close(got_ratio, ratio)
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.28, 1.5, -0.5, 0.8, -2.2, -1.25]))
    assert clipped.tolist() == [True, False, False, True, False, False]
    loss.sum().backward()
    # d(-r A)/d logp = -r A where the bound does not hold, nothing where it does
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 1.5, -0.5, 0.0, -2.2, -1.25]))


def test_policy_loss_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    new, old, advantages = rng.normal(-2, 0.3, 200), rng.normal(-2, 0.3, 200), rng.normal(0, 1, 200)
    expected = []
    for n, o, a in zip(new, old, advantages, strict=True):
        r = math.exp(n - o)
        expected.append(max(-r * a, -min(max(r, 0.9), 1.3) * a))
    goal = ObjectiveConfig(clip_low=0.1, clip_high=0.3)
    got = policy_loss(loss_tokens(*map(torch.from_numpy, (new, old, advantages))), goal)
    np.testing.assert_allclose(got.loss.numpy(), expected, rtol=1e-12)


def test_k3_value_and_gradient() -> None:
    # d = ln 2: 2 - ln 2 - 1 and slope 1 - 2; d = 0: 0 and 0; d = -ln 2: 1/2 + ln 2 - 1 and slope 1 - 1/2
    logprobs = torch.tensor([-2.0, -2.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = -2.0 + torch.tensor([math.log(2), 0.0, -math.log(2)], dtype=torch.float64)
    value = k3(logprobs, reference)
    np.testing.assert_allclose(value.detach(), [1 - math.log(2), 0, math.log(2) - 0.5], atol=1e-15)
    value.sum().backward()
    np.testing.assert_allclose(logprobs.grad, [-1.0, 0.0, 0.5], atol=1e-15)


def test_k3_averages_to_the_true_kl() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    per_token = k3(torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))).numpy()
    assert (p * per_token).sum() == pytest.approx((p * np.log(p / q)).sum())


def test_token_weights_add_up_to_one_over_the_mini_batch() -> None:
    lengths = [3, 1, 4]
    by_token = [token_weights(n, "token", total_tokens=8, total_sequences=3) for n in lengths]
    by_sequence = [token_weights(n, "sequence", total_tokens=8, total_sequences=3) for n in lengths]
    assert by_token == [1 / 8] * 3
    assert by_sequence == [1 / 9, 1 / 3, 1 / 12]
    for weights in (by_token, by_sequence):
        assert sum(w * n for w, n in zip(weights, lengths, strict=True)) == pytest.approx(1)


def test_overlong_punishment_by_hand() -> None:
    """DAPO, eq. 13, at L_max = 10 and L_cache = 4: 0 up to 6, then -(6 - n) / 4, and no more than the largest."""
    lengths = np.array([0, 5, 6, 7, 8, 9, 10, 11])
    got = overlong_punishment(lengths, max_tokens=10, buffer_tokens=4, largest=1.0)
    assert got.tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert overlong_punishment(lengths, max_tokens=10, buffer_tokens=4, largest=0.4)[4] == 0.2
    whole = overlong_punishment(np.array([0, 5, 10]), max_tokens=10, buffer_tokens=10, largest=1.0)
    assert whole.tolist() == [0, 0.5, 1]
