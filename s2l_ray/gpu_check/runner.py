"""Runs each stage in a process of its own: a stage that crashes or hangs ends nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from s2l_ray.gpu_check.check import StageResult, write_json
from s2l_ray.gpu_check.stages import STAGES, Stage

LEAST_SECONDS = 20.0
"""A stage that has less left is not begun."""
KEPT_LINES, SHOWN_LINES = 300, 30
"""Last lines of standard error of a stage that failed: kept in the report, and printed."""
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONUNBUFFERED": "1",
}
"""Environment variables of the stages' processes, unless they are set already. Nothing leaves the machine."""


def run_stages(names: list[str], minutes: float, report: Path | None) -> list[StageResult]:
    """Run them in order within `minutes`, print as they go, and write the report after every one."""
    end = time.monotonic() + 60 * minutes
    results: list[StageResult] = []
    for name in names:
        stage = STAGES[name]
        bound = min(stage.seconds, end - time.monotonic())
        print(f"\n{name}: {stage.about}", flush=True)
        if bound < LEAST_SECONDS:
            results.append(StageResult(name, "SKIP", f"the {minutes:g} minutes are over; give more with --minutes"))
        else:
            results.append(_run_stage(stage, bound))
        print(_closing_line(results[-1]), flush=True)
        if report is not None:
            write_json(report, {"format": 1, "stages": [asdict(r) for r in results]})
    return results


def _closing_line(result: StageResult) -> str:
    reason = f": {result.reason}" if result.reason else ""
    return f"{result.status} {result.stage} in {result.seconds:.1f} s{reason}"


def _run_stage(stage: Stage, bound: float) -> StageResult:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="s2l-gpu-check-") as directory:
        file = Path(directory) / "result.json"
        with (Path(directory) / "stderr").open("w+", encoding="utf-8", errors="replace") as complaints:
            status = _wait(_start(stage, bound, file, complaints), bound)
            complaints.seek(0)
            last = complaints.read().splitlines()[-KEPT_LINES:]
        try:
            result = StageResult(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            result = StageResult(stage.name, "FAIL")
    if why := _unfinished(result, status, bound):
        cut_short = status is None and bound < stage.seconds and not result.reason
        result.status = "SKIP" if cut_short else "FAIL"
        if cut_short:
            why = f"it was cut short after {bound:.0f} s, and may take {stage.seconds:.0f} s; give more with --minutes"
        result.reason = "; ".join(filter(None, (result.reason, why)))
    if result.status == "FAIL":
        result.complaints = [line[:300] for line in last]
        print("\n".join(f"  | {line}" for line in result.complaints[-SHOWN_LINES:]), flush=True)
    result.seconds = time.monotonic() - begin
    return result


def _unfinished(result: StageResult, status: int | None, bound: float) -> str | None:
    """Why a stage is not to be taken by its own word; None if it is.

    Args:
        result: what it has written.
        status: of its process; None if that was killed at its bound.
        bound: in seconds.
    """
    if not result.ended and status is None:
        return f"it did not end within {bound:.0f} s"
    if not result.ended:
        return f"its process ended early, with status {status}"
    return f"its process ended with status {status}" if status and result.status != "FAIL" else None


def _start(stage: Stage, bound: float, file: Path, complaints: IO[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "s2l_ray.gpu_check.process", stage.name, stage.module, str(bound), str(file)]
    root = str(Path(__file__).resolve().parents[2])  # found from any folder, installed or not
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        command,
        env=ENVIRONMENT | os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[str], bound: float) -> int | None:
    """Pass its lines on until it ends; its exit status, or None if it was killed at its bound."""
    printer = threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True)
    printer.start()
    try:
        return process.wait(bound)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_session(process)
        printer.join(5)


def _pass_on(lines: Any) -> None:
    for line in lines:
        print(f"  {line.rstrip()}", flush=True)


def _kill_session(process: subprocess.Popen[str]) -> None:
    """Kill the stage and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
