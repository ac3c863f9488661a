"""Seconds by cause, against steps made by hand and against sampling; the trace file as its readers see it."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.cli import main
from s2l_ray.results import SourceStats, StepRecord
from s2l_ray.rollouts.records import Period
from s2l_ray.step_log import StepLog
from s2l_ray.timing import (
    PARTS,
    Span,
    StepClock,
    TimeSheet,
    TraceFile,
    attribute,
    busy,
    busy_shares,
    read_trace,
)
from s2l_ray.timing.clock import PHASES
from s2l_ray.training.clock import UpdateClock
from tests.support.examples import examples
from tests.support.trace_events import check_events, strictly

STEP = 7


def driver(name: str, start: float, end: float, step: int = STEP) -> Span:
    return Span("driver", name, step, start, end)


def work(track: str, name: str, start: float, end: float, step: int = STEP) -> Span:
    return Span(track, name, step, start, end)


# 20 s: 0.5 of the driver's own, 8 of rollouts, 6 of the update, 1 of the weight sync, 3 of a checkpoint, 1.5 of the
# driver's.
WHOLE = driver("step", 100.0, 120.0)
PHASED = [
    driver("rollout", 100.5, 108.5),
    driver("update", 108.5, 114.5),
    driver("weight_sync", 114.5, 115.5),
    driver("checkpoint", 115.5, 118.5),
]
UPDATE = [
    work("trainer 0", "fetch", 109.0, 109.25),
    work("trainer 0", "wait_for_ranks", 109.25, 110.0),
    work("trainer 0", "old_logprobs", 110.0, 111.0),
    work("trainer 0", "forward_backward", 111.0, 112.5),
    work("trainer 0", "optimizer", 112.5, 112.75),
    work("trainer 0", "forward_backward", 112.75, 113.75),
    work("trainer 0", "optimizer", 113.75, 114.0),
    work("trainer 1", "fetch", 109.0, 110.0),
]
TRAINED = {"fetch": 0.25, "wait_for_ranks": 0.75, "old_logprobs": 1.0, "forward_backward": 2.5, "optimizer": 0.5}
REST = {"update_rest": 1.0, "weight_sync": 1.0, "checkpoint": 3.0, "other": 2.0}


def test_a_mixed_step_by_hand() -> None:
    rollouts = [
        work("explorer 0", "explore", 90.0, 103.5),
        work("explorer 1", "explore", 90.0, 102.0),  # not the last: nothing waits for it
        work("learner 0", "generate", 100.5, 107.0),
        work("verifier 0", "verify", 107.0, 108.0),
        work("explorer 1", "explore", 103.0, 119.0, STEP + 1),  # ahead
        work("verifier 1", "verify", 105.0, 119.0, STEP + 1),
    ]
    assert attribute(WHOLE, PHASED, [*rollouts, *UPDATE]) == {
        "generate": 3.5,
        "explore_and_generate": 3.0,
        "verify": 1.0,
        "assemble": 0.5,
        **TRAINED,
        **REST,
    }


def test_an_explorer_that_is_waited_for_while_it_works_on_another_step() -> None:
    """What the step lacks counts, not what engines are at."""
    rollouts = [
        work("explorer 0", "explore", 99.0, 102.0, STEP + 1),
        work("explorer 0", "explore", 102.0, 106.5),
        work("learner 0", "generate", 100.5, 102.5),
    ]
    found = attribute(WHOLE, PHASED, [*rollouts, *UPDATE])
    assert found == {"explore": 4.0, "explore_and_generate": 2.0, "assemble": 2.0, **TRAINED, **REST}


def test_rollouts_made_ahead_are_not_waited_for() -> None:
    rollouts = [work("explorer 0", "explore", 80.0, 95.0), work("verifier 0", "verify", 80.5, 95.5)]
    assert attribute(WHOLE, PHASED, [*rollouts, *UPDATE]) == {"assemble": 8.0, **TRAINED, **REST}


def test_a_bank_is_waited_for_when_nothing_is_sampled() -> None:
    read = work("bank", "read", 100.5, 107.5)
    assert attribute(WHOLE, PHASED, [read, *UPDATE]) == {"bank": 7.0, "assemble": 1.0, **TRAINED, **REST}
    learner = work("learner 0", "generate", 100.5, 105.5)
    assert attribute(WHOLE, PHASED, [read, learner, *UPDATE])["bank"] == 2.0


def test_a_step_without_spans_of_others() -> None:
    assert attribute(WHOLE, PHASED, []) == {
        "assemble": 8.0,
        "update_rest": 6.0,
        "weight_sync": 1.0,
        "checkpoint": 3.0,
        "other": 2.0,
    }
    assert attribute(driver("step", 1.0, 1.0), [], []) == {}


moments = st.integers(0, 40).map(float)
intervals = st.tuples(moments, moments).map(sorted)
TRACKS = {
    "explorer 0": ["explore"],
    "explorer 1": ["explore"],
    "learner 0": ["generate"],
    "verifier 0": ["verify"],
    "bank": ["read"],
    "trainer 0": ["fetch", "optimizer"],
    "trainer 1": ["fetch"],
    "driver": list(PHASES),
}
random_spans = st.builds(
    lambda of, step, interval: Span(*of, step, *interval),
    st.sampled_from([(track, name) for track, names in TRACKS.items() for name in names]),
    st.sampled_from([STEP, STEP, STEP + 1]),
    intervals,
)


def sampled(whole: Span, phases: list[Span], spans: list[Span]) -> dict[str, float]:
    """The same by asking, in the middle of every second, what is going on. For whole seconds."""
    found: dict[str, float] = {}
    own = [s for s in spans if s.step == whole.step]
    for second in range(int(whole.start), int(whole.end)):
        now = second + 0.5
        going = [s for s in phases if s.start < now < s.end]
        part = sorted(going, key=lambda s: s.start)[-1].name if going else "other"
        if part == "rollout":
            lacking = {s.name for s in own if s.end > now}
            if {"explore", "generate"} <= lacking:
                part = "explore_and_generate"
            else:
                names = {"explore": "explore", "generate": "generate", "read": "bank", "verify": "verify"}
                part = next((shown for name, shown in names.items() if name in lacking), "assemble")
        elif part == "update":
            at = sorted((s for s in own if s.track == "trainer 0" and s.start < now < s.end), key=lambda s: s.start)
            part = at[-1].name if at else "update_rest"
        found[part] = found.get(part, 0.0) + 1.0
    return found


@settings(max_examples=examples(300), deadline=None)
@given(interval=intervals, spans=st.lists(random_spans, max_size=12))
def test_parts_add_up_and_equal_what_sampling_finds(interval: list[float], spans: list[Span]) -> None:
    whole = driver("step", *interval)
    # Of two that begin together either may count: the sampler and we need not agree on which.
    phases = list({s.start: s for s in spans if s.track == "driver" and s.step == STEP}.values())
    others = list({(s.track, s.start): s for s in spans if s.track != "driver"}.values())
    parts = attribute(whole, phases, others)
    assert all(seconds > 0 for seconds in parts.values()) and set(parts) <= set(PARTS)
    assert sum(parts.values()) == whole.end - whole.start
    assert parts == sampled(whole, phases, others)


seconds = st.floats(0, 1e4, allow_nan=False)


@settings(max_examples=examples(200), deadline=None)
@given(
    cuts=st.lists(seconds, min_size=4, max_size=4), spans=st.lists(st.tuples(seconds, seconds).map(sorted), max_size=8)
)
def test_parts_add_up_at_todays_times(cuts: list[float], spans: list[list[float]]) -> None:
    now = 1.8e9
    a, b, c, d = (now + cut for cut in sorted(cuts))
    phases = [driver("rollout", a, b), driver("update", b, c)]
    others = [work("explorer 0", "explore", now + start, now + end) for start, end in spans]
    parts = attribute(driver("step", a, d), phases, others)
    assert math.isclose(sum(parts.values()), d - a, abs_tol=1e-5) and all(value >= 0 for value in parts.values())


def test_parts_come_in_the_order_they_are_shown() -> None:
    assert list(attribute(WHOLE, PHASED, UPDATE)) == [
        "assemble",
        "fetch",
        "wait_for_ranks",
        "old_logprobs",
        "forward_backward",
        "optimizer",
        "update_rest",
        "weight_sync",
        "checkpoint",
        "other",
    ]


# ---- periods ---------------------------------------------------------------------------------------------------------


def test_busy_is_the_union() -> None:
    periods = [Period(5, 6), Period(0, 2), Period(1, 3), Period(3, 4), Period(5.5, 5.75)]
    assert busy(periods) == [Period(0, 4), Period(5, 6)]
    assert busy([]) == []


def test_too_many_intervals_lose_their_smallest_gaps() -> None:
    # Gaps of 1, 3, 2 and 4.
    periods = [Period(0, 1), Period(2, 3), Period(6, 7), Period(9, 10), Period(14, 15)]
    assert busy(periods, most=3) == [Period(0, 3), Period(6, 10), Period(14, 15)]
    assert busy(periods, most=1) == [Period(0, 15)]


@given(st.lists(intervals.map(lambda i: Period(*i)), max_size=20))
def test_busy_counts_every_moment_once(periods: list[Period]) -> None:
    covered = {t for start, end in periods for t in range(int(start), int(end))}
    found = busy(periods)
    assert sum(end - start for start, end in found) == len(covered)
    assert all(earlier.end < later.start for earlier, later in itertools.pairwise(found))


def test_busy_shares_are_means_over_actors() -> None:
    spans = [
        work("explorer 0", "explore", 0, 6),
        work("explorer 0", "explore", 4, 8, STEP + 1),  # the same seconds count once
        work("learner 0", "generate", 9, 30),  # of which one is in the window
        work("trainer 0", "forward_backward", 2, 4),
        work("trainer 0", "optimizer", 4, 4.5),
        driver("rollout", 0, 10),
        work("verifier 0", "verify", 20, 21),
    ]
    shares = busy_shares(Period(0, 10), spans, {"explorer": 2, "learner": 1, "verifier": 1})
    assert shares == {"explorer": 0.4, "learner": 0.1, "verifier": 0.0, "trainer": 0.25}
    assert busy_shares(Period(0, 10), [], {"explorer": 0, "learner": 1}) == {"learner": 0.0}


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_the_drivers_phases_follow_each_other_within_the_step() -> None:
    told: list[str] = []
    before = time.time()
    clock = StepClock(STEP, on_phase=told.append)
    for name in ("rollout", "update"):
        with clock.phase(name):
            pass
    whole = clock.whole()
    assert told == ["rollout", "update"] and [p.name for p in clock.phases] == told
    times = [before, whole.start, *(t for p in clock.phases for t in (p.start, p.end)), whole.end, time.time()]
    assert all(later - earlier > -1e-3 for earlier, later in itertools.pairwise(times))
    assert {(s.track, s.step) for s in [*clock.phases, whole]} == {("driver", STEP)}


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_an_updates_parts_leave_no_gap(device: str) -> None:
    clock = UpdateClock(torch.device(device))
    clock.begin("prepare")
    for part in ("forward_backward", "forward_backward", "optimizer", "forward_backward"):
        clock.enter(part)
    parts = clock.stop()
    assert [p.name for p in parts] == ["prepare", "forward_backward", "optimizer", "forward_backward"]
    assert all(p.end == q.start for p, q in itertools.pairwise(parts))
    assert all(p.end >= p.start for p in parts) and abs(parts[-1].end - time.time()) < 60


# ---- the trace file --------------------------------------------------------------------------------------------------


def spans_of(step: int, at: float) -> list[Span]:
    return [
        Span("driver", "step", step, at, at + 10),
        Span("driver", "rollout", step, at, at + 4),
        Span("trainer 0", "forward_backward", step, at + 4.5, at + 9.000001),
        Span("explorer 1", "explore", step, at - 5, at + 2),
        Span("explorer 1", "explore", step + 1, at, at + 8),  # ahead: at work on two steps at once
        Span("verifier 0", "verify", step, at + 1, at + 3),
        Span("bank", "read", step, at, at + 0.25),
    ]


NOW = 1_800_000_000.0


def test_a_trace_reads_at_any_time_and_gives_the_spans_back(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    written: list[Span] = []
    for step in (1, 2, 3):
        spans = spans_of(step, NOW + 10 * step)
        trace.append(spans, {"rollouts": 64, "tokens": 1000 * step})
        written += spans
        events = strictly(trace.path.read_text())
        check_events(events)
        back = sorted(read_trace(trace.path))
        for got, put in zip(back, sorted(written), strict=True):
            assert got[:3] == put[:3] and got[3:] == pytest.approx(put[3:], abs=2e-6)
    steps = [e["args"] for e in events if e["name"] == "step"]
    assert steps == [{"step": n, "rollouts": 64, "tokens": 1000 * n} for n in (1, 2, 3)]
    order = [e["name"] for e in events if e["cat" if e["ph"] == "X" else "ph"] == "driver"]
    assert order == ["step", "rollout"] * 3  # of two that begin together, first what contains the other
    threads = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert threads == {"driver", "trainer 0", "explorer 1", "explorer 1, 2", "verifier 0", "bank"}
    trace.close()
    trace.close()
    assert json.loads(trace.path.read_text()) == events


@pytest.mark.parametrize(
    "ending", ["", '{"name":"rollout","cat":"dri', '{"name":"rollout","ph":"X","args":{"step":3}', "close"]
)
def test_steps_that_are_done_again_are_there_once(tmp_path: Path, ending: str) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    for step in (1, 2, 3):
        trace.append(spans_of(step, NOW + 10 * step))
    if ending == "close":
        trace.close()
    else:
        with trace.path.open("a") as file:
            file.write(ending)
    resumed = TraceFile(tmp_path / "trace.json")
    resumed.truncate_after(1)
    assert {s.step for s in read_trace(trace.path)} == {1}
    for step in (2, 3):
        resumed.append(spans_of(step, NOW + 1000 + 10 * step))
    events = strictly(trace.path.read_text())
    check_events(events)
    driver_steps = [e["args"]["step"] for e in events if e["name"] == "step"]
    assert driver_steps == [1, 2, 3]
    metadata = [json.dumps(e) for e in events if e["ph"] == "M"]
    assert len(metadata) == len(set(metadata))


def test_a_run_that_begins_anew_forgets_all(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    trace.truncate_after(0)
    assert not trace.path.exists()
    trace.close()
    trace.append(spans_of(1, NOW))
    trace.truncate_after(0)
    assert read_trace(trace.path) == []


# ---- the time sheet -------------------------------------------------------------------------------------------------


def test_steps_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    turns: list[tuple[int, str]] = []
    sheet = TimeSheet(TraceFile(tmp_path / "trace.json"), lambda step, name: turns.append((step, name)))
    engines = {"explorer": 2, "learner": 0}
    clock = sheet.begin(1)
    for name in ("rollout", "update", "weight_sync"):
        with clock.phase(name):
            pass
    at = clock.start
    # The window ends when the step's groups were collected, here 10 s after it began (a sheet asks no clock for that).
    first = sheet.end(
        clock,
        sampled=[Span("explorer 0", "explore", 1, at - 5, at + 4), Span("verifier 0", "verify", 1, at + 4, at + 10)],
        under_way=[Span("explorer 1", "explore", 2, at + 8, at + 10)],
        updated=[
            Span("trainer 0", "forward_backward", 1, at + 10, at + 12),
            Span("trainer 1", "fetch", 1, at, at + 14),
        ],
        engines=engines,
        details={"rollouts": 8},
    )
    # Explorer 0 works 4 s of 10, explorer 1 works 2; ranks had done nothing before.
    assert first.busy == pytest.approx({"explorer": 0.3, "trainer": 0.0, "verifier": 0.6}, abs=1e-6)
    assert set(first.seconds) == {"rollout", "update", "weight_sync", "total"}
    assert sum(first.parts.values()) == pytest.approx(first.seconds["total"], abs=1e-6)

    clock = sheet.begin(2)
    ended = next(s.end for s in read_trace(sheet.trace.path) if s.name == "step")
    assert clock.start == pytest.approx(ended, abs=2e-6)
    second = sheet.end(
        clock,
        sampled=[Span("explorer 1", "explore", 2, at + 8, at + 15), Span("learner 0", "generate", 2, at + 18, at + 20)],
        under_way=[],
        updated=[],
        engines={"explorer": 1, "learner": 1},
        details={},
    )
    # From 10 to 20: explorer 1 works 5 of them, the learner 2, rank 0 2 and rank 1 4, in the update of step 1.
    assert second.busy == pytest.approx({"explorer": 0.5, "learner": 0.2, "trainer": 0.3}, abs=1e-6)
    assert turns == [(1, "rollout"), (1, "update"), (1, "weight_sync")]
    steps = [e["args"] for e in strictly(sheet.trace.path.read_text()) if e["name"] == "step"]
    assert steps == [{"step": 1, "rollouts": 8}, {"step": 2}]

    before = time.time()
    sheet.resume_after(1)
    again = sheet.begin(2)
    assert again.start >= before - 1e-3  # not from the end of what is forgotten
    assert {s.step for s in read_trace(sheet.trace.path) if s.name == "step"} == {1}


def test_a_phase_that_comes_twice_is_added_up(tmp_path: Path) -> None:
    clock = StepClock(3)
    for name in ("rollout", "update", "rollout"):
        with clock.phase(name):
            pass
    sheet = TimeSheet(TraceFile(tmp_path / "trace.json"))
    sheet.begin(3)
    seconds = sheet.end(clock, [], [], [], {}, {}).seconds
    assert seconds["rollout"] == sum(p.end - p.start for p in clock.phases if p.name == "rollout")


# ---- s2l trace -------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Three steps, of 4 + 2 + 0 explorer's rollouts a group, that took 10, 12 and 20 s."""
    verdicts = {"right": 1, "wrong": 0, "unparsable": 0, "timeout": 0}
    stats = {source: SourceStats(1, 1.0, 5, 5, 0, verdicts) for source in ("explorer", "learner")}
    parts = [
        {"explore": 4.0, "forward_backward": 6.0},
        {"explore": 3.0, "forward_backward": 8.0, "weight_sync": 1.0},
        {"generate": 15.0, "forward_backward": 5.0},
    ]
    trace = TraceFile(tmp_path / "trace.json")
    for number, (explorer, of) in enumerate(zip((4, 2, 0), parts, strict=True), start=1):
        record = StepRecord(
            step=number,
            alpha=explorer / 4,
            explorer_per_group=explorer,
            learner_per_group=4 - explorer,
            reward=1.0,
            sources=stats,
            zero_variance_groups=0,
            groups=1,
            prompts=["a"],
            digest="00",
            weight_version=number - 1,
            trainer={},
            seconds={"total": sum(of.values())},
            parts=of,
            busy={"trainer": 0.25 * number},
        )
        StepLog(tmp_path / "steps.jsonl").append(record)
        trace.append(spans_of(number, NOW + 10 * number))
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_table_has_mean_seconds_by_kind_of_step(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["trace", str(recorded)]) == 0
    lines = shown(capsys)
    # Of 11 s on average, and of 20 s.
    assert ["explore", "3.500", "32%", *PARTS["explore"].split()] in lines
    assert ["generate", "15.000", "75%", *PARTS["generate"].split()] in lines
    assert ["forward_backward", "7.000", "64%", "5.000", "25%", *PARTS["forward_backward"].split()] in lines
    assert ["total", "11.000", "20.000"] in lines
    assert ["trainer", "busy", "38%", "75%"] in lines


def test_some_steps_are_drawn(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(recorded), "--steps", "2-3", "--png", str(tmp_path / "some.png")]) == 0
    assert ["total", "12.000", "20.000"] in shown(capsys)
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "4-9"], "the run has steps 1 to 3"),
        (["--steps", "two"], "give a step or a range, such as 12 or 12-15"),
        (["--steps", "\u00b2"], "give a step or a range, such as 12 or 12-15"),
        (["--steps", "1-" + "9" * 5000], "give a step or a range, such as 12 or 12-15"),
    ],
)
def test_steps_that_are_not_there(
    recorded: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", str(recorded), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1}\n', "trace.json is no trace of a run (it has no 'pid')"), (None, "cannot be read: Is a directory")],
)
def test_what_is_no_trace_is_named(
    recorded: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = recorded / "trace.json"
    trace.unlink()
    trace.mkdir() if content is None else trace.write_text(content)
    assert main(["trace", str(recorded), "--png", str(recorded / "some.png")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_no_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(tmp_path)]) == 1
    assert "no run directory with steps" in capsys.readouterr().err
