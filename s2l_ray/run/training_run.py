"""A training run. Its `step` is one step of Algorithm 1 (arXiv 2605.30789)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from actors.batch import StepBatch
from actors.weight_sync import WeightSyncReport
from s2l_ray.config import Config
from s2l_ray.errors import S2LError
from s2l_ray.evaluation.figures import draw_figures
from s2l_ray.evaluation.summary import build_summary, write_summary
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.rollouts.stragglers import STRAGGLERS, append_stragglers
from s2l_ray.run.evaluation import RunEvaluation
from s2l_ray.run.health import Health
from s2l_ray.run.run_actors import RunActors
from s2l_ray.run.run_state import RunState
from s2l_ray.run.set_up import set_up
from s2l_ray.run.step_record import StepOutcome, step_numbers, step_record
from s2l_ray.run.trial_terms import TrialTerms
from s2l_ray.timing import StepClock
from s2l_ray.timing.time_sheet import TimeSheet
from s2l_ray.timing.trace import TraceFile


class TrainingRun:
    """A run that is set up, whole from its construction to the end of its `with` block.

        with TrainingRun(config, reporter) as run:
            while not run.done:
                run.step()

    Leaving the block ends the MLflow run, stops every actor, unlocks the run directory and ends a Ray that the run has
    started. The results (`records`, `summary`, `plan`, `settings`) stay.

    Args:
        config: of the run.
        reporter: told what happens.
        actors: of a run before this one (`hand_over`), which are used where they fit; default: none.
        terms: of the trial of Ray Tune that the run is, if it is one.

    Raises:
        S2LError: anything that a user can correct; if possible before an engine is started. Nothing is left running.
    """

    def __init__(
        self,
        config: Config,
        reporter: Reporter,
        actors: RunActors | None = None,
        terms: TrialTerms | None = None,
    ) -> None:
        with ExitStack() as stack:
            parts = set_up(config, reporter, stack, actors, terms)
            self.settings = parts.settings
            """Resolved configuration."""
            self.plan = parts.plan
            self.graph = parts.graph
            """The run's actors."""
            self._dtype = parts.dtype
            self._directory = parts.directory
            self._stragglers = parts.stragglers
            self._tracking = parts.tracking
            self._uploader = parts.uploader
            self._evaluation = RunEvaluation(parts.settings, parts.inputs, parts.graph, parts.tracking)
            self._meter = parts.meter
            self._health = Health(parts.settings.health)
            self._times = TimeSheet(TraceFile(parts.directory.path / "trace.json"), parts.tracking.reporter.turn)
            self._summary: dict[str, Any] | None = None
            self._actors = parts.actors
            self.state = RunState(parts, self._evaluation, self._times)
            """Saved and loaded; it begins, or goes on, where the run directory says."""
            stack.push(self.state.saver.end)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def hand_over(self) -> RunActors:
        """End the run, but not its actors: they are for the next run of this process, which ends them.

        Those of a run in which a step failed are ended with it, and there are none to take over.

        Raises:
            S2LError: the run cannot be ended properly; its actors are ended then.
        """
        if self._tracking.failed or not self._rests():
            self._resources.close()
            return RunActors()
        with ExitStack() as on_failure:
            self._actors.keep()
            on_failure.callback(self._actors.end_ray)
            on_failure.callback(self._actors.stop)
            on_failure.callback(self._actors.take)
            self._resources.close()
            on_failure.pop_all()
        return self._actors

    def _rests(self) -> bool:
        """Cancel requests that are under way. Whether the actors are all there to do so."""
        try:
            self.graph.rest()
        except S2LError:
            return False
        return True

    # ---- where the run is -------------------------------------------------------------------------------------------

    @property
    def records(self) -> list[StepRecord]:
        """One for each step that is done."""
        return self.state.records

    @property
    def steps_done(self) -> int:
        """How many steps are done, those before the run was resumed included."""
        return len(self.records)

    @property
    def done(self) -> bool:
        """Whether all of schedule.steps are done."""
        return self.steps_done >= self.settings.schedule.steps

    @property
    def newest_evaluation(self) -> EvaluationRecord | None:
        """The learner's newest evaluation that belongs to the run; None before the first one, or without data.eval."""
        return self._evaluation.records.newest

    @property
    def mlflow_run_id(self) -> str | None:
        """None without MLflow (tracking.enabled)."""
        return self._tracking.tracker.run_id

    @property
    def summary(self) -> dict[str, Any]:
        """What the run was and did, as `evaluation.summary` documents it.

        Raises:
            S2LError: the run has not got to its end.
        """
        if self._summary is None:
            raise S2LError(
                f"there is no summary yet: {self.steps_done} of {self.settings.schedule.steps} steps are done"
            )
        return self._summary

    # ---- Algorithm 1 ------------------------------------------------------------------------------------------------

    def step(self) -> StepRecord:
        """Train one step. After the last one evaluate, export the model, and write the summary and figures.

        A run that was stopped after its last checkpoint and before its summary has only the latter to do.

        Returns:
            The record of the last step.

        Raises:
            S2LError: the run is over, or an actor failed.
        """
        self.state.settle()
        if self.done and self._summary is not None:
            raise S2LError(f"the run is over: all {self.settings.schedule.steps} steps are done (schedule.steps)")
        self._tracking.failed = True  # until it is known to be otherwise
        self.state.look_after_checkpoints()
        if not self.done:
            self._train()
        if self.done:
            self._finish()
        self._tracking.failed = False
        return self.records[-1]

    def pruned(self) -> None:
        """Take in that Tune's scheduler ends this run, a trial, before its last step. It is to be ended next."""
        self._tracking.pruned()

    def _train(self) -> None:
        """One step: a mixed group per prompt, one update of the learner, the new weights to the learner's engines."""
        step = self.steps_done + 1
        if step == 1:
            self._evaluation.before_training()
        clock = self._times.begin(step)
        if self.graph.phase_changes_before(step):
            with clock.phase("hand_over"):
                self.graph.apply_phase(step)
        with clock.phase("rollout"):  # of each group G_w rollouts by the explorer and G_s by the learner, with rewards
            sampled = self.graph.collect(step)
            self._keep_stragglers(sampled)
        with clock.phase("update"):  # advantages over each mixed group, and the optimizer steps
            batch, metrics, spans = self.graph.update(sampled)
            if batch is not sampled:
                self._keep_stragglers(batch)
        with clock.phase("weight_sync"):
            restarts = self.graph.take_restarts()
            outcome = StepOutcome(batch, metrics, spans, self.graph.version, self.graph.engines, restarts)
            weight_sync, numbers = self.graph.weight_sync_during(step, lambda: step_numbers(outcome, self._meter))
        if step < self.settings.schedule.steps and not self.graph.phase_changes_before(step + 1):
            self.graph.begin_collect(step + 1)  # sampling goes on while this step is evaluated, saved and recorded
        self._end_step(numbers, outcome, weight_sync, clock)

    def _keep_stragglers(self, batch: StepBatch) -> None:
        """Write down which groups the step did not wait for, before it is trained: it may have to be done again.

        A scheduler that is started anew learns of them too, and leaves the same ones out.
        """
        step = batch.split.step
        if chosen := batch.stragglers or self._stragglers.get(step):
            self._stragglers[step] = chosen
            append_stragglers(self._directory.path / STRAGGLERS, step, chosen)

    def _end_step(
        self, numbers: StepRecord, outcome: StepOutcome, weight_sync: WeightSyncReport, clock: StepClock
    ) -> None:
        """Evaluate and checkpoint where due, and record the step. Until its checkpoint is whole it can be redone.

        Raises:
            HealthError: its numbers end the run, as `health` says. Its checkpoint is written nevertheless.
        """
        step, numbers = numbers.step, self._health.watch(self.records, numbers)
        if endangered := self._health.endangered(numbers):
            self.state.look_after_checkpoints(wait=True)
        self._directory.spare_checkpoints(endangered)
        if self._evaluation.is_due(step):
            with clock.phase("evaluate"):
                self._evaluation.during_training([*self.records, replace(numbers, seconds=clock.seconds)])
        is_saved = self.state.checkpoint_is_due(step)
        if is_saved:
            with clock.phase("checkpoint"):
                self.state.take_checkpoint(step)
        record = step_record(numbers, outcome, weight_sync, self._times, clock)
        self._directory.log.append(record)
        self.records.append(record)
        self._tracking.step(self.records)
        if is_saved:
            self.state.saver.write()
        self.state.look_after_checkpoints()
        for note in self._health.notes(self.records):
            self._tracking.reporter.note(note)
        if not self.done and (problem := self._health.problem(self.records)):
            self.state.checkpoint()
            raise problem

    def _finish(self) -> None:
        """After the last step: evaluate, export, summarise, draw."""
        self._evaluation.after_training(self.records)
        self._tracking.reporter.phase("writing model, summary and figures")
        path, tracker, evaluations = self._directory.path, self._tracking.tracker, self._evaluation.records
        self.graph.trainer.export(str(path / "model"))
        self.state.finish_checkpoints()
        summary = build_summary(
            config=self.settings,
            dtype=self._dtype,
            steps=self.records,
            before=evaluations.before,
            after=evaluations.after,
            explorer=evaluations.explorer,
            during=evaluations.during,
            model=path / "model",
            mlflow_run_id=tracker.run_id,
            mlflow_uri=tracker.uri,
        )
        self._tracking.final_model(path / "model", self.steps_done)
        trace = self._times.trace
        trace.close()
        tracker.log_artifact(trace.path)
        for figure in draw_figures(summary, path / "figures", trace.path):
            tracker.log_artifact(figure, "figures")
        write_summary(path / "summary.json", summary)
        tracker.log_artifact(path / "summary.json")
        self._summary, self._tracking.finished = summary, True

    def deliver(self) -> None:
        """Wait until all that a run has written is in its mirror, if it has one, for checkpoint.mirror_timeout_s."""
        if self._uploader:
            self._uploader.settle()

    # ---- on request -------------------------------------------------------------------------------------------------

    def evaluate(self) -> EvaluationRecord:
        """Held-out pass@k of the learner as it is now.

        Raises:
            S2LError: there are no held-out problems (data.eval).
        """
        return self._evaluation.measure(["learner"], self.records)["learner"]
