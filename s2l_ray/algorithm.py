"""S2LPO: a training run behind the interface of `ray.tune.Trainable`, with an RLlib-style API.

    algo = S2LPO(load_config("quickstart"))
    while not algo.train()["done"]:
        pass
    algo.stop()

In a Tuner relative paths start where the Tuner was started, and every trial has a run directory of its own.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from s2l_ray.config import Config
from s2l_ray.config.loading import parse_config
from s2l_ray.placement.plan import Plan
from s2l_ray.reporter import Reporter, SilentReporter
from s2l_ray.results import EvaluationRecord
from s2l_ray.run.run_actors import RunActors
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.trials.messages import plainly
from s2l_ray.trials.pointer import Pointer, follow, terms_of
from s2l_ray.trials.resources import trial_resources
from s2l_ray.trials.results import trial_result
from s2l_ray.trials.trial import as_trial, launch_directory


class S2LPO(Trainable):  # type: ignore[misc]  # Ray has no types
    """Trains the learner with groups that a frozen small explorer shares, by Algorithm 1 of arXiv 2605.30789.

    `train` does one step and returns its metrics by MLflow's names, with `step` and `done`; `run.records[-1]` is the
    whole record. `save` and `restore` write and read checkpoints, `stop` frees everything.

    Args:
        config: a `Config`, or (from Tune) the same as a nested dictionary.
        reporter: told what happens; default: nothing is shown.
        tune: what Tune passes to a Trainable.

    Raises:
        S2LError: anything that a user can correct; if possible before an engine is started.
    """

    run: TrainingRun
    """The training run itself, with its actors (`run.graph`)."""

    def __init__(self, config: Config | dict[str, Any], reporter: Reporter | None = None, **tune: Any) -> None:
        self._reporter = reporter or SilentReporter()
        with ExitStack() as stack:
            self._resources = stack
            super().__init__(config.model_dump(mode="json") if isinstance(config, Config) else config, **tune)
            self._resources = stack.pop_all()

    # ---- Trainable --------------------------------------------------------------------------------------------------

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """The bundles of the trial's plan. Tune calls it before the trial starts; see `trial_resources`."""
        return trial_resources(config)

    @plainly
    def setup(self, config: dict[str, Any]) -> None:
        """Set the run up, with a name and a directory of its own if it is a trial of Tune's."""
        self._begin(self._settings_of(config))

    @plainly
    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the run and begin another one, of this trial or of one that Tune gives this actor to.

        Engines, verifiers and trainer ranks stay where the other run would start the same ones; what was trained does
        not. `restore` comes next, or the first step. Always true: where it fails, nothing is left running.

        Raises:
            S2LError: as for a new S2LPO. If the configuration is not valid, the run goes on.
        """
        settings = self._settings_of(new_config)
        actors = self.run.hand_over()
        self._resources = ExitStack()
        self._begin(settings, actors)
        return True

    def reset(self, new_config: dict[str, Any], storage: Any = None) -> bool:
        """See `Trainable.reset`, which calls `reset_config`. A run that resumes in its directory counts on."""
        done = bool(super().reset(new_config, storage))
        self._iteration = self.run.steps_done
        return done

    def _settings_of(self, config: dict[str, Any]) -> Config:
        if self._storage:
            os.chdir(launch_directory())
        settings = parse_config(config)
        return as_trial(settings, self._storage, self.trial_name) if self._storage else settings

    def _begin(self, settings: Config, actors: RunActors | None = None) -> None:
        terms = terms_of(self._storage) if self._storage else None
        self.run = self._resources.enter_context(TrainingRun(settings, self._reporter, actors, terms))
        self._iteration = self.run.steps_done

    @plainly
    def step(self) -> dict[str, Any]:
        """One step of Algorithm 1, see `TrainingRun.step`. `train` calls it and adds what Tune does.

        Returns:
            Flat numbers and texts, see `trial_result`.
        """
        self.run.step()
        if self._storage and self.run.done:
            self.run.deliver()  # now: when the last trial is over, Tune kills what has not ended within seconds
        return trial_result(self.run)

    @plainly
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a whole checkpoint into a directory; in a trial, where the run's own is. `save` and Tune call it."""
        if self._storage:
            Pointer.to(self.run).write(Path(checkpoint_dir))
        else:
            self.run.state.save(Path(checkpoint_dir))

    @plainly
    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from what `save_checkpoint` wrote, see `RunState.restore` and `trials.pointer.follow`."""
        if pointer := Pointer.read(Path(checkpoint)):
            follow(pointer, self.run)
        else:
            self.run.state.restore(Path(checkpoint))
        self._iteration = self.run.steps_done

    def mark_pruned(self) -> None:
        """Take in that the scheduler ends this trial before its last step.

        The driver of a study calls it before Tune calls `stop`, which cannot tell that from an end by the user.
        """
        self.run.pruned()

    def cleanup(self) -> None:
        """End the run, whatever is under way. `stop` calls it."""
        self._resources.__exit__(*sys.exc_info())

    def _setup_logdir(self) -> None:
        # Outside Tune, Trainable would leave an empty directory in ~/ray_results for every run.
        if self._storage:
            super()._setup_logdir()

    # ---- results ----------------------------------------------------------------------------------------------------

    def evaluate(self) -> EvaluationRecord:
        """Held-out pass@k of the learner as it is now.

        Raises:
            S2LError: there are no held-out problems (data.eval).
        """
        return self.run.evaluate()

    @property
    def settings(self) -> Config:
        """Resolved configuration of the run."""
        return self.run.settings

    @property
    def plan(self) -> Plan:
        """Placement of the run's actors."""
        return self.run.plan

    @property
    def summary(self) -> dict[str, Any]:
        """What the run was and did, once it has got to its end; see `TrainingRun.summary`."""
        return self.run.summary
