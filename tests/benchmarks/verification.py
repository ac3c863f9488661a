"""Answers verified per second: the pool of killable workers against a plain loop over math-verify in one process.

The loop does what math-verify's README does: `verify(parse(gold), parse(response))`, with its own time-outs. The pool
has two workers, each for one core, and a time limit of the same length that is enforced from outside. Both get the same
answers (tests/benchmarks/answers.py) in turn, in rounds of fresh ones, after a warm-up. Where S2L_SHARED_DATA names a
directory with gsm8k_test.jsonl or math500.jsonl, answers are made of their gold answers too.

Speed counts only if verdicts are right, so they are compared with each other and with what is right by construction.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.answers import Answer, degenerate, golds_style, gsm8k_style, math500_style
from tests.benchmarks.protocol import Result

ROUNDS = 3
GSM8K, MATH500 = 2_400, 800
"""Answers per round."""
WORKERS = 2
TIMEOUT_S = 5
DEGENERATE = "math500_style_with_degenerate"
"""One answer in a hundred keeps SymPy, and so math-verify, busy for long, and one in 400 for longer than the limit."""
SHOWN = 5
"""Differences that are printed of each set."""


class Round(NamedTuple):
    answers: list[Answer]
    theirs: list[bool]
    ours: list[str]
    their_seconds: float
    our_seconds: float


def run() -> list[Result]:
    sets = {
        "gsm8k_style": [gsm8k_style(GSM8K, seed) for seed in range(ROUNDS)],
        "math500_style": [math500_style(MATH500, seed) for seed in range(ROUNDS)],
        DEGENERATE: [_with_degenerate(seed) for seed in range(ROUNDS)],
    } | _files()
    results = []
    for name, rounds in sets.items():
        measured = measure(rounds)
        _print(name, measured)
        results += _results(name, measured)
    return results


def measure(rounds: list[list[Answer]]) -> list[Round]:
    from s2l_ray.tasks.pool import VerifierPool

    warm_up = math500_style(64, -1)
    spawn = multiprocessing.get_context("spawn")
    with VerifierPool("math", WORKERS, TIMEOUT_S) as pool, ProcessPoolExecutor(1, mp_context=spawn) as process:
        pool.start()
        pool.check(_items(warm_up))
        process.submit(plain_loop, warm_up).result()
        measured = []
        for answers in rounds:
            theirs, their_seconds = process.submit(plain_loop, answers).result()
            start = time.perf_counter()
            ours = [verdict.status for verdict in pool.check(_items(answers))]
            measured.append(Round(answers, theirs, ours, their_seconds, time.perf_counter() - start))
    return measured


def plain_loop(answers: list[Answer]) -> tuple[list[bool], float]:
    """What math-verify says of each, and the seconds it took."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    start = time.perf_counter()
    right = [verify(parse(f"${answer.gold}$"), parse(answer.response)) for answer in answers]
    return right, time.perf_counter() - start


def _items(answers: list[Answer]) -> list[tuple[str, str, str]]:
    return [(answer.response, answer.gold, "") for answer in answers]


def _with_degenerate(seed: int) -> list[Answer]:
    answers, slow = math500_style(MATH500 // 2, 100 + seed), degenerate(seed)
    every = len(answers) // len(slow)
    for place, answer in enumerate(slow):
        answers.insert(place * every + every // 2, answer)
    return answers


def _files() -> dict[str, list[list[Answer]]]:
    directory = Path(os.environ.get("S2L_SHARED_DATA", "/nonexistent"))
    sets = {}
    for name, count in (("gsm8k_test", GSM8K), ("math500", MATH500)):
        if (path := directory / f"{name}.jsonl").is_file():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            golds = [str(row["answer"]).split("####")[-1].strip() for row in rows]
            sets[name] = [golds_style(golds, count, seed) for seed in range(ROUNDS)]
    return sets


def _print(name: str, rounds: list[Round]) -> None:
    print(f"   {name}: answers/s in {ROUNDS} rounds of {len(rounds[0].answers)}, pool and loop", flush=True)
    for r in rounds:
        n = len(r.answers)
        print(f"      {n / r.our_seconds:8.0f} {n / r.their_seconds:8.0f}", flush=True)
    flat = _flat(rounds)
    different = [row for row in flat if (row[1] == "right") != row[2]]
    print(
        f"      as constructed: pool {sum((ours == 'right') == a.right for a, ours, _ in flat)}, "
        f"loop {sum(theirs == a.right for a, _, theirs in flat)} of {len(flat)}; "
        f"time-outs of the pool {sum(ours == 'timeout' for _, ours, _ in flat)}; "
        f"different verdicts {len(different)}, of which the pool is right in {_rightly(different)}",
        flush=True,
    )
    for answer, ours, theirs in different[:: max(1, len(different) // SHOWN)][:SHOWN]:
        stated = answer.response.splitlines()[-1]
        print(f"        gold {answer.gold!r}, response {stated!r}: pool {ours}, loop {theirs}", flush=True)


def _results(name: str, rounds: list[Round]) -> list[Result]:
    ours = statistics.median(len(r.answers) / r.our_seconds for r in rounds)
    ratio = statistics.median(r.their_seconds / r.our_seconds for r in rounds)
    different = [row for row in _flat(rounds) if (row[1] == "right") != row[2]]
    worse = len(different) - _rightly(different)
    return [
        Result(f"verifications_per_second_{name}", ours, None, "answers/s"),
        Result(f"verifications_over_plain_math_verify_{name}", ratio, 2, "ratio"),
        Result(f"verdicts_that_plain_math_verify_has_better_{name}", worse, 0, "answers"),
    ]


def _flat(rounds: list[Round]) -> list[tuple[Answer, str, bool]]:
    return [row for r in rounds for row in zip(r.answers, r.ours, r.theirs, strict=True)]


def _rightly(different: list[tuple[Answer, str, bool]]) -> int:
    return sum((ours == "right") == answer.right for answer, ours, _ in different)
