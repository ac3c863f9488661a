"""The verifier `math` on test suites of other graders that a developer brings, beside plain math-verify.

    make bench ARGS="verifier_suites PATH"

PATH is a checkout of such a grader or a file of labelled pairs (tests/benchmarks/suites.py says what is read); nothing
of it is run or copied. Predictions are given twice: as they stand, at the lenient level, and those that are one answer
in a box, at the strict one. Times are of one process, without the pairs that time out. A suite's labels are its
authors' opinion: look at every pair in which it is not shared.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.extraction import final_answers
from s2l_ray.tasks.math_answers import check_math
from s2l_ray.tasks.pool import VerifierPool
from tests.benchmarks.protocol import Result, Skipped
from tests.benchmarks.suites import Pair, pairs_of

TAKES_PATHS = True
TIMEOUT_S = 5
_DELIMITED = re.compile(r"\$\$?([^$]+)\$\$?|\\\[(.+)\\\]|\\\((.+)\\\)", re.DOTALL)


class Graded(NamedTuple):
    pair: Pair
    verdict: Verdict
    plain: bool


class Timed(NamedTuple):
    rows: list[Graded]
    our_seconds: float
    their_seconds: float


def run(paths: Sequence[Path]) -> list[Result]:
    if not paths:
        raise Skipped('no suite is given; name a checkout or a file of pairs: make bench ARGS="verifier_suites PATH"')
    results = []
    for path in paths:
        pairs = pairs_of(path)
        if not pairs:
            raise Skipped(f"{path} has no labelled pairs that can be read")
        boxed = [pair for pair in map(_boxed, pairs) if pair is not None]
        for name, rows, level in (("as_given", pairs, "lenient"), ("boxed", boxed, "strict")):
            results += _results(f"{path.name}_{name}".lower().replace("-", "_"), _graded(rows, level))
    return results


def answer_of(text: str) -> str:
    """A gold answer without the delimiters of mathematics; of a sentence, what it states."""
    if match := _DELIMITED.fullmatch(text.strip()):
        text = next(group for group in match.groups() if group is not None)
    if "\\boxed" in text or len(text) > 100:
        return ", ".join(final_answers(text, "lenient")) or text
    return text.strip()


def _boxed(pair: Pair) -> Pair | None:
    """The prediction as a response with one box; None if it is a text with an answer somewhere in it."""
    answer = answer_of(pair.prediction)
    prose = re.search(r"[A-Za-z]{3,} (?:\\[\[(]|[A-Za-z']{3,})", re.sub(r"\\text\s?\{[^{}]*\}", "", answer))
    return None if prose or "$" in answer else pair._replace(prediction=rf"So the answer is \boxed{{{answer}}}.")


def _graded(pairs: list[Pair], level: ExtractionLevel) -> Timed:
    with VerifierPool("math", 2, TIMEOUT_S, {"extract": level}) as pool:
        verdicts = pool.check([(pair.prediction, answer_of(pair.gold), "") for pair in pairs])
    ended = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.status != "timeout"]
    our_seconds = _in_a_process(_our_loop, ended, level)[1]
    plain, _ = _in_a_process(_plain_loop, pairs)
    their_seconds = _in_a_process(_plain_loop, ended)[1]
    return Timed([Graded(*row) for row in zip(pairs, verdicts, plain, strict=True)], our_seconds, their_seconds)


def _in_a_process(loop: Callable[..., tuple[list[bool], float]], *arguments: Any) -> tuple[list[bool], float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(loop, *arguments).result()


def _our_loop(pairs: list[Pair], level: ExtractionLevel) -> tuple[list[bool], float]:
    """Likewise of the verifier `math`."""
    check_math(r"\boxed{x^2 + x}", "x(x - 1)")  # mpmath and the parser are loaded when used
    start = time.process_time()
    paid = [check_math(pair.prediction, answer_of(pair.gold), extract=level).reward == 1 for pair in pairs]
    return paid, time.process_time() - start


def _plain_loop(pairs: list[Pair]) -> tuple[list[bool], float]:
    """What math-verify says of each, and its seconds of processor time. It gets a gold answer as the suite has it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    verify(parse("$x(x - 1)$"), parse("$x^2 + x$"))
    start = time.process_time()
    said = [bool(verify(parse(pair.gold), parse(pair.prediction))) for pair in pairs]
    return said, time.process_time() - start


def _results(name: str, timed: Timed) -> list[Result]:
    paid = [row.verdict.reward == 1 for row in timed.rows]
    right = [row.pair.right for row in timed.rows]
    for kind, is_of_it in (("paid, labelled wrong", False), ("not paid, labelled right", True)):
        for row, is_paid in zip(timed.rows, paid, strict=True):
            if row.pair.right is is_of_it and is_paid is not is_of_it:
                shown = f"{row.pair.source}: gold {row.pair.gold[:80]!r}, prediction {row.pair.prediction[-120:]!r}"
                print(f"   {name}, {kind}: {shown}: {row.verdict.status}, {row.verdict.detail[:80]}", flush=True)
    plain = [row.plain for row in timed.rows]
    return [
        Result(f"suite_pairs_{name}", len(right), None, "pairs"),
        Result(f"suite_agreement_{name}", 100 * _equal(paid, right) / len(right), 97, "%"),
        Result(f"suite_agreement_math_verify_{name}", 100 * _equal(plain, right) / len(right), None, "%"),
        Result(f"suite_paid_wrongly_{name}", sum(p and not r for p, r in zip(paid, right, strict=True)), 0, "pairs"),
        Result(f"suite_unpaid_{name}", sum(r and not p for p, r in zip(paid, right, strict=True)), None, "pairs"),
        Result(f"suite_timeouts_{name}", sum(row.verdict.status == "timeout" for row in timed.rows), 0, "pairs"),
        Result(f"suite_failed_{name}", sum(row.verdict.status == "failed" for row in timed.rows), 0, "pairs"),
        Result(f"suite_seconds_{name}", timed.our_seconds, None, "s of processor time"),
        Result(f"suite_speed_over_math_verify_{name}", timed.their_seconds / timed.our_seconds, 2, "ratio"),
    ]


def _equal(one: list[bool], other: list[bool]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))
