"""The table of a comparison, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from s2l_ray.diversity.distinct import ks_up_to
from s2l_ray.diversity.record import DifferenceRecord, DiversityRecord, Estimates
from s2l_ray.statistics import Estimate

NONE = "-"
RATIO = "gradient_noise_scale"
"""Has no bound where the signal is lost in noise, so that its differences say nothing."""


def diversity_table(record: DiversityRecord) -> Table:
    """One row for each of the main measures, one column for each source; `diversity.json` has the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure")
    for source in record.sources:
        table.add_column(source.name, justify="right")
    for label, cells in source_rows(record):
        table.add_row(label, *cells)
    return table


def source_rows(record: DiversityRecord) -> Iterator[tuple[str, list[str]]]:
    """The main measures: a label, and a cell for each source."""
    for label, name, factor in _rows(record):
        yield label, [shown(source.measures.get(name), factor) for source in record.sources]
    yield "learner's likeliest temperature", [f"{source.noise_temperature:.2f}" for source in record.sources]


def difference_table(record: DiversityRecord) -> Table:
    """Policy-level less token-level sources; * where the interval does not hold 0."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("difference, paired")
    for difference in main_differences(record):
        table.add_column(f"{difference.of}\nless {difference.less}", justify="right")
    for label, cells in difference_rows(record):
        table.add_row(label, *cells)
    return table


def main_differences(record: DiversityRecord) -> list[DifferenceRecord]:
    """Those of policy-level and token-level sources; all, where there are none."""
    tokens = {source.name for source in record.sources if source.kind == "token_level"}
    return [d for d in record.differences if d.less in tokens] or record.differences


def difference_rows(record: DiversityRecord) -> Iterator[tuple[str, list[str]]]:
    """The main measures: a label, and a cell for each of `main_differences`."""
    for label, name, factor in _rows(record):
        if name != RATIO:
            yield label, [_marked(difference, name, factor) for difference in main_differences(record)]


def shown(estimate: Estimate | None, factor: float = 1.0) -> str:
    """Such as 0.512 [0.490, 0.531]; factor 100 for percent."""
    if estimate is None:
        return NONE
    value, low, high = (factor * each for each in (estimate.value, estimate.low, estimate.high))
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    """Three significant digits; what is below 1e-4 as a power of ten."""
    return f"{value:#.3g}".removesuffix(".") if abs(value) >= 1e-4 or not value else f"{value:.0e}"


def _marked(difference: DifferenceRecord, name: str, factor: float) -> str:
    estimate = difference.measures.get(name)
    apart = estimate is not None and not estimate.low <= 0 <= estimate.high
    return shown(estimate, factor) + (" *" if apart else "  ")


def _rows(record: DiversityRecord) -> list[tuple[str, str, float]]:
    """(label with unit, name of the measure, factor)."""
    ks = ks_up_to(record.samples)
    few, most = ks[len(ks) // 2], ks[-1]
    measures: Estimates = record.sources[0].measures
    lags = [name for name in measures if name.startswith("autocorrelation@")]
    return [
        ("pass@1 (%)", "pass@1", 100),
        (f"pass@{most} (%)", f"pass@{most}", 100),
        *((f"right solutions in {k}", f"distinct_right_solutions@{k}", 1) for k in (few, most)),
        ("two right ones differ (%)", "right_solutions_differ", 100),
        (f"solutions in {most}", f"distinct_solutions@{most}", 1),
        ("edit distance (share of tokens)", "edit_distance", 1),
        (f"edit clusters in {most}", f"edit_clusters@{most}", 1),
        ("log-prob under the learner (nats/token)", "logprob", 1),
        ("perplexity under the learner", "perplexity", 1),
        ("divergence from the learner (nats/token)", "divergence", 1),
        *((f"autocorrelation, {name.partition('@')[2]} apart", name, 1) for name in lags[:4:3]),
        ("correlation in a problem", "correlation_in_problem", 1),
        ("correlation after a prefix", "correlation_after_prefix", 1),
        ("gradient: squared norm", "gradient_squared_norm", 1),
        ("gradient: variance", "gradient_variance", 1),
        (f"gradient: SNR of {record.problems} prompts", "gradient_snr", 1),
        ("gradient: noise scale (prompts)", RATIO, 1),
        ("gradient: cosine to the learner's", "gradient_cosine", 1),
        ("groups without a gradient (%)", "empty_groups", 100),
    ]  # fmt: skip
