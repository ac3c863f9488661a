"""The results of an experiment for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration, with_short_paths
from s2l_ray.experiments.comparison import Arm, Comparison, Difference
from s2l_ray.experiments.runs_csv import RUNS
from s2l_ray.experiments.wording import label_of, large, listed, p_text, place_text, value_with_interval
from s2l_ray.redaction import redact
from s2l_ray.tracking.mlflow_store import how_to_open
from s2l_ray.tuning.outcomes import StudyFacts
from s2l_ray.tuning.table import fitted_table


def experiment_files(directory: Path) -> dict[str, Path]:
    """Where the results of an experiment are, by what they are."""
    return {
        "results": directory / "experiment.json",
        "runs": directory / RUNS,
        "figure": directory / "figures" / "experiment.png",
    }


@dataclass(frozen=True)
class ResultTable:
    """The comparison of the arms, what each cost, and where the files are. It takes the width of its console."""

    comparison: Comparison
    facts: StudyFacts
    place: str
    """Directory or URL of the experiment."""
    directory: Path
    """Where its files are on this machine."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found, file = self.comparison, self.comparison.file
        seeds = len(file.seed_list)
        yield Text("")
        runs = f"{len(found.runs)} runs ({len(found.arms)} arms, {seeds} seed{'s' if seeds > 1 else ''})"
        yield Text(f"{file.name}: {runs} in {duration(self.facts.seconds)}", style="bold")
        if file.question:
            yield Text(file.question)
        if file.hypothesis:
            yield Text(f"hypothesis, fixed beforehand: {file.hypothesis}", style="italic")
        yield Text("")
        yield metric_table(found, file.metric, options.max_width)
        for metric in file.also:
            yield Text("")
            yield metric_table(found, metric, options.max_width)
        yield Text("")
        yield cost_table(found, options.max_width)
        yield Text("")
        yield from (Text(sentence) for sentence in (*_sentences(found), *_failures(found)))
        yield Text("")
        yield self._places()

    def _places(self) -> RenderableType:
        files = {label: path for label, path in experiment_files(self.directory).items() if path.exists()}
        rows = [("experiment", self.place), *((label, str(path)) for label, path in files.items())]
        if self.facts.mlflow_uri:
            rows += [("MLflow", how_to_open(redact(self.facts.mlflow_uri))), ("", f"run {self.facts.mlflow_run_id}")]
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, place in rows:
            table.add_row(label, Text(with_short_paths(place)))
        return Padding(table, (0, 0, 1, 0))


def metric_table(found: Comparison, metric: str, width: int) -> Table:
    """A row for each arm: the metric's mean, the difference from the baseline, and of the tested one p-values."""
    means = [arm.metrics[metric] for arm in found.arms]
    differences = [mean.difference for mean in means]
    columns = {
        "arm": _names(found),
        f"{label_of(metric)}\nmean": [value_with_interval(metric, mean.mean, mean.interval) for mean in means],
        "seeds": [str(len(mean.by_seed)) for mean in means],
        f"minus {found.baseline}\npaired by seed": [
            "" if d is None else value_with_interval(metric, d.mean, d.interval, "+") for d in differences
        ],
    }
    if metric == found.file.metric:
        columns |= {
            "p\nt test": _p_values(differences, "p_t"),
            "p\nsigns": _p_values(differences, "p_sign"),
            "p, Holm\nt test": _p_values(differences, "holm_t"),
            "p, Holm\nsigns": _p_values(differences, "holm_sign"),
        }
    return fitted_table(columns, (), ("p, Holm\nsigns", "p\nsigns", "seeds"), _styles(found), width)


def cost_table(found: Comparison, width: int) -> Table:
    """A row for each arm: what its runs that finished cost together, and how much rollout compute they saved."""
    columns = {
        "arm": _names(found),
        "runs": [str(len(arm.runs)) for arm in found.arms],
        "rollout\nFLOPs": [_flops(arm, "rollout") for arm in found.arms],
        "update\nFLOPs": [_flops(arm, "update") for arm in found.arms],
        "of these from\nthe bank": [_flops(arm, "recorded") for arm in found.arms],
        "sampled\ntokens": [_tokens(arm) for arm in found.arms],
        "training\ntime": [duration(arm.seconds) if arm.runs else "" for arm in found.arms],
        "rollout\ncompute saved": [_saved(arm) for arm in found.arms],
    }
    return fitted_table(columns, (), ("of these from\nthe bank", "runs", "sampled\ntokens"), _styles(found), width)


def _names(found: Comparison) -> list[str]:
    return [f"{arm.name} (baseline)" if arm.name == found.baseline else arm.name for arm in found.arms]


def _styles(found: Comparison) -> list[str]:
    return ["" if arm.runs else "dim" for arm in found.arms]


def _p_values(differences: Sequence[Difference | None], name: str) -> list[str]:
    return ["" if d is None else p_text(getattr(d, name)) for d in differences]


def _flops(arm: Arm, what: str) -> str:
    if (compute := arm.compute) is None or not arm.runs:
        return ""
    rollouts = sum(compute.rollout_flops.values())
    return large({"rollout": rollouts, "update": compute.update_flops, "recorded": compute.recorded_flops}[what])


def _tokens(arm: Arm) -> str:
    compute = arm.compute
    return "" if compute is None or not arm.runs else large(compute.sampled_tokens)


def _saved(arm: Arm) -> str:
    saved = arm.compute.rollout_compute_saved if arm.compute else None
    return "" if saved is None or not arm.runs else f"{100 * saved:.1f}%"


def _sentences(found: Comparison) -> Iterator[str]:
    """How the numbers are to be read, in whole sentences."""
    file = found.file
    tests = [arm for arm in found.arms if (d := arm.metrics[file.metric].difference) and d.p_t is not None]
    yield (
        f"Arms are compared {place_text(found)}. Brackets are {found.confidence:.0%} intervals over seeds (Student's "
        "t); means are of all seeds of an arm, differences of those that it shares with the baseline."
    )
    if short := _too_short(found):
        yield f"Not compared, since they did not get there: {listed(short)}."
    if tests:
        count = len(tests)
        seeds = sorted({len(d.by_seed) for arm in tests if (d := arm.metrics[file.metric].difference)})
        least = [f"{2.0 ** (1 - n):.3g}" for n in seeds]
        each = ", respectively" if len(seeds) > 1 else ""
        yield (
            f"{count} comparison{'s' if count > 1 else ''} with {found.baseline}, corrected by Holm's method. Flipping "
            f"the signs of {' and '.join(map(str, seeds))} differences gives no p-value below "
            f"{' and '.join(least)}{each}."
        )
    else:
        yield "A test needs two seeds that an arm shares with the baseline."
    if file.earlier_looks:
        looks = file.earlier_looks
        yield (
            f"The question was asked {looks} time{'s' if looks > 1 else ''} before with other settings; p-values are "
            "not corrected for that."
        )
    if file.also:
        yield "Further metrics are not tested."


def _too_short(found: Comparison) -> list[str]:
    """The runs that ended before the place where arms are compared."""
    if found.place is None or not math.isfinite(found.place):
        return []
    runs = (run for arm in found.arms for run in arm.runs)
    return [run.run.label for run in runs if run.end(found.file.at_axis) < found.place]


def _failures(found: Comparison) -> Iterator[str]:
    for run in found.unfinished:
        why = f": {run.error}" if run.error else ""
        yield f"not in the comparison: {run.run.label} ({run.status}){why}"
