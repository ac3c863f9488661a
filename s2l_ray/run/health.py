"""Watches the numbers of a run, and reacts to what is wrong with them as `health` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from s2l_ray.config import HealthConfig
from s2l_ray.errors import HealthError
from s2l_ray.kinds import HealthCondition
from s2l_ray.results import StepRecord
from s2l_ray.run.conditions import CONDITIONS


class Health:
    """Counts for how many steps each condition has held, and says when that is long enough to act upon.

    It keeps nothing: counts are in the records, so that a run that is resumed goes on counting.

    Args:
        config: health.
    """

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        self._watched = [name for name in CONDITIONS if config.action(name) != "off"]

    def watch(self, before: Sequence[StepRecord], record: StepRecord) -> StepRecord:
        """The record of a step with its `health`.

        Args:
            before: the records of all steps before it.
            record: of the step, with everything but times.
        """
        counts = before[-1].health if before else {}
        records = [*before, record]
        health: dict[HealthCondition, int] = {}
        for name in self._watched:
            holds, count = CONDITIONS[name].holds(records, self._config), counts.get(name, 0)
            health[name] = count if holds is None else (count + 1) * holds
        return replace(record, health=health)

    def endangered(self, record: StepRecord) -> bool:
        """Whether a condition that may end the run holds: the last good checkpoint is from before it."""
        return any(record.health.get(name) for name in self._watched if self._config.action(name) == "stop")

    def notes(self, records: Sequence[StepRecord]) -> list[str]:
        """What to say after the last of these steps: of each condition once, until it has ended."""
        found = []
        for name in self._watched:
            count, patience = _count(records, name), self._config.patience(name)
            stops = self._config.action(name) == "stop"
            if count == (1 if stops else patience):
                ends = f". The run ends if that lasts for {patience} steps" if stops and patience > 1 else ""
                found.append(f"{self._finding(records, name)}. {CONDITIONS[name].advice}{ends} (health.{name})")
        return found

    def problem(self, records: Sequence[StepRecord]) -> HealthError | None:
        """The error that the run is to end with after the last of these steps, if it is."""
        for name in self._watched:
            count = _count(records, name)
            if self._config.action(name) == "stop" and count >= self._config.patience(name):
                lasted = f", as for {count} steps, since step {_since(records, name)}" if count > 1 else ""
                return HealthError(
                    f"{self._finding(records, name)}{lasted}; health.{name} ends the run for that. "
                    f"{CONDITIONS[name].advice}. The state after this step is kept as a checkpoint beside older ones; "
                    f"the same command with health.{name}=warn goes on from it"
                )
        return None

    def _finding(self, records: Sequence[StepRecord], name: HealthCondition) -> str:
        return f"step {records[-1].step}: {CONDITIONS[name].says(records, self._config)}"


def _count(records: Sequence[StepRecord], name: HealthCondition) -> int:
    """For how many steps in a row a condition has held; 0 if it cannot be told of the last of these steps."""
    count = records[-1].health.get(name, 0)
    before = records[-2].health.get(name, 0) if len(records) > 1 else 0
    return count if count != before else 0


def _since(records: Sequence[StepRecord], name: HealthCondition) -> int:
    """The step at which the episode began that goes on in the last of these records."""
    first = records[-1].step
    for record in reversed(records):
        if not record.health.get(name):
            break
        first = record.step
    return first
