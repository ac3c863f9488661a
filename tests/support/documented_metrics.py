"""The names of metrics: those that docs/reference/metrics.md lists, and those that a run logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from s2l_ray.compute import Compute
from s2l_ray.config import ObjectiveConfig
from s2l_ray.config.objective import CorrectionConfig
from s2l_ray.kinds import HealthCondition, Source, VerdictStatus
from s2l_ray.results import PipelineStats, SourceStats, Spent, StepRecord
from s2l_ray.timing.attribution import PARTS
from s2l_ray.timing.clock import PHASES
from s2l_ray.tracking.metrics import evaluation_metrics, step_metrics
from tests.support.paths import ROOT
from tests.support.step_records import evaluation
from tests.support.training_models import make_trainer, random_groups, write_model

PLACEHOLDERS = {
    "SOURCE": get_args(Source),
    "MODEL": get_args(Source),
    "CONDITION": get_args(HealthCondition),
    "STATUS": get_args(VerdictStatus),
    "PHASE": PHASES,
    "PART": tuple(PARTS),
    "SPAN": ("explore", "learner_generate"),
    "ROLE": ("explorer", "learner", "verifier", "trainer", "bank"),
    "K": ("1", "8"),
    "FILE": ("aime24",),
}
SECOND_COLUMN = "`steps.jsonl`"


def documented_names() -> set[str]:
    """Every name in the tables' first columns, placeholders filled in; paths of steps.jsonl as `json:...`."""
    names: set[str] = set()
    for header, rows in _tables((ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")):
        if header[0] == "PART":
            assert {row[0].strip("`") for row in rows} == set(PARTS), "the causes of metrics.md are not those of PARTS"
            continue
        for row in rows:
            names |= {one for name in re.findall(r"`([^`]+)`", row[0]) for one in _filled(name)}
            if header[1] == SECOND_COLUMN:
                names |= {f"json:{one}" for name in re.findall(r"`([^`]+)`", row[1]) for one in _filled(name)}
    return names


def logged_names(directory: Path) -> set[str]:
    """Every name that a record gives which lacks nothing. The update's metrics are those of real, tiny updates."""
    record = _record(_metrics_of_updates(directory))
    evaluations = [
        replace(evaluation(model, 0), spent=Spent.on([record]), files={"aime24": evaluation(model, 0)})
        for model in get_args(Source)
    ]
    mlflow = {*step_metrics(record), *(name for one in evaluations for name in evaluation_metrics(one))}
    return mlflow | {f"json:{path}" for path in _paths(record.to_json())}


def _record(trainer: dict[str, float]) -> StepRecord:
    sources = PLACEHOLDERS["SOURCE"]
    stats = SourceStats(4, 0.5, 40, 100, 1, dict.fromkeys(PLACEHOLDERS["STATUS"], 1))
    return StepRecord(
        step=1,
        alpha=0.5,
        explorer_per_group=2,
        learner_per_group=2,
        reward=0.5,
        sources=dict.fromkeys(sources, stats),
        zero_variance_groups=0,
        groups=2,
        prompts=["a", "b"],
        digest="0" * 16,
        weight_version=0,
        trainer=trainer,
        seconds=dict.fromkeys([*PHASES, "total"], 1.0),
        spans=dict.fromkeys(PLACEHOLDERS["SPAN"], 1.0),
        engines=dict.fromkeys(sources, 1),
        parts=dict.fromkeys(PARTS, 1.0),
        busy=dict.fromkeys(PLACEHOLDERS["ROLE"], 1.0),
        pipeline=PipelineStats(**{field.name: 1 for field in fields(PipelineStats)}),
        health=dict.fromkeys(PLACEHOLDERS["CONDITION"], 1),
        compute=Compute(2, dict.fromkeys(sources, 100), dict.fromkeys(sources, 1e6), 100, 1e6, 2e6, 3e6),
    )


def _metrics_of_updates(directory: Path) -> dict[str, float]:
    """The metrics of an update with everything that has a metric: KL, corrections, both sources."""
    model = write_model("llama", directory / "model")
    correction = CorrectionConfig(explorer="token", learner="token")
    trainer = make_trainer(model, goal=ObjectiveConfig(kl=0.1, correction=correction))
    try:
        return trainer.update([random_groups(2)])
    finally:
        trainer.close()


def _tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        yield rows[0], rows[2:]


def _filled(name: str) -> Iterator[str]:
    found = next((word for word in PLACEHOLDERS if re.search(rf"(?<![A-Za-z]){word}(?![A-Za-z])", name)), None)
    if found is None:
        yield name
        return
    for value in PLACEHOLDERS[found]:
        yield from _filled(re.sub(rf"(?<![A-Za-z]){found}(?![A-Za-z])", value, name))


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield prefix
        return
    for key, item in value.items():
        yield from _paths(item, f"{prefix}.{key}" if prefix else str(key))
