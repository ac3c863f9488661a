"""`trace.json`: the spans of a run for https://ui.perfetto.dev and chrome://tracing, which open it at any time.

Chrome's trace event format: one JSON array of events, one event a line, appended step by step. The array is closed when
the run is over; both programs read it unclosed as well, as it is while the run lasts or after a kill.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.disk import append, write_whole, writing
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.timing.spans import Span, number_of, role_of

ROLES = ("driver", "trainer", "learner", "explorer", "bank", "verifier")
"""In the order they are shown; each is a process of the trace, its actors are the threads."""
MOST_LANES = 100
"""Thread ids that each actor has: an actor that works on two steps at once, one of them ahead, needs two lanes."""


class TraceFile:
    """Appends the spans of one step after the other."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._named: set[tuple[int, int]] = set()
        self._lanes: dict[str, list[float]] = defaultdict(list)

    def append(self, spans: Iterable[Span], details: Mapping[str, Any] | None = None) -> None:
        """Write spans; `details` are shown with the one named "step".

        Raises:
            DiskError: they cannot be written.
        """
        events: list[dict[str, Any]] = []
        # What contains another comes first, as readers expect of two that begin together.
        for span in sorted(spans, key=lambda s: (s.start, -s.end)):
            place = ROLES.index(role_of(span.track)) + 1, self._thread(span)
            events += self._names(span.track, *place)
            args = {"step": span.step} | (dict(details or {}) if span.name == "step" else {})
            events.append(_event(span, *place, args))
        if events:
            self._write(events)

    def truncate_after(self, step: int) -> None:
        """Remove the spans of later steps, and part of a line that a killed process left."""
        if not self.path.exists():
            return
        kept = [event for event in _events(self.path) if event["ph"] == "M" or event["args"]["step"] <= step]
        write_whole(self.path, "[\n" + "".join(map(_line, kept)))
        self._named = {(event["pid"], event["tid"]) for event in kept if event["name"] == "thread_name"}

    def close(self) -> None:
        """Close the array, for programs that read strict JSON: the run is over."""
        if self.path.exists():
            with writing(self.path), self.path.open("r+b") as file:
                file.seek(-2, os.SEEK_END)
                if file.read() == b",\n":
                    file.seek(-2, os.SEEK_END)
                    file.write(b"\n]\n")

    def _write(self, events: list[dict[str, Any]]) -> None:
        begin = "" if self.path.exists() else "[\n"
        append(self.path, begin + "".join(map(_line, events)))

    def _thread(self, span: Span) -> int:
        """Events of one thread must nest. The driver's do; other spans of an actor that overlap get lanes."""
        base = MOST_LANES * number_of(span.track) + 1
        if role_of(span.track) == "driver":
            return base
        ends = self._lanes[span.track]
        lane = next((i for i, end in enumerate(ends) if end <= span.start), min(len(ends), MOST_LANES - 1))
        ends[lane:] = [span.end, *ends[lane + 1 :]]
        return base + lane

    def _names(self, track: str, process: int, thread: int) -> Iterator[dict[str, Any]]:
        """Metadata events for a process or thread that is seen for the first time."""
        if (process, thread) in self._named:
            return
        if not any(known == process for known, _ in self._named):
            yield _metadata(process, thread, "process_name", {"name": role_of(track)})
            yield _metadata(process, thread, "process_sort_index", {"sort_index": process})
        lane = (thread - 1) % MOST_LANES
        yield _metadata(process, thread, "thread_name", {"name": f"{track}, {lane + 1}" if lane else track})
        yield _metadata(process, thread, "thread_sort_index", {"sort_index": thread})
        self._named.add((process, thread))


def read_trace(path: Path) -> list[Span]:
    """The spans of a trace file, closed or not, rounded to microseconds.

    Raises:
        DataError: it cannot be read, or is none of a run.
    """
    try:
        return _spans(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except MISREAD as error:
        raise DataError(f"{path} is no trace of a run ({misread(error)}); remove it to do without it") from None


def _spans(path: Path) -> list[Span]:
    tracks: dict[tuple[int, int], str] = {}
    spans = []
    for event in _events(Path(path)):
        place = event["pid"], event["tid"]
        if event["name"] == "thread_name":
            tracks[place] = event["args"]["name"].split(",")[0]
        elif event["ph"] == "X":
            start = event["ts"] / 1e6
            spans.append(
                Span(tracks[place], event["name"], event["args"]["step"], start, (event["ts"] + event["dur"]) / 1e6)
            )
    return spans


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{"):
            try:
                event = json.loads(line.removesuffix(","))
            except ValueError:  # half a line, left by a killed process
                continue
            yield event


def _event(span: Span, process: int, thread: int, args: dict[str, Any]) -> dict[str, Any]:
    # Whole microseconds, both ends rounded alike: what meets or nests still does.
    start, end = round(span.start * 1e6), round(span.end * 1e6)
    return {
        "name": span.name, "cat": role_of(span.track), "ph": "X", "ts": start, "dur": end - start,
        "pid": process, "tid": thread, "args": args,
    }  # fmt: skip


def _metadata(process: int, thread: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": process, "tid": thread, "args": args}


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":")) + ",\n"
