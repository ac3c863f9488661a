"""A training run while it lasts: a live panel, or a line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s2l_ray.display.records import eta_seconds, evaluation_line, evaluation_text, step_line, step_rows
from s2l_ray.display.text import duration, eta_text, is_live, line, print_line
from s2l_ray.machine.console import CommandConsole
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord

RECENT_STEPS = 40
"""How many steps the panel keeps: at most this many rewards are shown."""
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
        self.console = console or CommandConsole()
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
            rows += step_rows(self.records, self.console.width)
        labels = ["pass@k %"] + [""] * len(self.evaluations)
        shown = self.evaluations[:2] + self.evaluations[2:][-2:]
        rows += [(label, evaluation_text(record, when)) for label, (when, record) in zip(labels, shown, strict=False)]
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
