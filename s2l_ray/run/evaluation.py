"""Held-out evaluation of a run: before, during and after training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from actors.graph import ActorGraph
from s2l_ray.config import Config
from s2l_ray.errors import S2LError
from s2l_ray.evaluation.held_out import Evaluations, measure
from s2l_ray.kinds import Source
from s2l_ray.results import EvaluationRecord, Spent, StepRecord
from s2l_ray.run.identity import measured_on
from s2l_ray.run.inputs import Inputs
from s2l_ray.run.tracking import RunTracking


class RunEvaluation:
    """Measures pass@k on the held-out problems, and keeps the records.

    Without held-out problems (data.eval), `before_training`, `during_training` and `after_training` do nothing.

    Args:
        settings: configuration of the run.
        inputs: with the held-out problems.
        graph: whose engines sample.
        tracking: hears of every evaluation that belongs to the run.
    """

    def __init__(self, settings: Config, inputs: Inputs, graph: ActorGraph, tracking: RunTracking) -> None:
        self.records = Evaluations()
        self._settings = settings
        self._problem_ids = [prompt.id for prompt in inputs.held_out]
        self._files = inputs.files
        self._graph = graph
        self._tracking = tracking
        self._measured_on = measured_on(settings, inputs.contents)

    def before_training(self) -> None:
        """Evaluate the learner, and the explorer if it has engines."""
        if not self._problem_ids:
            return
        self._tracking.reporter.phase("evaluating before training")
        found = self.measure(["learner", "explorer"] if self._graph.explores else ["learner"], [])
        self.records.before, self.records.explorer = found["learner"], found.get("explorer")
        for record in found.values():
            self._tracking.evaluation(record, "before")

    def is_due(self, step: int) -> bool:
        """Whether the learner is to be evaluated between a step and the next (evaluation.every)."""
        every = self._settings.evaluation.every
        return bool(every) and step % every == 0 and step < self._settings.schedule.steps

    def during_training(self, done: Sequence[StepRecord]) -> None:
        """Evaluate the learner between a step, the last of those that are done, and the next."""
        if self._problem_ids:
            record = self.measure(["learner"], done)["learner"]
            self.records.during.append(record)
            self._tracking.evaluation(record, "during")

    def after_training(self, done: Sequence[StepRecord]) -> None:
        """Evaluate the learner after the last step."""
        if self._problem_ids:
            self._tracking.reporter.phase("evaluating after training")
            self.records.after = self.measure(["learner"], done)["learner"]
            self._tracking.evaluation(self.records.after, "after")

    def measure(self, sources: Sequence[Source], done: Sequence[StepRecord]) -> dict[Source, EvaluationRecord]:
        """Pass@k of the models as they are now; their engines work at the same time.

        Args:
            sources: which models.
            done: the steps that are done.

        Raises:
            S2LError: there are no held-out problems (data.eval).
        """
        if not self._problem_ids:
            raise S2LError("there is nothing to evaluate on; set data.eval")
        start = time.monotonic()
        found = self._graph.evaluate(self._problem_ids, list(sources))
        seconds = time.monotonic() - start
        spent = Spent.on(done)
        versions: dict[Source, int] = {"learner": self._graph.version, "explorer": 0}
        return {
            source: measure(
                self._settings,
                self._problem_ids,
                rows,
                step=len(done),
                source=source,
                weight_version=versions[source],
                seconds=seconds,
                spent=spent,
                files=self._files,
            )
            for source, rows in zip(sources, found, strict=True)
        }

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the records, and what they were measured on."""
        return {**self.records.to_json(), "measured_on": self._measured_on}

    def restore(self, state: dict[str, Any]) -> bool:
        """Take the records of a checkpoint's state, if they were measured on the same problems with the same settings.

        Returns:
            Whether they were taken; otherwise there are none.
        """
        comparable = state.get("measured_on", self._measured_on) == self._measured_on
        self.records = Evaluations.from_json(state) if comparable else Evaluations()
        return bool(comparable)
