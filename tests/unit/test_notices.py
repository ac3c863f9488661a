from __future__ import annotations

import math
from dataclasses import replace

from s2l_ray.results import SourceStats, StepRecord
from s2l_ray.run.notices import notices


def step(number: int, explorers: int, learners: int, rollout_s: float, **trainer: float) -> StepRecord:
    return StepRecord(
        step=number,
        alpha=0.0,
        explorer_per_group=0,
        learner_per_group=4,
        reward=0.5,
        sources={},
        zero_variance_groups=0,
        groups=1,
        prompts=["a"],
        digest="00",
        weight_version=number - 1,
        trainer=trainer,
        seconds={"rollout": rollout_s, "total": rollout_s},
        engines={"explorer": explorers, "learner": learners},
    )


def test_a_hand_over_is_noticed_once_two_steps_later():
    steps = [step(i, 2, 1, 9.0) for i in range(1, 6)]
    steps += [step(i, 2, 1, seconds) for i, seconds in ((6, 4.0), (7, 5.0), (8, 1.0), (9, 2.0), (10, 3.0))]
    steps += [step(11, 0, 3, 60.0), step(12, 0, 3, 1.0), step(13, 0, 3, 1.5), step(14, 0, 3, 1.5)]
    said = [notices(steps[:count], 0.05) for count in range(1, len(steps) + 1)]
    assert [count for count, lines in enumerate(said, 1) if lines] == [13]
    # Medians of the five steps before and of the two after the one that waited.
    assert said[12] == [
        "hand-over before step 11: explorer engines 2 -> 0, learner engines 1 -> 3; step 3.00 s before, 1.25 s after"
    ]


def test_engines_that_disagree_with_the_trainer_are_noticed():
    agree = step(1, 1, 1, 1.0, logprob_gap_alarm=0.0, **{"logprob_gap/learner": 0.01})
    apart = step(2, 1, 1, 1.0, logprob_gap_alarm=1.0, **{"logprob_gap/learner": 0.125})
    broken = step(3, 1, 1, 1.0, logprob_gap_alarm=1.0, **{"logprob_gap/learner": math.nan})
    assert notices([agree], 0.05) == []
    (line,) = notices([agree, apart], 0.05)
    assert line.startswith("step 2: log-probs of the learner's engines and its trainer differ by 0.125 per token")
    assert "objective.logprob_gap_alarm (0.05)" in line
    assert "differ by nan" in notices([agree, apart, broken], 0.05)[0]


def test_the_first_answers_that_could_not_be_checked_are_noticed_once():
    def verified(number: int, failed: int) -> StepRecord:
        stats = SourceStats(8, 0.5, 0, 0, 0, {"right": 8 - failed, "failed": failed})
        return replace(step(number, 1, 1, 1.0), sources={"explorer": stats, "learner": stats})

    old = replace(verified(1, 0), sources={"learner": SourceStats(8, 0.5, 0, 0, 0, {"right": 8})})  # before `failed`
    steps = [old, verified(2, 0), verified(3, 2), verified(4, 1)]
    said = [notices(steps[:count], 0.05) for count in range(1, 5)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0]
    assert said[2][0].startswith("step 3: 4 of 16 answers could not be checked and got no reward")


def test_the_first_step_whose_rewards_taught_nothing_is_noticed_once():
    def rewarded(number: int, flat: int, groups: int = 4, **trainer: float) -> StepRecord:
        return replace(step(number, 1, 1, 1.0, **trainer), zero_variance_groups=flat, groups=groups, reward=0.0)

    some = {"advantage_mass/explorer": 0.5}
    steps = [
        rewarded(1, 3, **some),
        rewarded(2, 4, **some),  # a penalty or the mini-batch made advantages of equal rewards
        rewarded(3, 3),  # sub-groups by source
        rewarded(4, 0, groups=0),
        rewarded(5, 4),
        rewarded(6, 4),
    ]
    said = [notices(steps[:count], 0.05) for count in range(1, 7)]
    assert [len(lines) for lines in said] == [0, 0, 0, 0, 1, 0]
    start = "no group of step 5 had rewards that differ, so the step trained nothing: the mean reward was 0."
    assert said[4][0].startswith(start)
    (line,) = notices([rewarded(1, 4, trained_tokens=9.0)], 0.05)
    assert "so the step trained nothing, but for objective.kl and objective.entropy: the mean" in line


def test_a_step_that_changed_no_weights_is_noticed():
    # Norms are of steps that are finite: step 2 was skipped by trainer.skip_grad_norm, half of step 3 was taken.
    fine = step(1, 1, 1, 1.0, skipped_updates=0.0, grad_norm=0.5)
    too_large = step(2, 1, 1, 1.0, skipped_updates=2.0, grad_norm=99.0)
    half = step(3, 1, 1, 1.0, skipped_updates=1.0, grad_norm=0.5)
    nothing_to_train = step(4, 1, 1, 1.0, skipped_updates=0.0)
    broken = step(5, 1, 1, 1.0, skipped_updates=2.0)
    steps = [fine, too_large, half, nothing_to_train, broken]
    said = [notices(steps[:count], 0.05) for count in range(1, 6)]
    assert [len(lines) for lines in said] == [0, 0, 0, 0, 1]
    assert said[4][0].startswith("step 5 changed no weights: the loss or its gradient was NaN or infinite in each of")
