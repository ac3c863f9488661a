"""What a person sees while something long runs, and at its end.

On a terminal: a live panel. Elsewhere (a file, a pipe, CI): plain lines of stable form, one per step, for example

    step 12/60  alpha 0.63  G_w/G_s 6/2  reward 0.21 (explorer 0.18, learner 0.29)  820 tok/s  1.9 s (rollout 1.1, ...
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s2l_ray.evaluation import COLOURS
from s2l_ray.mlflow_store import how_to_open
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.timing.look import COLOURS as COLOURS_OF_PARTS
from s2l_ray.timing.look import part_name

SPARKS = "▁▂▃▄▅▆▇█"
RECENT_STEPS = 40
"""Steps whose rewards the panel shows."""
ETA_STEPS = 10
"""Steps whose mean duration predicts the rest."""
TIME_CELLS = 20
"""Of the bar that shows where a step's time went."""
NOTES = 4
TURNS = {
    "hand_over": "engines leave and join",
    "rollout": "waiting for rollouts",
    "update": "updating the learner",
    "swap": "swapping weights",
    "evaluate": "evaluating",
    "checkpoint": "writing a checkpoint",
}
"""Phase of a step -> what is shown while it lasts."""
SHOWN_PARTS = 3
"""Parts of a step that are named beside their bar: those that took longest."""
TRAINER_METRICS = {"kl": "kl", "logprob_gap/learner": "gap", "clip_fraction": "clip", "grad_norm": "grad"}
"""Metrics of the update in the panel, and their short names there."""


class RunDisplay:
    """Shows a run. A context manager: leaving it, by an error too, gives the terminal back."""

    def __init__(self, total_steps: int, name: str, console: Console | None = None) -> None:
        self.total_steps = total_steps
        self.name = name
        self.console = console or Console()
        self.records: tuple[StepRecord, ...] = ()
        self.evaluations: tuple[tuple[str, EvaluationRecord], ...] = ()
        self.notes: tuple[str, ...] = ()
        self.doing = ""
        self._since = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> RunDisplay:
        if _is_live(self.console):
            self._live = Live(console=self.console, get_renderable=self.panel, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last panel on the screen and restore the terminal."""
        self.doing = ""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, text: str) -> None:
        """What is being done now, between steps: "starting engines", "evaluating before training"."""
        self._now(text)
        self._say(text)

    def turn(self, step: int, phase: str) -> None:
        """The driver turns to a phase of a step. Shown, never a line."""
        self._now(f"step {step}: {TURNS[phase]}")

    def step(self, record: StepRecord) -> None:
        self.records = (*self.records, record)[-RECENT_STEPS:]
        self._now(f"step {record.step + 1}" if record.step < self.total_steps else "")
        self._say(step_line(record, self.total_steps, eta_seconds(self.records, self.total_steps)))

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """`when`: before, during or after."""
        self.evaluations = (*self.evaluations, (when, record))
        self._now("")
        self._say(evaluation_line(record, when))

    def note(self, text: str) -> None:
        """Something to know that is no step: a checkpoint, an engine restarted, a server that does not answer."""
        self.notes = (*self.notes, text)[-NOTES:]
        self._say(f"note: {text}")

    def panel(self) -> Panel:
        """The live view: a function of what was reported so far, and of the clock."""
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(style="dim", no_wrap=True, width=8)
        rows.add_column(ratio=1)
        for label, content in self._rows():
            rows.add_row(label, content)
        return Panel(rows, title=f"s2l-ray  {self.name}", title_align="left", border_style="dim")

    def _rows(self) -> list[tuple[str, RenderableType]]:
        rows: list[tuple[str, RenderableType]] = [("step", self._progress())]
        if self.doing:
            rows.append(("now", _line(f"{self.doing}  {duration(time.monotonic() - self._since)}")))
        if self.records:
            rows += _step_rows(self.records, self.console.width)
        labels = ["pass@k %"] + [""] * len(self.evaluations)
        shown = self.evaluations[:2] + self.evaluations[2:][-2:]
        rows += [(label, _evaluation_text(record, when)) for label, (when, record) in zip(labels, shown, strict=False)]
        rows += [("note" if i == 0 else "", Text(note)) for i, note in enumerate(self.notes)]
        return rows

    def _progress(self) -> RenderableType:
        done = self.records[-1].step if self.records else 0
        eta = eta_seconds(self.records, self.total_steps)
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        bar = ProgressBar(total=self.total_steps, completed=done, complete_style="green")
        line.add_row(f"{done}/{self.total_steps}", bar, f"ETA {duration(eta)}" if eta is not None else "")
        return line

    def _now(self, text: str) -> None:
        self.doing, self._since = text, time.monotonic()

    def _say(self, line: str) -> None:
        if self._live is None:
            _print_line(self.console, line)


class TaskDisplay:
    """Bars for work that counts up, one per stage; elsewhere than on a terminal a line for each tenth of a stage."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> TaskDisplay:
        if _is_live(self.console):
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, complete_style="green"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
                console=self.console,
                expand=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` of `stage`, with a few words beside it."""
        if self._progress is None:
            tenth = 10 * done // max(total, 1)
            if tenth != self._tenths.get(stage):
                self._tenths[stage] = tenth
                _print_line(self.console, "  ".join(filter(None, [f"{stage} {done}/{total}", detail])))
            return
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total, detail=detail)
        self._progress.update(self._bars[stage], completed=done, total=total, detail=detail)

    def say(self, text: str) -> None:
        """A line, above the bars."""
        _print_line(self.console, text)


class FamilyDisplay(TaskDisplay):
    """`s2l family build`: pass `progress` as the callback."""

    def progress(self, stage: str, done: int, total: int, loss: float) -> None:
        self.update(stage, done, total, f"loss {loss:.3f}")


class VerifyDisplay(TaskDisplay):
    """Verifying a file: pass `progress` as the callback."""

    def progress(self, done: int, total: int) -> None:
        self.update("verified", done, total)


def step_line(record: StepRecord, total_steps: int, eta: float | None) -> str:
    """One step in one line. Fields are two spaces apart and always in this order."""
    fields = [
        f"step {record.step}/{total_steps}",
        f"alpha {record.alpha:.2f}",
        f"G_w/G_s {record.explorer_per_group}/{record.learner_per_group}",
        f"reward {record.reward:.2f} ({_by_source(record)})",
        f"{_tokens_per_second(record):.0f} tok/s",
        f"{_total(record):.1f} s ({_phases(record)})",
    ]
    if eta is not None:
        fields.append(f"ETA {duration(eta)}")
    return "  ".join(fields)


def evaluation_line(record: EvaluationRecord, when: str) -> str:
    """One evaluation in one line."""
    fields = [f"evaluation {when}", record.model, f"step {record.step}"]
    fields += [
        f"pass@{k} {record.pass_at[k]:.3f} [{record.ci[k][0]:.3f}, {record.ci[k][1]:.3f}]"
        for k in sorted(record.pass_at)
    ]
    return "  ".join([*fields, f"{record.problems} problems x {record.samples} samples", f"{record.seconds:.1f} s"])


def final_table(summary: dict[str, Any]) -> RenderableType:
    """What came out of a run, for people: pass@k before and after with intervals, then where things are.

    Args:
        summary: as `s2l_ray.evaluation.summary` documents it.
    """
    confidence = summary["config"]["evaluation"]["confidence"]
    return Group(Text(""), _outcome(summary["evaluation"], confidence), Text(""), _places(summary))


def eta_seconds(records: Sequence[StepRecord], total_steps: int) -> float | None:
    """Time to the last step, at the mean pace of recent steps; None before the first step and after the last."""
    if not records or records[-1].step >= total_steps:
        return None
    recent = [_total(r) for r in records[-ETA_STEPS:]]
    return sum(recent) / len(recent) * (total_steps - records[-1].step)


def duration(seconds: float) -> str:
    """8s, 1m32s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One bar per value, between `low` and `high`; a gap where there is none."""
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if v is None else SPARKS[round((v - low) * scale)] for v in values)


def shared_out(parts: Mapping[str, float], cells: int) -> dict[str, int]:
    """So many cells of a bar shared out by size: rounded down, then one more where most was cut off."""
    exact = {part: cells * value / sum(parts.values()) for part, value in parts.items()}
    shares = {part: int(value) for part, value in exact.items()}
    for part in sorted(exact, key=lambda p: shares[p] - exact[p])[: cells - sum(shares.values())]:
        shares[part] += 1
    return shares


def percent(value: float, bounds: Sequence[float]) -> str:
    """A share and its interval in percent: 18.5 [15.3, 21.9]."""
    return f"{100 * value:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def _step_rows(records: Sequence[StepRecord], width: int) -> list[tuple[str, RenderableType]]:
    record = records[-1]
    rows: list[tuple[str, RenderableType]] = [("group", _share_text(record))]
    labels = iter(["reward", ""])
    rows += [(next(labels), text) for text in _reward_texts(records[-max(1, width - 40) :])]
    speed = f"{_tokens_per_second(record):.0f} tok/s  {_total(record):.1f} s per step ({_phases(record)})"
    rows.append(("speed", _line(speed)))
    if record.parts:
        rows.append(("time", _time_text(record)))
    if record.busy:
        rows.append(("busy", _line("  ".join(f"{role} {share:.0%}" for role, share in record.busy.items()))))
    return [*rows, ("update", _line(_update(record)))]


def _share_text(record: StepRecord) -> Text:
    """alpha, and the group as a bar of two colours (at most 32 cells)."""
    size = record.explorer_per_group + record.learner_per_group
    cells = min(size, 32)
    explorer = round(cells * record.explorer_per_group / size)
    text = _line(f"alpha {record.alpha:.2f}  ")
    text.append("■" * explorer, COLOURS["explorer"])
    text.append("□" * (cells - explorer), COLOURS["learner"])
    text.append(f"  G_w {record.explorer_per_group} explorer, G_s {record.learner_per_group} learner")
    return text


def _reward_texts(records: Sequence[StepRecord]) -> list[Text]:
    """A line per source that has sampled: its reward, and its recent rewards on a scale common to all sources."""
    series = {source: [_reward(r, source) for r in records] for source in COLOURS}
    known = [v for values in series.values() for v in values if v is not None]
    texts = []
    for source, values in series.items():
        if any(v is not None for v in values):
            text = Text(f"{source:<8} ", COLOURS[source], no_wrap=True, overflow="ellipsis")
            text.append("  -    " if values[-1] is None else f"{values[-1]:.3f}  ", "default")
            text.append(sparkline(values, min(known), max(known)), COLOURS[source])
            texts.append(text)
    return texts


def _time_text(record: StepRecord) -> Text:
    """The step's seconds as a bar of its parts, and the longest of them by name."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for part, cells in shared_out(record.parts, TIME_CELLS).items():
        text.append("█" * cells, COLOURS_OF_PARTS[part])
    longest = sorted(record.parts, key=record.parts.get, reverse=True)[:SHOWN_PARTS]
    for part in longest:
        text.append("  ")
        text.append("█ ", COLOURS_OF_PARTS[part])
        text.append(f"{part_name(part)} {record.parts[part] / sum(record.parts.values()):.0%}", "default")
    return text


def _update(record: StepRecord) -> str:
    fields = [f"zero variance {record.zero_variance_groups}/{record.groups} groups"]
    fields += [f"{label} {record.trainer[key]:.3g}" for key, label in TRAINER_METRICS.items() if key in record.trainer]
    return "  ".join(fields)


def _evaluation_text(record: EvaluationRecord, when: str) -> Text:
    label = when if when != "during" else f"step {record.step}"
    text = Text(f"{record.model:<8} ", COLOURS[record.model], no_wrap=True, overflow="ellipsis")
    text.append(f"{label:<8}", "default")
    ks = sorted({1, max(record.pass_at)})
    text.append("  ".join(f"@{k} {percent(record.pass_at[k], record.ci[k])}" for k in ks), "default")
    return text


def _line(text: str) -> Text:
    """Text that is cut, not wrapped, where the panel is too narrow."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _reward(record: StepRecord, source: str) -> float | None:
    stats = record.sources.get(source)
    return stats.reward if stats and stats.rollouts else None


def _by_source(record: StepRecord) -> str:
    return ", ".join(f"{name} {stats.reward:.2f}" for name, stats in record.sources.items() if stats.rollouts)


def _phases(record: StepRecord) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in record.seconds.items() if name != "total")


def _total(record: StepRecord) -> float:
    return record.seconds.get("total", 0.0)


def _tokens_per_second(record: StepRecord) -> float:
    return record.tokens / _total(record) if _total(record) else 0.0


def _outcome(evaluation: dict[str, Any], confidence: float) -> RenderableType:
    records = {name: evaluation[name] for name in ("explorer", "before", "after") if evaluation[name]}
    if not records:
        return Text("Nothing was evaluated: set data.eval to a file of held-out problems.")
    measured = list(records.values())[-1]
    ks = sorted(int(key.removeprefix("pass@")) for key in measured["ci"])
    table = Table(
        title="held-out pass@k in %", title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0)
    )
    table.add_column("")
    for name, record in records.items():
        heading = "explorer" if name == "explorer" else f"learner {name}"
        table.add_column(Text(heading, COLOURS[record["model"]]), no_wrap=True)
    for k in ks:
        table.add_row(f"pass@{k}", *(percent(r[f"pass@{k}"], r["ci"][f"pass@{k}"]) for r in records.values()))
    lines: list[RenderableType] = [table, Text("")]
    if evaluation["change"]:
        lines += [Text(_change(evaluation["change"], f"pass@{k}", confidence)) for k in ks]
    lines.append(
        Text(
            f"Measured on {measured['problems']} held-out problems x {measured['samples']} samples; one run, one seed. "
            f"Brackets: {confidence:.0%} confidence intervals over problems.",
            style="dim",
        )
    )
    return Group(*lines)


def _change(change: dict[str, Any], key: str, confidence: float) -> str:
    low, high = change["ci"][key]
    verdict = "may be chance" if low <= 0 <= high else "more than chance over problems explains"
    return f"{key}: {100 * change[key]:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]: {verdict}."


def _places(summary: dict[str, Any]) -> RenderableType:
    run_dir = Path(summary["run_dir"])
    rows = [("run", str(run_dir)), ("model", summary["model"]), ("figures", str(run_dir / "figures"))]
    if summary["mlflow_uri"]:
        rows += [("MLflow", how_to_open(summary["mlflow_uri"])), ("", f"run {summary['mlflow_run_id']}")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")  # paths and commands are copied: never cut
    for label, place in rows:
        if place:
            table.add_row(label, Text(_short(place)))
    return Padding(table, (0, 0, 1, 0))


def _short(place: str) -> str:
    """`place` from the working directory: short enough to be copied in one line."""
    return place.replace(f"{Path.cwd()}/", "")


def _is_live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _print_line(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
