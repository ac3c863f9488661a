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
    """What is printed: a table of models, the comparisons of pairs, and what is contaminated.

    Args:
        results: see `results.results`.
    """
    yield _models(results)
    if results["pairs"]:
        yield _pairs(results)
        yield from _crossovers(results)
    yield from _contamination(results)


def _models(results: dict[str, Any]) -> Table:
    ks, level = results["k"], f"{results['confidence']:.0%}"
    table = Table(
        title=f"percent, with {level} bootstrap intervals over problems",
        title_justify="left", title_style="dim", box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    votes = any(row["maj_at"] for row in results["results"])
    table.add_column("benchmark", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for name in [f"pass@{k}" for k in ks] + [f"maj@{ks[-1]}"] * votes:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens", justify="right")
    table.add_column("cut off", justify="right")
    last = None
    for row in results["results"]:
        if last not in (None, row["benchmark"]):
            table.add_section()
        cells = [_interval(row["pass_at"][str(k)]) for k in ks]
        cells += [_interval(row["maj_at"][str(ks[-1])]) if row["maj_at"] else Text("-")] * votes
        tokens = f"{row['response_tokens']['value']:.1f}"
        shown = f"{row['benchmark']} ({row['problems']} x {row['samples']})" if row["benchmark"] != last else ""
        table.add_row(shown, row["model"], *cells, tokens, f"{row['truncated']:.1%}")
        last = row["benchmark"]
    return table


def _pairs(results: dict[str, Any]) -> Table:
    table = Table(
        title="difference in points, of the same problems; p by flipping signs, Holm's correction over pairs",
        title_justify="left", title_style="dim", box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for name in ("benchmark", "second - first"):
        table.add_column(name, no_wrap=True)
    for k in results["k"]:
        table.add_column(f"pass@{k}", justify="right", no_wrap=True)
        table.add_column("p", justify="right", no_wrap=True)
    for pair in results["pairs"]:
        cells = []
        for k in results["k"]:
            found = pair["difference"][str(k)]
            style = "bold" if found["p_holm"] <= SIGNIFICANT else ""
            cells += [_interval(found, signed=True), Text(_p(found["p_holm"]), style)]
        table.add_row(pair["benchmark"], f"{pair['second']} - {pair['first']}", *cells)
    return table


def _crossovers(results: dict[str, Any]) -> Iterator[str]:
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


def _contamination(results: dict[str, Any]) -> Iterator[str]:
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
