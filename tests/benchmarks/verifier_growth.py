"""Time of a check against the length of the response, for each piece of hostile text and each place that it stands in.

Twice the length may take twice the time. What takes more is printed: in an answer, which is compared and may have 1000
characters, and in the rest of a response, which may have any length. Times too short to tell are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from s2l_ray.tasks.extraction import LONGEST_ANSWER
from s2l_ray.tasks.math_answers import check_math
from tests.benchmarks.protocol import Result
from tests.support.hostile_answers import GOLD, PLACES, QUESTION, pieces, repeated

IN_AN_ANSWER, IN_A_RESPONSE = LONGEST_ANSWER - 100, 200_000
LEAST_S = 0.02
"""Processor time below which growth is not looked at."""
SUPERLINEAR = 3.0
"""Time of twice the length, as a multiple, from which on it is printed."""


IN_ANSWERS = {f"a {name}": frame for name, frame in PLACES.items()}
IN_RESPONSES = {"front of an answer": r"%s \boxed{42}", "a response": "%s", "an end": r"\boxed{42} %s ."}


def run() -> list[Result]:
    return [*_measured("answer", IN_AN_ANSWER, IN_ANSWERS), *_measured("response", IN_A_RESPONSE, IN_RESPONSES)]


def _measured(where: str, size: int, places: Mapping[str, str]) -> list[Result]:
    longest = steepest = 0.0
    for piece in pieces():
        for place, frame in places.items():
            half, whole = (_seconds(frame.replace("%s", repeated(piece, n))) for n in (size // 2, size))
            longest = max(longest, whole)
            if whole > LEAST_S:
                steepest = max(steepest, whole / half)
            if whole > max(LEAST_S, SUPERLINEAR * half):
                print(f"   {piece!r} in {place}: {size // 2} characters {half:.3f} s, twice {whole:.3f} s", flush=True)
    return [
        Result(f"verifier_growth_longest_{where}", longest, 1, "s"),
        Result(f"verifier_growth_of_time_{where}", steepest, None, "times"),
    ]


def _seconds(response: str) -> float:
    """Processor time of a check, the longer one: each level reads what the other does not."""
    times = []
    for level in ("strict", "lenient"):
        begin = time.process_time()
        check_math(response, GOLD, QUESTION, level)
        times.append(time.process_time() - begin)
    return max(times)
