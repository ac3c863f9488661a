"""S2LPO: the driver. One `train()` is one step of Algorithm 1 (arXiv 2605.30789).

    algo = S2LPO(load_config("configs/quickstart.yaml"))
    while not algo.train()["done"]:
        pass
    algo.stop()

It is a `ray.tune.Trainable`, so Tune can run it, and it has RLlib's manners: train, evaluate, save, restore, stop. In a
Tuner relative paths mean the directory where the Tuner was started, and every trial has a run directory of its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from actors.batch import StepBatch
from actors.connection import connect
from actors.graph import ActorGraph
from actors.private_ray import while_it_lives
from actors.weight_sync import WeightSyncReport
from s2l_ray.bank.date import dated
from s2l_ray.bank.preparing import prepare as prepare_bank
from s2l_ray.config import Config, parse_config
from s2l_ray.errors import ConfigError, PlacementError, S2LError, TrackingError
from s2l_ray.evaluation.figures import draw_figures
from s2l_ray.evaluation.held_out import Evaluations, measure
from s2l_ray.evaluation.summary import build_summary, write_summary
from s2l_ray.kinds import Source
from s2l_ray.machine.disk import write_whole
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.placement.ray_binding import live_inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show.serialise import plan_json
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.rollouts.stragglers import STRAGGLERS, append_stragglers, known_stragglers
from s2l_ray.run.checkpoints import STEPS, Checkpoint, read_checkpoint, write_state
from s2l_ray.run.directory import RunDirectory, begun_on
from s2l_ray.run.identity import measured_on
from s2l_ray.run.inputs import load_inputs, located
from s2l_ray.run.notices import remarks
from s2l_ray.run.step_record import StepOutcome, step_numbers, step_record
from s2l_ray.timing import StepClock
from s2l_ray.timing.time_sheet import TimeSheet
from s2l_ray.timing.trace import TraceFile
from s2l_ray.tracking.tracker import Tracker
from s2l_ray.tuning.trial import enter_launch_directory, with_own_directory


class S2LPO(Trainable):
    """Trains the learner with rollouts that a frozen small explorer shares, on the schedule of the configuration.

    Args:
        config: a `Config`, or (from Tune) the same as a nested dictionary.
        reporter: told what happens; default: nothing is shown.

    Raises:
        S2LError: anything that a user can mend, before an engine is started where that is possible.
    """

    def __init__(self, config: Config | dict[str, Any], reporter: Reporter | None = None, **tune: Any) -> None:
        self._reporter = reporter or Reporter()
        self._graph: ActorGraph | None = None
        self._tracker: Tracker | None = None
        self._tracking_problem: str | None = None
        self._run: RunDirectory | None = None
        self._owns_ray = False
        try:
            super().__init__(config.model_dump(mode="json") if isinstance(config, Config) else config, **tune)
        except BaseException:
            self.cleanup()
            raise

    # ---- building -------------------------------------------------------------------------------------------------

    def setup(self, config: dict[str, Any]) -> None:
        """Check everything that can be checked without an engine, then start the actor graph and load the weights."""
        settings = parse_config(config)
        if self._storage:
            enter_launch_directory()
            settings = with_own_directory(settings, self._storage)
        settings = located(settings)
        self._reporter.phase("checking models and data")
        self.settings = dated(settings, begun_on(settings), bank=settings.bank.mode != "off")
        self._inputs = load_inputs(self.settings)
        self._run = RunDirectory.claim(self.settings)
        self._reporter.phase("starting Ray")
        self._owns_ray = connect(self.settings.cluster, self._reporter.note)
        inventory = self._take_inventory()
        self._run.adopt(self.settings, self._inputs.contents)
        checkpoint = self._run.to_resume(self.settings)
        bank = prepare_bank(self.settings, self._inputs.train)
        self._stragglers = known_stragglers(self.settings, self._inputs.train, self._run.path / STRAGGLERS)
        self._step = 0
        self._records: list[StepRecord] = []
        self._evaluations = Evaluations()
        self._reporter.phase("opening MLflow")
        self._open_tracker()
        self._reporter.phase("planning")
        self.plan = self._make_plan(inventory)
        self._graph = ActorGraph(
            self.settings,
            self.plan.layout,
            checkpoint.step + 1 if checkpoint else 1,
            self._inputs.train,
            self._inputs.held_out,
            reporter=self._reporter,
            stragglers=self._stragglers,
            bank=bank,
        )
        self._times = TimeSheet(TraceFile(self._run.path / "trace.json"), self._reporter.turn)
        if checkpoint:
            self._go_on_from(checkpoint)
            if checkpoint.directory.is_relative_to(self._run.path) and self.settings.resume not in ("auto", "never"):
                self._reporter.note(f"resume={self.settings.resume} is for a run without checkpoints of its own")
        else:
            self._run.log.clear()
            self._times.resume_after(0)
            self._graph.weight_sync(0)

    def _take_inventory(self) -> Inventory:
        """The nodes that Ray has, or those that placement.inventory describes; settles the type to compute in."""
        placement = self.settings.placement
        inventory = load_inventory(placement.inventory) if placement.inventory else live_inventory()
        self._dtype = choose_dtype(self.settings, inventory, begun_with=self._run.dtype)
        self.settings = self._dtype.applied_to(self.settings)
        self._reporter.note(f"computing in {self._dtype.describe()}")
        if self._dtype.advice:
            self._reporter.note(self._dtype.advice)
        return inventory

    def _make_plan(self, inventory: Inventory) -> Plan:
        """Who sits where."""
        if self.settings.placement.tensor_parallel_across_nodes:
            raise ConfigError("placement.tensor_parallel_across_nodes is for s2l plan; such a plan cannot be run")
        plan = make_plan(self.settings, inventory, dtype=self._dtype)
        if not plan.fits:
            raise PlacementError("no placement: " + "; ".join(plan.problems))
        target = self._run.path / "plan.json"
        write_whole(target, plan_json(plan))
        self._tracker.log_artifact(target)
        return plan

    def _open_tracker(self) -> None:
        config, run = self.settings, self._run
        self._tracker = Tracker.open(
            config.tracking, run.path.parent, config.name, run.remembered().get("mlflow_run_id")
        )
        run.remember(mlflow_run_id=self._tracker.run_id)
        self._tracker.log_params(config.model_dump(mode="json"))
        self._tracker.log_text(config.to_yaml(), "config.yaml")
        for name, problems in self._inputs.problems.items():
            context = {"train": "training", "eval": "evaluation"}[name]
            self._tracker.log_dataset(name, Path(problems.path), problems.digest, len(problems.problems), context)

    # ---- Algorithm 1 ----------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """One step: a mixed group per prompt, one update of the learner, new weights to its samplers."""
        if self._step >= self.settings.schedule.steps:
            return self._finish_late()
        if self._step == 0:
            self._evaluate_before()
        step = self._step + 1
        clock = self._times.begin(step)
        if self._graph.phase_changes_before(step):
            with clock.phase("hand_over"):
                self._graph.apply_phase(step)
        with clock.phase("rollout"):
            batch = self._graph.collect(step)
            self._remember_stragglers(step, batch)
        with clock.phase("update"):
            metrics, trained = self._graph.update(batch)
        with clock.phase("weight_sync"):
            outcome = StepOutcome(batch, metrics, trained, self._graph.version, self._graph.engines)
            weight_sync, numbers = self._graph.weight_sync_during(step, lambda: step_numbers(outcome))
        self._step = step
        done = step == self.settings.schedule.steps
        if not done and not self._graph.phase_changes_before(step + 1):
            self._graph.begin_collect(step + 1)  # sampling goes on while this step is evaluated, saved and recorded
        self._finish_step(numbers, outcome, weight_sync, clock)
        if done:
            self._finish()
        return {**self._records[-1].to_json(), "done": done}

    def _remember_stragglers(self, step: int, batch: StepBatch) -> None:
        """Before it is trained on: the step may have to be done again."""
        chosen = self._stragglers.get(step) or batch.stragglers
        if chosen:
            append_stragglers(self._run.path / STRAGGLERS, step, chosen)

    def _finish_late(self) -> dict[str, Any]:
        """A run that was stopped between its last checkpoint and its summary has only its end to do."""
        if hasattr(self, "summary"):
            raise S2LError(f"the run is over: all {self.settings.schedule.steps} steps are done (schedule.steps)")
        self._finish()
        return {**self._records[-1].to_json(), "done": True}

    def evaluate(self) -> EvaluationRecord:
        """Held-out pass@k of the learner as it is now.

        Raises:
            S2LError: there are no held-out problems (data.eval).
        """
        return self._evaluate(["learner"])["learner"]

    def _finish_step(
        self, numbers: StepRecord, outcome: StepOutcome, weight_sync: WeightSyncReport, clock: StepClock
    ) -> None:
        """Record the step and, when due, evaluate and checkpoint. Until its checkpoint is whole it can be redone."""
        step, settings = self._step, self.settings
        due = step % settings.checkpoint.every == 0 or step == settings.schedule.steps
        if settings.evaluation.every and step % settings.evaluation.every == 0 and step < settings.schedule.steps:
            with clock.phase("evaluate"):
                self._evaluate_during()
        if due:
            with clock.phase("checkpoint"):
                target = self._run.begin_checkpoint(step)
                self._graph.trainer.save(str(target / "trainer"))
        record = step_record(numbers, outcome, weight_sync, self._times, clock)
        self._run.log.append(record)
        self._records.append(record)
        self._tracker.log_step(record)
        self._reporter.step(record)
        for remark in remarks(self._records, settings.objective.logprob_gap_alarm):
            self._reporter.note(remark)
        if self._tracker.problem != self._tracking_problem:
            self._tracking_problem = self._tracker.problem
            self._reporter.note(self._tracking_problem or "MLflow answers again; everything was delivered")
        if due:
            self._run.log.copy_to(target / STEPS)
            self._run.commit_checkpoint(target, self._state(), settings.checkpoint.keep)

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate_before(self) -> None:
        if not self._inputs.held_out:
            return
        sources: list[Source] = ["learner", "explorer"] if self._graph.explores else ["learner"]
        self._reporter.phase("evaluating before training")
        found = self._evaluate(sources)
        self._evaluations.before, self._evaluations.explorer = found["learner"], found.get("explorer")
        for record in found.values():
            self._report(record, "before")

    def _evaluate_during(self) -> None:
        if self._inputs.held_out:
            record = self.evaluate()
            self._evaluations.during.append(record)
            self._report(record, "during")

    def _evaluate(self, sources: list[Source]) -> dict[Source, EvaluationRecord]:
        problem_ids = [prompt.id for prompt in self._inputs.held_out]
        if not problem_ids:
            raise S2LError("there is nothing to evaluate on; set data.eval")
        start = time.monotonic()
        found = self._graph.evaluate(problem_ids, sources)
        seconds = time.monotonic() - start
        versions = {"learner": self._graph.version, "explorer": 0}
        return {
            source: measure(
                self.settings,
                problem_ids,
                rows,
                step=self._step,
                source=source,
                weight_version=versions[source],
                seconds=seconds,
            )
            for source, rows in zip(sources, found, strict=True)
        }

    def _report(self, record: EvaluationRecord, when: str) -> None:
        self._tracker.log_evaluation(record, when)
        self._reporter.evaluation(record, when)

    # ---- saving, resuming, ending ---------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a whole checkpoint into a directory (what `save(path)` and Tune call)."""
        self._graph.trainer.save(str(Path(checkpoint_dir).resolve() / "trainer"))
        self._run.log.copy_to(Path(checkpoint_dir) / STEPS)
        write_state(Path(checkpoint_dir), self._state())

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from a whole checkpoint (what `restore(path)` and Tune call).

        Raises:
            ConfigError: the directory is not a whole checkpoint, or one of another learner.
            DataError: it is damaged.
        """
        self._go_on_from(read_checkpoint(Path(checkpoint).resolve(), self._run.learner))

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        directory, state = checkpoint.directory, checkpoint.state
        self._graph.trainer.load(str(directory / "trainer"))
        self._step = self._iteration = checkpoint.step
        self._records = list(checkpoint.records)
        if state.get("measured_on", self._measured_on) == self._measured_on:
            self._evaluations = Evaluations.from_json(state)
        else:
            self._evaluations = Evaluations()
            self._reporter.note("the checkpoint's evaluations are left out: data.eval or evaluation was another")
        self._run.log.restore(directory / STEPS)
        self._times.resume_after(self._step)
        self._graph.restore_schedule({record.step: record.explorer_only for record in self._records})
        self._graph.apply_phase(self._step + 1)
        # Engines know nothing of checkpoints: whatever they held before is replaced at once.
        self._graph.weight_sync(self._step)
        self._reporter.note(f"resumed after step {self._step} from {directory}")

    def _state(self) -> dict[str, Any]:
        """What is neither the trainer's nor in the log of steps.

        Prompts, split and seeds of a step are functions of its number alone.
        """
        return {
            "step": self._step,
            **self._evaluations.to_json(),
            "learner": self._run.learner,
            "measured_on": self._measured_on,
            "date": (date := self.settings.data.date) and date.isoformat(),
        }

    @property
    def _measured_on(self) -> dict[str, Any]:
        return measured_on(self.settings, self._inputs.contents)

    def _finish(self) -> None:
        """After the last step: evaluate, export, summarise, draw."""
        if self._inputs.held_out:
            self._reporter.phase("evaluating after training")
            self._evaluations.after = self.evaluate()
            self._report(self._evaluations.after, "after")
        self._reporter.phase("writing model, summary and figures")
        model = self._run.path / "model"
        self._graph.trainer.export(str(model.resolve()))
        self.summary = build_summary(
            config=self.settings,
            dtype=self._dtype,
            steps=self._records,
            before=self._evaluations.before,
            after=self._evaluations.after,
            explorer=self._evaluations.explorer,
            during=self._evaluations.during,
            model=model,
            mlflow_run_id=self._tracker.run_id,
            mlflow_uri=self._tracker.uri,
        )
        self._times.trace.close()
        self._tracker.log_artifact(self._times.trace.path)
        for figure in draw_figures(self.summary, self._run.path / "figures", self._times.trace.path):
            self._tracker.log_artifact(figure, "figures")
        write_summary(self._run.path / "summary.json", self.summary)
        self._tracker.log_artifact(self._run.path / "summary.json")

    def cleanup(self) -> None:
        """End the MLflow run, stop every actor, free the run directory. Safe at any point, also half built."""
        if self._tracker is not None:  # first: a Ray that was ended at the same time answers nobody
            self._end_tracking()
            self._tracker = None
        if self._graph is not None:
            while_it_lives(self._graph.close) if self._owns_ray else self._graph.close()
            self._graph = None
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._owns_ray:
            while_it_lives(ray.shutdown)
            self._owns_ray = False

    def _end_tracking(self) -> None:
        error = sys.exc_info()[1]
        stopped = error is None or isinstance(error, KeyboardInterrupt)
        try:
            self._tracker.finish("FINISHED" if hasattr(self, "summary") else "KILLED" if stopped else "FAILED")
        except TrackingError as undelivered:
            # Results are on disk; what MLflow lacks must not hide them, nor the error that brought us here.
            self._reporter.note(str(undelivered))

    def _setup_logdir(self) -> None:
        # Outside Tune, Trainable would leave an empty directory in ~/ray_results for every run.
        if self._storage:
            super()._setup_logdir()
