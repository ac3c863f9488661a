"""20,000 random and mutated LaTeX answers (tests/support/latex_fuzz.py): the verifier `math` must judge every one.

A check that raises is the verdict `failed`, or an `unparsable` that tells so, and one that does not end is a `timeout`;
all are counted, and one of each is shown. Memory is that of the workers, which keep parsed answers: what it grows by in
the second half of the answers.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.pool import VerifierPool
from tests.benchmarks.protocol import Result
from tests.support.latex_fuzz import pairs

ANSWERS, BATCH = 20_000, 500
SEED = int(os.environ.get("S2L_FUZZ_SEED", "0"))
TIMEOUT_S = 5
SHOWN = 10


def run() -> list[Result]:
    counts: Counter[str] = Counter()
    memory = []
    start = time.perf_counter()
    made = pairs(ANSWERS, SEED)
    with VerifierPool("math", 2, TIMEOUT_S, {"extract": "lenient"}) as pool:
        for _ in range(ANSWERS // BATCH):
            batch = [next(made) for _ in range(BATCH)]
            verdicts = pool.check([(response, gold, "") for response, gold in batch])
            for (response, gold), verdict in zip(batch, verdicts, strict=True):
                kind = "raised" if _raised(verdict) else verdict.status
                counts[kind] += 1
                if kind in ("raised", "failed", "timeout") and counts[kind] <= SHOWN:
                    print(f"   {kind}: gold {gold!r}, response {response!r}: {verdict.detail}", flush=True)
            memory.append(max(_resident_mib(), default=0.0))
    seconds = time.perf_counter() - start
    print(f"   {dict(counts)}; memory of the larger worker: {memory[:: max(1, len(memory) // 8)]} MiB", flush=True)
    half = len(memory) // 2
    return [
        Result("fuzz_answers_that_raise", counts["raised"] + counts["failed"], 0, "answers"),
        Result("fuzz_timeouts", counts["timeout"], 0, "answers"),
        Result("fuzz_memory_growth", max(memory[half:]) - max(memory[:half]), 50, "MiB"),
        Result("fuzz_answers_per_second", ANSWERS / seconds, None, "answers/s"),
    ]


def _raised(verdict: Verdict) -> bool:
    return verdict.status == "unparsable" and "cannot be compared" in verdict.detail


def _resident_mib() -> Iterator[float]:
    """Resident memory of each process below this one."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        parents[int(fields["Pid"])] = int(fields["PPid"]), int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    for process, (_, resident) in parents.items():
        above = process
        while above in parents and above != os.getpid():
            above = parents[above][0]
        if above == os.getpid() and process != above:
            yield resident
