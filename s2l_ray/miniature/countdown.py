"""Countdown: problems, an exact checker, and a split that cannot leak.

A problem is some numbers in 1..20, four unless said otherwise, and a target in 10..99. A solution has a step less than
there are numbers. Each step joins two numbers that are still unused (given, or the result of an earlier step) with one
of + - * / into an integer in 1..99; the last result is the target. Every number is one token, so with four numbers a
prompt `"3 7 12 5 : 27 >"` is 7 tokens and a solution `"a op b = c ; a op b = c ; a op b = c ."` is 18.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from s2l_ray.errors import DataError
from s2l_ray.kinds import DataSplit
from s2l_ray.rollouts.records import Verdict

NUMBERS = 4
LARGEST_NUMBER = 20
TARGETS = range(10, 100)
RESULTS = range(1, 100)
OPERATORS = "+-*/"
TOKENS_PER_STEP = 6
PROMPT = "{question} >"
"""The model's prompt for a question (`data.prompt`, with `data.chat: false`)."""

STEP = re.compile(r"\s*([0-9]{1,9})\s*([-+*/])\s*([0-9]{1,9})\s*=\s*([0-9]{1,9})\s*")
"""A step of a response: the groups are a, the operator, b and c."""
_HELDOUT_SHARE = 10  # one problem in ten
_PATIENCE = 10_000  # draws in a row that bring nothing new


@dataclass(frozen=True)
class CountdownProblem:
    """Numbers in the order shown, the target, and one chain that reaches it."""

    numbers: tuple[int, ...]
    target: int
    trace: str
    """One of many right responses: the chain that the problem was made from."""

    @property
    def question(self) -> str:
        """`"3 7 12 5 : 27"`."""
        return f"{' '.join(map(str, self.numbers))} : {self.target}"

    @property
    def prompt(self) -> str:
        """The text that the model continues."""
        return PROMPT.format(question=self.question)

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """The identity of a problem: its numbers in any order, and its target."""
        return tuple(sorted(self.numbers)), self.target

    @property
    def split(self) -> DataSplit:
        """A function of `key` alone, so no seed or recipe can put a held-out problem into training."""
        digest = hashlib.blake2b(repr(self.key).encode(), digest_size=8).digest()
        return "train" if int.from_bytes(digest, "big") % _HELDOUT_SHARE else "heldout"


def check(response: str, answer: str, question: str = "") -> Verdict:
    """Check a response exactly.

    Args:
        response: steps `a op b = c` separated by `;`, with or without the final `.` (the end-of-sequence token).
        answer: the problem, `"3 7 12 5 : 27"`: many solutions are right, so the gold answer is what they must solve.
        question: not needed; verifiers are called with it.

    Returns:
        right (reward 1): every step is right, every number is used once, the target is reached. wrong (reward 0): the
        detail names the first broken rule. unparsable (reward 0): not a list of steps.

    Raises:
        DataError: `answer` is not a problem.
    """
    numbers, target = parse_question(answer)
    body = response.strip().removesuffix(".")
    parts = body.split(";")
    steps = [step for part in parts if (step := STEP.fullmatch(part))]
    if len(steps) < len(parts):
        return Verdict("unparsable", 0.0, f"not of the form 'a op b = c ; ...': {response[:80]!r}")
    fault = _first_fault([(int(s[1]), s[2], int(s[3]), int(s[4])) for s in steps], numbers, target)
    return Verdict("wrong", 0.0, fault) if fault else Verdict("right", 1.0, body.strip())


def parse_question(text: str) -> tuple[list[int], int]:
    """`"3 7 12 5 : 27"` as ([3, 7, 12, 5], 27).

    Raises:
        DataError: the text is something else.
    """
    if not re.fullmatch(r"\s*[0-9]{1,9}(\s+[0-9]{1,9})*\s*:\s*[0-9]{1,9}\s*", text):
        raise DataError(f"{text[:80]!r} is not a countdown problem; write it as '3 7 12 5 : 27'")
    numbers, target = text.split(":")
    return [int(n) for n in numbers.split()], int(target)


def generate(
    count: int, split: DataSplit, seed: int, exclude: Iterable[CountdownProblem] = (), numbers: int = NUMBERS
) -> list[CountdownProblem]:
    """`count` different problems of one side of the split, a function of the arguments.

    Args:
        exclude: problems (in any order of their numbers) that must not occur.
        numbers: that each problem has.

    Raises:
        DataError: there are not that many.
    """
    rng = random.Random(f"countdown/{split}/{seed}")
    seen = {problem.key for problem in exclude}
    problems: list[CountdownProblem] = []
    while len(problems) < count:
        fresh = (p for p in islice(_draws(rng, numbers), _PATIENCE) if p.split == split and p.key not in seen)
        if (problem := next(fresh, None)) is None:
            raise DataError(f"countdown has hardly more than {len(problems)} such {split} problems; ask for fewer")
        seen.add(problem.key)
        problems.append(problem)
    return problems


def write_jsonl(problems: Iterable[CountdownProblem], path: Path, prefix: str) -> None:
    """Write rows {"id", "question", "answer"}; ids are `prefix-0`, `prefix-1`, ..."""
    rows = ({"id": f"{prefix}-{i}", "question": p.question, "answer": p.question} for i, p in enumerate(problems))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _first_fault(steps: list[tuple[int, str, int, int]], numbers: list[int], target: int) -> str:
    """The first rule that the steps break; empty when they solve the problem."""
    unused = Counter(numbers)
    for a, op, b, c in steps:
        if _apply(a, op, b) != c:
            return f"{a} {op} {b} is not {c}, or not an integer in 1..99"
        unused.subtract([a, b])
        if missing := [n for n in (a, b) if unused[n] < 0]:
            return f"{missing[0]} is not available in '{a} {op} {b} = {c}'"
        unused[c] += 1
    left = sorted(unused.elements())
    if len(left) > 1:
        return f"{len(steps)} steps leave {left} unused"
    return "" if left == [target] else f"ends at {left[0]}, not at {target}"


def _apply(a: int, op: str, b: int) -> int | None:
    """The result of a step; None when it is not an integer in 1..99."""
    quotient = a // b if b and a % b == 0 else 0
    result = {"+": a + b, "-": a - b, "*": a * b, "/": quotient}[op]
    return result if result in RESULTS else None


def _draws(rng: random.Random, count: int) -> Iterator[CountdownProblem]:
    """Random numbers joined by a random chain; only those with every step and the target in range."""
    while True:
        numbers = tuple(rng.randint(1, LARGEST_NUMBER) for _ in range(count))
        pool, steps = list(numbers), []
        while len(pool) > 1:
            rng.shuffle(pool)
            a, b, op = pool.pop(), pool.pop(), rng.choice(OPERATORS)
            if (c := _apply(a, op, b)) is None:
                break
            pool.append(c)
            steps.append(f"{a} {op} {b} = {c}")
        if len(steps) == count - 1 and pool[0] in TARGETS:
            yield CountdownProblem(numbers, pool[0], " ; ".join(steps) + " .")
