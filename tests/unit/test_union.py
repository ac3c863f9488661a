"""What several runs need of the explorer, together: the union of their requests, and its upper bound over a space."""

from __future__ import annotations

import random
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.union import union_of
from s2l_ray.config import Config, load_config
from s2l_ray.config.loading import parse_config
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.rollouts.step_planner import step_planner
from s2l_ray.tuning.bound import upper_bound
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.needs import Need
from s2l_ray.tuning.recordings import rollouts_of
from s2l_ray.tuning.sharing import SharedBank, with_bank
from s2l_ray.tuning.space import Space

PROMPTS = ["a", "b", "c", "d"]
BASE = load_config("quickstart", {"rollout.prompts_per_step": 2, "objective.mini_batch_prompts": 2})
"""With four prompts an epoch is two steps."""
KINDS = ["linear", "cosine", "abrupt", "constant", "off", "adaptive"]


def configured(group_size: int = 4, **changes: object) -> Config:
    """A run of 4 steps."""
    rollout = BASE.rollout.model_copy(update={"group_size": group_size} | changes.pop("rollout", {}))
    schedule = BASE.schedule.model_copy(update={"steps": 4, "mix_steps": 3} | changes.pop("schedule", {}))
    return BASE.model_copy(update={"rollout": rollout, "schedule": schedule} | changes)


def need(config: Config) -> list[ExplorerRequest]:
    return needed_requests(config, PROMPTS)


def draws(requests: list[ExplorerRequest]) -> list[tuple[str, int]]:
    return [(r.prompt_id, r.first_draw + n) for r in requests for n in range(r.count)]


def asked(requests: list[ExplorerRequest]) -> set[tuple[int, str, int, int]]:
    """(step, prompt, first draw, count)."""
    return {(r.step, r.prompt_id, r.first_draw, r.count) for r in requests}


def request(step: int, prompt: str, first: int, count: int) -> ExplorerRequest:
    return ExplorerRequest(step, prompt, count, 1, first)


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_requests_that_overlap_are_one() -> None:
    first = [request(1, "a", 0, 4), request(2, "b", 0, 3)]
    second = [request(1, "a", 0, 8), request(2, "b", 2, 4)]
    assert asked(union_of([first, second])) == {(1, "a", 0, 8), (2, "b", 0, 6)}


def test_a_rollout_is_asked_for_at_the_first_step_that_needs_it() -> None:
    """G = 4 in three epochs, and G = 6 in two: draws 0 to 5 for step 1, then 6 and 7 with step 2, 8 to 11 with 3."""
    four = [request(1, "a", 0, 4), request(2, "a", 4, 4), request(3, "a", 8, 4)]
    six = [request(1, "a", 0, 6), request(9, "a", 6, 6)]
    assert union_of([four, six]) == [request(1, "a", 0, 6), request(2, "a", 6, 2), request(3, "a", 8, 4)]
    assert union_of([six, four]) == union_of([four, six])


def test_what_lies_between_is_not_asked_for() -> None:
    """Three of eight draws of epoch 1, and all four of epoch 1 of groups of four: draw 3 is nobody's."""
    assert asked(union_of([[request(1, "a", 0, 3)], [request(2, "a", 4, 4)]])) == {(1, "a", 0, 3), (2, "a", 4, 4)}
    assert union_of([]) == [] and union_of([[], []]) == []


def test_the_union_of_one_run_is_its_own_need() -> None:
    for config in (configured(), configured(8, schedule={"kind": "constant", "steps": 7})):
        assert asked(union_of([need(config)])) == asked(need(config))


def test_groups_of_four_and_eight_over_several_epochs() -> None:
    """G = 4, abrupt, T_mix = 3: 4, 4, 4, 0. G = 8, linear, T_mix = 3: 8, 4, 0, 0. Steps 3 and 4 are epoch 1."""
    four, eight = configured(4, schedule={"kind": "abrupt"}), configured(8)
    first, second, third = (set(step_planner(four, PROMPTS).prompts(step)) for step in (1, 2, 3))
    assert first | second == set(PROMPTS) and not first & second
    assert asked(need(four)) == (
        {(1, p, 0, 4) for p in first} | {(2, p, 0, 4) for p in second} | {(3, p, 4, 4) for p in third}
    )
    assert asked(need(eight)) == {(1, p, 0, 8) for p in first} | {(2, p, 0, 4) for p in second}
    expected = {(1, p, 0, 8) for p in first} | {(2, p, 0, 4) for p in second} | {(3, p, 4, 4) for p in third & second}
    assert asked(union_of([need(four), need(eight)])) == expected


def test_needs_of_different_group_sizes_are_not_nested_after_the_first_epoch() -> None:
    """In epoch 1 groups of 4 use draws from 4 on, groups of 8 from 8 on: neither has the other's."""
    constant = {"schedule": {"kind": "constant", "start": 0.25}}
    four, eight = (draws(need(configured(size, **constant))) for size in (4, 8))
    assert sorted(four) == [(p, draw) for p in PROMPTS for draw in (0, 4)]
    assert sorted(eight) == [(p, draw) for p in PROMPTS for draw in (0, 1, 8, 9)]
    both = union_of([need(configured(size, **constant)) for size in (4, 8)])
    assert sorted(draws(both)) == [(p, draw) for p in PROMPTS for draw in (0, 1, 4, 8, 9)]


# ---- against the definition -----------------------------------------------------------------------------------------

RUNS = st.builds(
    lambda size, kind, steps, mix, start, seed, refills: configured(
        size,
        seed=seed,
        rollout={"refill_rounds": refills, "explorer_seed": 1},
        schedule={"kind": kind, "steps": steps, "mix_steps": min(mix, steps), "start": start / 4},
    ),
    st.integers(2, 9),
    st.sampled_from(KINDS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(1, 2),
    st.integers(0, 1),
)


@given(st.lists(RUNS, max_size=4))
@settings(max_examples=60)
def test_the_union_is_exact(runs: list[Config]) -> None:
    needs = [need(config) for config in runs]
    union = union_of(needs)
    assert len(draws(union)) == len(set(draws(union)))
    assert set(draws(union)) == {draw for one in needs for draw in draws(one)}
    first: dict[tuple[str, int], int] = {}
    for one in (request for need in needs for request in need):
        for draw in draws([one]):
            first[draw] = min(one.step, first.get(draw, one.step))
    assert all(first[draw] == one.step for one in union for draw in draws([one]))


@given(RUNS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 4))
@settings(max_examples=150)
def test_more_steps_a_longer_mix_and_a_larger_start_never_need_less(
    config: Config, steps: int, mix: int, start: int
) -> None:
    """What `upper_bound` counts on."""
    schedule = config.schedule
    longer = {"steps": schedule.steps + steps, "mix_steps": min(schedule.mix_steps + mix, schedule.steps + steps)}
    start_then = min(Fraction(1), Fraction(str(schedule.start)) + Fraction(start, 4))
    larger = schedule.model_copy(update=longer | {"start": float(start_then)})
    more = config.model_copy(update={"schedule": larger})
    assert set(draws(need(config))) <= set(draws(need(more)))


# ---- over a space ---------------------------------------------------------------------------------------------------


def spaced(**domains: object) -> Space:
    return Space({key.replace("__", "."): Domain.model_validate(domain) for key, domain in domains.items()})


def configure(values: dict) -> Config:
    nested: dict = configured().model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        section = nested
        for part in path:
            section = section[part]
        section[last] = value
    return parse_config(nested)


def bound(**domains: object) -> list[Config] | None:
    return upper_bound(configured(), spaced(**domains), configure)


def test_only_the_largest_of_what_grows_and_all_of_the_rest() -> None:
    found = bound(
        schedule__kind=["linear", "abrupt"],
        schedule__mix_steps={"randint": [1, 4]},
        schedule__start={"uniform": [0.25, 0.75]},
        rollout__group_size={"randint": [3, 4]},
        trainer__learning_rate={"loguniform": [1e-5, 1e-3]},
        objective__explorer_negatives=[0.0, 1.0],
    )
    values = [(c.schedule.kind, c.schedule.mix_steps, c.schedule.start, c.rollout.group_size) for c in found]
    assert values == [(kind, 4, 0.75, size) for kind in ("linear", "abrupt") for size in (3, 4)]


def test_a_longer_mix_than_the_longest_run_is_no_trials() -> None:
    found = bound(schedule__steps=[2, 3], schedule__mix_steps=[2, 9])
    assert [(c.schedule.steps, c.schedule.mix_steps) for c in found] == [(3, 3)]


def test_what_cannot_be_named_has_no_bound() -> None:
    assert bound(rollout__explorer__temperature={"uniform": [0.5, 1.0]}) is None
    assert bound(rollout__group_size={"randint": [2, 10**6]}) is None
    assert len(bound(rollout__explorer__temperature=[0.5, 1.0])) == 2
    own = {"schedule__kind": ["linear", "examples.schedule:stairs"]}
    assert bound(**own, schedule__start={"uniform": [0.5, 1.0]}) is None


def test_a_combination_that_is_possible_with_some_value_of_another_key_counts() -> None:
    """Two prompts a step go into mini-batches of 2, three into mini-batches of 3."""
    found = bound(rollout__prompts_per_step=[2, 3], objective__mini_batch_prompts=[2, 3])
    assert [c.rollout.prompts_per_step for c in found] == [2, 3]
    assert bound(rollout__prompts_per_step=[3, 4]) == [configure({"rollout.prompts_per_step": 4})]


def test_no_trial_needs_more_than_the_bound() -> None:
    space = spaced(
        schedule__kind=["linear", "cosine", "adaptive", "off"],
        schedule__mix_steps={"randint": [1, 4]},
        schedule__start={"uniform": [0, 1]},
        rollout__group_size=[4, 8],
        rollout__refill_rounds={"randint": [0, 1]},
        seed=[1, 2],
        trainer__learning_rate={"loguniform": [1e-5, 1e-3]},
    )
    found = set(draws(union_of([need(c) for c in upper_bound(configured(), space, configure)])))
    generator = random.Random(0)
    for _ in range(50):
        values = {key: domain.draw(generator) for key, domain in space.domains.items()}
        assert set(draws(need(configure(values)))) <= found, values


# ---- a study's configuration and numbers ----------------------------------------------------------------------------


def test_a_trials_bank() -> None:
    assert with_bank(configured(), "read").bank == BASE.bank.model_copy(update={"mode": "read"})
    assert with_bank(configured(), None) == configured()


def test_tokens_that_separate_runs_would_have_sampled() -> None:
    """Trials of 100, 50 and 50 tokens, and of 100 and 0: 300 together, where the bank has 150."""
    shared = SharedBank("/bank", ("ab",), 30, 150, 10, 50, ((100, 50, 50), (100, 0)))
    assert shared.separate_tokens == 300 and shared.ratio == pytest.approx(0.5)
    assert (
        "30 explorer rollouts, 150 tokens; 10 of them were recorded now. 2 separate runs, each to its last step"
        in shared.describe()
    )
    unknown = SharedBank("/bank", ("ab",), 30, 150, 10, 50, ())
    assert unknown.ratio is None and "separate" not in unknown.describe()


def test_what_trials_need_together_is_counted_per_recording() -> None:
    """Draws 0 to 3 and 2 to 5 of a prompt are six rollouts of one explorer; those of another one are not shared."""

    def of(explorer: str, *requests: ExplorerRequest) -> Need:
        return Need(SimpleNamespace(fingerprint=SimpleNamespace(digest=explorer)), requests, steps=1)

    one, other = ExplorerRequest(1, "p", 4, 0, 0), ExplorerRequest(2, "p", 4, 0, 2)
    assert rollouts_of([of("a", one), of("a", other), of("a", one), of("b", one), of("c")]) == 6 + 4
