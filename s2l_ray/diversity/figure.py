"""The figure of a comparison: right solutions over k, coherence along the response, correlations, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.diversity.record import DiversityRecord, SourceRecord
from s2l_ray.statistics import Estimate
from s2l_ray.style import INK, MUTED, SERIES_COLOURS, SOURCE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"


def diversity_figure(record: DiversityRecord) -> Figure:
    """Four panels; bars are intervals over problems."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    solutions, along, correlations, gradients = figure.subplots(2, 2).flat
    looks = _looks(record.sources)
    _draw_solutions(solutions, record, looks)
    _draw_profile(along, record, looks)
    _draw_correlations(correlations, record, looks)
    _draw_gradients(gradients, record, looks)
    handles, labels = solutions.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), columnspacing=3)
    matched = "matched samples" if record.match == "samples" else "matched pass@1"
    figure.suptitle(
        f"{record.name}: {record.problems} problems, {record.samples} samples of each, {matched} "
        f"({record.confidence:.0%} intervals)",
        x=0.01, ha="left", color=INK,
    )  # fmt: skip
    return figure


def _looks(sources: Sequence[SourceRecord]) -> list[dict[str, Any]]:
    """Colour and marker of each source: learner and first explorer have theirs, others those that are left."""
    left = [colour for colour in SERIES_COLOURS if colour not in SOURCE_COLOURS.values()]
    own = {"learner": SOURCE_COLOURS["learner"], "policy_level": SOURCE_COLOURS["explorer"]}
    return [
        {"color": own.pop(source.kind, None) or left[i % len(left)], "marker": MARKERS[i % len(MARKERS)]}
        for i, source in enumerate(sources)
    ]


def _draw_solutions(axes: Axes, record: DiversityRecord, looks: list[dict[str, Any]]) -> None:
    ks = sorted(int(name.partition("@")[2]) for name in record.sources[0].measures if name.startswith("pass@"))
    for i, (source, look) in enumerate(zip(record.sources, looks, strict=True)):
        points = [source.measures[f"distinct_right_solutions@{k}"] for k in ks]
        _draw(axes, np.array(ks) * 1.03 ** _offset(i, len(looks)), points, look, source.name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    axes.set(title="Different right solutions", xlabel="k samples", ylabel="right solutions among k", ylim=(0, None))
    axes.grid(axis="y")


def _draw_profile(axes: Axes, record: DiversityRecord, looks: list[dict[str, Any]]) -> None:
    for source, look in zip(record.sources, looks, strict=True):
        points = [source.measures[f"logprob_part/{part}"] for part in range(source.parts)]
        _draw(axes, (np.arange(source.parts) + 0.5) / source.parts, points, look | {"markersize": 4}, source.name)
    axes.set(
        title="Coherence under the learner", xlabel="place in the response (0: start, 1: end)",
        ylabel="log-prob (nats per token)", xlim=(0, 1),
    )  # fmt: skip
    axes.grid(axis="y")


def _draw_correlations(axes: Axes, record: DiversityRecord, looks: list[dict[str, Any]]) -> None:
    """Over lags, and to the right of a line the two correlations between rollouts."""
    names = [name for name in record.sources[0].measures if name.startswith("autocorrelation@")]
    places = np.arange(len(names) + 2, dtype=float)
    places[len(names) :] += (0.6, 1.1)
    labels = [*(name.partition("@")[2] for name in names), "same\nposition", "same\nprefix"]
    names += ["correlation_in_problem", "correlation_after_prefix"]
    for i, (source, look) in enumerate(zip(record.sources, looks, strict=True)):
        points = [source.measures.get(name) for name in names]
        _draw(axes, places + 0.12 * _offset(i, len(looks)), points, look | {"linestyle": ""}, source.name)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(len(names) - 2.3, color=MUTED, linewidth=1, linestyle=":")
    axes.set_xticks(places, labels=labels)
    axes.set(
        title="Correlation of deviations",
        xlabel="tokens apart in a response | in different rollouts of a problem",
        ylabel="correlation (0: noise of each token)",
    )
    axes.grid(axis="y")


def _draw_gradients(axes: Axes, record: DiversityRecord, looks: list[dict[str, Any]]) -> None:
    for i, (source, look) in enumerate(zip(record.sources, looks, strict=True)):
        _draw(axes, np.array([i]), [source.measures["gradient_snr"]], look | {"markersize": 9}, source.name)
        cosine = source.measures["gradient_cosine"]
        if cosine is not None:
            axes.annotate(
                f"cosine {cosine.value:.2f}", (i, 0.02), xycoords=("data", "axes fraction"), ha="center", color=MUTED
            )
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_xticks(range(len(looks)), labels=[source.name.replace(" ", "\n", 1) for source in record.sources])
    axes.set_xlim(-0.6, len(looks) - 0.4)
    axes.margins(y=0.15)
    axes.set(
        title="Signal of the GRPO gradient",
        ylabel=f"SNR of a mini-batch of {record.problems} prompts",
    )
    axes.grid(axis="y")


def _draw(axes: Axes, places: np.ndarray, points: Sequence[Estimate | None], look: dict[str, Any], label: str) -> None:
    """Points with intervals at their places; those that do not exist are left out."""
    known = [(place, point) for place, point in zip(places, points, strict=True) if point is not None]
    if not known:
        return
    values = np.array([(point.value, point.low, point.high) for _, point in known])
    errors = np.maximum([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0.0)
    style = {"capsize": 3, "linewidth": 2, "elinewidth": 1.2, "markersize": 6, **look}
    axes.errorbar([place for place, _ in known], values[:, 0], yerr=errors, label=label, **style)


def _offset(index: int, count: int) -> float:
    """To the side, so that the intervals of one place do not lie on each other."""
    return index - (count - 1) / 2
