from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from s2l_ray.config import load_config
from s2l_ray.display.text import duration, print_line, with_short_paths
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.slicing import slice_of
from s2l_ray.planner.search import make_plan
from s2l_ray.tuning.about import StudyAbout, asha_rungs
from s2l_ray.tuning.axes import colours, horizontal
from s2l_ray.tuning.figure import _apart, study_figure
from s2l_ray.tuning.final import FinalTable
from s2l_ray.tuning.live import StudyDisplay
from s2l_ray.tuning.outcomes import Exploit, StudyFacts, TrialOutcome, study_files
from s2l_ray.tuning.progress import Pace, StepsLeft, steps_left
from s2l_ray.tuning.ranking import best_of, over_seeds, overlapping, ranked
from s2l_ray.tuning.rehearsal import plans_table
from s2l_ray.tuning.report import write_report
from s2l_ray.tuning.samples import Sample, with_values
from s2l_ray.tuning.wording import before_text, event_text, value_text
from tests.support.studies import KEYS, made_up, study, trial, with_exploits

FACTS = StudyFacts(seconds=61.0, bank={"tokens": 100}, mlflow_run_id="abc", mlflow_uri="http://me:secret@mlflow:5000")


def measured(about, number: int, value: float | None, status: str = "finished", half: float = 0.02) -> TrialOutcome:
    step = about.steps if status == "finished" else 30
    if value is None:
        return trial(about, number, status=status, step=step)
    history = ((step, value),)
    interval = (value - half, value + half)
    return trial(
        about, number, status=status, step=step, metric=value, metric_step=step, history=history, interval=interval
    )


def printed(renderable: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def numbers(outcomes) -> list[str]:
    return [outcome.name[-1] for outcome in outcomes]


def test_a_pruned_trial_ranks_below_those_that_finished_whatever_its_value():
    about = study(trials=5)
    outcomes = [
        measured(about, 0, 0.2),
        measured(about, 1, 0.9, "pruned"),
        measured(about, 2, None, "failed"),
        measured(about, 3, 0.3),
        measured(about, 4, 0.3),
    ]
    assert numbers(ranked(about, outcomes)) == ["3", "4", "0", "1", "2"]
    assert best_of(about, outcomes).name == "tune_schedule_00003"
    assert numbers(ranked(replace(about, mode="min"), outcomes)) == ["0", "3", "4", "1", "2"]
    assert best_of(about, outcomes[2:3]) is None


def test_intervals_that_touch_overlap_and_pruned_trials_are_not_compared():
    about = study(trials=4)
    best, near, far = measured(about, 0, 0.5), measured(about, 1, 0.46), measured(about, 2, 0.4)
    assert numbers(overlapping(best, [best, near, far, measured(about, 3, 0.5, "pruned")])) == ["1"]


def test_what_is_left_under_asha_by_hand():
    about = study(trials=3, steps=120, rungs=asha_rungs(30, 2, 120), reduction=2)
    assert about.rungs == (30, 60)
    # From step 10: 20 steps to the first rung, then 30 with chance 1/2, then 60 with chance 1/4.
    running = trial(about, 0, status="running", step=10)
    assert steps_left(replace(about, trials=1), [running]) == StepsLeft(20 + 15 + 15, 110)
    past = trial(about, 0, status="running", step=30)
    assert steps_left(replace(about, trials=1), [past]) == StepsLeft(30 + 30, 90)
    # One is over, one runs, one is still to come: 30 + 15 + 15 of 120.
    assert steps_left(about, [measured(about, 1, 0.2, "pruned"), past]) == StepsLeft(60 + 60, 90 + 120)
    plain = replace(about, rungs=(), reduction=1.0)
    assert steps_left(plain, [running]) == StepsLeft(110 + 240, 110 + 240)
    pace = Pace(began=100.0, steps=10)
    assert pace.eta(about, [past], now=120.0) == (2.0 * (60 + 2 * 60), 2.0 * (90 + 240))
    assert Pace(began=100.0).eta(about, [past], now=120.0) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000204, "2.04e-4"), (1e-4, "1e-4"), (0.5, "0.5"), (0.0, "0"), (16, "16"), (True, "true"), (None, "none"),
     ([0.9, 0.99], "0.9,0.99"), ("linear", "linear"), (1234567.0, "1.23e+6")],
)  # fmt: skip
def test_values_are_short(value, text):
    assert value_text(value) == text


def test_events_in_words():
    about = study(trials=1)
    outcome = replace(measured(about, 0, 0.25, "running"), values={"schedule.mix_steps": 20})
    assert event_text(about, "step", outcome) == "step 30/120  pass@1 % 25.0 [23.0, 27.0] (step 30)"
    assert event_text(about, "starting", trial(about, 0, values={"a.b": 1e-4})) == "starting: a.b=1e-4"
    assert event_text(about, "starting", outcome) == "starting again after step 30/120"
    assert event_text(about, "started", outcome) == "goes on after step 30/120"
    exploit = Exploit(30, 30, "tune_schedule_00001", {"trainer.learning_rate": (1e-4, 2e-4)})
    said = event_text(about, "exploited", replace(outcome, exploits=(exploit,)))
    assert said == "takes over tune_schedule_00001 after step 30: trainer.learning_rate 1e-4 -> 2e-4"
    failed = replace(outcome, status="failed", error="no disk")
    assert event_text(about, "ended", failed) == "failed after step 30/120: no disk"


@pytest.mark.parametrize("trials", [8, 64])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_live_table_fits_the_terminal_with_all_keys(trials: int, width: int, height: int):
    about = study(trials=trials)
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True)
    display = StudyDisplay(about, console)
    for outcome in made_up(about, done=False):
        display.heard("restored", outcome)
    lines = printed(display.view(), width).splitlines()
    assert len(lines) < height and all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "…" not in text and "+1" not in text and "learning" in text and "negatives" in text
    assert "waiting" in text and "running" in text and "took" in text and "before training" in text


def test_the_live_view_says_why_a_trial_failed():
    about = study(trials=1)
    display = StudyDisplay(about, Console(width=80, height=24, file=io.StringIO(), force_terminal=True))
    display.heard("ended", replace(measured(about, 0, None, "failed"), error="models.learner: there is no x"))
    assert "note: 00000 failed after step 30/120: models.learner: there is no x" in printed(display.view(), 80)


def test_keys_that_do_not_fit_are_counted():
    about = study(trials=4)
    text = printed(FinalTable(about, made_up(about), FACTS), 60)
    assert "+3" in text and "mix" in text and "learning" not in text and "explorer" not in text


def test_without_a_terminal_an_event_is_a_line():
    about, console = study(trials=2), Console(width=80, file=io.StringIO())
    clock = iter([0.0, *[60.0] * 20])
    with StudyDisplay(about, console, lambda: next(clock)) as display:
        display.heard("starting", trial(about, 0, values={"schedule.mix_steps": 20}))
        running = replace(measured(about, 0, 0.25, "running"), step=30)
        display.heard("step", running)
        display.heard("step", replace(running, step=31))  # neither a new measurement nor another tenth
        display.heard("ended", replace(running, status="pruned"))
        display.note("MLflow is away")
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "00000  starting: schedule.mix_steps=20"
    # One step took 60 s. 60 are to be expected of 90 of this trial, and 60 of 120 of the other.
    assert lines[1] == (
        "00000  step 30/120  pass@1 % 25.0 [23.0, 27.0] (step 30)  elapsed 1m00s, ETA 2h00m (at most 3h30m, if asha "
        "prunes nothing more)"
    )
    assert lines[2].startswith("00000  pruned after step 30/120  pass@1 % 25.0") and lines[3] == "note: MLflow is away"
    assert len(lines) == 4


def test_trials_that_have_labels_are_called_by_them():
    """The runs of an experiment, whose values differ in many keys."""
    about = study(trials=2, labels={"tune_schedule_00000": "grpo, seed 1", "tune_schedule_00001": "ours, seed 1"})
    console = Console(width=80, height=24, file=io.StringIO())
    display = StudyDisplay(about, console)
    values = {"schedule.mix_steps": 20}
    display.heard("starting", trial(about, 0, values=values, status="starting"))
    display.heard("ended", replace(measured(about, 1, 0.25), values=values))
    assert [line.split("  elapsed")[0].strip() for line in console.file.getvalue().splitlines()] == [
        "grpo, seed 1  starting",
        "ours, seed 1  finished  pass@1 % 25.0 [23.0, 27.0] (step 120)",
    ]
    text = printed(display.view(), 80)
    lines = [line.split() for line in text.splitlines()]
    assert ["run", "%", "step", "done", "status", "took"] in lines and not any("mix" in line for line in lines)
    assert ["ours,", "seed", "1", "25.0", "120", "120/120", "finished"] in lines
    assert "best pass@1 % 25.0 [23.0, 27.0]  trial ours, seed 1 at step 120" in text


def test_a_study_that_was_resumed_counts_the_time_of_before():
    about, console = study(trials=1), Console(width=80, file=io.StringIO())
    clock = iter([10.0, 40.0])
    with StudyDisplay(about, console, lambda: next(clock), spent=3600.0) as display:
        display.heard("step", measured(about, 0, 0.25, "running"))
    # Of the 3630 s only the last 30 are of this start, in which a step took 30 s: that is the pace.
    assert "elapsed 1h00m, ETA 30m00s (at most 45m00s, " in console.file.getvalue()


def test_the_value_before_training_is_a_line_of_both_tables():
    about = study(trials=2)
    one = replace(measured(about, 0, 0.3), history=((0, 0.15), (120, 0.3)), interval_before=(0.129, 0.172))
    other = replace(one, name="tune_schedule_00001")
    line = "before training pass@1 % 15.0 [12.9, 17.2]\n"
    assert line in printed(FinalTable(about, [one, other], FACTS), 80)
    display = StudyDisplay(about, Console(width=80, height=24, file=io.StringIO(), force_terminal=True))
    assert "before" not in printed(display.view(), 80)
    display.heard("restored", one)
    assert line.strip() in [row.strip() for row in printed(display.view(), 80).splitlines()]
    assert before_text(about, [one, replace(other, history=((0, 0.2),))]) == "before training pass@1 % 15.0 to 20.0"
    assert before_text(about, [measured(about, 0, 0.3)]) is None


def test_lines_are_wrapped_at_words_on_a_terminal_only(monkeypatch):
    monkeypatch.chdir("/tmp")
    text = with_short_paths("trials share 1 recording in /tmp/outputs/bank/0123456789: 9056 explorer rollouts")
    assert text == "trials share 1 recording in outputs/bank/0123456789: 9056 explorer rollouts"
    terminal = Console(width=60, file=io.StringIO(), force_terminal=True, color_system=None)
    pipe = Console(width=60, file=io.StringIO())
    print_line(terminal, text)
    print_line(pipe, text)
    assert [line.rstrip() for line in terminal.file.getvalue().splitlines()] == [text[:57], text[58:]]
    assert pipe.file.getvalue() == f"{text}\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_dry_run_shows_what_each_trial_gets(width: int):
    """Its headings are those of the live table, and a plan is in the trial's row."""
    cluster = Inventory.of([{"gpus": 0, "cpus": 2, "memory_gb": 16}])
    config = load_config("quickstart", {"bank.mode": "read", "placement.cpus": 2})
    plan = make_plan(config, slice_of(cluster, config.placement))
    values = dict(zip(KEYS, ("linear", 40, 0.5, 16, 2.04e-4), strict=True))
    text = printed(plans_table(KEYS, [Sample(3, values, config)], [plan], width), width)
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    for word in ("explorer", "negatives", "learning", "engines", "ranks", "predicted"):
        assert word in text
    row = lines[-1].split()
    assert row[:10] == ["00003", "linear", "40", "0.5", "16", "2.04e-4", "2", "1", "1.5", "CPUs"]
    assert plan.run_seconds and duration(plan.run_seconds) in row


def test_the_final_table_says_when_a_lead_may_be_chance():
    about = study(trials=3)
    close = [measured(about, 0, 0.30), measured(about, 1, 0.29), measured(about, 2, 0.10)]
    text = " ".join(printed(FinalTable(about, close, FACTS), 200).split())
    assert "interval of 00000 overlaps with those of 1 of the 2 others that finished: its lead may be chance." in text
    apart = [measured(about, 0, 0.40), measured(about, 1, 0.29), measured(about, 2, 0.10, "pruned")]
    text = " ".join(printed(FinalTable(about, apart, FACTS), 200).split())
    assert "00000 is beyond that of 00001 and of all others that finished: its lead is more than" in text
    assert "Pruned trials were measured after fewer steps" in text and "secret" not in text
    none = printed(FinalTable(about, [measured(about, 0, None, "failed")], FACTS), 200)
    assert "No trial has a value of eval/learner/pass_at_1" in none


def test_what_the_bank_spared_is_of_the_steps_that_were_done():
    about = study(trials=2, steps=3)
    outcomes = [replace(measured(about, 0, 0.4), step=3), replace(measured(about, 1, 0.2, "pruned"), step=1)]
    bank = {"tokens": 30, "separate": [[20, 20, 10], [50, 90, 90]]}  # 50 + 50 in the steps that they did
    text = " ".join(printed(FinalTable(about, outcomes, replace(FACTS, bank=bank)), 200).split())
    assert (
        "The bank has 30 explorer tokens. Without it the trials would have sampled 100 in the steps that they did"
        in text
    )
    # Of all six steps, as the study says before they are done, 30 of 280.
    assert "it is 0.30 of that. Of all steps of all trials, pruned or not, it would be 0.11." in text
    whole = {"tokens": 30, "separate": [[20, 20, 10], [50]]}
    text = " ".join(printed(FinalTable(about, outcomes, replace(FACTS, bank=whole)), 200).split())
    assert "it is 0.30 of that." in text and "pruned or not" not in text


def test_tune_json_has_all_of_the_trials_and_best_yaml_is_a_configuration(tmp_path: Path):
    about = study(tmp_path / "s", trials=8)
    outcomes = with_exploits(about, made_up(about))
    best = ranked(about, outcomes)[0]
    base = load_config("quickstart", {"bank.mode": "off", "run_dir": "outputs/x"})
    files = write_report(about, outcomes, FACTS, with_values(base, dict(best.values)))
    assert files == list(study_files(about.directory).values()) and all(file.is_file() for file in files)
    row = json.loads(files[0].read_text())
    assert [TrialOutcome.from_json(one) for one in row["trials"]] == ranked(about, outcomes)
    assert row["best"]["name"] == best.name and row["mlflow_uri"] == "http://***@mlflow:5000"
    assert row["versions"]["ray"] and row["seed"] == 7 and row["bank"] == {"tokens": 100}
    config = load_config(files[1])
    assert config.schedule.mix_steps == best.values["schedule.mix_steps"]
    assert config.trainer.learning_rate == best.values["trainer.learning_rate"]
    expected = base.model_dump() | {"name": "tune_schedule-best", "run_dir": None}
    for key in KEYS:
        section, name = key.split(".")
        expected[section] |= {name: best.values[key]}
    assert config.model_dump() == expected
    text = files[1].read_text()
    assert "embedded:large" in text and text.startswith(f"# Trial {best.name} of ")
    assert "\n# Its values of what the study varied:\n#   schedule.kind: " in text
    assert f"\n#   schedule.mix_steps: {best.values['schedule.mix_steps']}\n" in text


def test_a_study_without_a_measurement_has_a_table_alone(tmp_path: Path):
    about = study(tmp_path, trials=1)
    files = write_report(about, [measured(about, 0, None, "failed")], FACTS, load_config("quickstart"))
    assert [file.name for file in files] == ["tune.json"]


def test_which_key_the_figure_shows():
    about = study(trials=8)
    outcomes = made_up(about)
    assert horizontal(about.keys, outcomes).key == "schedule.mix_steps"
    assert colours(about.keys, outcomes, horizontal(about.keys, outcomes))[0] == "schedule.kind"
    rates = horizontal(("objective.explorer_negatives", "trainer.learning_rate"), outcomes)
    assert (rates.key, rates.is_log, rates.categories) == ("trainer.learning_rate", True, ())
    kinds = horizontal(("schedule.kind",), outcomes)
    assert (
        kinds.categories == tuple(sorted({o.values["schedule.kind"] for o in outcomes})) and kinds.place("cosine") > 0
    )
    # Nothing varies: a study of one trial.
    assert colours(about.keys, outcomes[:1], horizontal(about.keys, outcomes[:1])) == (None, {})


def test_the_figure_marks_pruned_trials_and_exploits():
    about = study(trials=8)
    outcomes = with_exploits(about, made_up(about))
    figure = study_figure(about, outcomes)
    _, steps = figure.axes
    dashed = [line for line in steps.lines if line.get_linestyle() == "--"]
    assert len(dashed) == sum(outcome.status != "finished" for outcome in outcomes)
    assert sum(line.get_marker() == "^" for line in steps.lines) == 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "schedule.kind:" and labels[-1] == "exploit" and "pruned" in labels


def test_names_beside_lines_are_moved_apart():
    assert _apart([1.0, 1.5, 5.0], 1.0) == pytest.approx([1 - 0.5 / 3, 2 - 0.5 / 3, 5 - 0.5 / 3])


def repeated(tmp_path: Path) -> tuple[StudyAbout, list[TrialOutcome]]:
    """Two schedules with three seeds each, one with two, one with one, and one of which a trial failed."""
    about = study(tmp_path, keys=("schedule.kind", "seed"), trials=11)
    values = {
        "linear": {1: 0.20, 2: 0.22, 3: 0.24},
        "off": {1: 0.19, 2: 0.21, 3: 0.20},
        "abrupt": {1: 0.30, 3: 0.30},
        "cosine": {1: 0.40},
    }
    rows = [(kind, seed, value) for kind, by_seed in values.items() for seed, value in by_seed.items()]
    outcomes = [
        replace(measured(about, number, value), values={"schedule.kind": kind, "seed": seed})
        for number, (kind, seed, value) in enumerate(rows)
    ]
    failed = replace(measured(about, 9, 0.5, "failed"), values={"schedule.kind": "abrupt", "seed": 2})
    return about, [*outcomes, failed]


def test_means_over_seeds_by_hand(tmp_path: Path):
    about, outcomes = repeated(tmp_path)
    linear, off, abrupt = over_seeds(about, outcomes)
    assert [dict(one.values) for one in (linear, off, abrupt)] == [
        {"schedule.kind": kind}
        for kind in ("linear", "off", "abrupt")  # one seed less than the others: last
    ]
    # Three values 0.02 apart: standard error 0.02 / sqrt(3); t with 2 degrees of freedom at 97.5 %: 4.302653.
    half = 4.302653 * 0.02 / 3**0.5
    assert linear.mean == pytest.approx(0.22) and linear.gap_interval is None
    assert linear.interval == pytest.approx((0.22 - half, 0.22 + half), abs=1e-8)
    # By seed: -0.01, -0.01, -0.04. Mean -0.02, standard deviation sqrt(0.0003).
    half = 4.302653 * 0.0003**0.5 / 3**0.5
    assert off.gap == pytest.approx(-0.02)
    assert off.gap_interval == pytest.approx((-0.02 - half, -0.02 + half), abs=1e-8)
    # Seeds 1 and 3: +0.10, +0.06; t with 1 degree of freedom: 12.7062.
    half = 12.706205 * 0.02 * 2**0.5 / 2**0.5
    assert abrupt.gap == pytest.approx(0.08)
    assert abrupt.gap_interval == pytest.approx((0.08 - half, 0.08 + half), abs=1e-8)


def test_the_best_trial_is_of_the_values_with_the_best_mean(tmp_path: Path):
    about, outcomes = repeated(tmp_path)
    best = best_of(about, outcomes)
    assert best is not None and best.values == {"schedule.kind": "linear", "seed": 3}
    lower = best_of(replace(about, mode="min"), outcomes)
    assert lower is not None and lower.values == {"schedule.kind": "off", "seed": 1}
    alone = [outcome for outcome in outcomes if outcome.values["seed"] == 1]
    assert over_seeds(about, alone) == []
    best = best_of(about, alone)
    assert best is not None and best.values["schedule.kind"] == "cosine"


def test_the_final_table_compares_means_over_seeds(tmp_path: Path):
    about, outcomes = repeated(tmp_path)
    text = " ".join(printed(FinalTable(about, outcomes, StudyFacts(60.0)), 100).split())
    assert "linear 22.0 [17.0, 27.0] 3 " in text
    assert "off 20.0 [17.5, 22.5] -2.0 [-6.3, +2.3] 3 " in text
    assert "The best mean is that of schedule.kind=linear; its lead over the others may be chance." in text
    assert "overlaps" not in text
    write_report(about, outcomes, StudyFacts(60.0), load_config("quickstart"))
    row = json.loads((tmp_path / "tune.json").read_text())["over_seeds"][1]
    assert row["values"] == {"schedule.kind": "off"} and len(row["trials"]) == 3
    assert row["mean"] == pytest.approx(0.20) and row["gap"] == pytest.approx(-0.02)


def with_pruned(outcomes: list[TrialOutcome], *pruned: tuple[str, int]) -> list[TrialOutcome]:
    """The trials of these schedules and seeds did not get to their end."""
    return [
        replace(one, status="pruned") if (one.values["schedule.kind"], one.values["seed"]) in pruned else one
        for one in outcomes
    ]


def test_a_mean_of_the_seeds_that_asha_left_is_compared_with_none(tmp_path: Path):
    """Without seed 3 the differences of off from linear are -0.01 and -0.01: an interval that has no width."""
    about, outcomes = repeated(tmp_path)
    left = with_pruned(outcomes, ("off", 3), ("abrupt", 2))
    linear, *others = over_seeds(about, left)
    assert linear.pruned == 0 and linear.interval is not None
    assert [(one.values["schedule.kind"], one.pruned, round(one.mean, 9)) for one in others] == [
        ("abrupt", 1, 0.3),
        ("off", 1, 0.2),
    ]
    assert {(one.interval, one.gap, one.gap_interval) for one in others} == {(None, None, None)}
    best = best_of(about, left)
    assert best is not None and best.values == {"schedule.kind": "linear", "seed": 3}
    text = " ".join(printed(FinalTable(about, left, StudyFacts(60.0)), 100).split())
    assert "abrupt 30.0 2 of 3 off 20.0 2 of 3 " in text
    assert "more than seeds explain" not in text and "The best mean" not in text
    assert "is the best of the only values that were done with several seeds, none of them pruned" in text
    assert "beyond that of" not in text and "its lead" not in text
    assert "the mean of the others is too good, so that it has no interval and is compared with none." in text
    write_report(about, left, StudyFacts(60.0), load_config("quickstart"))
    row = json.loads((tmp_path / "tune.json").read_text())["over_seeds"][1]
    assert (row["pruned"], row["mean"], row["interval"], row["gap"]) == (1, pytest.approx(0.3), None, None)


def test_only_whole_means_are_compared_and_the_others_choose_no_best_trial(tmp_path: Path):
    about, outcomes = repeated(tmp_path)
    left = with_pruned(outcomes, ("abrupt", 2))
    text = " ".join(printed(FinalTable(about, left, StudyFacts(60.0)), 100).split())
    assert "The best mean is that of schedule.kind=linear; its lead over the others may be chance." in text
    far = [replace(one, metric=0.1 * one.metric) if one.values["schedule.kind"] == "off" else one for one in left]
    text = " ".join(printed(FinalTable(about, far, StudyFacts(60.0)), 100).split())
    assert "its lead over all others of which no seed was pruned is more than seeds explain." in text
    all_pruned = with_pruned(outcomes, ("linear", 1), ("off", 1), ("abrupt", 2))
    best = best_of(about, all_pruned)
    assert best is not None and best.values == {"schedule.kind": "cosine", "seed": 1}  # as without means


def test_the_seed_is_on_the_axis_only_where_nothing_else_varies(tmp_path: Path):
    about, outcomes = repeated(tmp_path)
    axis = horizontal(about.keys, outcomes)
    assert axis is not None and axis.key == "schedule.kind"
    linear = [outcome for outcome in outcomes if outcome.values["schedule.kind"] == "linear"]
    axis = horizontal(about.keys, linear)
    assert axis is not None and axis.key == "seed"
    bars = [
        line
        for line in study_figure(about, outcomes).axes[0].lines
        if line.get_marker() == "_" and line.get_markersize() > 20
    ]
    assert sorted(float(line.get_ydata()[0]) for line in bars) == pytest.approx([20, 22, 30])
