from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.config import parse_config
from s2l_ray.evaluation.figures import draw_figures, learning_figure, pass_at_k_figure, smooth, time_figure
from s2l_ray.evaluation.summary import build_summary
from s2l_ray.results import EvaluationRecord, SourceStats, StepRecord
from s2l_ray.schedule import Schedule

CONFIG = parse_config({"name": "trial", "models": {"learner": "l", "explorer": "e"}, "data": {"train": "t"}})


def stats(rollouts: int, reward: float) -> SourceStats:
    verdicts = {"right": 0, "wrong": rollouts, "unparsable": 0, "timeout": 0}
    return SourceStats(rollouts, reward if rollouts else 0.0, 10 * rollouts, 20 * rollouts, 0, verdicts)


def steps(total: int, schedule: Schedule) -> list[StepRecord]:
    records = []
    for number in range(1, total + 1):
        share = schedule.share(number)
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
    names = [c.get_label().split()[0] for c in axes.containers]
    assert names == ["rollout", "update", "other"]
    assert [bar.get_height() for bar in axes.containers[2]] == pytest.approx([1.0] * 4)  # total - rollout - update
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[2]]
    assert tops == pytest.approx([2.5, 3.0, 3.5, 4.0])
    assert axes.containers[1].get_label() == "update  5.0 s (38%)"  # 0.5 + 1 + 1.5 + 2 of 13


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
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, cwd=Path(__file__).parents[1])
