"""The numbers of runs, side by side: a row for each, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median
from typing import get_args

from s2l_ray.compute import Compute
from s2l_ray.config import Config
from s2l_ray.display.text import duration, percent
from s2l_ray.kinds import Source
from s2l_ray.report.reading import RunFiles, guarded
from s2l_ray.results import EvaluationRecord, Spent, StepRecord
from s2l_ray.statistics import paired_change
from s2l_ray.timing.attribution import ROLLOUT_PARTS, UPDATE_PARTS

SOURCES: tuple[Source, ...] = get_args(Source)
NOTHING = "-"
"""In a cell of which a run has no value."""


@dataclass(frozen=True)
class Fact:
    """One row."""

    label: str
    cells: tuple[str, ...]
    """One for each run."""


@dataclass(frozen=True)
class Facts:
    """Rows that belong together."""

    title: str
    rows: tuple[Fact, ...]
    note: str = ""
    columns: tuple[str, ...] = ()
    """Headings, where there is not one column for each run."""


def facts_of(runs: Sequence[RunFiles]) -> list[Facts]:
    """All that is compared of runs; rows of which no run has a value are left out."""
    held_out = _by_k(runs[0]) if len(runs) == 1 else Facts("Held-out problems", tuple(_held_out(runs)))
    sections = [
        replace(held_out, note=_about_held_out(runs)),
        Facts("What was run", tuple(_rows(runs, SETTINGS))),
        Facts("Training", tuple(_rows(runs, TRAINING))),
        Facts("Time", tuple(_rows(runs, TIME))),
        Facts("Work", tuple(_rows(runs, WORK))),
    ]
    return [section for section in sections if section.rows]


Value = Callable[[RunFiles], str | None]


def _rows(runs: Sequence[RunFiles], values: dict[str, Value]) -> Iterator[Fact]:
    for label, value in values.items():
        cells = [guarded(run.directory, partial(value, run)) for run in runs]
        if any(cell is not None for cell in cells):
            yield Fact(label, tuple(NOTHING if cell is None else cell for cell in cells))


def algorithm_of(config: Config) -> str:
    """Such as "S2L-PO: linear, T_mix = 40, G = 8"."""
    group = f"G = {config.rollout.group_size}"
    schedule = config.schedule
    if schedule.kind == "off":
        return f"GRPO, {group}"
    return f"S2L-PO: {schedule.kind}, T_mix = {schedule.mix_steps}, {group}"


def _progress(run: RunFiles) -> str:
    done, planned = run.records[-1].step, run.config.schedule.steps
    return f"{done} of {planned}" + ("" if run.finished else ", not finished")


def _machine(run: RunFiles) -> str | None:
    if not run.summary or not (machine := run.summary.get("machine")):
        return None
    gpus = machine["gpus"]
    devices = f"{len(gpus)} x {gpus[0]}" if gpus else "no GPU"
    return f"{machine['cpus']} CPUs, {devices}"


def _dtype(run: RunFiles) -> str | None:
    found = run.summary.get("dtype") if run.summary is not None else None
    return found["dtype"] if found else None


def _versions(run: RunFiles) -> str | None:
    versions = run.summary.get("versions") if run.summary is not None else None
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) if versions else None


SETTINGS: dict[str, Value] = {
    "algorithm": lambda run: algorithm_of(run.config),
    "steps": _progress,
    "learner": lambda run: run.config.models.learner,
    "explorer": lambda run: run.config.models.explorer,
    "data": lambda run: str(run.config.data.train),
    "prompts per step": lambda run: str(run.config.rollout.prompts_per_step),
    "learning rate": lambda run: f"{run.config.trainer.learning_rate:g}",
    "placement": lambda run: run.plan.get("mode") if run.plan else None,
    "seed": lambda run: str(run.config.seed),
    "computed in": _dtype,
    "driver's machine": _machine,
    "versions": _versions,
}


# ---- held-out problems ----------------------------------------------------------------------------------------------


def _by_k(run: RunFiles) -> Facts:
    """The held-out results of one run, a row for each k."""
    found = run.evaluations
    explorer, before, after = found.explorer, found.before, _last(run)

    def row(name: str, k: int, file: str | None = None) -> Fact:
        measured = [_of_file(record, file) for record in (explorer, before, after)]
        change = _paired(measured[1], measured[2], k, run.config)
        return Fact(name, tuple(cell or NOTHING for cell in (*(_pass(record, k) for record in measured), change)))

    ks = sorted({k for record in _measured(run) for k in record.pass_at})
    rows = [row(f"pass@{k} in %", k) for k in ks]
    if any(record.graded for record in _measured(run)):
        rewards = [_mean_reward(record) for record in (explorer, before, after)]
        rows.append(Fact("mean reward", tuple(cell or NOTHING for cell in (*rewards, None))))
    rows += [
        row(f"{file}: pass@{k} in %", k, file)
        for file in dict.fromkeys(name for record in _measured(run) for name in record.files)
        for k in dict.fromkeys((ks[0], ks[-1]))
    ]
    return Facts("Held-out problems", tuple(rows), columns=("explorer", "learner before", "learner after", "change"))


def _of_file(record: EvaluationRecord | None, file: str | None) -> EvaluationRecord | None:
    """The record of one file of the held-out problems; the record itself for all of them."""
    return record if record is None or file is None else record.files.get(file)


def _held_out(runs: Sequence[RunFiles]) -> Iterator[Fact]:
    """The held-out results of several runs, some rows for each k."""
    for k in sorted({k for run in runs for record in _measured(run) for k in record.pass_at}):
        values: dict[str, Value] = {
            f"explorer's pass@{k}": partial(_of_explorer, k=k),
            f"pass@{k} before": partial(_before, k=k),
            f"pass@{k} after": partial(_after, k=k),
            f"change of pass@{k}": partial(_change, k=k),
        }
        yield from _rows(runs, values)
        if any(cells := [None, *(difference(runs[0], run, k) for run in runs[1:])]):
            yield Fact(f"pass@{k} minus {runs[0].name}'s", tuple(cell or NOTHING for cell in cells))
    if any(record.graded for run in runs for record in _measured(run)):
        yield from _rows(runs, {"mean reward after": lambda run: _mean_reward(_last(run))})
    for file in dict.fromkeys(name for run in runs for record in _measured(run) for name in record.files):
        yield from _rows(runs, {f"{file}: pass@1 after": partial(_after_in, file=file)})


def _after_in(run: RunFiles, file: str) -> str | None:
    return _pass(_of_file(_last(run), file), 1)


def _of_explorer(run: RunFiles, k: int) -> str | None:
    return _pass(run.evaluations.explorer, k)


def _before(run: RunFiles, k: int) -> str | None:
    return _pass(run.evaluations.before, k)


def _after(run: RunFiles, k: int) -> str | None:
    return _pass(_last(run), k)


def _measured(run: RunFiles) -> list[EvaluationRecord]:
    return [record for record in (run.evaluations.explorer, *run.learner_evaluations) if record is not None]


def _last(run: RunFiles) -> EvaluationRecord | None:
    """The newest evaluation of the trained learner."""
    newest = run.evaluations.newest
    return newest if newest is not None and newest.step > 0 else None


def _pass(record: EvaluationRecord | None, k: int) -> str | None:
    if record is None or k not in record.pass_at:
        return None
    return percent(record.pass_at[k], record.ci[k])


def _mean_reward(record: EvaluationRecord | None) -> str | None:
    return None if record is None else f"{record.reward:.3f}"


def _change(run: RunFiles, k: int) -> str | None:
    return _paired(run.evaluations.before, _last(run), k, run.config)


def difference(first: RunFiles, second: RunFiles, k: int) -> str | None:
    """pass@k of the second trained learner minus the first's, paired by problem; None if their problems differ."""
    if any(getattr(first.config.data, key) != getattr(second.config.data, key) for key in ("eval", "eval_limit")):
        return None
    return _paired(_last(first), _last(second), k, first.config)


def _paired(before: EvaluationRecord | None, after: EvaluationRecord | None, k: int, config: Config) -> str | None:
    if before is None or after is None or k not in before.pass_at or before.samples != after.samples:
        return None
    if len(before.correct) != len(after.correct):
        return None
    found, intervals = paired_change(
        before.correct, after.correct, before.samples, [k], config.evaluation.confidence, config.seed
    )
    low, high = intervals[k]
    return f"{100 * found[k]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _about_held_out(runs: Sequence[RunFiles]) -> str:
    measured = [record for run in runs for record in _measured(run)]
    if not measured:
        return ""
    sizes = {f"{record.problems} problems x {record.samples} samples" for record in measured}
    level = {f"{run.config.evaluation.confidence:.0%}" for run in runs}
    return (
        f"In %, of {' and '.join(sorted(sizes))}. Brackets: {' and '.join(sorted(level))} bootstrap intervals over "
        "problems; differences are paired by problem. They say nothing about other seeds."
    )


# ---- training -------------------------------------------------------------------------------------------------------


def _tenth(run: RunFiles) -> tuple[Sequence[StepRecord], Sequence[StepRecord]]:
    count = max(1, len(run.records) // 10)
    return run.records[:count], run.records[-count:]


def _reward(source: Source) -> Value:
    def value(run: RunFiles) -> str | None:
        shown = []
        for records in _tenth(run):
            stats = [r.sources[source] for r in records if source in r.sources and r.sources[source].rollouts]
            rollouts = sum(s.rollouts for s in stats)
            shown.append(f"{sum(s.reward * s.rollouts for s in stats) / rollouts:.3f}" if rollouts else NOTHING)
        return None if shown == [NOTHING, NOTHING] else " → ".join(shown)

    return value


def _truncated(run: RunFiles) -> str:
    stats = [s for r in run.records for s in r.sources.values()]
    return f"{sum(s.truncated for s in stats) / max(1, sum(s.rollouts for s in stats)):.1%}"


def _metric(name: str, style: str) -> Value:
    def value(run: RunFiles) -> str | None:
        found = [[r.trainer[name] for r in records if name in r.trainer] for records in _tenth(run)]
        return " → ".join(format(fmean(values), style) for values in found) if all(found) else None

    return value


def _health(run: RunFiles) -> str | None:
    found = run.summary.get("health") if run.summary is not None else None
    return ", ".join(f"{name} ({row['steps']} steps)" for name, row in found.items()) if found else None


TRAINING: dict[str, Value] = {
    "learner's reward, first and last tenth of the steps": _reward("learner"),
    "explorer's reward, likewise": _reward("explorer"),
    "groups without variance": lambda run: (
        f"{sum(r.zero_variance_groups for r in run.records) / sum(r.groups for r in run.records):.1%}"
    ),
    "truncated responses": _truncated,
    "gradient norm, first and last tenth": _metric("grad_norm", ".3g"),
    "clipped ratios, likewise": _metric("clip_fraction", ".2%"),
    "engine against trainer log-probs, mean of |gap|, likewise": _metric("logprob_gap/learner", ".2g"),
    "conditions of health that held": _health,
}


# ---- time and work --------------------------------------------------------------------------------------------------


def _share(*parts: str) -> Value:
    def value(run: RunFiles) -> str | None:
        total = sum(sum(r.parts.values()) for r in run.records)
        return f"{sum(r.parts.get(part, 0.0) for r in run.records for part in parts) / total:.0%}" if total else None

    return value


def _restarts(run: RunFiles) -> str | None:
    count = sum(r.pipeline.restarts for r in run.records)
    redone = sum(r.pipeline.redone for r in run.records)
    return f"{count}, with {redone} requests done again" if count else None


def _predicted(run: RunFiles) -> str | None:
    if not run.plan or not run.plan.get("run_seconds"):
        return None
    return f"{run.plan['run_seconds'] / sum(phase['steps'] for phase in run.plan['phases']):.2f} s"


TIME: dict[str, Value] = {
    "all steps": lambda run: duration(sum(r.seconds["total"] for r in run.records)),
    "a step, median": lambda run: f"{median(r.seconds['total'] for r in run.records):.2f} s",
    "a step as planned, mean": _predicted,
    "of all steps, waiting for rollouts": _share(*ROLLOUT_PARTS),
    "update, likewise": _share(*UPDATE_PARTS),
    "weight sync, likewise": _share("weight_sync"),
    "evaluation, likewise": _share("evaluate"),
    "checkpoints, likewise": _share("checkpoint"),
    "everything else, likewise": _share("hand_over", "other"),
    "actors started again": _restarts,
}


def _tokens(source: Source) -> Value:
    def value(run: RunFiles) -> str | None:
        count = sum(r.sources[source].response_tokens for r in run.records if source in r.sources)
        return f"{count:,}" if count else None

    return value


def _flops(of: Callable[[Compute], float]) -> Value:
    def value(run: RunFiles) -> str | None:
        compute = Spent.on(run.records).compute
        return f"{of(compute):.3g}" if compute is not None and of(compute) else None

    return value


def _saved(run: RunFiles) -> str | None:
    compute = Spent.on(run.records).compute
    saved = compute.rollout_compute_saved if compute is not None else None
    return None if saved is None else f"{saved:.1%}"


WORK: dict[str, Value] = {
    "learner's response tokens": _tokens("learner"),
    "explorer's response tokens": _tokens("explorer"),
    "FLOPs of the learner's rollouts": _flops(lambda compute: compute.rollout_flops.get("learner", 0.0)),
    "FLOPs of the explorer's rollouts": _flops(lambda compute: compute.rollout_flops.get("explorer", 0.0)),
    "of these read from a bank": _flops(lambda compute: compute.recorded_flops),
    "FLOPs of updates": _flops(lambda compute: compute.update_flops),
    "FLOPs, all": _flops(lambda compute: compute.flops),
    "rollout compute saved": _saved,
    "response tokens per second": lambda run: (
        f"{sum(r.tokens for r in run.records) / sum(r.seconds['total'] for r in run.records):,.0f}"
    ),
}
