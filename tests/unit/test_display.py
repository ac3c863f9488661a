from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress

from s2l_ray.config import parse_config
from s2l_ray.display import RunDisplay, TaskDisplay, final_table
from s2l_ray.display.records import eta_seconds, evaluation_line, step_line
from s2l_ray.display.run import TURNS
from s2l_ray.display.tasks import TimeLeft
from s2l_ray.display.text import duration, shared_out, sparkline
from s2l_ray.evaluation.summary import build_summary
from s2l_ray.results import EvaluationRecord, SourceStats, StepRecord
from s2l_ray.style import ACTIVITY_COLOURS
from s2l_ray.timing import PARTS
from s2l_ray.timing.clock import PHASES

VERDICTS = {"right": 1, "wrong": 1, "unparsable": 0, "timeout": 0}
RECORD = StepRecord(
    step=12,
    alpha=0.63,
    explorer_per_group=6,
    learner_per_group=2,
    reward=0.21,
    sources={
        "explorer": SourceStats(192, 0.18, 1000, 1200, 0, VERDICTS),
        "learner": SourceStats(64, 0.29, 400, 358, 0, VERDICTS),
    },
    zero_variance_groups=5,
    groups=32,
    prompts=["a"],
    digest="00",
    weight_version=11,
    trainer={"kl": 0.00123, "logprob_gap/learner": 0.004, "clip_fraction": 0.03, "grad_norm": 0.8},
    seconds={"rollout": 1.1, "update": 0.6, "weight_sync": 0.2, "total": 1.9},
)
LEARNER_ONLY = replace(
    RECORD,
    step=60,
    alpha=0.0,
    explorer_per_group=0,
    learner_per_group=8,
    sources={"explorer": SourceStats(0, 0.0, 0, 0, 0, VERDICTS), "learner": RECORD.sources["learner"]},
    trainer={},
)


def evaluation(at: int, value: float, model: str = "learner", correct: list[int] | None = None) -> EvaluationRecord:
    ci = {1: (value - 0.05, value + 0.05), 8: (value + 0.1, value + 0.3)}
    return EvaluationRecord(
        at, model, at, 128, 16, {1: value, 8: value + 0.2}, ci, value, 1000, correct or [4] * 128, 12.34
    )


class Clock:
    """Seconds that stand until they are set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(live: bool, width: int = 110) -> Console:
    return Console(file=io.StringIO(), force_terminal=live, width=width, color_system="truecolor" if live else None)


def written(target: Console) -> str:
    return target.file.getvalue()


def rendered(thing, width: int) -> str:
    plain = console(False, width)
    plain.print(thing)
    return written(plain)


def test_a_step_is_one_stable_line():
    assert step_line(RECORD, 60, 91.6) == (
        "step 12/60  alpha 0.63  G_w/G_s 6/2  reward 0.21 (explorer 0.18, learner 0.29)  820 tok/s  "
        "1.9 s (rollout 1.1, update 0.6, weight sync 0.2)  ETA 1m32s"
    )
    assert step_line(LEARNER_ONLY, 60, None) == (
        "step 60/60  alpha 0.00  G_w/G_s 0/8  reward 0.21 (learner 0.29)  188 tok/s  "
        "1.9 s (rollout 1.1, update 0.6, weight sync 0.2)"
    )


def test_not_a_terminal_one_line_for_each_thing_never_wrapped():
    target = console(live=False, width=40)
    with RunDisplay(60, "trial", target) as display:
        display.phase("starting engines [explorer x 2]")
        display.evaluation(evaluation(0, 0.25), "before")
        display.step(RECORD)
        display.note("checkpoint saved")
    assert written(target).splitlines() == [
        "starting engines [explorer x 2]",
        "evaluation before  learner  step 0  pass@1 0.250 [0.200, 0.300]  pass@8 0.450 [0.350, 0.550]  "
        "128 problems x 16 samples  12.3 s",
        step_line(RECORD, 60, 1.9 * 48),
        "note: checkpoint saved",
    ]


def test_the_panel_says_what_is_going_on():
    display = RunDisplay(60, "trial", console(live=True))
    display.phase("starting engines")
    assert "starting engines" in rendered(display.panel(), 110)
    display.evaluation(evaluation(0, 0.25), "before")
    display.step(RECORD)
    display.note("checkpoint saved")
    text = rendered(display.panel(), 110)
    for expected in (
        "12/60", "ETA 1m31s", "alpha 0.63  ■■■■■■□□  G_w 6 explorer, G_s 2 learner",
        "explorer 0.180  ▁", "learner  0.290  █",
        "820 tok/s  1.9 s per step (rollout 1.1, update 0.6, weight sync 0.2)",
        "zero variance 5/32 groups  kl 0.00123  gap 0.004  clip 0.03  grad 0.8",
        "learner  before  @1 25.0 [20.0, 30.0]  @8 45.0 [35.0, 55.0]", "checkpoint saved", "step 13",
    ):  # fmt: skip
        assert expected in text, expected
    assert "starting engines" not in text


@pytest.mark.parametrize("width", [110, 80, 50, 30])
def test_the_panel_fits_the_terminal(width):
    display = RunDisplay(60, "a run with quite a long name, longer than a line", console(live=True, width=width))
    for step in range(1, 61):
        display.step(replace(RECORD if step < 50 else LEARNER_ONLY, step=step))
        display.evaluation(evaluation(step, 0.3), "during")
        display.note(f"step {step}: a note that is too long for one line of a narrow terminal, so it is wrapped")
    lines = rendered(display.panel(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 40 and lines[0].startswith("╭") and lines[-1].startswith("╰")


def test_the_panel_says_where_a_steps_time_went():
    display = RunDisplay(60, "trial", console(live=True))
    parts = {"explore": 1.14, "forward_backward": 0.57, "weight_sync": 0.16, "other": 0.03}  # 60, 30, 8.4 and 1.6 %
    display.step(replace(RECORD, parts=parts, busy={"explorer": 0.95, "learner": 0.4, "trainer": 0.3}))
    display.turn(13, "rollout")
    text = rendered(display.panel(), 110)
    assert f"{'█' * 20}  █ wait for explorer 60%  █ forward, backward 30%  █ weight sync 8%" in text
    assert "explorer 95%  learner 40%  trainer 30%" in text
    assert "step 13: waiting for rollouts" in text


def test_cells_are_shared_out_by_hand():
    # 10 cells: 5.5, 3.3 and 1.2. The one that is left goes to the first, which lost most.
    assert shared_out({"a": 5.5, "b": 3.3, "c": 1.2}, 10) == {"a": 6, "b": 3, "c": 1}
    assert shared_out({"a": 1.0, "b": 0.0}, 30) == {"a": 30, "b": 0}


def test_every_phase_and_part_can_be_shown():
    assert set(PHASES) == set(TURNS)
    assert set(PARTS) <= set(ACTIVITY_COLOURS)


def test_schedule_off_shows_no_explorer():
    display = RunDisplay(60, "trial", console(live=True))
    display.step(LEARNER_ONLY)
    assert "explorer " not in rendered(display.panel(), 110).replace("0 explorer", "")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_gives_the_terminal_back(error):
    target = console(live=True)
    with pytest.raises(error), RunDisplay(60, "trial", target) as display:
        display.step(RECORD)
        assert "\x1b[?25l" in written(target)  # the cursor is hidden
        raise error
    assert written(target).rindex("\x1b[?25h") > written(target).rindex("\x1b[?25l")


def test_closing_twice_restores_the_terminal_once():
    target = console(live=True)
    with RunDisplay(1, "trial", target) as display:
        display.close()
    assert written(target).count("\x1b[?25h") == 1


def test_eta_by_hand():
    def at(step, total):
        return replace(RECORD, step=step, seconds={"total": total})

    assert eta_seconds([], 10) is None
    assert eta_seconds([at(3, 2.0), at(4, 4.0)], 10) == 18.0  # six steps at the mean of 3 s
    assert eta_seconds([at(1, 100.0), *(at(i, 1.0) for i in range(2, 12))], 20) == 9.0  # the first step is forgotten
    assert eta_seconds([at(10, 1.0)], 10) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (92, "1m32s"), (7500, "2h05m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sparkline_by_hand():
    assert sparkline([0.0, None, 0.5, 1.0], 0.0, 1.0) == "▁ ▅█"
    assert sparkline([0.3, 0.3], 0.3, 0.3) == "▁▁"
    assert sparkline([], 0.0, 0.0) == ""


def summary(tmp_path, **parts):
    values = {
        "name": "trial",
        "run_dir": str(tmp_path),
        "models": {"learner": "l", "explorer": "e"},
        "data": {"train": "t"},
    }
    return build_summary(config=parse_config(values), steps=[RECORD], machine={}, **parts)


@pytest.mark.parametrize("width", [110, 80])
def test_the_end_says_what_changed_and_where_things_are(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    # 4 of 16 right before; then 8 of half the problems: pass@1 rises by 12.5 points. pass@8 of 4 and of 8 right is
    # 1 - 495 / 12870 = 0.96154 and 1 - 1 / 12870 = 0.99992: half of the difference is 1.9 points.
    parts = {
        "before": evaluation(0, 0.2),
        "after": evaluation(60, 0.35, correct=[4] * 64 + [8] * 64),
        "explorer": evaluation(0, 0.1, "explorer"),
    }
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    text = rendered(
        final_table(summary(tmp_path, **parts, model=tmp_path / "model", mlflow_uri=uri, mlflow_run_id="abc")), width
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "explorer learner before learner after" in lines
    assert "pass@1 10.0 [5.0, 15.0] 20.0 [15.0, 25.0] 35.0 [30.0, 40.0]" in lines
    assert any(re.match(r"pass@1: \+12.5 points \[\+1\d\.\d, \+1\d\.\d\]: more than chance", line) for line in lines)
    assert any(line.startswith("pass@8: +1.9 points [+1.") for line in lines)
    assert "Measured on 128 held-out problems x 16 samples; one run, one seed." in " ".join(lines)
    assert "model model" in lines and "figures " in text
    # A long command folds, anywhere: copied, it is whole.
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db".replace(" ", "") in "".join(text.split())
    assert "GRPO" not in text


def test_a_change_that_may_be_chance_is_called_so(tmp_path):
    after = evaluation(60, 0.2, correct=[3] * 64 + [5] * 64)
    text = rendered(final_table(summary(tmp_path, before=evaluation(0, 0.2), after=after)), 110)
    assert re.search(r"pass@1: [+-]0.0 points \[-1\.\d, \+1\.\d\]: may be chance", text)


def test_the_end_of_a_run_without_evaluation_or_tracking(tmp_path):
    text = rendered(final_table(summary(tmp_path)), 80)
    assert "Nothing was evaluated: set data.eval" in text and "MLflow" not in text and "model" not in text


def test_the_end_says_which_conditions_held(tmp_path):
    flat = summary(tmp_path) | {"health": {"no_variance": {"steps": 7, "first": 3, "longest": 4}}}
    assert "health.no_variance: held in 7 steps, 4 in a row; the first was step 3" in rendered(final_table(flat), 80)


def test_the_end_has_each_file_of_held_out_problems(tmp_path):
    files = {"aime24": evaluation(0, 0.1), "math-500": evaluation(0, 0.4)}
    text = rendered(final_table(summary(tmp_path, before=replace(evaluation(0, 0.2), files=files))), 80)
    rows = [line.split() for line in text.splitlines() if line.startswith(("aime24", "math-500"))]
    assert rows == [
        ["aime24", "pass@1", "10.0", "[5.0,", "15.0]"],
        ["aime24", "pass@8", "30.0", "[20.0,", "40.0]"],
        ["math-500", "pass@1", "40.0", "[35.0,", "45.0]"],
        ["math-500", "pass@8", "60.0", "[50.0,", "70.0]"],
    ]
    assert "aime24 pass@1 0.100  math-500 pass@1 0.400" in evaluation_line(
        replace(evaluation(0, 0.2), files=files), "x"
    )


def test_the_end_has_the_mean_reward_where_it_says_more_than_the_share_of_right_answers(tmp_path):
    right = evaluation(0, 0.25)  # 4 of 16 samples of each problem
    assert "reward" not in rendered(final_table(summary(tmp_path, before=right)), 80)
    graded = replace(evaluation(60, 0.25), reward=0.4375)
    lines = rendered(final_table(summary(tmp_path, before=right, after=graded)), 80).splitlines()
    assert ["mean", "reward", "0.250", "0.438"] in [line.split() for line in lines]


def test_the_end_of_a_run_that_was_evaluated_once(tmp_path):
    text = rendered(final_table(summary(tmp_path, before=evaluation(0, 0.2))), 80)
    assert "20.0 [15.0, 25.0]" in text and "points" not in text


def test_counting_work_is_a_line_for_each_tenth_with_the_time_left():
    """Two seconds for each of a hundred parts; the first was there when the display first heard of them."""
    target, clock = console(live=False), Clock()
    with TaskDisplay(target, clock) as display:
        for done in range(1, 101):
            display.update("small", done, 100, f"loss {2 / done:.3f}")
            clock.now += 2
        display.update("large", 5, 100, "loss 0.500")
    lines = written(target).splitlines()
    assert len(lines) == 12
    assert lines[0] == "small 1/100  loss 2.000"
    assert lines[1] == "small 10/100  loss 0.200  ETA 3m00s"
    assert lines[9] == "small 90/100  loss 0.022  ETA 20s"
    assert lines[10] == "small 100/100  loss 0.020"
    assert lines[11] == "large 5/100  loss 0.500"


def test_long_waits_of_a_run_say_how_far_they_are_in_plain_lines():
    """After ten seconds, then every thirty; what is over sooner is one line."""
    target, clock = console(live=False), Clock()
    with RunDisplay(60, "run", target, clock) as display:
        display.phase("evaluating before training")
        for second in range(1, 46):
            clock.now = second
            display.progress(second, 50)
        display.phase("connecting")
        clock.now = 54
        display.progress(1, 2)
        display.turn(3, "rollout")
        clock.now = 64
        display.progress(1, 4)
    assert written(target).splitlines() == [
        "evaluating before training",
        "evaluating before training  10/50  10s  ETA 40s",
        "evaluating before training  40/50  40s  ETA 10s",
        "connecting",
        "step 3: waiting for rollouts  1/4  10s  ETA 30s",
    ]


def test_a_name_is_shown_as_it_is():
    assert "s2l-ray  [/] [red]a" in rendered(RunDisplay(1, "[/] [red]a", console(live=False)).panel(), 80)


def test_the_panel_says_how_far_a_wait_is():
    clock = Clock()
    display = RunDisplay(60, "run", console(live=False), clock)
    display.phase("starting engines")
    clock.now = 6
    display.progress(3, 4)
    assert "starting engines  3/4  6s  ETA 2s" in rendered(display.panel(), 110)
    display.turn(1, "update")
    assert "step 1: updating the learner  0s" in rendered(display.panel(), 110)


def test_verify_progress():
    target = console(live=False)
    with TaskDisplay(target, Clock()) as display:
        for done in (0, 1, 2):
            display.update("verified", done, 2)
    assert written(target).splitlines() == ["verified 0/2", "verified 1/2", "verified 2/2"]


def test_a_fast_first_part_promises_nothing():
    """The first of twenty plans takes no time, the others 1.5 s each: after two, 18 are left at 0.75 s each."""
    target, clock = console(live=False), Clock()
    with TaskDisplay(target, clock) as display:
        for done, now in ((0, 0.0), (1, 0.01), (2, 1.5)):
            clock.now = now
            display.update("planned", done, 20)
    assert written(target).splitlines() == ["planned 0/20", "planned 2/20  ETA 14s"]
    progress = Progress(get_time=(clock := Clock()))
    task = progress.add_task("planned", total=20)
    said = []
    for done, now in ((1, 0.01), (2, 0.02), (4, 3.02)):
        clock.now = now
        progress.update(task, completed=done)
        said.append(TimeLeft().render(progress.tasks[0]).plain)
    assert said[:2] == ["-:--:--"] * 2
    assert said[2] == "0:00:17"  # 16 are left at three in 3.01 s, rounded up


def test_progress_bars_on_a_terminal():
    target = console(live=True, width=80)
    with pytest.raises(RuntimeError), TaskDisplay(target) as display:
        display.update("pretrain small", 50, 100, "loss 0.250")
        display.update("pretrain large", 1, 7, "loss 0.500")
        raise RuntimeError
    text = written(target)
    assert "50/100" in text and "loss 0.250" in text and "pretrain large" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
