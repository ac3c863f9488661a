"""When Tune takes a study's trials for all given: it then ends the actors of paused trials."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from s2l_ray.tuning.searching import Drawn, StudyTrials


@pytest.mark.parametrize(
    ("over", "finished"), [([False, True], False), ([True, True], True), ([True], False), ([False], False)]
)
def test_a_study_is_finished_when_no_trial_can_take_over_an_actor_any_more(over: list[bool], finished: bool):
    study = StudyTrials("study", 2, Drawn([{}, {}]), lambda number, values: None, at_once=1)
    study.trials = [SimpleNamespace(is_finished=lambda ended=ended: ended) for ended in over]
    assert study.is_finished() is finished
    assert len(over) < 2 or study.next_trial() is None
