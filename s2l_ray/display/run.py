"""A training run while it lasts: a live panel, or a line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration, eta_text, is_live, line, percent, print_line, shared_out, sparkline
from s2l_ray.kinds import Source
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.style import ACTIVITY_COLOURS, SOURCE_COLOURS
from s2l_ray.timing.names import part_name

RECENT_STEPS = 40
"""How many steps the panel keeps: at most so many rewards are shown."""
ETA_STEPS = 10
"""How many steps the mean duration is taken over that predicts the rest."""
TIME_CELLS = 20
"""Width of the bar that shows where the time of a step went."""
NOTES = 4
"""How many notes the panel shows."""
FIRST_QUIET_S, QUIET_S = 10.0, 30.0
"""Where there is no terminal: seconds until a line says how far work has got, and between such lines."""
TURNS = {
    "hand_over": "engines leave and join",
    "rollout": "waiting for rollouts",
    "update": "updating the learner",
    "weight_sync": "syncing weights",
    "evaluate": "evaluating",
    "checkpoint": "writing a checkpoint",
}
"""Phase of a step -> what is shown while it lasts."""
SHOWN_PARTS = 3
"""How many parts of a step are named beside their bar: those that took longest."""
TRAINER_METRICS = {"kl": "kl", "logprob_gap/learner": "gap", "clip_fraction": "clip", "grad_norm": "grad"}
"""Metrics of the update in the panel, and their short names there."""


class RunDisplay(Reporter):
    """Shows a run. A context manager: leaving it restores the terminal, also after an error.

    Args:
        total_steps: schedule.steps.
        name: of the run.
        console: default: standard output.
        clock: seconds, for durations.
    """

    def __init__(
        self,
        total_steps: int,
        name: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_steps = total_steps
        self.name = name
        self.console = console or Console()
        self.records: tuple[StepRecord, ...] = ()
        self.evaluations: tuple[tuple[str, EvaluationRecord], ...] = ()
        self.notes: tuple[str, ...] = ()
        self.doing = ""
        self.done: tuple[int, int] | None = None
        """(done, total) of that work, where it is known."""
        self._clock = clock
        self._since = clock()
        self._quiet_until = self._since + FIRST_QUIET_S
        self._live: Live | None = None

    def __enter__(self) -> RunDisplay:
        if is_live(self.console):
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
        """Show what is being done between steps: "starting engines", "evaluating before training"."""
        self._now(text)
        self._say(text)

    def progress(self, done: int, total: int) -> None:
        """Show how far the phase or turn has got; where there is no terminal, a line if it takes long."""
        self.done = (done, total)
        if self._clock() >= self._quiet_until:
            self._say(self._doing())
            self._quiet_until = self._clock() + QUIET_S

    def turn(self, step: int, phase: str) -> None:
        """Show the phase of a step that the driver is in; where there is no terminal, nothing."""
        self._now(f"step {step}: {TURNS[phase]}")

    def step(self, record: StepRecord) -> None:
        """Show a step that has ended."""
        self.records = (*self.records, record)[-RECENT_STEPS:]
        self._now(f"step {record.step + 1}" if record.step < self.total_steps else "")
        self._say(step_line(record, self.total_steps, eta_seconds(self.records, self.total_steps)))

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Show an evaluation; `when` is "before", "during" or "after"."""
        self.evaluations = (*self.evaluations, (when, record))
        self._now("")
        self._say(evaluation_line(record, when))

    def note(self, text: str) -> None:
        """Show an event that is no step: an engine was lost, a server does not answer."""
        self.notes = (*self.notes, text)[-NOTES:]
        self._say(f"note: {text}")

    def panel(self) -> Panel:
        """The live view. It depends on what was reported so far, and on the clock."""
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(style="dim", no_wrap=True, width=8)
        rows.add_column(ratio=1)
        for label, content in self._rows():
            rows.add_row(label, content)
        return Panel(rows, title=Text(f"s2l-ray  {self.name}"), title_align="left", border_style="dim")

    def _rows(self) -> list[tuple[str, RenderableType]]:
        rows: list[tuple[str, RenderableType]] = [("step", self._progress())]
        if self.doing:
            rows.append(("now", line(self._doing())))
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

    def _doing(self) -> str:
        """What is being done, how much of it is done, how long it has taken, and how long it will still take."""
        seconds = self._clock() - self._since
        fields = [self.doing, "", duration(seconds), ""]
        if self.done:
            done, total = self.done
            fields[1], fields[3] = f"{done}/{total}", eta_text(seconds, done, total)
        return "  ".join(filter(None, fields))

    def _now(self, text: str) -> None:
        self.doing, self.done, self._since = text, None, self._clock()
        self._quiet_until = self._since + FIRST_QUIET_S

    def _say(self, line: str) -> None:
        if self._live is None:
            print_line(self.console, line)


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


def eta_seconds(records: Sequence[StepRecord], total_steps: int) -> float | None:
    """Seconds to the last step at the mean pace of recent steps; None before the first step and after the last."""
    if not records or records[-1].step >= total_steps:
        return None
    recent = [_total(r) for r in records[-ETA_STEPS:]]
    return sum(recent) / len(recent) * (total_steps - records[-1].step)


def _step_rows(records: Sequence[StepRecord], width: int) -> list[tuple[str, RenderableType]]:
    record = records[-1]
    rows: list[tuple[str, RenderableType]] = [("group", _share_text(record))]
    labels = iter(["reward", ""])
    rows += [(next(labels), text) for text in _reward_texts(records[-max(1, width - 40) :])]
    speed = f"{_tokens_per_second(record):.0f} tok/s  {_total(record):.1f} s per step ({_phases(record)})"
    rows.append(("speed", line(speed)))
    if record.parts:
        rows.append(("time", _time_text(record)))
    if record.busy:
        rows.append(("busy", line("  ".join(f"{role} {share:.0%}" for role, share in record.busy.items()))))
    return [*rows, ("update", line(_update(record)))]


def _share_text(record: StepRecord) -> Text:
    """Alpha, and the group as a bar of two colours with at most 32 cells."""
    size = record.explorer_per_group + record.learner_per_group
    cells = min(size, 32)
    explorer = round(cells * record.explorer_per_group / size)
    text = line(f"alpha {record.alpha:.2f}  ")
    text.append("■" * explorer, SOURCE_COLOURS["explorer"])
    text.append("□" * (cells - explorer), SOURCE_COLOURS["learner"])
    text.append(f"  G_w {record.explorer_per_group} explorer, G_s {record.learner_per_group} learner")
    return text


def _reward_texts(records: Sequence[StepRecord]) -> list[Text]:
    """A line per source that has sampled: its last reward, and its recent rewards on a scale common to all sources."""
    series = {source: [_reward(r, source) for r in records] for source in SOURCE_COLOURS}
    known = [v for values in series.values() for v in values if v is not None]
    texts = []
    for source, values in series.items():
        if any(v is not None for v in values):
            text = Text(f"{source:<8} ", SOURCE_COLOURS[source], no_wrap=True, overflow="ellipsis")
            text.append("  -    " if values[-1] is None else f"{values[-1]:.3f}  ", "default")
            text.append(sparkline(values, min(known), max(known)), SOURCE_COLOURS[source])
            texts.append(text)
    return texts


def _time_text(record: StepRecord) -> Text:
    """The seconds of a step as a bar of its parts, and the longest parts by name."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for part, cells in shared_out(record.parts, TIME_CELLS).items():
        text.append("█" * cells, ACTIVITY_COLOURS[part])
    longest = sorted(record.parts, key=lambda part: record.parts[part], reverse=True)[:SHOWN_PARTS]
    for part in longest:
        text.append("  ")
        text.append("█ ", ACTIVITY_COLOURS[part])
        text.append(f"{part_name(part)} {record.parts[part] / sum(record.parts.values()):.0%}", "default")
    return text


def _update(record: StepRecord) -> str:
    fields = [f"zero variance {record.zero_variance_groups}/{record.groups} groups"]
    fields += [f"{label} {record.trainer[key]:.3g}" for key, label in TRAINER_METRICS.items() if key in record.trainer]
    return "  ".join(fields)


def _evaluation_text(record: EvaluationRecord, when: str) -> Text:
    label = when if when != "during" else f"step {record.step}"
    text = Text(f"{record.model:<8} ", SOURCE_COLOURS[record.model], no_wrap=True, overflow="ellipsis")
    text.append(f"{label:<8}", "default")
    ks = sorted({1, max(record.pass_at)})
    text.append("  ".join(f"@{k} {percent(record.pass_at[k], record.ci[k])}" for k in ks), "default")
    return text


def _reward(record: StepRecord, source: Source) -> float | None:
    stats = record.sources.get(source)
    return stats.reward if stats and stats.rollouts else None


def _by_source(record: StepRecord) -> str:
    return ", ".join(f"{name} {stats.reward:.2f}" for name, stats in record.sources.items() if stats.rollouts)


def _phases(record: StepRecord) -> str:
    phases = {name.replace("_", " "): seconds for name, seconds in record.seconds.items() if name != "total"}
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())


def _total(record: StepRecord) -> float:
    return record.seconds.get("total", 0.0)


def _tokens_per_second(record: StepRecord) -> float:
    return record.tokens / _total(record) if _total(record) else 0.0
