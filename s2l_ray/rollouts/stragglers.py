"""The record of stragglers: groups that a step dropped because others were whole first (rollout.straggler_groups).

Which groups are first depends on the machine, so the choice is recorded before it is trained on: a step that is redone
after a crash, or replayed in another run, drops the same groups.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError
from s2l_ray.machine.disk import append, write_whole
from s2l_ray.machine.reading import MOST_LOG_BYTES, read_bounded
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.step_planner import StepPlanner, step_planner

if TYPE_CHECKING:
    from s2l_ray.config import Config

STRAGGLERS = "stragglers.jsonl"


def append_stragglers(path: Path, step: int, prompt_ids: list[str]) -> None:
    """Add a row {"step": ..., "stragglers": [prompt ids]}, on a line of its own whatever a crash left at the end."""
    row = json.dumps({"step": step, "stragglers": prompt_ids}) + "\n"
    whole = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    complete = whole[: whole.rfind("\n") + 1]
    if complete != whole:
        write_whole(path, complete)
    append(path, row)


def read_stragglers(path: Path) -> dict[int, list[str]]:
    """Prompt ids by step; the last row of a step counts. A last row that a crash cut off is not one.

    Raises:
        ConfigError: it cannot be read, or a row other than the last is malformed.
    """
    found: dict[int, list[str]] = {}
    try:
        lines = read_bounded(path, MOST_LOG_BYTES).splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); rollout.replay_stragglers is another run's {STRAGGLERS}"
        ) from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found[int(row["step"])] = [str(prompt_id) for prompt_id in row["stragglers"]]
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            if number < len(lines):
                raise ConfigError(
                    f'{path}, row {number}: should be {{"step": 1, "stragglers": [...]}}; correct or remove the row'
                ) from error
    return found


def known_stragglers(config: Config, train: Sequence[Prompt], own: Path) -> dict[int, list[str]]:
    """The stragglers of a run's steps that are known before the steps are sampled: prompt ids by step.

    Args:
        own: the run's file, which need not exist.

    Raises:
        ConfigError: see `read_stragglers` and `replayed_stragglers`.
    """
    if config.rollout.replay_stragglers is None:
        return read_stragglers(own) if own.exists() else {}
    planner = step_planner(config, [prompt.id for prompt in train])
    return replayed_stragglers(Path(config.rollout.replay_stragglers).resolve(), planner, config.schedule.steps)


def replayed_stragglers(path: Path, planner: StepPlanner, steps: int) -> dict[int, list[str]]:
    """Another run's stragglers, checked to be choices that this run could make: prompt ids by step.

    Raises:
        ConfigError: the file cannot be read, lacks a step, or does not name as many of the step's prompts as are to be
            left out: it is of a run with other data, seed or settings.
    """
    found = read_stragglers(path)
    for step in range(1, steps + 1):
        named = set(found.get(step, ()))
        if len(named) != planner.oversampled_prompts or not named <= set(planner.sampled_prompts(step)):
            raise ConfigError(
                f"rollout.replay_stragglers: {path} should name {planner.oversampled_prompts} prompts that step {step} "
                f"samples, but names {sorted(named) or 'none'}; it needs a run with the same data, seed, "
                "rollout.prompts_per_step and rollout.straggler_groups"
            )
    return found
