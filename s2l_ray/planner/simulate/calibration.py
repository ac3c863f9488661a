"""The constants of a simulation, from a run's own times: RUN/steps.jsonl, config.yaml and, if there, summary.json.

A schedule that falls from G_w = G to 0 samples with many mixes of explorer and learner; that is what tells constants
apart. Sampling and updates slow each other down, so they are fitted through the simulator: its medians, for every
split of the groups, come as near to the run's as they can.

What one run cannot tell apart is put together. A request and a decode step: only an evaluation sends other numbers of
requests (`evaluation.samples=1` most); without, all is a decode step's. The fixed part of an update: all is counted by
rollouts, whose fetching and preparing it mostly is. Reading a prompt is part of a request, verifying of sampling.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from s2l_ray.config import Config
from s2l_ray.kinds import Source
from s2l_ray.placement.recomputation import as_planned
from s2l_ray.planner.simulate.constants import Constants, EngineConstants
from s2l_ray.planner.simulate.measured_run import MeasuredRun, own_seconds, read_run
from s2l_ray.planner.simulate.simulated_run import Simulation
from s2l_ray.planner.simulate.simulation import evaluation_seconds, simulate
from s2l_ray.planner.simulate.solved import Solved, fit_solved
from s2l_ray.planner.workload import Split, workload
from s2l_ray.results import StepRecord

PER_SPLIT = 3
"""Steps of each split of the groups that are simulated in a fit."""
SCALE = 0.05
"""Residuals (logarithms of simulated over measured seconds) beyond which a point counts less: disturbed steps."""
SMALLEST = 0.02
"""Seconds that are added to both."""
RANGE = 100.0
"""Constants are at most so much smaller or larger than the first guess."""
NARROWEST, WIDEST = 0.99, 1.5
"""An engine's width, in cores, and in all of the host's cores."""
EVALUATION_WEIGHT = 4.0
"""Weight of an evaluation in the fit; a step has 1."""


@dataclass(frozen=True)
class Calibration:
    """Constants, and how well they describe the run that they are from."""

    constants: Constants
    measured: MeasuredRun
    errors: dict[int, float]
    """G_w -> simulated over measured median step seconds, less 1."""


def calibrate(run: Path, cores: float | None = None) -> Calibration:
    """Constants that describe a run.

    Args:
        run: its directory.
        cores: that each host had for it; default: as many as this one. Counts only where actors ran on CPUs.

    Raises:
        ConfigError: the directory holds no run, or one that is too short or lacks what is needed.
    """
    measured = read_run(run)
    if measured.layout.device == "gpu":
        cores = None
    elif cores is None:
        cores = float(os.cpu_count() or 1)
    start = _first_guess(measured, cores)
    fitted = _fit(measured, start)
    return Calibration(fitted, measured, _errors(measured, fitted))


def _first_guess(measured: MeasuredRun, cores: float | None) -> Constants:
    """Constants as if no work slowed other work down, with costs shared out evenly."""
    config, records = measured.config, measured.records
    train_rollout_s, pass_token_s = _update(measured)
    engines = {}
    for source, lengths in measured.lengths.items():
        span, count = (
            ("explore", "explorer_per_group") if source == "explorer" else ("learner_generate", "learner_per_group")
        )
        steps = [r for r in records if span in r.spans]
        tokens = np.mean(lengths) * median(getattr(r, count) for r in steps) * config.rollout.prompts_per_step
        each = median(r.spans[span] for r in steps) / tokens
        width = 1.0 if cores is None else min(cores, 1.3)
        engines[source] = _engine(each * 16, each / 2, each, getattr(config.engines, source).max_num_seqs, width)
    alone = [r for r in records if "explore" not in r.spans] or records
    waits = [r.seconds["rollout"] - r.spans["learner_generate"] for r in alone if "learner_generate" in r.spans]
    return Constants(
        engines=engines,
        pass_token_s=pass_token_s,
        optimizer_s=0.0,
        train_rollout_s=train_rollout_s,
        weight_sync_s=median(r.seconds["weight_sync"] for r in alone),
        step_s=max(0.0, median(waits)) if waits else 0.0,
        cores=cores,
        lengths=measured.lengths,
        prompt_tokens=_prompt_tokens(records),
        solved=_solved(records),
    )


def _engine(step_s: float, sequence_s: float, request_s: float, sequences: int, width: float) -> EngineConstants:
    return EngineConstants(
        ((0.0, step_s), (float(sequences), step_s + sequences * sequence_s)), request_s, sequences, width
    )


def _prompt_tokens(records: tuple[StepRecord, ...]) -> float:
    stats = [stats for record in records for stats in record.sources.values()]
    return sum(s.prompt_tokens for s in stats) / sum(s.rollouts for s in stats)


def _solved(records: tuple[StepRecord, ...]) -> Solved:
    counts: list[tuple[int, int, int]] = []
    right: dict[Source, int] = defaultdict(int)
    equal = 0
    for record in records:
        counts.append((record.explorer_per_group, record.learner_per_group, record.groups))
        equal += record.zero_variance_groups
        for source, stats in record.sources.items():
            right[source] += stats.verdicts["right"]
    return fit_solved(counts, dict(right), equal)


def _trained_tokens(measured: MeasuredRun) -> dict[int, float]:
    """Tokens of every step that were trained on, prompts included."""
    responses = np.mean([n for lengths in measured.lengths.values() for n in lengths])
    share = 1 + _prompt_tokens(measured.records) / float(responses)
    return {record.step: share * record.trainer["trained_tokens"] for record in measured.records}


def _update(measured: MeasuredRun) -> tuple[float, float]:
    """Seconds of a rollout in an update, and of a pass over a token, if each were half of a median update."""
    config, cuda = as_planned(measured.config, measured.layout), measured.layout.device == "gpu"
    work, trained = workload(config, cuda=cuda), _trained_tokens(measured)
    ranks = len(measured.layout.phases[0].trainers)
    rollouts = math.ceil(work.prompts / ranks) * work.group_size
    passes = [
        work.forwards(Split(r.explorer_per_group, r.learner_per_group, 1)) * max(1.0, trained[r.step]) / ranks
        for r in measured.records
    ]
    halves = [record.seconds["update"] / 2 for record in measured.records]
    return median(halves) / rollouts, median(half / n for half, n in zip(halves, passes, strict=True))


Point = tuple[int, str]
"""(G_w, what took the time)"""
FITTED = ("rollout", "update", "explore", "learner_generate")


def _fit(measured: MeasuredRun, start: Constants) -> Constants:
    """The constants with which the simulated medians are nearest to the measured ones."""
    from scipy.optimize import least_squares

    config, layout, steps = measured.config, measured.layout, _representative(measured)
    targets = _medians([(r.explorer_per_group, r.seconds | r.spans) for r in measured.records])
    unknowns, trained = _Unknowns(start, measured), _trained_tokens(measured)

    def residuals(values: np.ndarray) -> np.ndarray:
        constants = unknowns.put(values)
        found = _simulated_medians(simulate(config, layout, constants, steps, trained), config)
        rows = [_residual(found[point][0], *targets[point]) for point in targets if point in found]
        for evaluation in measured.evaluations:
            seconds = evaluation_seconds(config, layout, constants, evaluation.problems, evaluation.samples)
            rows.append(_residual(seconds, evaluation.seconds, EVALUATION_WEIGHT * evaluation.times))
        return np.array(rows)

    found = least_squares(
        residuals, unknowns.start, bounds=unknowns.bounds, loss="soft_l1", f_scale=SCALE, diff_step=0.03, max_nfev=20
    )
    return unknowns.put(found.x)


class _Unknowns:
    """The constants that are fitted, as logarithms.

    The decode step and a sequence's part in it, for each kind of engine; a request and the width, which are the same
    for both; and what a rollout and a token cost the trainer.
    """

    def __init__(self, start: Constants, measured: MeasuredRun) -> None:
        self._constants = start
        self._sources = list(start.engines)
        shared = next(iter(start.engines.values()))
        # Where only numbers of rollouts differ, a request and a decode step cannot be told apart.
        self._requests = [shared.request_s] if measured.evaluations else []
        lines = [value for source in self._sources for value in _line(start.engines[source])]
        free = [start.train_rollout_s, start.pass_token_s, *lines, *self._requests]
        lowest, highest = np.array(free) / RANGE, np.array(free) * RANGE
        self._shared = start.cores is not None
        width = [shared.width] if self._shared else []
        self.start = np.log([*free, *width])
        narrowest, widest = [NARROWEST] * self._shared, [WIDEST * (start.cores or 0.0)] * self._shared
        self.bounds = np.log([*lowest, *narrowest]), np.log([*highest, *widest])

    def put(self, logs: np.ndarray) -> Constants:
        train_rollout_s, pass_token_s, *values = np.exp(logs).tolist()
        width = values.pop() if self._shared else 1.0
        request_s = values.pop() if self._requests else 0.0
        lines = zip(self._sources, values[::2], values[1::2], strict=True)
        engines = {
            source: _engine(base, slope, request_s, self._constants.engines[source].sequences, width)
            for source, base, slope in lines
        }
        return replace(self._constants, engines=engines, train_rollout_s=train_rollout_s, pass_token_s=pass_token_s)


def _line(engine: EngineConstants) -> tuple[float, float]:
    (left, low), (right, high) = engine.decode
    return low, (high - low) / (right - left)


def _residual(simulated: float, seconds: float, weight: float) -> float:
    """SMALLEST keeps what takes next to no time from counting."""
    return math.sqrt(weight) * math.log((simulated + SMALLEST) / (seconds + SMALLEST))


def _representative(measured: MeasuredRun) -> list[int]:
    """Some steps of every split of the groups, after one that leads in."""
    of_split: dict[int, list[int]] = defaultdict(list)
    for record in measured.records:
        of_split[record.explorer_per_group].append(record.step)
    chosen = sorted(step for steps in of_split.values() for step in steps[:PER_SPLIT])
    return [chosen[0] - 1, *chosen]


def _medians(steps: list[tuple[int, dict[str, float]]]) -> dict[Point, tuple[float, int]]:
    """Median seconds and number of steps of every split and cause."""
    found: dict[Point, list[float]] = defaultdict(list)
    for split, seconds in steps:
        for cause in FITTED:
            if cause in seconds:
                found[split, cause].append(seconds[cause])
    return {point: (median(values), len(values)) for point, values in found.items()}


def _simulated_medians(found: Simulation, config: Config) -> dict[Point, tuple[float, int]]:
    schedule = config.schedule.build(config.rollout.group_size)
    return _medians([(schedule.split(s.step).explorer, s.seconds | s.spans) for s in found.steps[1:]])


def _errors(measured: MeasuredRun, constants: Constants) -> dict[int, float]:
    config = measured.config
    found = simulate(config, measured.layout, constants, _representative(measured), _trained_tokens(measured))
    schedule = config.schedule.build(config.rollout.group_size)
    simulated: dict[int, list[float]] = defaultdict(list)
    for step in found.steps[1:]:
        simulated[schedule.split(step.step).explorer].append(step.seconds["total"])
    real: dict[int, list[float]] = defaultdict(list)
    for record in measured.records:
        real[record.explorer_per_group].append(own_seconds(record))
    return {split: median(values) / median(real[split]) - 1 for split, values in simulated.items()}
