"""The results of a run that is over, for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import percent, with_short_paths
from s2l_ray.results import EvaluationRecord
from s2l_ray.style import SOURCE_COLOURS
from s2l_ray.tracking.mlflow_store import how_to_open


def final_table(summary: dict[str, Any]) -> RenderableType:
    """The results of a run: pass@k before and after with intervals, then where its files are.

    Args:
        summary: as `s2l_ray.evaluation.summary` documents it.
    """
    confidence = summary["config"]["evaluation"]["confidence"]
    outcome = _outcome(summary["evaluation"], confidence)
    return Group(Text(""), outcome, *_health(summary["health"]), Text(""), _places(summary))


def _outcome(evaluation: dict[str, Any], confidence: float) -> RenderableType:
    records = {name: evaluation[name] for name in ("explorer", "before", "after") if evaluation[name]}
    if not records:
        return Text("Nothing was evaluated: set data.eval to held-out problems.")
    measured = list(records.values())[-1]
    ks = sorted(int(key.removeprefix("pass@")) for key in measured["ci"])
    table = Table(
        title="held-out pass@k in %", title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0)
    )
    table.add_column("")
    for name, record in records.items():
        heading = "explorer" if name == "explorer" else f"learner {name}"
        table.add_column(Text(heading, SOURCE_COLOURS[record["model"]]), no_wrap=True)
    for k in ks:
        table.add_row(f"pass@{k}", *(percent(r[f"pass@{k}"], r["ci"][f"pass@{k}"]) for r in records.values()))
    if any(EvaluationRecord.from_json(record).graded for record in records.values()):
        table.add_row("mean reward", *(f"{record['reward']:.3f}" for record in records.values()))
    for file in measured.get("files", {}):
        of_file = [record.get("files", {}).get(file) for record in records.values()]
        for key in dict.fromkeys((f"pass@{ks[0]}", f"pass@{ks[-1]}")):
            table.add_row(f"{file} {key}", *(percent(r[key], r["ci"][key]) if r else "-" for r in of_file))
    lines: list[RenderableType] = [table, Text("")]
    if evaluation["change"]:
        lines += [Text(_change(evaluation["change"], f"pass@{k}")) for k in ks]
    lines.append(
        Text(
            f"Measured on {measured['problems']} held-out problems x {measured['samples']} samples; one run, one seed. "
            f"Brackets: {confidence:.0%} confidence intervals over problems.",
            style="dim",
        )
    )
    return Group(*lines)


def _change(change: dict[str, Any], key: str) -> str:
    low, high = change["ci"][key]
    verdict = "may be chance" if low <= 0 <= high else "more than chance over problems explains"
    return f"{key}: {100 * change[key]:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]: {verdict}."


def _health(health: dict[str, dict[str, int]]) -> list[RenderableType]:
    """A line for each condition of `health` that held in the run."""
    return [
        Text(
            f"health.{name}: held in {found['steps']} steps, {found['longest']} in a row; the first was step "
            f"{found['first']}",
            style="yellow",
        )
        for name, found in health.items()
    ]


def _places(summary: dict[str, Any]) -> RenderableType:
    run_dir = Path(summary["run_dir"])
    rows = [("run", str(run_dir)), ("model", summary["model"]), ("figures", str(run_dir / "figures"))]
    if summary["mlflow_uri"]:
        rows += [("MLflow", how_to_open(summary["mlflow_uri"])), ("", f"run {summary['mlflow_run_id']}")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")  # paths and commands are copied: never cut
    for label, place in rows:
        if place:
            table.add_row(label, Text(with_short_paths(place)))
    return Padding(table, (0, 0, 1, 0))
