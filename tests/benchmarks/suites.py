"""Labelled pairs out of the test suites of other graders, read and never run.

Of a Python file the literals count: rows of `pytest.mark.parametrize` that have a gold answer, a prediction and what is
expected, and asserts on a call with two texts, `assert grade("1/2", "0.5")` or `self.assertFalse(...)`, where the
prediction comes first. Of JSON Lines and CSV, rows that have three such fields.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

GOLD = ("gold", "answer", "reference", "ground_truth", "gt", "target", "label_answer", "correct_answer")
PREDICTION = (
    "pred",
    "prediction",
    "predicted",
    "response",
    "completion",
    "output",
    "llm_output",
    "given",
    "model_answer",
)
EXPECTED = ("expected", "result", "label", "correct", "is_correct", "equal", "right", "human_judgment_result")
_TRUE, _FALSE = ("true", "1", "1.0", "correct", "right", "yes"), ("false", "0", "0.0", "incorrect", "wrong", "no")


class Pair(NamedTuple):
    source: str
    """The file, relative to what was given."""
    gold: str
    prediction: str
    right: bool


def pairs_of(path: Path) -> list[Pair]:
    """Every pair in a file, or in the files of a directory and those below it; each once."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found: dict[tuple[str, str], Pair] = {}
    for file in files:
        source = str(file.relative_to(path)) if path.is_dir() else file.name
        for gold, prediction, right in _read(file):
            found.setdefault((gold, prediction), Pair(source, gold, prediction, right))
    return list(found.values())


def _read(file: Path) -> Iterable[tuple[str, str, bool]]:
    try:
        if file.suffix == ".py":
            return list(_of_python(ast.parse(file.read_text(encoding="utf-8"))))
        if file.suffix == ".jsonl":
            return list(_of_rows(map(json.loads, file.read_text(encoding="utf-8").splitlines())))
        if file.suffix == ".csv":
            with file.open(encoding="utf-8", newline="") as lines:
                return list(_of_rows(csv.DictReader(lines)))
    except (ValueError, SyntaxError):  # not a suite, whatever it is
        pass
    return []


def _of_rows(rows: Iterable[Any]) -> Iterator[tuple[str, str, bool]]:
    for row in rows:
        if isinstance(row, dict):
            yield from _pair([row.get(_named(row, names)) for names in (GOLD, PREDICTION, EXPECTED)])


def _of_python(tree: ast.Module) -> Iterator[tuple[str, str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.parametrize") and len(node.args) > 1:
            yield from _of_parametrize(node.args[0], node.args[1])
        elif isinstance(node, ast.Assert):
            yield from _of_assert(node.test)
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in ("self.assertTrue", "self.assertFalse"):
            yield from _of_call(node.args[0], right=name == "self.assertTrue")


def _of_parametrize(names: ast.expr, rows: ast.expr) -> Iterator[tuple[str, str, bool]]:
    try:
        given = ast.literal_eval(names)
    except ValueError:
        return
    keys = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    places = [
        next((keys.index(name) for name in known if name in keys), None) for known in (GOLD, PREDICTION, EXPECTED)
    ]
    for row in rows.elts if isinstance(rows, ast.List | ast.Tuple) else ():
        if isinstance(row, ast.Tuple) and None not in places:
            cells = [row.elts[place] for place in places if place is not None and place < len(row.elts)]
            yield from _pair([cell.value if isinstance(cell, ast.Constant) else None for cell in cells])


def _of_assert(test: ast.expr) -> Iterator[tuple[str, str, bool]]:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _of_call(test.operand, right=False)
    elif isinstance(test, ast.Compare) and isinstance(test.comparators[0], ast.Constant):
        if isinstance(test.ops[0], ast.Eq | ast.Is) and isinstance(expected := test.comparators[0].value, bool | int):
            yield from _of_call(test.left, bool(expected))
    else:
        yield from _of_call(test, right=True)


def _of_call(call: ast.expr, right: bool) -> Iterator[tuple[str, str, bool]]:
    if isinstance(call, ast.Call) and len(call.args) >= 2:
        prediction, gold = (arg.value if isinstance(arg, ast.Constant) else None for arg in call.args[:2])
        yield from _pair([gold, prediction, right])


def _pair(values: list[Any]) -> Iterator[tuple[str, str, bool]]:
    if len(values) == 3 and isinstance(values[0], str) and isinstance(values[1], str) and values[0].strip():
        expected = str(values[2]).strip().lower()
        if expected in _TRUE or expected in _FALSE:
            yield values[0], values[1], expected in _TRUE


def _named(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in row), "")
