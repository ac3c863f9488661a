"""What a page has of an evaluation and of a comparison of diversity, from the files that these leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from s2l_ray.benchmark.directory import RESULTS as EVALUATION
from s2l_ray.benchmark.figure import pass_at_k_figure
from s2l_ray.benchmark.results import FORMAT
from s2l_ray.benchmark.table import contamination, crossovers, model_rows, pair_rows
from s2l_ray.diversity.figure import diversity_figure
from s2l_ray.diversity.record import RECORD, DiversityRecord
from s2l_ray.diversity.table import difference_rows, main_differences, source_rows
from s2l_ray.report.facts import Fact, Facts
from s2l_ray.report.reading import document, guarded
from s2l_ray.report.sections import ResultSection, drawn


def evaluation_section(directory: Path) -> ResultSection:
    """Read and draw what `s2l evaluate` left.

    Raises:
        DataError: its file cannot be read, or was written by another version.
    """
    path = directory / EVALUATION
    return guarded(path, partial(_evaluation, directory, document(path) or {}))


def diversity_section(directory: Path) -> ResultSection:
    """Read and draw what `s2l diversity` left.

    Raises:
        DataError: its file cannot be read, or was written by another version.
    """
    path = directory / RECORD
    return guarded(path, lambda: _diversity(directory, DiversityRecord.from_json(document(path) or {})))


def _evaluation(directory: Path, found: dict[str, Any]) -> ResultSection:
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
    level = f"{found['confidence']:.0%}"
    caption = f"pass@k of each model over k; bands: {level} bootstrap intervals over problems."
    return ResultSection(
        title=directory.name,
        paragraphs=[*crossovers(found), *contamination(found)],
        figures=drawn(str(directory), {caption: lambda: pass_at_k_figure(found)}),
        tables=[*_model_tables(found, level), *_pair_tables(found)],
    )


def _model_tables(found: dict[str, Any], level: str) -> Iterator[Facts]:
    for benchmark in found["benchmarks"]:
        rows = [row for row in found["results"] if row["benchmark"] == benchmark["name"]]
        title = f"{benchmark['name']}: {rows[0]['problems']} problems, {rows[0]['samples']} samples of each"
        facts = [Fact(label, tuple(cell.plain for cell in cells)) for label, cells in model_rows(rows, found["k"])]
        note = f"pass@k, maj@k and responses that were cut off in %, with {level} bootstrap intervals over problems."
        yield Facts(title, tuple(facts), note, tuple(row["model"] for row in rows))


def _pair_tables(found: dict[str, Any]) -> Iterator[Facts]:
    for benchmark in found["benchmarks"]:
        pairs = [pair for pair in found["pairs"] if pair["benchmark"] == benchmark["name"]]
        facts = [
            Fact(f"{pair['second']} - {pair['first']}, pass@{k}", (difference.plain, p.plain))
            for pair in pairs
            for k, difference, p in pair_rows(pair, found["k"])
        ]
        note = "Of the same problems; p-values of flipping signs, corrected for the pairs of models (Holm)."
        yield Facts(f"{benchmark['name']}: differences", tuple(facts), note, ("difference in points", "p"))


def _diversity(directory: Path, record: DiversityRecord) -> ResultSection:
    how = "matched samples" if record.match == "samples" else "matched pass@1"
    level = f"{record.confidence:.0%}"
    caption = f"What explorers add to the learner's rollouts, beside a higher temperature; bars: {level} intervals."
    pairs = [f"{difference.of} less {difference.less}" for difference in main_differences(record)]
    marked = "*: the interval does not hold 0. The measures are not corrected for how many there are."
    return ResultSection(
        title=directory.name,
        paragraphs=[
            f"{record.name}: {record.problems} problems, {record.samples} samples of each, {how}; "
            f"{level} intervals over problems."
        ],
        figures=drawn(str(directory), {caption: lambda: diversity_figure(record)}),
        tables=[
            Facts("Sources", _facts(source_rows(record)), columns=tuple(source.name for source in record.sources)),
            Facts("Differences, paired by problem", _facts(difference_rows(record)), marked, tuple(pairs)),
        ],
    )


def _facts(rows: Iterator[tuple[str, Sequence[str]]]) -> tuple[Fact, ...]:
    return tuple(Fact(label, tuple(cell.strip() for cell in cells)) for label, cells in rows)
