from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.config import parse_config
from s2l_ray.evaluation.figures import (
    draw_figures,
    learning_figure,
    pass_at_k_figure,
    smooth,
    time_figure,
    typical_steps_figure,
)
from s2l_ray.evaluation.summary import build_summary
from s2l_ray.results import EvaluationRecord, SourceStats, StepRecord
from s2l_ray.schedule import Schedule
from s2l_ray.timing import Span, TraceFile
from s2l_ray.timing.drawing import typical_windows
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

CONFIG = parse_config({"name": "trial", "models": {"learner": "l", "explorer": "e"}, "data": {"train": "t"}})


def stats(rollouts: int, reward: float) -> SourceStats:
    verdicts = {"right": 0, "wrong": rollouts, "unparsable": 0, "timeout": 0}
    return SourceStats(rollouts, reward if rollouts else 0.0, 10 * rollouts, 20 * rollouts, 0, verdicts)


def steps(total: int, schedule: Schedule) -> list[StepRecord]:
    records = []
    for number in range(1, total + 1):
        share = schedule.split(number)
        sources = {"explorer": stats(4 * share.explorer, 0.1), "learner": stats(4 * share.learner, number / total)}
        seconds = {"rollout": 1.0, "update": 0.5 * number, "total": 2.0 + 0.5 * number}
        records.append(
            StepRecord(
                number, float(share.alpha), share.explorer, share.learner, 0.2, sources, 1, 4, ["a"], "00", number - 1,
                {"loss": 0.1}, seconds,
            )
        )  # fmt: skip
    return records


def evaluation(at: int, model: str, value: float, ks: tuple[int, ...] = (1, 8)) -> EvaluationRecord:
    pass_at = {k: min(1.0, value * k**0.5) for k in ks}
    ci = {k: (p - 0.05, p + 0.1) for k, p in pass_at.items()}
    return EvaluationRecord(at, model, at, 50, 16, pass_at, ci, value, 1000, [1] * 50, 1.0)


def summary(total: int = 6, kind: str = "linear", evaluated: bool = True, explorer: bool = True, **changes):
    parts = {}
    if evaluated:
        parts = {"before": evaluation(0, "learner", 0.2), "after": evaluation(total, "learner", 0.3)}
        parts |= {"during": [evaluation(2, "learner", 0.25), evaluation(total, "learner", 0.9)]}
        parts |= {"explorer": evaluation(0, "explorer", 0.1)} if explorer else {}
    mixed = steps(total, Schedule(kind, 4, max(1, total // 2))) if total else []
    return build_summary(**{"config": CONFIG, "steps": mixed, "machine": {}, **parts, **changes})


def line(axes, label):
    return next(item for item in axes.get_lines() if str(item.get_label()).startswith(label)).get_ydata()


def error_bars(axes, label) -> dict[float, tuple[float, float, float]]:
    """x -> (low, value, high)"""
    container = next(c for c in axes.containers if c.get_label().startswith(label))
    points, _, (segments,) = container.lines
    bounds = [(segment[0, 1], segment[1, 1]) for segment in segments.get_segments()]
    return {x: (low, y, high) for (x, y), (low, high) in zip(points.get_xydata().tolist(), bounds, strict=True)}


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({}, ["learning", "pass_at_k", "time"]),
        ({"total": 1}, ["learning", "pass_at_k", "time"]),
        ({"kind": "off", "explorer": False}, ["learning", "pass_at_k", "time"]),
        ({"evaluated": False}, ["learning", "time"]),
        ({"total": 0}, ["pass_at_k"]),
        ({"total": 0, "evaluated": False}, []),
        ({"total": 2, "before": None, "after": None, "during": []}, ["learning", "pass_at_k", "time"]),
    ],
)
def test_every_run_has_the_figures_that_its_data_allow(tmp_path, given, drawn):
    paths = draw_figures(summary(**given), tmp_path / "figures")
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in drawn]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", ["$\\x$", "$$", "{_}^\n\0", "漢"])
def test_a_run_of_any_name_is_drawn(tmp_path, name):
    config = CONFIG.model_copy(update={"name": name})
    assert len(draw_figures(summary(config=config), tmp_path)) == 3


def test_learning_shows_rewards_shares_and_pass_at_1():
    top, bottom = learning_figure(summary(6)).axes
    # T_mix 3, G 4: the explorer has 4, 2, 0, ... of a group.
    assert [bar.get_height() for bar in bottom.containers[0]] == [4, 2, 0, 0, 0, 0]
    assert [bar.get_height() for bar in bottom.containers[1]] == [0, 2, 4, 4, 4, 4]
    assert [bar.get_y() for bar in bottom.containers[1]] == [4, 2, 0, 0, 0, 0]
    np.testing.assert_allclose(line(top, "explorer reward"), [0.1, 0.1] + [np.nan] * 4)
    np.testing.assert_allclose(line(top, "learner reward"), [np.nan, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    learner = error_bars(top, "learner pass@1")
    assert sorted(learner) == [0, 2, 6]
    assert learner[0] == pytest.approx((0.15, 0.2, 0.3))
    assert learner[6] == pytest.approx((0.25, 0.3, 0.4))  # `after` is what counts at the last step
    assert error_bars(top, "explorer pass@1")[0] == pytest.approx((0.05, 0.1, 0.2))


def test_pass_at_k_shows_all_three_curves():
    (axes,) = pass_at_k_figure(summary()).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "explorer",
        "learner before",
        "learner after",
    ]
    after = list(error_bars(axes, "learner after").values())
    assert after[0] == pytest.approx((0.25, 0.3, 0.4))
    assert after[1] == pytest.approx((0.3 * 8**0.5 - 0.05, 0.3 * 8**0.5, 0.3 * 8**0.5 + 0.1))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "8"]


def test_time_is_stacked_up_to_the_total():
    (axes,) = time_figure(summary(4)).axes
    names = [c.get_label().split("  ")[0] for c in axes.containers]
    assert names == ["waiting for rollouts", "update", "other"]
    assert [bar.get_height() for bar in axes.containers[2]] == pytest.approx([1.0] * 4)  # total - rollout - update
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[2]]
    assert tops == pytest.approx([2.5, 3.0, 3.5, 4.0])
    assert axes.containers[1].get_label() == "update  5.0 s (38%)"  # 0.5 + 1 + 1.5 + 2 of 13


def test_time_is_stacked_by_cause_where_that_is_known():
    parts = [{"explore": 1.0, "forward_backward": 0.5, "other": 0.25}, {"generate": 2.0, "forward_backward": 1.5}]
    records = [replace(record, parts=of) for record, of in zip(steps(2, Schedule("linear", 4, 1)), parts, strict=True)]
    (axes,) = time_figure(build_summary(config=CONFIG, steps=records, machine={})).axes
    labels = [c.get_label() for c in axes.containers]
    assert labels == [
        "wait for explorer  1.0 s (19%)",
        "wait for learner  2.0 s (38%)",
        "forward, backward  2.0 s (38%)",
        "other  0.2 s (5%)",
    ]
    assert [bar.get_height() for bar in axes.containers[2]] == [0.5, 1.5]


def test_the_timeline_shows_typical_steps(tmp_path):
    trace = TraceFile(tmp_path / "trace.json")
    for number in range(1, 7):
        at = 1e9 + 10 * number
        spans = [Span("driver", "step", number, at, at + 10), Span("driver", "rollout", number, at, at + 3)]
        spans.append(Span("trainer 0", "forward_backward", number, at + 3, at + 9))
        spans += [Span(f"explorer {i}", "explore", number + 1, at, at + 4) for i in range(6) if number < 3]
        spans += [Span(f"learner {i}", "generate", number, at, at + 3) for i in range(2) if number > 1]
        trace.append(spans)
    # G_w 4, 2, 0 ... of 4: steps 1 and 2 have at least half from the explorer, none has less than half, 3 to 6 none.
    figure = typical_steps_figure(summary(6), trace.path)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "mostly explorer: 10.0 s a step",
        "learner alone: 10.0 s a step",
    ]
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    explorers = ["explorer 0", "explorer 1", "explorer 2", "explorer 3 (of 6)"]
    assert rows == [
        ["driver", "trainer", "learner 0", "learner 1", *explorers],
        ["driver", "trainer", "learner 0", "learner 1"],
    ]
    assert [text.get_text().strip() for text in figure.axes[1].texts if "step" in text.get_text()] == [
        "step 3",
        "step 4",
        "step 5",
    ]
    paths = draw_figures(summary(6), tmp_path / "figures", trace.path)
    assert paths[-1].name == "timeline.png" and paths[-1].stat().st_size > 5000


def test_steps_to_draw_are_quiet_and_near_the_middle():
    def row(number, explorer, **phases):
        record = steps(1, Schedule("linear", 4, 1))[0]
        return replace(record, step=number, explorer_per_group=explorer, learner_per_group=4 - explorer, seconds=phases)

    rows = [row(n, 3) for n in range(1, 8)] + [row(8, 1)] + [row(n, 0) for n in range(9, 14)]
    rows[4] = row(5, 3, checkpoint=1.0)  # in the middle three, 3 to 5, and in 4 to 6 and 5 to 7
    assert typical_windows(rows) == {"mostly explorer": [2, 3, 4], "mostly learner": [8], "learner alone": [10, 11, 12]}
    assert typical_windows([]) == {}


def test_smooth_by_hand():
    np.testing.assert_allclose(smooth([1, 2, 6, 3], 3), [1.5, 3, 11 / 3, 4.5])
    np.testing.assert_allclose(smooth([None, 2, None, 4, 6], 3), [np.nan, 2, np.nan, 5, 5])
    np.testing.assert_allclose(smooth([3.0], 1), [3.0])
    np.testing.assert_allclose(smooth([1, 2], 5), [1.5, 1.5])


def test_matplotlib_is_imported_when_drawing_and_without_pyplot(tmp_path):
    code = """
import sys
import s2l_ray.evaluation.figures as figures
assert "matplotlib" not in sys.modules
empty = {"before": None, "after": None, "explorer": None, "during": []}
assert figures.draw_figures({"steps": [], "evaluation": empty}, sys.argv[1]) == []
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr
