"""Where the trials of a study come from, who goes on, and what survives the driver: Tune's own classes, without Ray."""

from __future__ import annotations

import logging
import random
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, PlacementGroupFactory, Trainable, register_trainable
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils.object_cache import _ObjectCache

from s2l_ray.config import load_config
from s2l_ray.errors import ActorLostError, ConfigError, HealthError, NodesChangedError, PlacementError, StorageError
from s2l_ray.tasks.verifiers import BrokenVerifierError, VerifierError
from s2l_ray.tuning import room
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.optuna_source import Suggested
from s2l_ray.tuning.population import Population, PopulationSettings, explored
from s2l_ray.tuning.restoring import restoring_study_trials
from s2l_ray.tuning.schedulers import Halving, rungs_of
from s2l_ray.tuning.searching import Drawn, StudyTrial, StudyTrials, is_not_mended
from s2l_ray.tuning.space import Space
from s2l_ray.tuning.steward import Steward
from s2l_ray.tuning.study_file import SchedulerSection
from s2l_ray.tuning.tune_loop import LogFormat

METRIC = "eval/learner/pass_at_1"
RATE = "trainer.learning_rate"
LOSS = "objective.explorer_negatives"
WARMUP = "trainer.warmup_steps"


def trial(number: int, status: str = Trial.RUNNING, **values: Any) -> StudyTrial:
    config = {"trainer": {"learning_rate": 1e-4}, "schedule": {"steps": 40}}
    made = StudyTrial("S2LPO", config=config, trial_id=f"{number:05d}", stub=True)
    made.evaluated_params = values
    made.status = status
    return made


class Controller:
    """The part of Tune's controller that schedulers ask; a pause is done at once."""

    search_alg = None

    def __init__(self, trials: list[StudyTrial]) -> None:
        self.trials = trials
        self._actor_cache = _ObjectCache()

    def get_trials(self) -> list[StudyTrial]:
        return self.trials

    def get_live_trials(self) -> set[StudyTrial]:
        return {trial for trial in self.trials if trial.status != Trial.TERMINATED}  # failed ones too, as in Tune


# ---- asha -----------------------------------------------------------------------------------------------------------


def test_rungs_are_below_the_last_step() -> None:
    assert rungs_of(SchedulerSection(kind="asha", grace=10, reduction_factor=2), 80) == (10, 20, 40)
    assert rungs_of(SchedulerSection(), 80) == ()


def test_halving_remembers_its_rungs_after_a_restore() -> None:
    trials = [trial(number) for number in (1, 2, 3)]

    def decided(scheduler: Halving, one: StudyTrial, value: float) -> str:
        return str(scheduler.on_trial_result(Controller(trials), one, {"step": 10, METRIC: value}))

    first = Halving(METRIC, "max", 10, 2, 80)
    for one in trials:
        first.on_trial_add(Controller(trials), one)
    assert decided(first, trials[0], 0.5) == decided(first, trials[1], 0.9) == TrialScheduler.CONTINUE
    restored, forgetful = Halving(METRIC, "max", 10, 2, 80), Halving(METRIC, "max", 10, 2, 80)
    restored.set_state(first.get_state())
    for scheduler, decision in ((restored, TrialScheduler.STOP), (forgetful, TrialScheduler.CONTINUE)):
        scheduler.on_trial_add(Controller(trials), trials[2])
        assert decided(scheduler, trials[2], 0.6) == decision  # below the median of 0.5 and 0.9
        scheduler.on_trial_complete(Controller(trials), trials[0], {"step": 80, METRIC: 0.5})  # not added since


# ---- pbt ------------------------------------------------------------------------------------------------------------


def population(at_once: int = 2) -> Population:
    space = Space({RATE: Domain(loguniform=(5e-5, 5e-4))})
    return Population(PopulationSettings(METRIC, "max", 10, 0.25, 0.25, 1, at_once), space, load_config("quickstart"))


def test_only_as_many_trials_run_as_there_is_room_for() -> None:
    trials = [trial(number, Trial.PENDING) for number in (1, 2, 3)]
    scheduler, controller = population(at_once=2), Controller(trials)
    for one in trials:
        scheduler.on_trial_add(controller, one)
    assert [one.status for one in trials] == [Trial.PAUSED] * 3
    begun = []
    for _ in range(3):
        if chosen := scheduler.choose_trial_to_run(controller):
            chosen.status = Trial.PENDING  # as Tune has it while the actor starts
            begun.append(chosen.trial_id)
    assert begun == ["00001", "00002"]


def test_a_trial_that_failed_for_good_is_not_waited_for() -> None:
    trials = [trial(number, Trial.PENDING) for number in (1, 2)]
    scheduler, controller = population(), Controller(trials)
    for one in trials:
        scheduler.on_trial_add(controller, one)
    trials[0].status = Trial.RUNNING
    assert scheduler.on_trial_result(controller, trials[0], {"step": 10, METRIC: 0.5}) == TrialScheduler.PAUSE
    trials[0].status, trials[1].status = Trial.PAUSED, Trial.ERROR
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    trials[0].status = Trial.RUNNING
    assert scheduler.on_trial_result(controller, trials[0], {"step": 11, METRIC: 0.5}) == TrialScheduler.CONTINUE


def test_a_population_goes_on_after_a_restore_where_it_was() -> None:
    trials = [trial(1, Trial.RUNNING), trial(2, Trial.RUNNING)]
    first, controller = population(), Controller(trials)
    for one in trials:
        first.on_trial_add(controller, one)
    first.on_trial_result(controller, trials[0], {"step": 10, METRIC: 0.5})
    restored = population()
    restored.set_state(first.get_state())
    for one in trials:
        restored.on_trial_add(controller, one)
    assert restored.get_state() == first.get_state()
    assert restored.on_trial_result(controller, trials[1], {"step": 9, METRIC: 0.4}) == TrialScheduler.CONTINUE


def test_a_trial_that_was_paused_before_a_restore_is_exploited_after_it() -> None:
    trials = [trial(1, Trial.PAUSED), trial(2, Trial.PAUSED)]
    first, controller = population(), Controller(trials)
    result = {"step": 10, METRIC: 0.5}
    for one in trials:
        first.on_trial_add(controller, one)
    first.on_trial_result(controller, trials[0], result)
    trials[0].run_metadata.checkpoint_manager._latest_checkpoint_result = _TrainingResult(Checkpoint("/x"), result)
    restored = population()
    restored.set_state(first.get_state())
    for one in trials:
        restored.on_trial_add(controller, one)
    restored.on_trial_result(controller, trials[1], {"step": 10, METRIC: 0.4})
    assert (trials[1].checkpoint.path, trials[1].latest_checkpoint_result.metrics) == ("/x", result)


def test_a_trial_that_is_further_than_the_driver_knew_does_not_shift_the_steps_of_comparisons() -> None:
    trials = [trial(1, Trial.RUNNING)]
    scheduler, controller = population(), Controller(trials)
    scheduler.on_trial_add(controller, trials[0])
    decisions = {}
    for step in (13, 14, 19, 20):  # from its own checkpoint of step 12
        decisions[step] = scheduler.on_trial_result(controller, trials[0], {"step": step, METRIC: 0.5})
    assert [step for step, decision in decisions.items() if decision == TrialScheduler.PAUSE] == [13, 20]


@pytest.mark.parametrize("seed", range(20))
def test_changed_values_stay_in_the_space(seed: int) -> None:
    space = Space({RATE: Domain(uniform=(1e-4, 1.1e-4)), LOSS: Domain(choice=(0.0, 0.5, 1.0))})
    values = {RATE: 1.1e-4, LOSS: 0.5}
    base = load_config("quickstart")
    new = explored(values, space, base, 0.25, random.Random(seed))
    assert 1e-4 <= new[RATE] <= 1.1e-4 and new[LOSS] in (0.0, 0.5, 1.0)
    assert new == explored(values, space, base, 0.25, random.Random(seed))
    assert explored(values, space, base, 0.0, random.Random(seed))[LOSS] in (0.0, 1.0)  # the neighbours


@pytest.mark.parametrize(
    ("value", "lower", "higher"),
    [(0, 0, 1), (1, 0, 2), (2, 1, 3), (5, 4, 6), (10, 8, 12), (39, 31, 40), (40, 32, 40)],
)
def test_an_integer_moves_by_at_least_one_within_its_bounds(value: int, lower: int, higher: int) -> None:
    space, base = Space({WARMUP: Domain(randint=(0, 40))}), load_config("quickstart")
    found = {explored({WARMUP: value}, space, base, 0.0, random.Random(seed))[WARMUP] for seed in range(20)}
    assert found == {lower, higher}


def test_values_that_cannot_go_together_are_not_explored() -> None:
    space = Space({"trainer.warmup_steps": Domain(choice=(1, 2))})
    base = load_config("quickstart", {"trainer.lr_schedule": "linear"})
    impossible = Space({"objective.pass_k": Domain(choice=(8, 9))})  # must be less than the group's size, 8
    assert explored({"trainer.warmup_steps": 1}, space, base, 0.0, random.Random(1)) in (
        {"trainer.warmup_steps": 1},
        {"trainer.warmup_steps": 2},
    )
    kept = {"objective.pass_k": 4}
    assert explored(kept, impossible, base, 0.5, random.Random(1)) == kept


# ---- trials ---------------------------------------------------------------------------------------------------------


def test_trials_are_numbered_and_no_more_than_may_run_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_ray.tuning.searching.StudyTrial", partial(StudyTrial, stub=True))
    monkeypatch.setattr(StudyTrial, "init_local_path", lambda self: None)  # there is no directory
    search = StudyTrials("s", 3, Drawn([{RATE: value} for value in (1, 2, 3)]), lambda number, values: values, 2)
    search._spec = {"run": "S2LPO", "max_failures": 4}
    found = [search.next_trial()]
    search.trials = found
    found.append(search.next_trial())
    assert [(one.trial_id, one.evaluated_params, one.max_failures) for one in found] == [
        ("00001", {RATE: 1}, 4),
        ("00002", {RATE: 2}, 4),
    ]
    assert search.next_trial() is None and not search.is_finished()
    found[0].status = Trial.TERMINATED
    found.append(search.next_trial())
    assert found[2].trial_id == "00003" and search.is_finished()


def test_trials_that_are_restored_take_what_may_have_changed_since_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow's database was deleted, so that the study has another run there; more failures and CPUs are allowed."""

    def configured(number: int, values: Any) -> dict[str, Any]:
        free = {"cluster": {}, "checkpoint": {"every": number}, "run_dir": None, "tracking": {"parent_run": "new"}}
        free |= {"recovery": {"max_restarts": number}, "placement": {"cpus": number}}
        return {"trainer": {"learning_rate": values[RATE]}, **free}

    search = StudyTrials("s", 1, Drawn([{RATE: 1}]), configured, 1)
    search._spec = {"max_failures": 4}
    restored = trial(7)
    restored.evaluated_params = {RATE: 1}
    restored.config = configured(3, {RATE: 0.8}) | {"tracking": {"parent_run": "old"}}  # pbt has changed the rate
    restored.__class__ = Trial  # as Tune makes them
    monkeypatch.setattr(TuneController, "_restore_trials", lambda self, experiment_state: [restored])
    with restoring_study_trials(search):
        assert TuneController._restore_trials(None, {}) == [restored]
    assert isinstance(restored, StudyTrial) and restored.config == configured(7, {RATE: 0.8})
    restored.max_failures = 0  # as after an error that is not mended
    restored.run_metadata.num_failures = 1
    restored.status = Trial.PENDING  # it is tried again
    Steward(search, TrialScheduler(), resumes=True, check=lambda: None).on_step_begin(1, [restored])
    assert (restored.max_failures, restored.num_failures) == (4, 0)


def test_a_state_of_tunes_that_was_read_in_part_begins_no_trial_anew() -> None:
    search = StudyTrials("s", 3, Drawn([]), lambda number, values: {}, 1)
    steward = Steward(search, TrialScheduler(), resumes=True, check=lambda: None)
    with pytest.raises(StorageError, match="Ray Tune cannot read all .*: it holds no trial. tune.log says more"):
        steward.on_step_begin(1, [])
    with restoring_study_trials(search), pytest.raises(AttributeError):  # Tune logs it, and goes on
        TuneController.resume({}, None)
    with pytest.raises(StorageError, match="Ray Tune cannot read all .*: 'dict' object has no attribute"):
        steward.on_step_begin(1, [trial(1)])


def raised_in_actor(error: Exception) -> RayTaskError:
    return RayTaskError(
        "train", f"Traceback:\n  File x\n{type(error).__module__}.{type(error).__name__}: {error}", error
    )


def test_an_error_that_would_come_again_is_not_tried_again() -> None:
    assert is_not_mended(raised_in_actor(ConfigError("data.train: is empty")))
    assert is_not_mended(ActorDiedError(raised_in_actor(ConfigError("data.train: is empty"))))
    assert is_not_mended(raised_in_actor(BrokenVerifierError("m:f failed on each of its first 64 answers")))
    assert is_not_mended(raised_in_actor(HealthError("skipped_updates: 5 steps in a row")))
    assert is_not_mended(ActorDiedError(raised_in_actor(BrokenVerifierError("m:f failed on each"))))
    assert not is_not_mended(raised_in_actor(VerifierError("the worker of verifier m:f did not start within 60 s")))
    assert not is_not_mended(raised_in_actor(ActorLostError("a node went away")))
    assert not is_not_mended(ActorDiedError(raised_in_actor(NodesChangedError("its plan has others"))))
    assert not is_not_mended(raised_in_actor(ValueError("ConfigError: no")))
    assert not is_not_mended(ActorDiedError())


def test_a_trial_fails_at_once_or_after_its_tries() -> None:
    lost, wrong = trial(1), trial(2)
    for one, error in ((lost, ActorLostError("x")), (wrong, ConfigError("x"))):
        one.max_failures, one.storage = 2, SimpleNamespace(trial_driver_staging_path=None)
        one.handle_error(raised_in_actor(error))
    assert lost.should_recover() and not wrong.should_recover()


class Planned(Trainable):
    """A trial that is planned for as many CPUs as the cluster has."""

    cpus = 2
    waits: ClassVar[list[float]] = []

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        cls.waits.append(config["cluster"]["start_timeout_s"])
        if cls.cpus == 0:
            raise PlacementError("no node is left")
        return PlacementGroupFactory([{"CPU": cls.cpus}])


def test_a_trial_that_is_tried_again_is_planned_for_the_nodes_that_there_are_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_trainable("planned", Planned)
    one = StudyTrial("planned", config={"cluster": {"start_timeout_s": 300.0}}, max_failures=2)
    one.storage = SimpleNamespace(trial_driver_staging_path=None)
    one.create_placement_group_factory()
    planned = []
    for cpus in (4, 0, 6):
        monkeypatch.setattr(Planned, "cpus", cpus)
        one.handle_error(raised_in_actor(NodesChangedError("its plan has others")))
        planned.append((one.placement_group_factory.bundles[0]["CPU"], one.should_recover()))
    assert Planned.waits == [300, 1, 1]  # Tune's loop is not to wait for nodes
    assert one.config == {"cluster": {"start_timeout_s": 300.0}}
    assert planned == [(4, True), (4, True), (4, False)]  # no plan fits no nodes; the last failure is one too many


# ---- Optuna ---------------------------------------------------------------------------------------------------------


def over(
    number: int,
    values: dict[str, Any],
    step: int,
    value: float,
    *,
    at: int | None = None,
    status: str = Trial.TERMINATED,
) -> StudyTrial:
    """A trial that has done these steps of 40, with a value that was measured then, or after the step `at`."""
    made = trial(number, status)
    made.evaluated_params = values
    made.run_metadata.last_result = {"step": step, METRIC: value, "eval/learner/step": step if at is None else at}
    return made


RATES = {RATE: Domain(loguniform=(1e-5, 1e-3))}


def suggested(trials: list[StudyTrial]) -> dict[str, Any]:
    """The values after these trials."""
    pytest.importorskip("optuna")
    return Suggested(Space(RATES), METRIC, "max", 1).next(9, trials)


def finished(count: int) -> list[StudyTrial]:
    """Trials whose rates are 1e-4, 2e-4, ... and which are the better the larger it is."""
    return [over(number, {RATE: number * 1e-4}, 40, 0.1 * number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("status", "step", "at"),
    [
        (Trial.RUNNING, 5, 0),
        (Trial.PAUSED, 20, 20),
        (Trial.ERROR, 3, 0),
        (Trial.ERROR, 30, 20),
        (Trial.TERMINATED, 5, 0),
    ],
)
def test_optuna_learns_nothing_of_trials_that_run_or_failed_or_were_not_measured_after_training(
    status: str, step: int, at: int
) -> None:
    """Six of them are more than the five at random, but nothing is known of any."""
    trials = [over(number, {RATE: number * 1e-4}, step, 0.1 * number, at=at, status=status) for number in range(1, 7)]
    assert suggested(trials) == suggested([])
    assert suggested(finished(6)) != suggested([])


def test_optuna_takes_pruned_trials_for_worse_than_finished_ones_and_orders_them_by_their_rung() -> None:
    # With eight trials TPE takes the best one, of ten the best 10 %, for good: it is that of the largest rate.
    high, low = (over(8, {RATE: 1e-5}, 10, value) for value in (0.9, 0.0))
    assert suggested([*finished(7), high]) == suggested([*finished(7), low]) != suggested(finished(7))
    rungs = [over(number, {RATE: number * 1e-4}, 10, 0.1 * number) for number in range(1, 7)]
    further = over(8, {RATE: 1e-5}, 20, 0.05)
    further_high = over(8, {RATE: 1e-5}, 20, 0.95)
    assert suggested([*rungs, further]) == suggested([*rungs, further_high])


def test_optuna_stays_away_from_what_still_runs() -> None:
    values = suggested(finished(7))
    high, low = (over(8, values, 5, value, at=0, status=Trial.RUNNING) for value in (0.9, 0.0))
    assert suggested([*finished(7), high]) == suggested([*finished(7), low])
    assert abs(suggested([*finished(7), high])[RATE] / values[RATE] - 1) > 0.5


def test_suggestions_depend_on_the_seed_and_the_results_alone() -> None:
    pytest.importorskip("optuna")
    space = Space({RATE: Domain(loguniform=(1e-5, 1e-3)), "trainer.betas": Domain(choice=([0.9, 0.99], [0.9, 0.95]))})
    source, trials = Suggested(space, METRIC, "max", 1), []
    for number in range(1, 20):
        values = source.next(number, trials)
        trials.append(over(number, values, 40, values[RATE]))
    restored = Suggested(space, METRIC, "max", 1)
    assert restored.next(12, trials[:11]) == trials[11].evaluated_params
    assert Suggested(space, METRIC, "max", 2).next(1, []) != trials[0].evaluated_params
    rates = [one.evaluated_params[RATE] for one in trials]
    assert sum(rates[10:]) / 9 > 2 * sum(rates[:5]) / 5  # it has learnt that more is better


# ---- room -----------------------------------------------------------------------------------------------------------


def test_a_study_that_gets_no_room_says_so_and_ends_with_what_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[{"CPU": 2.0}]]
    monkeypatch.setattr(room, "groups_of_this_job", lambda: groups)
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 0.5})
    now, notes = [0.0], []
    watch = room.Room(300.0, notes.append, lambda: now[0])
    waiting = trial(1, Trial.PENDING)
    waiting.placement_group_factory = PlacementGroupFactory([{}, {"CPU": 1}, {"CPU": 0.25}])

    def after(seconds: float) -> None:
        now[0] += seconds
        watch.on_step_end(1, [waiting])

    for _ in range(9):
        after(11)
    assert notes == ["waited 66 of 300 s for 2 bundles (1.25 CPU); free now: 0.5 CPU"]
    groups.append([{"CPU": 1.0}, {"CPU": 0.25}])
    after(400)  # its engines start
    groups.pop()
    waiting.status = Trial.RUNNING
    after(400)
    waiting.status = Trial.PENDING
    after(200)
    with pytest.raises(PlacementError, match=r"waited 301 s for room for a trial \(2 bundles \(1.25 CPU\)\); free now"):
        after(101)


def test_the_log_has_no_advice_of_tune_that_would_lose_the_study() -> None:
    said = "Experiment has been interrupted, but the most recent state was saved.\nResume experiment with: {}"
    record = logging.makeLogRecord({"msg": said.format("tune.run(..., resume=True)"), "levelname": "WARNING"})
    assert LogFormat("%(levelname)s %(message)s").format(record) == "WARNING " + said.partition("\n")[0]
    other = logging.makeLogRecord({"msg": "two\nlines"})
    assert LogFormat("%(message)s").format(other) == "two\nlines"
