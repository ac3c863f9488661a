"""Rollouts to read: of the first, middle and last step that kept some, one right and one wrong by each source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.reading import MOST_LOG_BYTES, misread, read_bounded
from s2l_ray.report.reading import RunFiles

NAME = re.compile(r"step-([0-9]+)\.jsonl")
STEPS = 3
LONGEST = 3_000
"""Characters of a response that are shown: its beginning and its end."""


@dataclass(frozen=True)
class Sample:
    """One rollout."""

    source: str
    verdict: str
    """Status, such as "right"."""
    detail: str
    """Why."""
    reward: float
    tokens: int
    response: str


@dataclass(frozen=True)
class SampledPrompt:
    """Some rollouts of one prompt in one step."""

    step: int
    prompt_id: str
    question: str | None
    """None in files that earlier versions have written."""
    answer: str | None
    group: str
    """Such as "explorer 1 of 4 right, learner 2 of 4 right"."""
    samples: list[Sample]


def samples_of(run: RunFiles) -> list[SampledPrompt]:
    """Rollouts of a run that kept some (rollout.keep_groups).

    Raises:
        DataError: a file of them cannot be read.
    """
    kept = sorted(
        (int(found[1]), path) for path in (run.directory / "rollouts").glob("*") if (found := NAME.fullmatch(path.name))
    )
    if not kept:
        return []
    chosen = sorted({round(i * (len(kept) - 1) / (STEPS - 1)) for i in range(STEPS)})
    return [prompt for number in chosen for prompt in _of_step(*kept[number])]


def _of_step(step: int, path: Path) -> Iterator[SampledPrompt]:
    try:
        rows = [json.loads(line) for line in read_bounded(path, MOST_LOG_BYTES).splitlines()]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["prompt_id"], []).append(row)
        for prompt_id, group in list(groups.items())[:1]:
            question, answer = group[0].get("question"), group[0].get("answer")
            yield SampledPrompt(step, prompt_id, question, answer, _counted(group), _chosen(group))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no file of rollouts ({misread(error)}); remove it") from error


def _counted(group: list[dict[str, Any]]) -> str:
    found = []
    for source in ("explorer", "learner"):
        own = [row for row in group if row["source"] == source]
        if own:
            found.append(f"{source} {sum(row['verdict'] == 'right' for row in own)} of {len(own)} right")
    return ", ".join(found)


def _chosen(group: list[dict[str, Any]]) -> list[Sample]:
    shown = []
    for source in ("explorer", "learner"):
        own = [row for row in group if row["source"] == source]
        for right in (True, False):
            shown += [row for row in own if (row["verdict"] == "right") is right][:1]
    return [
        Sample(
            str(row["source"]),
            str(row["verdict"]),
            str(row["detail"]),
            float(row["reward"]),
            int(row["tokens"]),
            shortened(str(row["response"])),
        )
        for row in shown
    ]


def shortened(text: str) -> str:
    """The beginning and the end of a long text, with what is left out between them in numbers."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
