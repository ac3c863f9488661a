"""The times that a run directory holds: RUN/steps.jsonl, config.yaml and, if there, plan.json and summary.json."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.kinds import Source
from s2l_ray.machine.disk import read_json
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle, Slot, TrainerSlot
from s2l_ray.planner.workload import phases
from s2l_ray.results import StepRecord
from s2l_ray.schedule import ADAPTIVE
from s2l_ray.step_log import StepLog

WARM_UP = 2
"""First steps that are left out: engines and trainer compile, allocate and fill caches."""
LEAST_STEPS = 8
RESTORE = "restore it, or calibrate on another run"


@dataclass(frozen=True)
class Evaluation:
    """Evaluations of the learner alone."""

    problems: int
    samples: int
    times: int
    seconds: float
    """Median."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run, as far as it is calibrated on."""

    config: Config
    layout: Layout
    records: tuple[StepRecord, ...]
    evaluations: tuple[Evaluation, ...]
    lengths: dict[Source, tuple[int, ...]]

    @property
    def step_seconds(self) -> float:
        """Median over the run's steps, warm-up left out, of rollout, update and weight sync."""
        return median(own_seconds(record) for record in self.records)


def own_seconds(record: StepRecord) -> float:
    """Seconds of a step, without evaluation and checkpoint."""
    return sum(record.seconds[part] for part in ("rollout", "update", "weight_sync"))


def read_run(run: Path) -> MeasuredRun:
    """Read the times that a run directory holds.

    Raises:
        ConfigError: as for `calibrate`.
        DataError: one of its files is damaged.
    """
    run = Path(run)
    for name in ("config.yaml", "steps.jsonl"):
        if not (run / name).exists():
            raise ConfigError(f"{run} is no run that can be calibrated on: {name} is missing")
    rows = StepLog(run / "steps.jsonl").read()
    records = tuple(record for record in rows if record.step > WARM_UP)
    if len(records) < LEAST_STEPS:
        raise ConfigError(f"{run} has {len(rows)} steps; calibrating needs {WARM_UP + LEAST_STEPS} or more")
    if not all(record.spans for record in records):
        raise ConfigError(f"{run} was made by a version that did not record `spans`; make a new run to calibrate on")
    config = load_config(run / "config.yaml")
    if config.schedule.kind == ADAPTIVE:
        raise ConfigError(f"{run} has schedule.kind={ADAPTIVE}, on which nothing can be calibrated; take another run")
    with _whole(run / "plan.json"):
        layout = _layout(run) or host_layout(config)
    with _whole(run / "summary.json"):
        evaluations = tuple(_evaluations(run, config))
    return MeasuredRun(config, layout, records, evaluations, _lengths(run, records))


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Read a file.

    Raises:
        DataError: there is something else in it than this version of s2l-ray writes.
    """
    try:
        yield
    except MISREAD as error:
        raise DataError(f"{file} is damaged ({misread(error)}); {RESTORE}") from None


def _layout(run: Path) -> Layout | None:
    """The layout of the run, if it wrote a plan."""
    if not (run / "plan.json").exists():
        return None
    plan = read_json(run / "plan.json", RESTORE)
    bundles = tuple(PlannedBundle(row["node"], tuple(row["gpus"]), row["resources"]) for row in plan["bundles"])
    found = tuple(
        PhaseSlots(
            phase["name"],
            phase["first_step"],
            phase["last_step"],
            tuple(_slot(row) for row in phase["slots"]),
        )
        for phase in plan["slots"]
    )
    of_ranks = {key: plan[key] for key in ("replicas", "recomputed_layers") if key in plan}
    return Layout(plan["mode"], plan["device"], bundles, found, plan["sleep"], **of_ranks)


def _slot(row: dict[str, Any]) -> Slot:
    row = row | {"devices": tuple(row["devices"])}
    if row["role"] != "trainer":
        return EngineSlot(**row)
    return TrainerSlot(row["index"], row["bundle"], row["devices"], row["share"])


def _evaluations(run: Path, config: Config) -> Iterator[Evaluation]:
    """After training and, from the first step that leaves the explorer idle, during it."""
    if not (run / "summary.json").exists():
        return
    found = read_json(run / "summary.json", RESTORE)["evaluation"]
    schedule = config.schedule.build(config.rollout.group_size)
    alone = [row for row in found.get("during") or [] if not schedule.split(row["step"] + 1).explorer]
    rows = [*alone, *filter(None, [found.get("after")])]
    if rows:
        seconds = median(row["seconds"] for row in rows)
        yield Evaluation(rows[0]["problems"], rows[0]["samples"], len(rows), seconds)


def _lengths(run: Path, records: tuple[StepRecord, ...]) -> dict[Source, tuple[int, ...]]:
    """Response tokens: of the rollouts that the run kept, or only their mean."""
    kept: dict[str, list[int]] = defaultdict(list)
    for path in sorted((run / "rollouts").glob("step-*.jsonl")):
        with _whole(path):
            for line in path.read_bytes().splitlines():  # of bytes: a text may have Unicode's own ends
                row = json.loads(line)
                kept[row["source"]].append(max(1, row["tokens"]))
    result: dict[Source, tuple[int, ...]] = {}
    for source in ("explorer", "learner"):
        stats = [record.sources[source] for record in records if record.sources[source].rollouts]
        if kept[source]:
            result[source] = tuple(kept[source])
        elif stats:
            result[source] = (round(sum(s.response_tokens for s in stats) / sum(s.rollouts for s in stats)),)
    return result


def host_layout(config: Config) -> Layout:
    """Every actor on the one host, in all phases: what a run without GPUs does."""
    slots: list[Slot] = [TrainerSlot(rank, rank, (), 1.0) for rank in range(config.trainer.ranks or 1)]
    counts: dict[Source, int | None] = {
        "learner": config.engines.learner.count,
        "explorer": config.engines.explorer.count,
    }
    for source, count in counts.items():
        slots += [EngineSlot(source, number, len(slots) + number, (), 1.0, 0) for number in range(count or 1)]
    bundles = tuple(PlannedBundle(0, (), {"CPU": 1.0}) for _ in slots)
    found = tuple(PhaseSlots(phase.name, phase.first_step, phase.last_step, tuple(slots)) for phase in phases(config))
    return Layout("separate", "cpu", bundles, found, sleep=False)
