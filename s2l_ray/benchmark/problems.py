"""Benchmark files, and what kind of answer their problems want."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from s2l_ray.config.embedded import DataSource, source_name
from s2l_ray.config.problems import problem_of_value
from s2l_ray.errors import DataError
from s2l_ray.hub.names import dataset_split
from s2l_ray.miniature.countdown import parse_question
from s2l_ray.tasks.data import Problem, ProblemSet, load_problems

Kind = Literal["math", "choice", "countdown"]
"""What a benchmark's answers are: values, letters of choices, or chains of the embedded task."""


@dataclass(frozen=True)
class Benchmark:
    """The problems of one file, or of one split of a data set."""

    name: str
    """The file's name without its ending."""
    source: str
    """Path, or address on the Hub."""
    kind: Kind
    problems: tuple[Problem, ...]
    """Their ids begin with the benchmark's name, so that several benchmarks can share one recording."""
    digest: str
    """Of all problems of the file, whether or not they are used."""
    dropped: int
    """Rows left out because an earlier one has the same question."""

    @property
    def path(self) -> str:
        """Its source, as records name it."""
        return source_name(self.source)


def data_source(text: str) -> str:
    """What a word for a data file stands for: a path, or an address on the Hub.

    Raises:
        DataError: it begins as a name of the embedded family or an address of the Hub does, and is none.
    """
    try:
        return TypeAdapter(DataSource).validate_python(text)
    except ValidationError as error:
        raise DataError(f"{text}: {problem_of_value(error)}") from None


def load_benchmark(source: str, limit: int | None = None, columns: Sequence[str] = ()) -> Benchmark:
    """Read a benchmark.

    Args:
        source: JSONL or Parquet file, or a split on the Hub that has been fetched.
        limit: use only the first problems.
        columns: see `load_problems`.

    Raises:
        DataError: see `load_problems`; or it is a directory, or only some rows are multiple-choice questions.
        HubError: the split has not been fetched.
    """
    if os.path.isdir(source):
        raise DataError(f"{source} is a directory; name the files in it, each of which is a benchmark")
    found = load_problems(source, columns=columns)
    name, kind = _name(source), _kind(source, found)
    problems = tuple(replace(problem, id=f"{name}/{problem.id}") for problem in found.problems[:limit])
    return Benchmark(name, source, kind, problems, found.digest, found.dropped)


def load_benchmarks(sources: Sequence[str], limit: int | None = None, columns: Sequence[str] = ()) -> list[Benchmark]:
    """Read several benchmarks.

    Raises:
        DataError: as `load_benchmark`, or two of them have one name.
        HubError: as `load_benchmark`.
    """
    found: dict[str, Benchmark] = {}
    for source in sources:
        benchmark = load_benchmark(source, limit, columns)
        if benchmark.name in found:
            other = found[benchmark.name].source
            raise DataError(f"{source} and {other} would both be benchmark {benchmark.name}; rename one of the files")
        found[benchmark.name] = benchmark
    return list(found.values())


def _name(source: str) -> str:
    split = dataset_split(source)
    if split is None:
        return Path(source).stem
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, [split.repository.id, split.path, split.split])))


def _kind(source: str, found: ProblemSet) -> Kind:
    if found.choices == len(found.problems):
        return "choice"
    if found.choices:
        raise DataError(
            f"{source}: {found.choices} of its {len(found.problems)} problems are multiple-choice questions; put these "
            "into a file of their own, they are graded in another way"
        )
    return "countdown" if all(map(_is_countdown, found.problems)) else "math"


def _is_countdown(problem: Problem) -> bool:
    try:
        parse_question(problem.answer)
    except DataError:
        return False
    return problem.answer == problem.question.strip()
