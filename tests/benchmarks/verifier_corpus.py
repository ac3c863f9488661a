"""The verifier `math` on the labelled corpus (tests/support/grading), a confusion matrix for each kind.

Three graders see the same pairs: `math` at both levels of `verifier.extract`, each against its own labels, and plain
math-verify, `verify(parse(gold), parse(response))` as its README has it, against the labels of lenient, since it looks
for answers anywhere as well.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.tasks.pool import VerifierPool
from tests.benchmarks.protocol import Result
from tests.support.grading import Labelled, corpus

TIMEOUT_S = 20
WORKERS = 2


@dataclass(frozen=True)
class Confusion:
    """How many rows a grader pays and should pay."""

    paid_rightly: int
    paid_wrongly: int
    unpaid_rightly: int
    unpaid_wrongly: int

    @classmethod
    def of(cls, labels: Sequence[int], paid: Sequence[bool]) -> Self:
        pairs = list(zip(map(bool, labels), paid, strict=True))
        return cls(*(pairs.count(pair) for pair in ((True, True), (False, True), (False, False), (True, False))))

    def __str__(self) -> str:
        return f"{self.paid_rightly} / {self.paid_wrongly} / {self.unpaid_rightly} / {self.unpaid_wrongly}"


def run() -> list[Result]:
    rows = corpus()
    paid = {
        "strict": _ours(rows, "strict"),
        "lenient": _ours(rows, "lenient"),
        "math-verify": [_plain(row) for row in rows],
    }
    labels: dict[str, Callable[[Labelled], int]] = {
        "strict": lambda row: row.strict,
        "lenient": lambda row: row.lenient,
        "math-verify": lambda row: row.lenient,
    }
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        kinds[row.kind].append(number)
    print("Each cell: paid rightly / paid wrongly / unpaid rightly / unpaid wrongly\n")
    print(f"| kind | rows | {' | '.join(paid)} |\n|---|---|{'---|' * len(paid)}")
    for kind, numbers in [*sorted(kinds.items()), ("all", list(range(len(rows))))]:
        cells = [
            str(Confusion.of([labels[grader](rows[n]) for n in numbers], [verdicts[n] for n in numbers]))
            for grader, verdicts in paid.items()
        ]
        print(f"| {kind} | {len(numbers)} | {' | '.join(cells)} |", flush=True)
    return [result for grader in paid for result in _results(grader, [labels[grader](r) for r in rows], paid[grader])]


def _ours(rows: Sequence[Labelled], level: ExtractionLevel) -> list[bool]:
    with VerifierPool("math", WORKERS, TIMEOUT_S, {"extract": level}) as pool:
        verdicts = pool.check([(row.response, row.gold, row.question) for row in rows])
    return [verdict.reward == 1 for verdict in verdicts]


def _plain(row: Labelled) -> bool:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return bool(verify(parse(f"${row.gold}$"), parse(row.response)))


def _results(grader: str, labels: list[int], paid: list[bool]) -> list[Result]:
    confusion = Confusion.of(labels, paid)
    name, aim = grader.replace("-", "_"), None if grader == "math-verify" else 0
    return [
        Result(f"corpus_paid_wrongly_{name}", confusion.paid_wrongly, aim, "rows"),
        Result(f"corpus_unpaid_wrongly_{name}", confusion.unpaid_wrongly, aim, "rows"),
    ]
