"""Steps and evaluations as plain lines, and as rows of a panel."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.display.text import duration, line, percent, shared_out, sparkline
from s2l_ray.kinds import Source
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.style import ACTIVITY_COLOURS, SOURCE_COLOURS
from s2l_ray.timing.names import part_name

ETA_STEPS = 10
"""How many steps the mean duration is taken over that predicts the rest."""
TIME_CELLS = 20
"""Width of the bar that shows where the time of a step went."""
SHOWN_PARTS = 3
"""How many parts of a step are named beside their bar: those that took longest."""
TRAINER_METRICS = {"kl": "kl", "logprob_gap/learner": "gap", "clip_fraction": "clip", "grad_norm": "grad"}
"""Metrics of the update in the panel, and their short names there."""


def step_line(record: StepRecord, total_steps: int, eta: float | None) -> str:
    """One step in one line. Fields are two spaces apart and always in this order."""
    fields = [
        f"step {record.step}/{total_steps}",
        f"alpha {record.alpha:.2f}",
        f"G_w/G_s {record.explorer_per_group}/{record.learner_per_group}",
        f"reward {record.reward:.2f} ({_by_source(record)})",
        f"{_tokens_per_second(record):.0f} tok/s",
        f"{_total(record):.1f} s ({_phases(record)})",
    ]
    if eta is not None:
        fields.append(f"ETA {duration(eta)}")
    return "  ".join(fields)


def evaluation_line(record: EvaluationRecord, when: str) -> str:
    """One evaluation in one line."""
    fields = [f"evaluation {when}", record.model, f"step {record.step}"]
    fields += [
        f"pass@{k} {record.pass_at[k]:.3f} [{record.ci[k][0]:.3f}, {record.ci[k][1]:.3f}]"
        for k in sorted(record.pass_at)
    ]
    fields += [f"{name} pass@1 {of_file.pass_at[1]:.3f}" for name, of_file in record.files.items()]
    return "  ".join([*fields, f"{record.problems} problems x {record.samples} samples", f"{record.seconds:.1f} s"])


def eta_seconds(records: Sequence[StepRecord], total_steps: int) -> float | None:
    """Seconds to the last step at the mean pace of recent steps; None before the first step and after the last."""
    if not records or records[-1].step >= total_steps:
        return None
    recent = [_total(r) for r in records[-ETA_STEPS:]]
    return sum(recent) / len(recent) * (total_steps - records[-1].step)


def step_rows(records: Sequence[StepRecord], width: int) -> list[tuple[str, RenderableType]]:
    """Rows of the panel, label and content, about the last of these steps.

    Args:
        records: recent steps, at least one.
        width: of the panel in cells.
    """
    record = records[-1]
    rows: list[tuple[str, RenderableType]] = [("group", _share_text(record))]
    labels = iter(["reward", ""])
    rows += [(next(labels), text) for text in _reward_texts(records[-max(1, width - 40) :])]
    speed = f"{_tokens_per_second(record):.0f} tok/s  {_total(record):.1f} s per step ({_phases(record)})"
    rows.append(("speed", line(speed)))
    if record.parts:
        rows.append(("time", _time_text(record)))
    if record.busy:
        rows.append(("busy", line("  ".join(f"{role} {share:.0%}" for role, share in record.busy.items()))))
    return [*rows, ("update", line(_update(record)))]


def _share_text(record: StepRecord) -> Text:
    """Alpha, and the group as a bar of two colours with at most 32 cells."""
    size = record.explorer_per_group + record.learner_per_group
    cells = min(size, 32)
    explorer = round(cells * record.explorer_per_group / size)
    text = line(f"alpha {record.alpha:.2f}  ")
    text.append("■" * explorer, SOURCE_COLOURS["explorer"])
    text.append("□" * (cells - explorer), SOURCE_COLOURS["learner"])
    text.append(f"  G_w {record.explorer_per_group} explorer, G_s {record.learner_per_group} learner")
    return text


def _reward_texts(records: Sequence[StepRecord]) -> list[Text]:
    """A line per source that has sampled: its last reward, and its recent rewards on a scale common to all sources."""
    series = {source: [_reward(r, source) for r in records] for source in SOURCE_COLOURS}
    known = [v for values in series.values() for v in values if v is not None]
    texts = []
    for source, values in series.items():
        if any(v is not None for v in values):
            text = Text(f"{source:<8} ", SOURCE_COLOURS[source], no_wrap=True, overflow="ellipsis")
            text.append("  -    " if values[-1] is None else f"{values[-1]:.3f}  ", "default")
            text.append(sparkline(values, min(known), max(known)), SOURCE_COLOURS[source])
            texts.append(text)
    return texts


def _time_text(record: StepRecord) -> Text:
    """The seconds of a step as a bar of its parts, and the longest parts by name."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for part, cells in shared_out(record.parts, TIME_CELLS).items():
        text.append("█" * cells, ACTIVITY_COLOURS[part])
    longest = sorted(record.parts, key=lambda part: record.parts[part], reverse=True)[:SHOWN_PARTS]
    for part in longest:
        text.append("  ")
        text.append("█ ", ACTIVITY_COLOURS[part])
        text.append(f"{part_name(part)} {record.parts[part] / sum(record.parts.values()):.0%}", "default")
    return text


def _update(record: StepRecord) -> str:
    fields = [f"zero variance {record.zero_variance_groups}/{record.groups} groups"]
    fields += [f"{label} {record.trainer[key]:.3g}" for key, label in TRAINER_METRICS.items() if key in record.trainer]
    return "  ".join(fields)


def evaluation_text(record: EvaluationRecord, when: str) -> Text:
    """An evaluation in the panel: pass@1 and pass@k at the largest k."""
    label = when if when != "during" else f"step {record.step}"
    text = Text(f"{record.model:<8} ", SOURCE_COLOURS[record.model], no_wrap=True, overflow="ellipsis")
    text.append(f"{label:<8}", "default")
    ks = sorted({1, max(record.pass_at)})
    text.append("  ".join(f"@{k} {percent(record.pass_at[k], record.ci[k])}" for k in ks), "default")
    return text


def _reward(record: StepRecord, source: Source) -> float | None:
    stats = record.sources.get(source)
    return stats.reward if stats and stats.rollouts else None


def _by_source(record: StepRecord) -> str:
    return ", ".join(f"{name} {stats.reward:.2f}" for name, stats in record.sources.items() if stats.rollouts)


def _phases(record: StepRecord) -> str:
    phases = {name.replace("_", " "): seconds for name, seconds in record.seconds.items() if name != "total"}
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())


def _total(record: StepRecord) -> float:
    return record.seconds.get("total", 0.0)


def _tokens_per_second(record: StepRecord) -> float:
    return record.tokens / _total(record) if _total(record) else 0.0
