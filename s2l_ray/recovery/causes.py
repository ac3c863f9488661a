"""Why a process of a run died, as far as its machine tells: the end of its log, and the kernel's count of kills."""

from __future__ import annotations

from pathlib import Path

TAIL_LINES = 12
TAIL_BYTES = 16_384
LONGEST_LINE = 300
"""Characters of one line of a log that are repeated."""
LONGEST_CAUSE = 400
"""Characters of Ray's account of a death that are repeated: it goes on with advice."""
KILLED = (
    "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
    "connection error code 2. End of file"
)
"""What Ray says of a process that ended without telling why."""
VMSTAT = Path("/proc/vmstat")


def log_tail(log: Path) -> str:
    """The last lines of a process's log, for a message; empty if it has none that can be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.rstrip()[:LONGEST_LINE] for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])


def kernel_kills(vmstat: Path = VMSTAT) -> int:
    """How many processes this machine's kernel has killed for lack of memory since it started; 0 if it does not say."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def short_cause(error: BaseException) -> str:
    """An error's text in one line, without what Ray adds to every death: the actor's address, and general advice."""
    text = " ".join(str(error).split()) or type(error).__name__
    for beginning in (" Some common causes include", " The same command resumes"):
        text = text.partition(beginning)[0]
    reason = text.partition("The actor is dead because ")[2] or text
    return reason.replace(KILLED, "it was killed, or crashed")[:LONGEST_CAUSE]
