"""The results of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

SIGNIFICANT = 0.05
"""Adjusted p-values up to this are printed in bold."""


def tables(results: dict[str, Any]) -> Iterator[RenderableType]:
    """What is printed: models and comparisons of pairs for each benchmark, crossovers, and what is contaminated.

    Args:
        results: see `results.results`.
    """
    for benchmark in results["benchmarks"]:
        rows = [row for row in results["results"] if row["benchmark"] == benchmark["name"]]
        yield _models(rows, results["k"], results["confidence"])
    for benchmark in results["benchmarks"]:
        pairs = [pair for pair in results["pairs"] if pair["benchmark"] == benchmark["name"]]
        if pairs:
            yield _pairs(benchmark["name"], pairs, results["k"])
    if results["pairs"]:
        yield "\n".join(crossovers(results))
    yield from contamination(results)


def _models(rows: list[dict[str, Any]], ks: list[int], confidence: float) -> Table:
    """A benchmark: a column for each model."""
    first = rows[0]
    table = _table(f"{first['benchmark']}: {first['problems']} problems x {first['samples']} samples", "")
    table.add_column(f"%, {confidence:.0%} interval", style="dim", no_wrap=True)
    for row in rows:
        table.add_column(row["model"], header_style="bold")
    for label, cells in model_rows(rows, ks):
        table.add_row(label, *cells)
    return table


def model_rows(rows: list[dict[str, Any]], ks: list[int]) -> Iterator[tuple[str, list[Text]]]:
    """What is known of the models on a benchmark: a label, and a cell for each model.

    Args:
        rows: of `results`, those of the benchmark.
        ks: those of the results.
    """
    for k in ks:
        yield f"pass@{k}", [_interval(row["pass_at"][str(k)]) for row in rows]
    if all(row["maj_at"] for row in rows):
        yield f"maj@{ks[-1]}", [_interval(row["maj_at"][str(ks[-1])]) for row in rows]
    yield "tokens, mean", [Text(f"{row['response_tokens']['value']:.1f}") for row in rows]
    yield "cut off", [Text(f"{100 * row['truncated']:.1f}") for row in rows]


def _pairs(name: str, pairs: list[dict[str, Any]], ks: list[int]) -> Table:
    """The differences of every two models on a benchmark."""
    table = _table(f"{name}: difference in points, of the same problems", "p: sign flips, Holm-corrected over pairs")
    table.add_column("second - first", no_wrap=True)
    for column in ("", "difference", "p"):
        table.add_column(column, no_wrap=True)
    for pair in pairs:
        for number, (k, difference, p) in enumerate(pair_rows(pair, ks)):
            table.add_row("" if number else f"{pair['second']} - {pair['first']}", f"pass@{k}", difference, p)
    return table


def pair_rows(pair: dict[str, Any], ks: list[int]) -> Iterator[tuple[int, Text, Text]]:
    """For each k the difference of two models on a benchmark, and its corrected p-value."""
    for k in ks:
        found = pair["difference"][str(k)]
        p = Text(_p(found["p_holm"]), "bold" if found["p_holm"] <= SIGNIFICANT else "")
        yield k, _interval(found, signed=True), p


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", caption=caption or None, caption_justify="left",
        caption_style="dim", box=None, padding=(0, 3, 0, 0), header_style="dim",
    )  # fmt: skip


def crossovers(results: dict[str, Any]) -> Iterator[str]:
    """A sentence for each two models on a benchmark that have a leader."""
    for pair in results["pairs"]:
        if (found := pair["crossover"]) is not None:
            yield crossover_text(found, pair["benchmark"], largest_k(results, pair["benchmark"]))


def largest_k(results: dict[str, Any], benchmark: str) -> int:
    """The number of samples of each problem of a benchmark."""
    return max(int(row["samples"]) for row in results["results"] if row["benchmark"] == benchmark)


def crossover_text(found: dict[str, Any], benchmark: str, n: int) -> str:
    """Where a curve overtakes another, in a sentence."""
    share = f"in {found['share']:.0%} of the resamples"
    if found["k"] is None:
        return f"{benchmark}: {found['challenger']} does not overtake {found['leader']} up to k = {n} ({share} it does)"
    high = f"{found['high']:.1f}" if found["high"] is not None else f"beyond {n}"
    low = f"{found['low']:.1f}" if found["low"] is not None else f"beyond {n}"
    return (
        f"{benchmark}: {found['challenger']} overtakes {found['leader']} at k* = {found['k']:.1f} "
        f"[{low}, {high}] ({share})"
    )


def contamination(results: dict[str, Any]) -> Iterator[str]:
    """A line for each benchmark and training file."""
    for benchmark in results["benchmarks"]:
        for one in benchmark["contamination"]:
            yield contamination_text(benchmark["name"], one)


def contamination_text(name: str, one: dict[str, Any]) -> str:
    """What a training file has of a benchmark, in a line that names the first problems."""
    if not one["found"]:
        return f"{name}: none of its {one['problems']} problems is in {one['against']}"
    listed = ", ".join(
        f"{found['problem_id']} ({'the same as' if found['exact'] else format(found['share'], '.0%') + ' of'} "
        f"{found['row']})"
        for found in one["found"][:5]
    )
    more = f" and {len(one['found']) - 5} more, see evaluation.json" if len(one["found"]) > 5 else ""
    return (
        f"{name}: of its {one['problems']} problems {one['exact']} are in {one['against']}, and {one['close']} more "
        f"nearly so: {listed}{more}"
    )


def _interval(estimate: dict[str, float], *, signed: bool = False) -> Text:
    sign = "+" if signed else ""
    low, high = (format(100 * estimate[end], f"{sign}.1f") for end in ("low", "high"))
    return Text.assemble(format(100 * estimate["value"], f"{sign}.1f"), (f" [{low}, {high}]", "dim"))


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
