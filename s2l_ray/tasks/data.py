"""Problems from JSONL and Parquet files, and from directories of these.

A row has the simple layout (question, answer), verl's (prompt, reward_model), or that of multiple-choice questions
(question, choices, answerKey), see `tasks.choice`.

Files in verl's layout repeat rows (DAPO-Math-17k does so a hundred times), so repeated questions are dropped, as the
S2L-PO authors do.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.places import left_out_of_upload
from s2l_ray.rollouts.records import NO_COLUMNS
from s2l_ray.tasks.choice import is_choice, lettered
from s2l_ray.tasks.rows import SUFFIXES, check_encodable, names_in, read_rows, shown
from s2l_ray.tasks.sources import data_files


@dataclass(frozen=True)
class Problem:
    """One problem of a data file."""

    id: str
    """Unique within its file or directory."""
    question: str
    answer: str
    """The final answer alone, for the verifier."""
    columns: str = NO_COLUMNS
    """JSON object of the columns that the verifier is called with, too."""
    files: tuple[str, ...] = ()
    """Stems of the files of a directory that have its question, see `load_problems`."""
    has_choices: bool = False
    """It is a multiple-choice question, with lettered choices in its text."""


@dataclass(frozen=True)
class ProblemSet:
    """The problems of one data file, of one directory of files, or of one split of a data set."""

    path: str
    problems: list[Problem]
    dropped: int
    """Rows left out because an earlier row has the same question."""
    digest: str
    """16 hex digits over every id, question, answer and column: equal ones mean the same problems in the same order."""

    @property
    def choices(self) -> int:
        """How many of the problems are multiple-choice questions."""
        return sum(problem.has_choices for problem in self.problems)


@dataclass(frozen=True)
class _ProblemRow:
    """One row of a data file, checked."""

    path: Path
    number: int
    """1-based: line of a JSONL file, row of a Parquet file."""
    own_id: str | None
    index_id: str | None
    question: str
    answer: str
    has_choices: bool
    columns: str


def load_problems(path: str | Path, limit: int | None = None, columns: Sequence[str] = ()) -> ProblemSet:
    """Read a file of problems, all files of a directory, or all files of a split.

    A problem's id is the row's `id`; else verl's `extra_info.index`, where that is given and different in all rows;
    else file stem and row number, as in `train-000017`. In a directory the file's stem comes before that, as in
    `aime24/7`, and a question that several files have is one problem, with the id of the first.

    Args:
        path: a `.jsonl` or `.parquet` file, a directory, or a split of a data set on the Hub that has been fetched.
        limit: read only the first rows, of each file of a directory; repeated questions count.
        columns: those that the verifier is called with, too (`verifier.columns`); every row must have them.

    Raises:
        DataError: the file is missing, empty or of another type, a directory has no file of these types, a row is
            malformed, or two different questions have the same id. File, line, field and remedy are named.
        HubError: the split has not been fetched.
    """
    if os.path.isdir(path):
        return _of_directory(Path(path), limit, columns)
    read = chain.from_iterable(((file, *row) for row in read_rows(file)) for file in data_files(path))
    rows = [_parse(row, number, file, columns) for file, number, row in islice(read, limit)]
    if not rows:
        raise DataError(f"{path} has no rows; give it one problem a line, or name another file")
    first: dict[str, _ProblemRow] = {}
    for row in rows:
        first.setdefault(row.question.strip(), row)
    problems = _identify(list(first.values()))
    return ProblemSet(str(path), problems, len(rows) - len(problems), _digest(problems))


def _of_directory(directory: Path, limit: int | None, columns: Sequence[str]) -> ProblemSet:
    try:
        found = sorted(file for file in directory.iterdir() if file.suffix in SUFFIXES and file.name[0] != ".")
        files = [file for file in found if not file.is_dir()]
    except OSError as error:
        raise DataError(f"{directory} cannot be read ({error.strerror}); check its permissions") from None
    if not files:
        missing = f"is a directory without a file of type {' or '.join(SUFFIXES)}"
        raise DataError(f"{directory} {missing}{left_out_of_upload(directory)}; name another")
    first: dict[str, Problem] = {}
    rows = 0
    stems: dict[str, Path] = {}
    for file in files:
        stem = re.sub(r"[^\w.-]+", "-", file.stem, flags=re.ASCII)  # MLflow's names have these alone
        if other := stems.get(stem):
            raise DataError(f"{file} and {other.name} would both be called {stem}; rename one of the files")
        stems[stem] = file
        of_file = load_problems(file, limit, columns)
        rows += len(of_file.problems) + of_file.dropped
        for problem in of_file.problems:
            known = first.get(question := problem.question.strip(), replace(problem, id=f"{stem}/{problem.id}"))
            first[question] = replace(known, files=(*known.files, stem))
    problems = list(first.values())
    return ProblemSet(str(directory), problems, rows - len(problems), _digest(problems))


def final_answer(value: Any, where: str) -> str:
    """A gold answer as text: numbers are written out, and of a GSM8K solution the part after the last `####` is kept.

    Raises:
        DataError: there is no answer; `where` names file, line and field.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _finite(value):
        raise DataError(f"{where} must be a text or a number, not {shown(value)}")
    text = str(value).rpartition("####")[2].strip()
    if not text:
        raise DataError(f"{where} is empty; give the final answer")
    return text


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must be a non-empty text; `where` names file and line.

    Raises:
        DataError: it is missing, empty or not a text.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        have = f"the row has {names_in(row)}" if field not in row else f"it is {shown(value)}"
        raise DataError(f"{where}, field {field}: a non-empty text is needed; {have}")
    return value


def optional_id(row: dict[str, Any], where: str) -> str | None:
    """The row's `id` as text, if it has one.

    Raises:
        DataError: it is neither a text nor an integer.
    """
    return _id(row.get("id"), f"{where}, field id")


def columns_of(row: dict[str, Any], columns: Sequence[str], where: str) -> str:
    """JSON object of these columns of a row; `where` names file and line.

    Raises:
        DataError: one is missing, or holds what JSON cannot.
    """
    for name in columns:
        if name not in row:
            raise DataError(
                f"{where}, field {name}: missing, and the verifier is to have it; the row has {names_in(row)}"
            )
        try:
            json.dumps(row[name], allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{where}, field {name}: {error}; a column for the verifier may hold texts, numbers, true or false, "
                "and lists and records of these"
            ) from None
    return json.dumps({name: row[name] for name in columns}, sort_keys=True)


def _parse(row: dict[str, Any], number: int, path: Path, columns: Sequence[str]) -> _ProblemRow:
    where = f"{path}, line {number}"
    own_id, index_id = optional_id(row, where), None
    if "prompt" in row and "question" not in row:
        fields = "prompt", "reward_model.ground_truth"
        question = _user_message(row["prompt"], f"{where}, field prompt")
        answer = _record(row, "reward_model", where).get("ground_truth")
        if isinstance(extra := row.get("extra_info"), dict):
            index_id = _id(extra.get("index"), f"{where}, field extra_info.index")
    else:
        fields = "problem" if "problem" in row and "question" not in row else "question", "answer"
        question = text_field(row, fields[0], where)
        if is_choice(row):
            question, answer = lettered(question, row, where)
        elif "answer" in row:
            answer = row["answer"]
        else:
            raise DataError(f"{where}, field answer: missing; the row has {names_in(row)}")
    answer = final_answer(answer, f"{where}, field {fields[1]}")
    for field, text in zip(("id", "extra_info.index", *fields), (own_id, index_id, question, answer), strict=True):
        check_encodable(text or "", f"{where}, field {field}")
    return _ProblemRow(
        path, number, own_id, index_id, question, answer, is_choice(row), columns_of(row, columns, where)
    )


def _finite(value: str | float) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _record(row: dict[str, Any], field: str, where: str) -> dict[str, Any]:
    value = row.get(field)
    if not isinstance(value, dict):
        raise DataError(f"{where}, field {field}: a record is needed (verl's layout), not {shown(value)}")
    return value


def _user_message(prompt: Any, where: str) -> str:
    messages = prompt if isinstance(prompt, list) else []
    if len(messages) != 1 or not isinstance(messages[0], dict) or messages[0].get("role") != "user":
        raise DataError(
            f"{where}: one message {{role: user, content: ...}} is needed, not {shown(prompt)}; "
            "put a system message into data.system, and drop conversations of several turns"
        )
    return text_field(messages[0], "content", where)


def _id(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where} must be a text or an integer, not {shown(value)}; correct it or leave it out")
    return str(value)


def _identify(rows: list[_ProblemRow]) -> list[Problem]:
    by_index = len({row.index_id for row in rows} - {None}) == len(rows)
    first: dict[str, _ProblemRow] = {}
    problems = []
    for row in rows:
        id = row.own_id or (row.index_id if by_index else None) or f"{row.path.stem}-{row.number:06d}"
        if id in first:
            other = first[id]
            elsewhere = "" if other.path == row.path else f" of {other.path.name}"
            raise DataError(
                f"{row.path}, line {row.number}, field id: {id!r} is already the id of line {other.number}{elsewhere}, "
                "which has another question; make ids unique or leave them all out"
            )
        first[id] = row
        problems.append(Problem(id, row.question, row.answer, row.columns, has_choices=row.has_choices))
    return problems


def _digest(problems: list[Problem]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems:
        columns = () if problem.columns == NO_COLUMNS else (problem.columns,)
        digest.update(json.dumps([problem.id, problem.question, problem.answer, *columns]).encode())
    return digest.hexdigest()
