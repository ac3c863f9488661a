"""Benchmark problems that are in training data too: word for word, or by the word n-grams that they share.

Texts are compared after normalisation: Unicode's compatibility form, lower case, words and numbers alone. A problem
is exact if a training row has the same normalised question, and close if at least a given share of its word n-grams
occurs in training rows (13-grams are what the GPT-3 paper used, arXiv 2005.14165, appendix C). Problems shorter than n
words can only be exact.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from s2l_ray.tasks.data import Problem

WORDS = 13
SHARE = 0.5
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Found:
    """A benchmark problem that training data has."""

    problem_id: str
    exact: bool
    share: float
    """Of its n-grams that occur in training rows, in [0, 1]; 1 where it is exact."""
    row: str
    """Id of the training row that is the same, or of the first that shares an n-gram."""


@dataclass(frozen=True)
class Contamination:
    """How much of a benchmark is in a training file."""

    against: str
    """The training file."""
    problems: int
    found: list[Found] = field(default_factory=list)

    @property
    def exact(self) -> int:
        """How many problems are there word for word."""
        return sum(one.exact for one in self.found)

    @property
    def close(self) -> int:
        """How many others share enough n-grams."""
        return len(self.found) - self.exact


class TrainingText:
    """The questions of a training file, prepared for comparisons.

    Args:
        name: of the file.
        problems: its rows.
        words: n of the n-grams.
    """

    def __init__(self, name: str, problems: Iterable[Problem], words: int = WORDS) -> None:
        self.name = name
        self._words = words
        self._whole: dict[tuple[str, ...], str] = {}
        self._grams: dict[int, str] = {}
        for problem in problems:
            tokens = normalised(problem.question)
            self._whole.setdefault(tuple(tokens), problem.id)
            for gram in _grams(tokens, words):
                self._grams.setdefault(gram, problem.id)

    def check(self, problems: Sequence[Problem], share: float = SHARE) -> Contamination:
        """Which of these problems the file has.

        Args:
            problems: of a benchmark.
            share: of a problem's n-grams at which it counts as close, in (0, 1].
        """
        found = [one for problem in problems if (one := self._find(problem, share))]
        return Contamination(self.name, len(problems), found)

    def _find(self, problem: Problem, share: float) -> Found | None:
        tokens = normalised(problem.question)
        if (row := self._whole.get(tuple(tokens))) is not None:
            return Found(problem.id, True, 1.0, row)
        grams = list(_grams(tokens, self._words))
        known = [self._grams[gram] for gram in grams if gram in self._grams]
        if not grams or len(known) / len(grams) < share:
            return None
        return Found(problem.id, False, len(known) / len(grams), known[0])


def normalised(text: str) -> list[str]:
    """Words, numbers and signs of a text in lower case, whatever their spacing."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _grams(tokens: Sequence[str], words: int) -> Iterator[int]:
    """Hashes of the n-grams, which take a tenth of their memory."""
    return (hash(tuple(tokens[first : first + words])) for first in range(len(tokens) - words + 1))
