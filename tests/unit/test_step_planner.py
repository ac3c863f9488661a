from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.errors import ConfigError, GroupError
from s2l_ray.rollouts.records import Rollout, RolloutGroup, RolloutSet, RolloutSummary, Verdict, summarise
from s2l_ray.rollouts.requests import rollout_seed
from s2l_ray.rollouts.step_planner import (
    StepPlanner,
    balance,
    check_group,
    mini_batches,
    solved_by_explorer_only,
    step_digest,
    without_variance,
)
from s2l_ray.schedule import Schedule


def planner(prompts: int = 10, per_step: int = 4, seed: int = 1) -> StepPlanner:
    return StepPlanner([f"p{i}" for i in range(prompts)], Schedule("linear", 8, 4), per_step, seed, explorer_seed=seed)


def summary(prompt: str, source: str, index: int, digest: str = "00") -> RolloutSummary:
    return RolloutSummary(prompt, source, index, 0, 1.0, "right", 7, 18, False, digest)


def test_an_epoch_visits_every_prompt_at_most_once_and_the_next_in_another_order():
    plan = planner(prompts=12, per_step=4)
    first = [p for step in (1, 2, 3) for p in plan.prompts(step)]
    second = [p for step in (4, 5, 6) for p in plan.prompts(step)]
    assert sorted(first) == sorted(second) == sorted(f"p{i}" for i in range(12))
    assert first != second


def test_a_step_never_repeats_a_prompt_when_the_epoch_does_not_divide():
    plan = planner(prompts=10, per_step=4)
    for step in range(1, 20):
        assert len(set(plan.prompts(step))) == 4


def test_prompts_depend_on_seed_and_step_alone():
    assert planner(seed=3).prompts(7) == planner(seed=3).prompts(7)
    assert planner(seed=3).prompts(7) != planner(seed=4).prompts(7)


def test_requests_split_every_group_by_the_schedule():
    plan = planner()
    # T_mix = 4, G = 8: step 2 has alpha 2/3, so 6 from the explorer and 2 from the learner.
    prompts = plan.prompts(2)
    assert [r.count for r in plan.explorer_requests(2, prompts)] == [6] * 4
    assert [r.count for r in plan.learner_requests(2, prompts)] == [2] * 4
    assert plan.learner_requests(1, prompts) == [] and plan.explorer_requests(4, prompts) == []
    assert [r.prompt_id for r in plan.explorer_requests(2, prompts)] == prompts


def test_the_explorers_rollouts_of_a_prompt_are_counted_over_its_visits():
    """Nothing but the prompt, the explorer's seed and the visit decides them: not the run's seed, step or schedule."""

    def seeds(seed, schedule):
        steps = StepPlanner([f"p{i}" for i in range(8)], schedule, 4, seed, explorer_seed=7)
        found = {}
        for step in (1, 2, 3, 4):  # two epochs
            for request in steps.explorer_requests(step, steps.prompts(step)):
                own = [request.first_seed + k for k in range(request.count)]
                found.setdefault(request.prompt_id, []).append(own)
        return found

    constant = seeds(1, Schedule("constant", 4, 4))
    assert all(len(visits) == 2 and visits[1][0] == visits[0][0] + 4 for visits in constant.values())
    assert seeds(2, Schedule("constant", 4, 4)) == constant
    fewer = seeds(3, Schedule("constant", 4, 4, Fraction(1, 2)))
    assert fewer == {prompt: [visit[:2] for visit in visits] for prompt, visits in constant.items()}


def test_more_prompts_per_step_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"rollout.prompts_per_step \(4\)"):
        planner(prompts=3)


def test_seeds_are_consecutive_within_a_request_and_differ_between():
    assert rollout_seed(1, 2, "p", "explorer", 5) == rollout_seed(1, 2, "p", "explorer", 0) + 5
    seeds = {rollout_seed(s, t, p, k, 0) for s in (1, 2) for t in (1, 2) for p in "ab" for k in ("explorer", "learner")}
    assert len(seeds) == 16 and all(0 <= s < 2**63 for s in seeds)


def test_a_group_is_exactly_its_prompt():
    rows = [summary("a", "explorer", 0), summary("a", "explorer", 1), summary("a", "learner", 0)]
    check_group("a", rows, explorer=2, learner=1)
    with pytest.raises(GroupError, match="came back in the group of prompt a"):
        check_group("a", [*rows[:2], summary("b", "learner", 0)], explorer=2, learner=1)
    with pytest.raises(GroupError, match="should hold"):
        check_group("a", rows[:2], explorer=2, learner=1)
    with pytest.raises(GroupError, match="should hold"):
        check_group("a", [*rows, rows[0]], explorer=2, learner=1)


def rollout(prompt: str, source: str, index: int) -> Rollout:
    tokens = np.array([index, 7], dtype=np.int32)
    return Rollout(prompt, source, "m", 0, index, tokens, np.zeros(2, np.float32), "", "stop", Verdict("right", 1.0))


def test_merging_sets_into_a_group_checks_prompt_and_size():
    prompt = np.array([1], dtype=np.int32)
    explorer = RolloutSet("a", prompt, [rollout("a", "explorer", i) for i in (1, 0)])
    learner = RolloutSet("a", prompt, [rollout("a", "learner", 0)])
    group = RolloutGroup.merge([learner, explorer], 3)
    assert [(r.source, r.index) for r in group.rollouts] == [("explorer", 0), ("explorer", 1), ("learner", 0)]
    assert group.tokens == 3 * (1 + 2)
    with pytest.raises(GroupError, match="3 rollouts, not 4"):
        RolloutGroup.merge([learner, explorer], 4)
    with pytest.raises(GroupError, match="mixes prompts"):
        RolloutGroup.merge([RolloutSet("b", prompt, [rollout("b", "learner", 0)]), explorer], 3)


def test_digest_is_of_the_groups_not_of_their_order():
    rows = summarise(RolloutSet("a", np.array([1], dtype=np.int32), [rollout("a", "explorer", i) for i in range(3)]))
    assert step_digest(rows) == step_digest(rows[::-1])
    assert step_digest(rows) != step_digest(rows[:2])
    assert rows[0].digest != rows[1].digest


def test_balance_by_hand():
    # Longest first: 9 -> rank 0, 7 -> rank 1, 5 -> rank 1 (12), 4 -> rank 0 (13).
    assert balance([4, 9, 5, 7], 2) == [[0, 1], [2, 3]]
    assert balance([3], 2) == [[0], []]


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 8))
def test_balance_places_everything_once_and_no_rank_is_overfull(tokens: list[int], ranks: int):
    placed = balance(tokens, ranks)
    assert sorted(i for items in placed for i in items) == list(range(len(tokens)))
    loads = [sum(tokens[i] for i in items) for items in placed]
    # Greedy guarantee: a rank exceeds the lightest by at most its own largest item.
    assert max(loads) - min(loads) <= max(tokens, default=0)


def test_mini_batches_cover_the_step_in_order():
    assert [list(b) for b in mini_batches(5, 2)] == [[0, 1], [2, 3], [4]]


# ---- dynamic sampling and the adaptive schedule's signal ----------------------------------------------------------


def rewarded(source: str, *rewards: float) -> list[RolloutSummary]:
    return [
        RolloutSummary("p", source, i, 0, reward, "right" if reward == 1 else "wrong", 7, 18, False, "00")
        for i, reward in enumerate(rewards)
    ]


def test_spares_are_the_other_prompts_in_an_order_of_seed_and_step():
    plan = planner(prompts=10, per_step=4)
    spares = plan.spare_prompts(3)
    assert sorted(spares + plan.prompts(3)) == sorted(f"p{i}" for i in range(10))
    assert spares == planner(prompts=10, per_step=4).spare_prompts(3)
    assert spares != [p for p in plan.spare_prompts(4) if p in spares]


def test_groups_without_variance():
    assert without_variance(rewarded("explorer", 0, 0) + rewarded("learner", 0))
    assert without_variance(rewarded("learner", 1, 1))
    assert not without_variance(rewarded("explorer", 0, 0) + rewarded("learner", 1))
    assert not without_variance(rewarded("learner", 0.5, 1))


def test_solved_by_explorer_only_counts_groups_that_both_sampled():
    groups = [
        rewarded("explorer", 0, 1) + rewarded("learner", 0, 0),  # the explorer alone
        rewarded("explorer", 0, 1) + rewarded("learner", 0, 1),  # both
        rewarded("explorer", 0, 0) + rewarded("learner", 1, 1),  # the learner alone
        rewarded("explorer", 0.5) + rewarded("learner", 0),  # half a reward is not right
        rewarded("explorer", 1, 1),  # not compared
    ]
    assert solved_by_explorer_only(groups) == (1, 4)
    assert solved_by_explorer_only([]) == (0, 0)
