"""Reading the samples of an evaluation back: as numbers, for its results, or as rollouts with tokens and log-probs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray.bank.shard import rollouts_of
from s2l_ray.bank.storage import bank_storage
from s2l_ray.benchmark.directory import PROBLEMS, SAMPLES, Evaluation
from s2l_ray.errors import DataError
from s2l_ray.machine.storage import Storage
from s2l_ray.rollouts.records import Rollout

NUMBERS = ["prompt_id", "draw", "tokens", "status", "finish_reason", "detail"]
WITH_ANSWERS = ("math", "choice")
"""Kinds of benchmark whose verifier says which answer it read, so that samples can vote."""


@dataclass(frozen=True)
class Outcomes:
    """The numbers of all samples of one model on one benchmark."""

    evaluation: Evaluation
    problem_ids: list[str]
    right: np.ndarray
    """Bool [problems, n]."""
    tokens: np.ndarray
    """int64 [problems, n]: of the responses."""
    truncated: np.ndarray
    """Bool [problems, n]: cut off at rollout.max_tokens."""
    statuses: dict[str, int]
    """How many samples have which verdict."""
    wrong: list[list[int]] | None
    """For each problem, how often each different wrong answer was given; None: answers cannot be told apart."""

    @property
    def samples(self) -> int:
        """How many there are of each problem."""
        return int(self.right.shape[1])

    @property
    def correct(self) -> np.ndarray:
        """int64 [problems]: right answers."""
        return np.asarray(self.right.sum(axis=1))


def read_outcomes(directory: Path, evaluation: Evaluation, problem_ids: Sequence[str], samples: int) -> Outcomes:
    """Samples 0 to `samples` - 1 of these problems.

    Raises:
        DataError: some are missing.
        BankError: a shard cannot be read.
    """
    rows = {problem: number for number, problem in enumerate(problem_ids)}
    shape = len(problem_ids), samples
    seen, right, truncated = (np.zeros(shape, dtype=bool) for _ in range(3))
    tokens, statuses = np.zeros(shape, dtype=np.int64), np.full(shape, "", dtype=object)
    answers: dict[int, Counter[str]] = defaultdict(Counter)
    for table in _tables(directory, evaluation, NUMBERS, set(problem_ids)):
        columns = [table.column(name).to_pylist() for name in NUMBERS]
        for problem, draw, length, status, reason, detail in zip(*columns, strict=True):
            place = rows[problem], draw
            if draw >= samples or seen[place]:  # two commands may have recorded the same sample
                continue
            seen[place], right[place], truncated[place] = True, status == "right", reason == "length"
            tokens[place], statuses[place] = length, status
            if status == "wrong":
                answers[place[0]][" ".join(detail.split())] += 1
    if not seen.all():
        raise DataError(
            f"{directory}: {int((~seen).sum())} of {seen.size} samples of {evaluation.model} on {evaluation.benchmark} "
            "are missing; give the command again"
        )
    votes = evaluation.kind in WITH_ANSWERS
    wrong = [list(answers[number].values()) for number in range(len(problem_ids))] if votes else None
    counted = Counter(statuses.ravel().tolist())
    return Outcomes(evaluation, list(problem_ids), right, tokens, truncated, dict(counted), wrong)


def read_rollouts(directory: Path, evaluation: Evaluation) -> dict[str, list[Rollout]]:
    """All samples of one model on one benchmark: problem id -> rollouts, with `index` the number of the sample.

    Rollouts have the tokens, the log-probs of the distribution that was sampled from, text, verdict and finish reason.
    Their problems are in `read_problems`.

    Raises:
        BankError: a shard cannot be read.
    """
    found: dict[str, dict[int, Rollout]] = defaultdict(dict)
    wanted = {problem["id"] for problem in read_problems(directory, evaluation.benchmark)}
    for table in _tables(directory, evaluation, None, wanted):
        draws = table.column("draw").to_pylist()
        for rollout in rollouts_of(table.combine_chunks(), range(len(table)), draws):
            found[rollout.prompt_id].setdefault(rollout.index, rollout)
    return {problem: [of[index] for index in sorted(of)] for problem, of in found.items()}


def read_problems(directory: Path, benchmark: str) -> list[dict[str, Any]]:
    """The problems of a benchmark: records with id, question and answer.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / PROBLEMS / f"{benchmark}.jsonl"
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]  # of bytes: a question may have U+2028
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); give the command of the evaluation again") from None


def _tables(
    directory: Path, evaluation: Evaluation, columns: list[str] | None, problem_ids: set[str]
) -> Iterator[pa.Table]:
    """The rows of these problems, shard by shard."""
    storage, folder = bank_storage(str(directory / SAMPLES)), f"{evaluation.recording}/shards"
    wanted = pa.array(sorted(problem_ids), pa.string())
    for name, _ in storage.files(folder, ".parquet"):
        table = _read(storage, f"{folder}/{name}", columns)
        found = table.filter(pc.is_in(table["prompt_id"], value_set=wanted))
        if len(found):
            yield found


def _read(storage: Storage, path: str, columns: list[str] | None) -> pa.Table:
    with storage.open(path) as file:
        return pq.ParquetFile(file, pre_buffer=True).read(columns=columns)
