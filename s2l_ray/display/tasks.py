"""Progress of work whose size is known: building the family, verifying a file, recording a bank."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from s2l_ray.display.text import EARLIEST_ETA_S, eta_text, is_live, print_line
from s2l_ray.machine.console import CommandConsole


class TimeLeft(TimeRemainingColumn):
    """The time left of a stage, once it has gone on for long enough to have a pace."""

    def render(self, task: Task) -> Text:
        """The time left; dashes while it is too early to say."""
        is_early = not task.finished and (task.elapsed or 0.0) < EARLIEST_ETA_S
        return Text("-:--:--", style="progress.remaining") if is_early else super().render(task)


class TaskDisplay:
    """A progress bar per stage; where there is no terminal, a line for each tenth of a stage.

    Args:
        console: default: standard output.
        clock: seconds, for durations.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or CommandConsole()
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> TaskDisplay:
        if is_live(self.console):
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, complete_style="green"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeLeft(),
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
        """Show that `done` of `total` of `stage` are done, with a few words beside it."""
        if self._progress is None:
            self._line(stage, done, total, detail)
            return
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total, detail=detail)
        self._progress.update(self._bars[stage], completed=done, total=total, detail=detail)

    def _line(self, stage: str, done: int, total: int, detail: str) -> None:
        """Print a line at each tenth of a stage. The time left is estimated from the pace since it (last) began."""
        if stage not in self._begun or done <= self._begun[stage][1]:
            self._begun[stage] = (self._clock(), done)
        start, first = self._begun[stage]
        tenth = 10 * done // max(total, 1)
        if tenth != self._tenths.get(stage):
            self._tenths[stage] = tenth
            eta = eta_text(self._clock() - start, done - first, total - first)
            print_line(self.console, "  ".join(filter(None, [f"{stage} {done}/{total}", detail, eta])))

    def say(self, text: str) -> None:
        """Print a line, above the bars."""
        print_line(self.console, text)


class FetchDisplay:
    """Downloads as stages of a `TaskDisplay`."""

    def __init__(self, display: TaskDisplay) -> None:
        self._display = display
        self._stage = ""

    def phase(self, text: str) -> None:
        """Begin a download."""
        self._stage = text
        self._display.say(text)

    def progress(self, done: int, total: int) -> None:
        """Show how much has arrived."""
        self._display.update(self._stage, done, total)

    def note(self, text: str) -> None:
        """Print a line."""
        self._display.say(f"note: {text}")
