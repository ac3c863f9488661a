from __future__ import annotations

from dataclasses import replace

from s2l_ray.results import SourceStats, StepRecord
from s2l_ray.run.notices import notices


def step(number: int, explorers: int, learners: int, rollout_s: float) -> StepRecord:
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
        trainer={},
        seconds={"rollout": rollout_s, "total": rollout_s},
        engines={"explorer": explorers, "learner": learners},
    )


def test_a_hand_over_is_noticed_once_two_steps_later():
    steps = [step(i, 2, 1, 9.0) for i in range(1, 6)]
    steps += [step(i, 2, 1, seconds) for i, seconds in ((6, 4.0), (7, 5.0), (8, 1.0), (9, 2.0), (10, 3.0))]
    steps += [step(11, 0, 3, 60.0), step(12, 0, 3, 1.0), step(13, 0, 3, 1.5), step(14, 0, 3, 1.5)]
    said = [notices(steps[:count]) for count in range(1, len(steps) + 1)]
    assert [count for count, lines in enumerate(said, 1) if lines] == [13]
    # Medians of the five steps before and of the two after the one that waited.
    assert said[12] == [
        "hand-over before step 11: explorer engines 2 -> 0, learner engines 1 -> 3; step 3.00 s before, 1.25 s after"
    ]


def test_the_first_answers_that_could_not_be_checked_are_noticed_once():
    def verified(number: int, failed: int) -> StepRecord:
        stats = SourceStats(8, 0.5, 0, 0, 0, {"right": 8 - failed, "failed": failed})
        return replace(step(number, 1, 1, 1.0), sources={"explorer": stats, "learner": stats})

    old = replace(verified(1, 0), sources={"learner": SourceStats(8, 0.5, 0, 0, 0, {"right": 8})})  # before `failed`
    steps = [old, verified(2, 0), verified(3, 2), verified(4, 1)]
    said = [notices(steps[:count]) for count in range(1, 5)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0]
    assert said[2][0].startswith("step 3: 4 of 16 answers could not be checked and got no reward")
