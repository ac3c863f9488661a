"""Scores and gradients under the learner against what can be computed whole, and against closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s2l_ray.diversity.gradients import PromptGradients, check_objective, groups_of
from s2l_ray.diversity.intervals import Bootstrap
from s2l_ray.diversity.learner import load_learner
from s2l_ray.diversity.projection import CountSketch
from s2l_ray.diversity.scores import LearnerScores, root
from s2l_ray.diversity.signal import signal
from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.records import Rollout, RolloutGroup, RolloutSet, Verdict
from s2l_ray.training.attention import PackedLayout
from s2l_ray.training.logprobs import TokenScores
from s2l_ray.training.model import PackedPolicy
from s2l_ray.training.packing import MicroBatch
from tests.support.training_models import VOCABULARY, objective, random_groups, write_model

TEMPERATURE = 0.8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a machine that runs other tests, two threads wait for each other far longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quiet(done: int, of: int) -> None:
    assert 0 < done <= of


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PackedPolicy:
    directory: Path = tmp_path_factory.mktemp("learner")
    return load_learner(
        write_model("qwen3", directory), temperature=TEMPERATURE, chunk=16, dtype="float32", remote_code=False
    )


def sets(groups: list[RolloutGroup]) -> list[RolloutSet]:
    return [RolloutSet(group.prompt_id, group.prompt_token_ids, group.rollouts) for group in groups]


def whole_distributions(policy: PackedPolicy, problem: RolloutSet, rollout: Rollout, temperature: float) -> np.ndarray:
    """Log-probs over the vocabulary at each response token by the model's own forward: [tokens, vocabulary]."""
    ids = torch.tensor(np.concatenate([problem.prompt_token_ids, rollout.token_ids]).astype(np.int64))[None]
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False, packed=PackedLayout.of([ids.shape[1]])).logits[0]
    begin = len(problem.prompt_token_ids) - 1
    return (logits[begin:-1].double() / temperature).log_softmax(-1).numpy()


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_whole_distribution(policy: PackedPolicy):
    problems = sets(random_groups(3))
    found = LearnerScores(policy, budget=32).at(problems, 1.3, quiet)
    for problem, scores in zip(problems, found, strict=True):
        for i, rollout in enumerate(problem.rollouts):
            logp = whole_distributions(policy, problem, rollout, 1.3)
            chosen = logp[np.arange(len(logp)), rollout.token_ids]
            np.testing.assert_allclose(scores.logprobs[i], chosen, atol=1e-5)
            np.testing.assert_allclose(scores.entropies[i], -(np.exp(logp) * logp).sum(1), atol=1e-5)
            np.testing.assert_allclose(scores.deviations[i], -chosen + (np.exp(logp) * logp).sum(1), atol=2e-5)


def sampled_at(policy: PackedPolicy, temperature: float, count: int) -> RolloutSet:
    """Responses of two tokens that the learner itself samples at a temperature."""
    rng = np.random.default_rng(3)
    prompt = np.array([1, 2, 3], np.int32)
    rollouts, known = [], {}
    for i in range(count):
        tokens: list[int] = []
        while len(tokens) < 2:
            if tuple(tokens) not in known:
                ids = np.array([*tokens, 0], np.int32)
                part = Rollout("p", "learner", "m", 0, 0, ids, np.zeros(len(ids)), "", "stop")
                known[tuple(tokens)] = whole_distributions(policy, RolloutSet("p", prompt, []), part, temperature)[-1]
            tokens.append(int(rng.choice(VOCABULARY, p=np.exp(known[tuple(tokens)]))))
        ids = np.array(tokens, np.int32)
        rollouts.append(Rollout("p", "learner", "m", 0, i, ids, np.zeros(2, np.float32), "", "stop"))
    return RolloutSet("p", prompt, rollouts)


@pytest.mark.parametrize("temperature", [0.5, 1.4])
def test_the_likeliest_temperature_is_the_one_that_sampled(policy: PackedPolicy, temperature: float):
    problem = sampled_at(policy, temperature, 1500)
    scores = LearnerScores(policy, budget=4096)
    found = scores.best_temperature([problem], TEMPERATURE, quiet)
    assert found == pytest.approx(temperature, rel=0.07)
    deviations = np.concatenate(scores.at([problem], found, quiet)[0].deviations)
    assert abs(deviations.mean()) < 2e-3


def test_the_root_is_the_end_where_there_is_none():
    logs = np.log([0.5, 1.0, 2.0])
    assert root(logs, np.array([-1.0, 0.5, 2.0])) == pytest.approx(0.8, abs=0.1)
    assert root(logs, np.array([1.0, 2.0, 3.0])) == pytest.approx(0.5)
    assert root(logs, np.array([-3.0, -2.0, -1.0])) == pytest.approx(2.0)


# ---- the projection -------------------------------------------------------------------------------------------------


def test_a_projection_keeps_inner_products_in_the_mean_and_is_the_same_again():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 50, generator=generator) for _ in range(2))
    known = float((a * b).sum()), float((a * a).sum())
    products = []
    for seed in range(200):
        sketch = CountSketch(16, seed, block=40)
        x, y = sketch.project([a[0], None, a[1:]]), sketch.project([b[0], None, b[1:]])
        products.append((x @ y, x @ x))
    deviation = np.sqrt(2 * known[1] ** 2 / 16 / 200)
    np.testing.assert_allclose(np.mean(products, axis=0), known, atol=4 * deviation)
    np.testing.assert_array_equal(sketch.project([a[0], None, a[1:]]), x)
    np.testing.assert_allclose(sketch.project([2 * a[0] + b[0], None, 2 * a[1:] + b[1:]]), 2 * x + y, atol=1e-4)


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_the_mean_of_prompt_gradients_is_the_gradient_of_a_mini_batch(policy: PackedPolicy):
    """By autograd on -sum A log p / tokens, with A by hand; a group of equal rewards has no gradient."""
    problems = sets([*random_groups(3, size=4), *random_groups(1, size=4, seed=9, rewards=[1.0] * 4)])
    cells = CountSketch(2048, seed=1)
    found = PromptGradients(policy, objective(), cells, budget=24).of(problems, 4, quiet)
    rewards = np.array([[r.reward for r in p.rollouts] for p in problems])
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)
    tokens = sum(len(r.token_ids) for p in problems for r in p.rollouts)
    policy.zero_grad()
    for problem, of_problem in zip(problems, advantages, strict=True):
        for rollout, advantage in zip(problem.rollouts, of_problem, strict=True):
            ids = torch.tensor(np.concatenate([problem.prompt_token_ids, rollout.token_ids]).astype(np.int64))[None]
            logits = policy.model(input_ids=ids, use_cache=False, packed=PackedLayout.of([ids.shape[1]])).logits[0]
            logp = (logits / TEMPERATURE).log_softmax(-1)[len(problem.prompt_token_ids) - 1 : -1]
            chosen = logp.gather(1, torch.tensor(rollout.token_ids.astype(np.int64))[:, None]).sum()
            (-advantage * chosen / tokens).backward()
    whole = cells.project(p.grad for p in policy.parameters())
    np.testing.assert_allclose(found.projected[:, 0].mean(0), whole, atol=1e-5)
    assert found.empty.tolist() == [0, 0, 0, 1]
    assert not found.projected[3].any()


class Bandit(nn.Module):
    """A softmax policy over arms, one token each, whatever the prompt."""

    def __init__(self, preferences: list[float]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(preferences))

    def forward(self, batch: MicroBatch) -> TokenScores:
        logp = self.theta.log_softmax(0)
        return TokenScores(logp[batch.targets], -(logp.exp() * logp).sum().expand(len(batch.targets)))


REWARDS = np.array([0.0, 1.0, 0.0])
PREFERENCES = [0.2, -0.3, 0.5]


def bandit_set(arms: tuple[int, ...], prompt: str) -> RolloutSet:
    rollouts = [
        Rollout(
            prompt, "learner", "bandit", 0, i, np.array([arm], np.int32), np.zeros(1, np.float32), "", "stop",
            Verdict("right" if REWARDS[arm] else "wrong", float(REWARDS[arm])),
        )
        for i, arm in enumerate(arms)
    ]  # fmt: skip
    return RolloutSet(prompt, np.array([0], np.int32), rollouts)


def test_the_gradient_of_a_bandit_has_its_known_mean_and_variance():
    """With the leave-one-out baseline the mean is that of the expected reward: -sum pi_a r_a (e_a - pi)."""
    pi = np.exp(PREFERENCES) / np.exp(PREFERENCES).sum()
    mean = -sum(pi[a] * REWARDS[a] * (np.eye(3)[a] - pi) for a in range(3))
    arms = list(product(range(3), repeat=3))
    chances = np.array([pi[list(group)].prod() for group in arms])
    gradients = PromptGradients(Bandit(PREFERENCES), objective(advantage="rloo"), CountSketch(4096, seed=5), budget=64)
    outcomes = gradients.of([bandit_set(group, str(i)) for i, group in enumerate(arms)], 3, quiet).projected[:, 0]
    assert np.linalg.norm(chances @ outcomes) == pytest.approx(np.linalg.norm(mean), rel=1e-5)

    norm = float(mean @ mean)
    trace = float(chances @ (outcomes**2).sum(1)) - norm
    drawn = np.random.default_rng(0).choice(len(arms), p=chances, size=(900, 2))
    projected = outcomes[drawn][:, :, outcomes.any(0)]
    found = signal(projected, projected, np.zeros(900), 32, Bootstrap(900, seed=0, resamples=100))
    for measured, known in (
        (found.squared_norm, norm),
        (found.variance, trace),
        (found.within, trace),
        (found.snr, 32 * norm / trace),
        (found.noise_scale, trace / norm),
    ):
        interval = measured.estimate(0.999)
        assert interval.low < known < interval.high
        assert interval.high - interval.low < 2 * known
    assert found.cosine.value == pytest.approx(1)


def test_norm_and_variance_are_unbiased_over_every_outcome():
    """Two prompts whose gradients are drawn from three vectors: the means over all nine outcomes are exact."""
    values = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
    chances = np.array([0.2, 0.5, 0.3])
    mean = chances @ values
    norm = variance = 0.0
    for i, j in product(range(3), repeat=2):
        drawn = values[[i, j]][:, None]
        found = signal(drawn, drawn, np.zeros(2), 1, Bootstrap(2, seed=0, resamples=1))
        norm += chances[i] * chances[j] * found.squared_norm.value
        variance += chances[i] * chances[j] * found.variance.value
    assert norm == pytest.approx(mean @ mean)
    assert variance == pytest.approx(chances @ (values**2).sum(1) - mean @ mean)


def test_the_cosine_is_that_of_the_means():
    rng = np.random.default_rng(1)
    learner, other = np.array([3.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])
    noise = rng.normal(size=(2, 800, 1, 3))
    shared = 2 * rng.normal(size=(800, 1, 3))  # of the prompts: it would bias products of the same prompt
    a, b = learner + noise[0] + shared, other + noise[1] + shared
    found = signal(b, a, np.zeros(800), 1, Bootstrap(800, seed=0, resamples=100))
    assert found.cosine.value == pytest.approx(1 / np.sqrt(2), abs=0.1)
    assert found.within is None


def test_groups_are_disjoint_and_an_impossible_gradient_is_refused():
    (problem,) = sets(random_groups(1, size=7))
    assert [[r.index for r in group.rollouts] for group in groups_of(problem, 3)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ConfigError, match="a group of 8 needs as many samples"):
        PromptGradients(Bandit(PREFERENCES), objective(), CountSketch(4, 0), budget=8).of([problem], 8, quiet)
    with pytest.raises(ConfigError, match=r"objective.advantage=reinforce\+\+ is normalised"):
        check_objective(objective(advantage="reinforce++"))
    with pytest.raises(ConfigError, match="objective.kl"):
        check_objective(objective(kl=0.1))
    with pytest.raises(ConfigError, match="objective.old_logprobs: .* set it to trainer"):
        check_objective(objective(old_logprobs="engine"))
