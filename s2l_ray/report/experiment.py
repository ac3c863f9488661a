"""What a page has of an experiment, from its experiment.json."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.config.reference import as_yaml, keys
from s2l_ray.display.text import duration
from s2l_ray.experiments.experiment_file import Axis
from s2l_ray.experiments.wording import AXIS_LABELS, label_of, large, p_text, shown, value_with_interval
from s2l_ray.report.charts import unit_of, unit_text
from s2l_ray.report.facts import NOTHING, Fact, Facts
from s2l_ray.report.reading import document, guarded
from s2l_ray.report.sections import ResultSection, drawn
from s2l_ray.style import INK, SERIES_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = "experiment.json"
FORMAT = 1
PANELS: tuple[Axis, ...] = ("steps", "flops", "seconds")
"""Axes that curves are drawn over, where they are known."""


def experiment_section(directory: Path) -> ResultSection:
    """Read and draw an experiment.

    Raises:
        DataError: its file cannot be read, or was written by another version.
    """
    found = document(directory / RESULTS)
    return guarded(directory / RESULTS, partial(_section, found or {}))


def _section(found: dict[str, Any]) -> ResultSection:
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
    metrics = list(found["arms"][0]["metrics"])
    figures = {_caption(found, metric): partial(curves_figure, found, metric) for metric in metrics}
    tables = [_metric_table(found, metric) for metric in metrics]
    return ResultSection(
        title=found["name"],
        paragraphs=list(_paragraphs(found)),
        figures=drawn(found["name"], figures),
        tables=[*tables, _cost_table(found), _arms_table(found), *_seeds_tables(found)],
    )


def _paragraphs(found: dict[str, Any]) -> list[str]:
    runs, arms = found["runs"], found["arms"]
    finished = sum(run["status"] == "finished" for run in runs)
    looks = found["looks"]
    said = [
        text for text in (found["question"], _prefixed("Hypothesis, fixed beforehand: ", found["hypothesis"])) if text
    ]
    said.append(
        f"{len(arms)} arms, {finished} of {len(runs)} runs finished, in {duration(found['seconds'])}. "
        f"The question was looked at {looks} time{'s' if looks > 1 else ''}; p-values are corrected for the "
        f"{found['comparisons']} comparisons of this one (Holm), not for earlier ones."
    )
    if at := found.get("at"):
        where = "nowhere, for it is not known of every run" if at["value"] is None else f"at {large(at['value'])}"
        said.append(f"Arms are compared {where} ({AXIS_LABELS[at['axis']]}).")
    return said + [
        f"Not in the comparison: {run['arm']}, seed {run['seed']} ({run['status']}){_prefixed(': ', run['error'])}"
        for run in runs
        if run["status"] != "finished"
    ]


def _prefixed(prefix: str, text: str | None) -> str:
    return f"{prefix}{text}" if text else ""


def _caption(found: dict[str, Any], metric: str) -> str:
    level = f"{found['confidence']:.0%}"
    return f"{label_of(metric)} of each arm; bands: {level} intervals of the mean over seeds (Student's t)."


def curves_figure(found: dict[str, Any], metric: str) -> Figure | None:
    """A metric of all arms over what training cost, with bands over seeds; None if no run has finished."""
    from matplotlib.figure import Figure

    curves = {arm["name"]: arm["curves"].get(metric) or [] for arm in found["arms"]}
    points = [point for curve in curves.values() for point in curve]
    axes_known = [axis for axis in PANELS if points and all(point["at"].get(axis) is not None for point in points)]
    if not axes_known:
        return None
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    panels = figure.subplots(1, len(axes_known), sharey=True, squeeze=False)[0]
    for number, (panel, axis) in enumerate(zip(panels, axes_known, strict=True)):
        unit = unit_of([point["at"][axis] for point in points])
        for at, (name, curve) in enumerate(curves.items()):
            is_baseline = name == found["baseline"]
            label = f"{name} (baseline)" if is_baseline else name
            colour = INK if is_baseline else SERIES_COLOURS[at % len(SERIES_COLOURS)]
            places = [point["at"][axis] / unit for point in curve]
            _draw(panel, curve, places, metric, colour, None if number else label)
        panel.set(
            xlabel=AXIS_LABELS[axis] + unit_text(unit),
            ylabel=None if number else label_of(metric),
        )
        panel.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=4, fontsize=9)
    return figure


def _draw(
    panel: Axes, curve: Sequence[dict[str, Any]], places: list[float], metric: str, colour: str, label: str | None
) -> None:
    panel.plot(
        places, [shown(metric, p["mean"]) for p in curve], "o-", color=colour, markersize=4, linewidth=1.8, label=label
    )
    if curve and all(point["interval"] for point in curve):
        low, high = zip(*[[shown(metric, bound) for bound in point["interval"]] for point in curve], strict=True)
        panel.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)


def _metric_table(found: dict[str, Any], metric: str) -> Facts:
    """A row for each arm."""
    is_tested = metric == found["metric"]
    columns = ["mean", "seeds", f"minus {found['baseline']}, paired by seed"]
    columns += ["p, t test", "p, signs", "p, t test, Holm", "p, signs, Holm"] if is_tested else []
    rows = []
    for arm in found["arms"]:
        mean = arm["metrics"][metric]
        difference = mean["difference"]
        cells = [value_with_interval(metric, mean["mean"], mean["interval"]), str(len(mean["by_seed"]))]
        if difference is None:
            cells += [NOTHING] * (len(columns) - 2)
        else:
            cells.append(value_with_interval(metric, difference["mean"], difference["interval"], "+"))
            if is_tested:
                cells += [p_text(difference[name]) for name in ("p_t", "p_sign", "holm_t", "holm_sign")]
        rows.append(Fact(arm["name"], tuple(cell or NOTHING for cell in cells)))
    note = "" if is_tested else "This metric is not tested."
    return Facts(f"{label_of(metric)}", tuple(rows), note, tuple(columns))


def _cost_table(found: dict[str, Any]) -> Facts:
    rows = []
    for arm in found["arms"]:
        compute = arm["compute"]
        cells = [str(arm["runs"]), duration(arm["seconds"])]
        if compute is None:
            cells += [NOTHING] * 4
        else:
            saved = compute["rollout_compute_saved"]
            cells += [
                large(sum(compute["rollout_flops"].values())),
                large(compute["update_flops"]),
                large(sum(compute["tokens"].values())),
                NOTHING if saved is None else f"{saved:.1%}",
            ]
        rows.append(Fact(arm["name"], tuple(cells)))
    columns = ("runs", "training time", "rollout FLOPs", "update FLOPs", "response tokens", "rollout compute saved")
    return Facts("What each arm cost", tuple(rows), columns=columns)


def _arms_table(found: dict[str, Any]) -> Facts:
    varied = list(dict.fromkeys(key for arm in found["arms"] for key in arm["values"]))
    rows = [
        Fact(arm["name"], tuple(_text(key, arm["values"][key]) if key in arm["values"] else NOTHING for key in varied))
        for arm in found["arms"]
    ]
    return Facts("What the arms differ in", tuple(rows), columns=tuple(varied)) if varied else Facts("", ())


def _text(key: str, value: Any) -> str:
    """A value as it is written in a file, where YAML takes the words on and off for true and false."""
    words = {True: "on", False: "off"}
    kinds = {found.name: found.type for found in keys()}.get(key, "")
    return words[value] if isinstance(value, bool) and words[value] in kinds.split(" | ") else as_yaml(value)


def _seeds_tables(found: dict[str, Any]) -> list[Facts]:
    """The tested metric of every run."""
    metric = found["metric"]
    by_arm = {arm["name"]: arm["metrics"][metric]["by_seed"] for arm in found["arms"]}
    seeds = sorted({seed for values in by_arm.values() for seed in values}, key=int)
    if len(seeds) < 2:
        return []
    rows = [
        Fact(name, tuple(value_with_interval(metric, values.get(seed), None) or NOTHING for seed in seeds))
        for name, values in by_arm.items()
    ]
    return [Facts(f"{label_of(metric)} by seed", tuple(rows), columns=tuple(f"seed {seed}" for seed in seeds))]
