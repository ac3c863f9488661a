"""Work that counts up: building the family, verifying a file, recording a bank."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from s2l_ray.display.text import is_live, print_line


class TaskDisplay:
    """Bars for work that counts up, one per stage; elsewhere than on a terminal a line for each tenth of a stage."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
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
                print_line(self.console, "  ".join(filter(None, [f"{stage} {done}/{total}", detail])))
            return
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total, detail=detail)
        self._progress.update(self._bars[stage], completed=done, total=total, detail=detail)

    def say(self, text: str) -> None:
        """A line, above the bars."""
        print_line(self.console, text)


class FamilyDisplay(TaskDisplay):
    """`s2l family build`: pass `progress` as the callback."""

    def progress(self, stage: str, done: int, total: int, loss: float) -> None:
        self.update(stage, done, total, f"loss {loss:.3f}")


class VerifyDisplay(TaskDisplay):
    """Verifying a file: pass `progress` as the callback."""

    def progress(self, done: int, total: int) -> None:
        self.update("verified", done, total)
