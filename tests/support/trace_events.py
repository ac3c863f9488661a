"""The trace file of a run, read as its readers do."""

from __future__ import annotations

import json


def strictly(text: str) -> list[dict]:
    """As the readers take it: an array whose end may be missing."""
    text = text.rstrip()
    return json.loads(text if text.endswith("]") else text.removesuffix(",") + "]")


def check_events(events: list[dict]) -> None:
    """What Chrome's trace event format asks of complete events, and that the events of a thread nest."""
    names = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    complete = [e for e in events if e["ph"] == "X"]
    assert {e["ph"] for e in events} == {"X", "M"}
    for event in complete:
        assert all(isinstance(event[key], int) for key in ("ts", "dur", "pid", "tid"))
        assert event["dur"] >= 0 and (event["pid"], event["tid"]) in names and isinstance(event["name"], str)
    for thread in names:
        open_until: list[int] = []
        for event in sorted(
            (e for e in complete if (e["pid"], e["tid"]) == thread), key=lambda e: (e["ts"], -e["dur"])
        ):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or event["ts"] + event["dur"] <= open_until[-1], event
            open_until.append(event["ts"] + event["dur"])
