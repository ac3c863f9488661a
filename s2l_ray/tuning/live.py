"""A study while it runs: a live table, or a line for each event."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import get_args

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from s2l_ray.display.text import duration, is_live, line, print_line
from s2l_ray.kinds import TrialEvent, TrialStatus
from s2l_ray.machine.console import CommandConsole
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.progress import Pace
from s2l_ray.tuning.ranking import best_of, ranked
from s2l_ray.tuning.table import trial_table
from s2l_ray.tuning.wording import before_text, event_text, metric_label, metric_text, short_name

NOTES = 3
"""How many notes the live view shows."""
OTHER_LINES = 13
"""Lines of a terminal that are not rows of trials: the head, the heading, notes and a prompt."""
ORDER: dict[TrialStatus, int] = {"running": 0, "starting": 1, "paused": 2, "waiting": 4}
"""The live table begins with these; trials that are over stand between, from best to worst."""


class StudyDisplay:
    """Shows a study. A context manager: leaving it restores the terminal, also after an error.

    Args:
        about: the study.
        console: default: standard output.
        clock: seconds, for durations.
        spent: for how many seconds the study ran before, in earlier starts and until its trials could begin.
    """

    def __init__(
        self,
        about: StudyAbout,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        spent: float = 0.0,
    ) -> None:
        self.about = about
        self.console = console or CommandConsole()
        self.notes: tuple[str, ...] = ()
        self._clock = clock
        self._spent = spent
        self._pace = Pace(clock())
        self._outcomes: dict[str, TrialOutcome] = {}
        self._told: dict[str, tuple[int, int | None]] = {}
        self._live: Live | None = None

    def __enter__(self) -> StudyDisplay:
        if is_live(self.console):
            self._live = Live(console=self.console, get_renderable=self.view, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def heard(self, event: TrialEvent, outcome: TrialOutcome) -> None:
        """A listener of `StudyObserver`: show the event."""
        self._outcomes[outcome.name] = outcome
        self._pace.steps += event == "step"
        if event != "restored" and (event != "step" or self._is_worth_a_line(outcome)):
            name, text = short_name(self.about, outcome.name), event_text(self.about, event, outcome)
            more = f"  {self._left()}" if event in ("step", "ended") else ""
            self._say(f"{name}  {text}{more}")
            if event == "failed" or outcome.status == "failed":
                self.notes = (*self.notes, f"{name} {text}")[-NOTES:]

    def note(self, text: str) -> None:
        """Show something else: a server does not answer, files are somewhere."""
        self.notes = (*self.notes, text)[-NOTES:]
        self._say(f"note: {text}")

    def view(self) -> RenderableType:
        """The live view. It depends on what was heard so far, on the clock, and on the size of the terminal."""
        shown, hidden = self._rows()
        parts: list[RenderableType] = [*self._head(), trial_table(self.about, shown, self.console.width, live=True)]
        if hidden:
            parts.append(Text(f"and {_counted(hidden)}", style="dim"))
        parts += [Text(f"note: {note}", style="yellow") for note in self.notes]
        return Group(*parts)

    def _head(self) -> list[RenderableType]:
        about = self.about
        words = [f"{about.trials} trials", about.search, f"scheduler {about.scheduler}", f"{about.at_once} at once"]
        title = Text(about.name, style="bold", no_wrap=True).append("  " + ", ".join(words), style="not bold dim")
        lines: list[RenderableType] = [title, line(_counted(self._all()))]
        outcomes = list(self._outcomes.values())
        if before := before_text(about, outcomes):
            lines.append(line(before))
        best = best_of(about, outcomes)
        if best is not None:
            value = metric_text(about, best.metric, best.interval)
            name = short_name(about, best.name)
            lines.append(line(f"best {metric_label(about)} {value}  trial {name} at step {best.metric_step}"))
        lines.append(line(self._left()))
        return lines

    def _left(self) -> str:
        """How long the study has taken, and will still take."""
        now = self._clock()
        elapsed = f"elapsed {duration(self._spent + now - self._pace.began)}"
        eta = self._pace.eta(self.about, list(self._outcomes.values()), now)
        if eta is None or not eta[1]:
            return elapsed
        expected, most = map(duration, eta)
        bound = "" if expected == most else f" (at most {most}, if asha prunes nothing more)"
        return f"{elapsed}, ETA {expected}{bound}"

    def _all(self) -> list[TrialStatus]:
        known: list[TrialStatus] = [outcome.status for outcome in self._outcomes.values()]
        return known + ["waiting"] * (self.about.trials - len(known))

    def _rows(self) -> tuple[list[TrialOutcome], list[TrialStatus]]:
        """The trials for which there is room, and the statuses of those for which there is none."""
        order = sorted(ranked(self.about, list(self._outcomes.values())), key=lambda o: ORDER.get(o.status, 3))
        room = max(3, self.console.height - OTHER_LINES)
        return order[:room], [outcome.status for outcome in order[room:]]

    def _is_worth_a_line(self, outcome: TrialOutcome) -> bool:
        """Whether a step brings a new measurement, or another tenth of the trial's steps."""
        now = (10 * outcome.step // max(outcome.steps, 1), outcome.metric_step)
        before = self._told.get(outcome.name)
        self._told[outcome.name] = now
        return now != before

    def _say(self, text: str) -> None:
        if self._live is None:
            print_line(self.console, text)


def _counted(statuses: list[TrialStatus]) -> str:
    """How many trials have which status: "2 running, 1 pruned"."""
    counts = Counter(statuses)
    return ", ".join(f"{counts[status]} {status}" for status in get_args(TrialStatus) if counts[status])
