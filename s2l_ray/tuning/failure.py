"""Why a trial failed, in the one message that its error has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OURS = "s2l_ray."
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
RAISED = re.compile(r"^([A-Za-z_][\w.]*): (?=\S)", re.MULTILINE)
"""The line of a traceback that names the error; lines of code and of files are indented."""
OCCURRED = re.compile(r"^Failure # \d+ \(occurred at .*\)\n", re.MULTILINE)
"""What Tune writes before each error of a trial."""
OF_A_RUN = re.compile(r"[;.]? *[Tt]he same command resumes from the last checkpoint(?=\.)")
"""What is true of a run that fails, and not of a trial: with the same command the study goes on, or another begins."""
DIED = re.compile(r"The actor died unexpectedly before finishing this task\.\s+class_name: S2LPO\b[^{}]*?\bpid: (\d+)")
"""What Ray says where the process of the trial itself is gone."""


def message_of(text: str) -> str:
    """The message of the error at the end of a traceback, which Ray may have wrapped several times.

    Our errors' messages say what to do and need no name; others are preceded by that of their class.
    """
    text = ESCAPES.sub("", OCCURRED.split(text)[-1]).strip()
    if died := DIED.match(text):
        return (
            f"its own process (pid {died[1]}) died unexpectedly. Perhaps it was killed for want of memory, as dmesg on "
            "its node would say. max_failures of the study is how often a trial is tried again"
        )
    text = OF_A_RUN.sub("", text)
    raised = [match for match in RAISED.finditer(text) if not match[1].startswith("ray.exceptions.RayTaskError")]
    if not raised:
        return text.partition("\n")[0] or "it failed without a message"
    name, message = raised[-1][1], text[raised[-1].end() :].strip()
    return message if name.startswith(OURS) else f"{name.rpartition('.')[2]}: {message}"


def why_failed(trial: Any) -> str | None:
    """Why a trial of Tune's failed last, from the file that Tune's driver keeps of it; None without such a file."""
    if not trial.storage.trial_dir_name or trial.error_file is None:
        return None
    try:
        return message_of(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
