"""`health`: each condition with numbers worked out by hand, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.config import HealthConfig
from s2l_ray.results import SourceStats, StepRecord, health_of
from s2l_ray.rollouts.records import Rollout, RolloutSet, Verdict, summarise
from s2l_ray.rollouts.repetition import is_repetitive
from s2l_ray.run.conditions import CONDITIONS
from s2l_ray.run.health import Health
from s2l_ray.step_log import StepLog
from s2l_ray.tracking.metrics import step_metrics
from tests.support.step_records import step

FINE = {"updates": 2.0, "skipped_updates": 0.0, "grad_norm": 0.5}


def only(condition: str, **keys: object) -> HealthConfig:
    """That condition alone, the others off."""
    return HealthConfig(**{**dict.fromkeys(CONDITIONS, "off"), condition: "warn", **keys})


def watched(config: HealthConfig, records: list[StepRecord]) -> list[StepRecord]:
    done: list[StepRecord] = []
    for record in records:
        done.append(Health(config).watch(done, record))
    return done


def counts(config: HealthConfig, records: list[StepRecord]) -> list[int]:
    return [next(iter(record.health.values())) for record in watched(config, records)]


def told(config: HealthConfig, records: list[StepRecord]) -> dict[int, list[str]]:
    """Step -> what is noted after it."""
    done = watched(config, records)
    said = {n: Health(config).notes(done[:n]) for n in range(1, len(done) + 1)}
    return {n: notes for n, notes in said.items() if notes}


def stats(rollouts: int, reward: float = 0.5, garbage: int = 0, **more: int) -> SourceStats:
    return SourceStats(rollouts, reward, 0, 0, 0, {"unparsable": garbage}, garbage=garbage, **more)


def by_source(number: int, explorer: SourceStats, learner: SourceStats) -> StepRecord:
    return step(number, sources={"explorer": explorer, "learner": learner})


# ---- conditions -----------------------------------------------------------------------------------------------------


def test_steps_whose_updates_were_all_skipped_are_counted_in_a_row() -> None:
    updates = [
        FINE,
        {"updates": 1.0, "skipped_updates": 1.0, "grad_norm": 0.5},  # half of it was taken
        {"updates": 0.0, "skipped_updates": 2.0},
        {"updates": 0.0, "skipped_updates": 0.0},  # nothing to train, which says nothing
        {"updates": 0.0, "skipped_updates": 2.0, "grad_norm": 99.0},  # finite, and above trainer.skip_grad_norm
        FINE,
    ]
    records = [step(n, trainer=trainer) for n, trainer in enumerate(updates, 1)]
    assert counts(only("skipped_updates"), records) == [0, 0, 1, 1, 2, 0]
    said = told(only("skipped_updates", skipped_updates_steps=2), records)
    assert list(said) == [5]
    assert said[5][0].startswith(
        "step 5: no weight changed: the loss or its gradient was NaN or infinite, or its norm (mean 99)"
    )
    said = told(only("skipped_updates", skipped_updates_steps=1), records)
    assert said[3][0].startswith(
        "step 3: no weight changed: the loss or its gradient was NaN or infinite in each of its 2 optimizer steps, "
        "which were skipped. Lower trainer.learning_rate"
    )


def test_numbers_that_are_not_finite_are_told_with_whose_they_are() -> None:
    good, bad = stats(8), stats(8, non_finite=3)
    records = [by_source(1, good, good), by_source(2, good, bad), by_source(3, good, bad), by_source(4, good, good)]
    assert counts(only("non_finite"), records) == [0, 1, 2, 0]
    said = told(only("non_finite"), records)
    assert list(said) == [2]
    assert "rewards or engine's log-probs that are NaN or infinite: 0 of 8 of the explorer, 3 of 8 of the" in said[2][0]


def test_an_explorer_emits_garbage_where_the_learner_does_so_at_most_half_as_often() -> None:
    none = stats(0, 0.0)
    records = [
        by_source(1, stats(20, garbage=17), stats(4)),  # 0.85
        by_source(2, stats(20, garbage=18), stats(4, garbage=1)),  # 0.9 against 0.25
        by_source(3, stats(20, garbage=20), stats(4, garbage=2)),  # 1 against 0.5
        by_source(4, none, stats(4)),  # not sampled, so it cannot be told
        by_source(5, stats(20, garbage=20), none),
        by_source(6, stats(20, garbage=20), stats(4, garbage=3)),  # both: the prompt, or max_tokens
    ]
    assert counts(only("explorer_garbage"), records) == [0, 1, 2, 2, 3, 0]
    (note,) = told(only("explorer_garbage"), records)[5]
    assert note.startswith("step 5: 20 of 20 of the explorer's answers are garbage: 0 cut off, 0 empty, 0 repeating")
    (note,) = told(only("explorer_garbage", explorer_garbage_steps=2), records)[3]
    assert "are garbage (2 of 4 of the learner's): 0 cut off, 0 empty, 0 repeating themselves, 20 without an" in note


def test_steps_without_a_group_whose_rewards_differ_teach_nothing() -> None:
    def rewarded(number: int, flat: int, groups: int = 4, **trainer: float) -> StepRecord:
        return step(number, trainer=trainer, zero_variance_groups=flat, groups=groups, reward=0.0)

    some = {"advantage_mass/explorer": 0.5}
    records = [
        rewarded(1, 3, **some),
        rewarded(2, 4, **some),  # a penalty or the mini-batch made advantages of equal rewards
        rewarded(3, 4),
        rewarded(4, 0, groups=0),
        rewarded(5, 4, trained_tokens=9.0),
        rewarded(6, 4),
        rewarded(7, 3, **some),
        rewarded(8, 4),
    ]
    assert counts(only("no_variance"), records) == [0, 0, 1, 1, 2, 3, 0, 1]
    said = told(only("no_variance"), records)
    assert list(said) == [6]  # once an episode, once it has lasted for no_variance_steps
    assert said[6][0].startswith(
        "step 6: no group had rewards that differ, so it trained nothing; the mean reward was 0"
    )
    assert (
        "nothing, but for objective.kl and objective.entropy;"
        in told(only("no_variance", no_variance_steps=2), records)[5][0]
    )


def test_a_reward_collapses_below_a_fraction_of_its_best_running_mean() -> None:
    rewards = [0.4, 0.6, 0.8, 0.4, 0.0, 0.2, 0.0, 0.0]  # means of two: 0.5, 0.7, 0.6, 0.2, 0.1, 0.1, 0
    records = [by_source(n, stats(4, 0.9), stats(4, reward)) for n, reward in enumerate(rewards, 1)]
    records.insert(6, by_source(9, stats(8, 0.0), stats(0, 0.0)))  # the explorer's step is none of the learner's
    config = only("reward_collapse", reward_collapse_fraction=0.2, reward_collapse_steps=2)
    # Below 0.2 x 0.7 = 0.14, which 0.2 is not.
    assert counts(config, records) == [0, 0, 0, 0, 0, 1, 1, 2, 3]
    (note,) = told(config, records)[6]
    assert note.startswith("step 6: the learner's mean reward over 2 steps is 0.1, after 0.7 at its best. Go on from")
    never = [by_source(n, stats(4, 0.0), stats(4, 0.0)) for n in range(1, 6)]
    assert not any(counts(config, never))  # nothing to collapse from: that is no_variance


def test_the_gap_between_engine_and_trainer_is_the_learners_mean_against_a_limit() -> None:
    gaps = [{"logprob_gap/learner": 0.01}, {"logprob_gap/learner": 0.125}, {"logprob_gap/learner": math.nan}, {}]
    trainers = [{"logprob/learner": -1.0, **gap} for gap in gaps] + [{"logprob/explorer": -1.0}]
    records = [step(n, trainer=trainer) for n, trainer in enumerate(trainers, 1)]
    # The trainer leaves out what is not a number. In step 5 the learner sampled nothing.
    assert counts(only("logprob_gap"), records) == [0, 1, 2, 3, 3]
    (note,) = told(only("logprob_gap"), records)[2]
    assert note.startswith(
        "step 2: log-probs of the learner's engines and its trainer differ by 0.125 per token, more than "
        "health.logprob_gap_limit (0.05): ratios"
    )
    assert "differ by nan" in told(only("logprob_gap"), records[3:])[1][0]
    assert not any(counts(only("logprob_gap", logprob_gap_limit=0.2), records[:2]))


# ---- what is counted ------------------------------------------------------------------------------------------------


def test_a_response_repeats_itself_if_few_of_its_runs_of_four_tokens_differ() -> None:
    loop = np.arange(12, dtype=np.int32)
    assert is_repetitive(np.tile(loop, 7))  # 84 tokens: 12 different runs of 81
    assert not is_repetitive(np.tile(loop, 5))  # 60 tokens are too few to tell
    assert not is_repetitive(np.tile(loop, 5)[:0])
    assert not is_repetitive(np.arange(600, dtype=np.int32))
    words = np.random.default_rng(0).integers(0, 8, 600).astype(np.int32)
    assert not is_repetitive(words)  # of 509 runs of 4096 possible ones, about 480 differ
    assert is_repetitive(np.concatenate([words, np.tile(loop, 43)]))  # the end counts: 516 tokens of a loop


def test_what_a_rollout_is_counted_as() -> None:
    def rollout(text: str = "x 4", logprob: float = -1.0, status: str = "right", reward: float = 1.0, **more: object):
        tokens = np.arange(3, dtype=np.int32)
        logprobs = np.array([-1.0, logprob, -1.0], np.float32)
        fields = {"finish_reason": "stop", "verdict": Verdict(status, reward), **more}
        return Rollout("a", "explorer", "m", 0, 0, tokens, logprobs, text, **fields)

    rows = [
        rollout(),
        rollout("wrong", status="wrong", reward=0.0),
        rollout(" \n\t"),
        rollout(logprob=-math.inf),
        rollout(reward=math.nan),
        rollout(status="unparsable"),
        rollout(finish_reason="length"),
        replace(rollout(), token_ids=np.zeros(80, np.int32), logprobs=np.zeros(80, np.float32)),
    ]
    found = SourceStats.of(summarise(RolloutSet("a", np.arange(2), rows)))
    assert (found.empty, found.repetitive, found.non_finite, found.truncated, found.garbage) == (1, 1, 2, 1, 6)


def test_counts_are_metrics_and_go_on_after_a_resume(tmp_path) -> None:
    config = only("no_variance")
    records = watched(config, [step(n, zero_variance_groups=2) for n in (1, 2)])
    assert step_metrics(records[-1])["health/no_variance"] == 2
    log = StepLog(tmp_path / "steps.jsonl")
    for record in records:
        log.append(record)
    assert Health(config).watch(log.read(), step(3, zero_variance_groups=2)).health == {"no_variance": 3}


def test_the_summary_has_what_held_and_for_how_long() -> None:
    flat = [0, 2, 2, 0, 2]
    records = watched(only("no_variance"), [step(n, zero_variance_groups=f) for n, f in enumerate(flat, 1)])
    assert health_of(records) == {"no_variance": {"steps": 3, "first": 2, "longest": 2}}
    assert health_of([step(1)]) == {}


# ---- what follows ---------------------------------------------------------------------------------------------------


def test_what_is_off_is_not_even_counted() -> None:
    record = Health(only("no_variance", no_variance="off")).watch([], step(1, zero_variance_groups=2))
    assert record.health == {}


def test_a_run_ends_once_a_condition_has_lasted_and_is_warned_when_it_begins() -> None:
    broken = {"updates": 0.0, "skipped_updates": 1.0}
    config = HealthConfig(skipped_updates_steps=3)  # stop is its default
    records = watched(config, [step(1, trainer=FINE), *(step(n, trainer=broken) for n in range(2, 6))])
    health = Health(config)
    assert [health.endangered(record) for record in records] == [False, True, True, True, True]
    (note,) = health.notes(records[:2])
    assert "The run ends if that lasts for 3 steps (health.skipped_updates)" in note
    assert [health.notes(records[:n]) for n in (1, 3, 4)] == [[], [], []]
    assert [health.problem(records[:n]) is None for n in range(1, 6)] == [True, True, True, False, False]
    said = str(health.problem(records[:4]))
    assert "each of its 1 optimizer steps, which were skipped, as for 3 steps, since step 2; health.skipped" in said
    assert said.startswith("step 4: no weight changed: the loss") and ". Lower trainer.learning_rate" in said
    assert said.endswith("the same command with health.skipped_updates=warn goes on from it")
    nothing_to_train = {"updates": 0.0, "skipped_updates": 0.0}  # the run was resumed, and this step says nothing
    later = [*records[:4], health.watch(records[:4], step(5, trainer=nothing_to_train))]
    assert later[-1].health["skipped_updates"] == 3 and health.problem(later) is None and health.endangered(later[-1])
    warned = HealthConfig(skipped_updates="warn", skipped_updates_steps=3)
    assert Health(warned).problem(records[:4]) is None and not Health(warned).endangered(records[3])


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_has_an_action_and_a_patience(condition: str) -> None:
    config = HealthConfig()
    assert config.action(condition) == ("stop" if condition == "skipped_updates" else "warn")
    assert config.patience(condition) >= 1
