"""Hostile answers by hand, and 20,000 random and mutated ones, through the pool: every built-in verifier, both levels.

A check that raises is the verdict `failed`, or an `unparsable` that tells so, and one that does not end is a `timeout`;
all are counted, and some of each are shown. Memory is that of the larger worker: what it grows by in the second half of
the answers. Left behind is what the workers opened or started and did not give back.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.pool import VerifierPool
from tests.benchmarks.protocol import Result
from tests.support.hostile_answers import COUNTDOWN, QUESTION, HostileAnswer, hand_made, random_ones

RANDOM, BATCH, WORKERS = 20_000, 500, 2
SEED = int(os.environ.get("S2L_FUZZ_SEED", "0"))
TIMEOUT_S = 5
SHOWN = 10
RUNS = (("math", "strict"), ("math", "lenient"), ("countdown", ""))


@dataclass
class Seen:
    """What was seen over all answers."""

    counts: Counter[str] = field(default_factory=Counter)
    growth_mib: float = 0.0
    left_behind: int = 0
    workers_lost: int = 0


def run() -> list[Result]:
    seen = Seen()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        canary = Path(directory) / "canary"
        os.environ["TMPDIR"] = directory
        for kind, level in RUNS:
            _check_all(kind, level, [*hand_made(str(canary)), *random_ones(RANDOM, SEED)], seen)
        seen.left_behind += len(list(Path(directory).iterdir()))
    seconds = time.perf_counter() - start
    counts = seen.counts
    return [
        Result("fuzz_answers", counts["all"], None, "answers"),
        Result("fuzz_answers_that_raise", counts["raised"] + counts["failed"], 0, "answers"),
        Result("fuzz_wrong_verdicts", counts["mistaken"], 0, "answers"),
        Result("fuzz_timeouts", counts["timeout"], 0, "answers"),
        Result("fuzz_memory_growth", seen.growth_mib, 50, "MiB"),
        Result("fuzz_workers_lost", seen.workers_lost, 0, "processes"),
        Result("fuzz_left_behind", seen.left_behind, 0, "files, descriptors and processes"),
        Result("fuzz_answers_per_second", counts["all"] / seconds, None, "answers/s"),
    ]


def _check_all(kind: str, level: str, answers: Sequence[HostileAnswer], seen: Seen) -> None:
    me = psutil.Process()
    before, memory = me.num_fds(), []
    with VerifierPool(kind, WORKERS, TIMEOUT_S, {"extract": level} if level else {}) as pool:
        pool.start()
        workers = len(me.children(recursive=True))
        for first in range(0, len(answers), BATCH):
            batch = answers[first : first + BATCH]
            golds = [one.gold if kind == "math" else COUNTDOWN for one in batch]
            verdicts = pool.check([(one.response, gold, QUESTION) for one, gold in zip(batch, golds, strict=True)])
            _count(kind, zip(batch, verdicts, strict=True), seen.counts)
            memory.append(max(_resident_mib(process) for process in me.children(recursive=True)))
        seen.workers_lost += workers - len(me.children(recursive=True))
    half = len(memory) // 2
    seen.growth_mib = max(seen.growth_mib, max(memory[half:]) - max(memory[:half]))
    seen.left_behind += me.num_fds() - before + len(me.children(recursive=True))
    print(f"   {kind} {level}: {dict(seen.counts)}; MiB: {memory[:: max(1, len(memory) // 8)]}", flush=True)


def _count(kind: str, judged: Iterable[tuple[HostileAnswer, Verdict]], counts: Counter[str]) -> None:
    for one, verdict in judged:
        found = "raised" if _raised(verdict) else verdict.status
        right = one.right and kind == "math"
        if one.kind != "random" and found != "timeout" and (found == "right") != right:
            found = "mistaken"
        counts[found] += 1
        counts["all"] += 1
        if found in ("raised", "failed", "timeout", "mistaken") and counts[found] <= SHOWN:
            shown = f"{one.response[:100]!r}" + ("..." if len(one.response) > 100 else "")
            print(f"   {found}: {one.kind}, gold {one.gold[:60]!r}, response {shown}: {verdict.detail}", flush=True)


def _raised(verdict: Verdict) -> bool:
    return verdict.status == "unparsable" and "cannot be compared" in verdict.detail


def _resident_mib(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:  # it was killed for its time, and another takes its place
        return 0.0
