from __future__ import annotations

import time

import pytest

from s2l_ray.rollouts.records import Period
from s2l_ray.timing import Span
from s2l_ray.timing.work_log import WorkLog


def test_what_was_noted_is_taken_once_and_joined():
    log = WorkLog()
    engine, verifier = ("explorer 0", "explore", 3), ("verifier 1", "verify", 3)
    for start, end in ((10.0, 12.0), (11.0, 13.0), (20.0, 21.0)):
        log.note(engine, Period(start, end))
    log.note(verifier, Period(12.0, 12.5))
    log.note(verifier, None)
    assert log.take() == [
        Span("explorer 0", "explore", 3, 10.0, 13.0),
        Span("explorer 0", "explore", 3, 20.0, 21.0),
        Span("verifier 1", "verify", 3, 12.0, 12.5),
    ]
    assert log.take() == []


def test_what_is_under_way_goes_back_to_its_oldest_piece():
    log, activity = WorkLog(), ("learner 0", "generate", 7)
    before = time.time()
    with log.under_way_in(activity, "a"):
        middle = time.time()
        with log.under_way_in(activity, "b"):
            (span,) = log.under_way()
            assert span[:3] == activity and before <= span.start <= middle <= span.end <= time.time()
        assert len(log.under_way()) == 1
        with pytest.raises(RuntimeError), log.under_way_in(("learner 1", "generate", 7), "a"):
            raise RuntimeError("the engine is gone")
        assert [span.track for span in log.under_way()] == ["learner 0"]
    assert log.under_way() == []
