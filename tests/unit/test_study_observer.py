from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune import Checkpoint
from ray.tune.experiment import Trial

from s2l_ray.errors import PlacementError
from s2l_ray.tuning.failure import message_of
from s2l_ray.tuning.observer import StudyObserver
from s2l_ray.tuning.outcomes import Exploit, TrialOutcome
from tests.support.studies import study

CONFIG = {"schedule": {"steps": 4, "mix_steps": 2}, "trainer": {"learning_rate": 1e-4}}
KEYS = ("schedule.mix_steps", "trainer.learning_rate")


@pytest.fixture
def about(tmp_path: Path, monkeypatch):
    # Tune's driver keeps files of its own in the session directory of a Ray, of which there is none here.
    session = str(tmp_path / "session")
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: session)
    return study(tmp_path / "s", trials=2, keys=KEYS, name="s")


def tune_trial(directory: Path, number: int, to_start: bool = True) -> Trial:
    """A trial as Tune's driver makes it, without an actor; with a directory once it is to start."""
    storage = StorageContext(storage_path=str(directory), experiment_dir_name="s")
    trial = Trial(
        "S2LPO",
        config=copy.deepcopy(CONFIG),
        storage=storage,
        stub=True,
        trial_name_creator=lambda _: f"s_{number:05d}",
        trial_dirname_creator=lambda _: f"s_{number:05d}",
    )
    if to_start:
        trial.init_local_path()
    return trial


def result(step: int, value: float, at: int | None = None, **more) -> dict:
    at = step if at is None else at
    names = {"": value, "_low": value - 0.1, "_high": value + 0.1}
    measured = {f"eval/learner/pass_at_1{end}": number for end, number in names.items()}
    told = {"run_dir": "/runs/s_00000", "mlflow_run_id": "abc", "time_this_iter_s": 2.0}
    return {"step": step, "eval/learner/step": at, **measured, **told, "done": step == 4, **more}


class Heard(list):
    """A listener that remembers (event, status, step) of every event, and the last outcome."""

    last: TrialOutcome | None = None

    def __call__(self, event: str, outcome: TrialOutcome) -> None:
        self.append((event, outcome.status, outcome.step))
        self.last = outcome


def test_a_trial_from_start_to_end(about, tmp_path):
    heard, trial = Heard(), tune_trial(tmp_path, 0, to_start=False)
    observer = StudyObserver(about, heard)
    observer.on_step_begin(0, [trial])
    (waiting,) = observer.outcomes
    trial.init_local_path()  # as Tune does when it asks for the trial's actor
    observer.on_step_end(0, [trial])
    observer.on_step_begin(1, [trial])
    assert (waiting.name, waiting.status, waiting.steps, waiting.metric) == ("s_00000", "waiting", 4, None)
    assert waiting.values == {"schedule.mix_steps": 2, "trainer.learning_rate": 1e-4}
    observer.on_trial_start(0, [trial], trial)
    observer.on_trial_result(0, [trial], trial, result(1, 0.2, at=0))
    observer.on_trial_result(0, [trial], trial, result(2, 0.3))
    observer.on_trial_result(0, [trial], trial, result(3, 0.3, at=2))  # carried on: no second measurement
    observer.on_trial_result(0, [trial], trial, result(4, 0.4))
    observer.on_trial_complete(0, [trial], trial)
    trial.status = Trial.TERMINATED
    observer.on_step_end(0, [trial])
    observer.on_experiment_end([trial])
    assert heard == [
        ("starting", "starting", 0), ("started", "running", 0), ("step", "running", 1), ("step", "running", 2),
        ("step", "running", 3), ("step", "running", 4), ("ended", "finished", 4),
    ]  # fmt: skip
    assert heard.last is not None
    assert heard.last.history == ((0, 0.2), (2, 0.3), (4, 0.4)) and heard.last.interval == (0.4 - 0.1, 0.4 + 0.1)
    assert heard.last.before == 0.2 and heard.last.interval_before == (0.2 - 0.1, 0.2 + 0.1)
    assert (heard.last.seconds, heard.last.directory, heard.last.mlflow_run_id) == (8.0, "/runs/s_00000", "abc")


class Told:
    """Stands for an actor's handle: remembers which of its methods was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        return type("Method", (), {"remote": lambda _: self.calls.append(name)})()


def test_a_pruned_trial_is_told_so_before_its_end(about, tmp_path):
    heard, trial = Heard(), tune_trial(tmp_path, 0)
    observer = StudyObserver(about, heard)
    trial.temporary_state.ray_actor = actor = Told()
    observer.on_trial_start(0, [trial], trial)
    observer.on_trial_result(0, [trial], trial, result(2, 0.2, done=True))
    observer.on_trial_complete(0, [trial], trial)
    assert actor.calls == ["mark_pruned"] and heard[-1] == ("ended", "pruned", 2)
    finished = tune_trial(tmp_path, 1)
    finished.temporary_state.ray_actor = actor = Told()
    observer.on_trial_result(0, [finished], finished, result(4, 0.2))
    observer.on_trial_complete(0, [finished], finished)
    assert actor.calls == [] and heard[-1] == ("ended", "finished", 4)


def test_a_trial_that_the_user_stopped_is_not_pruned_and_one_that_never_began_waits(about, tmp_path):
    heard, trials = Heard(), [tune_trial(tmp_path, 0), tune_trial(tmp_path, 1, to_start=False)]
    observer = StudyObserver(about, heard)
    observer.on_trial_start(0, trials, trials[0])
    observer.on_trial_result(0, trials, trials[0], result(1, 0.2))
    trials[0].status = Trial.RUNNING
    observer.on_experiment_end(trials)
    assert [outcome.status for outcome in observer.outcomes] == ["stopped", "waiting"]
    assert heard[-1] == ("ended", "stopped", 1)


def test_an_exploit_says_from_whom_at_which_step_and_what_changed(about, tmp_path):
    heard, (donor, taker) = Heard(), (tune_trial(tmp_path, 0), tune_trial(tmp_path, 1))
    observer, trials = StudyObserver(about, heard), [donor, taker]
    taker.status = Trial.PAUSED  # as our population does with a trial that has to wait for its turn
    observer.on_step_begin(0, trials)
    assert observer.outcomes[1].status == "waiting" and heard == [("starting", "starting", 0)]  # the donor
    for trial, value in ((donor, 0.4), (taker, 0.1)):
        observer.on_trial_start(0, trials, trial)
        directory = f"/runs/{trial}"
        observer.on_trial_result(0, trials, trial, result(2, value, run_dir=directory))
        trial.status = Trial.PAUSED
    observer.on_step_end(0, trials)
    assert heard.count(("paused", "paused", 2)) == 2
    # What PopulationBasedTraining._exploit does.
    taker.set_config({"schedule": CONFIG["schedule"], "trainer": {"learning_rate": 1.2e-4}})
    checkpoint = Checkpoint(path=f"{donor.storage.trial_fs_path}/checkpoint_000000")
    taker.run_metadata.checkpoint_manager._latest_checkpoint_result = _TrainingResult(checkpoint, result(2, 0.4))
    observer.on_step_end(0, trials)
    observer.on_step_end(0, trials)
    expected = Exploit(step=2, own_step=2, donor="s_00000", changed={"trainer.learning_rate": (1e-4, 1.2e-4)})
    assert observer.outcomes[1].exploits == (expected,)
    assert observer.outcomes[1].values == {"schedule.mix_steps": 2, "trainer.learning_rate": 1.2e-4}
    assert [event for event, *_ in heard].count("exploited") == 1
    taker.status = Trial.RUNNING
    observer.on_trial_result(0, trials, taker, result(3, 0.4, at=2, run_dir="/runs/s_00001"))  # measured of the donor
    assert observer.outcomes[1].metric == 0.4 and observer.outcomes[1].history == ((2, 0.1),)
    # After kill -9 of the driver the trials are read again, and the exploit is not counted twice.
    again = StudyObserver(about, heard := Heard())
    again.set_state(json.loads(json.dumps(observer.get_state())))
    assert again.outcomes == observer.outcomes and heard == [("restored", "paused", 2), ("restored", "running", 3)]
    taker.set_config(dict(taker.config))
    again.on_step_begin(0, trials)
    assert again.outcomes[1].exploits == (expected,)


def test_a_trial_whose_engines_start_again_is_starting(about, tmp_path):
    heard, trial = Heard(), tune_trial(tmp_path, 0)
    observer = StudyObserver(about, heard)
    observer.on_trial_start(0, [trial], trial)
    observer.on_trial_result(0, [trial], trial, result(2, 0.2))
    restored = StudyObserver(about, again := Heard())
    restored.set_state(observer.get_state())
    restored.on_step_begin(0, [trial])  # a study that was resumed asks for the trial's actor
    assert again == [("restored", "running", 2), ("starting", "starting", 2)]
    trial.status = Trial.PAUSED
    observer.on_step_end(0, [trial])
    trial.status = Trial.PENDING
    observer.on_step_begin(1, [trial])
    assert observer.outcomes[0].status == "starting"
    assert heard[-1] == ("paused", "paused", 2)  # the engines of a population's trial are kept: no line
    observer.on_experiment_end([trial])
    assert heard[-1] == ("ended", "stopped", 2)


def test_tune_can_pickle_it(about, tmp_path):
    observer = StudyObserver(about, lambda event, outcome: None)
    observer.on_step_begin(0, [tune_trial(tmp_path, 0)])
    assert pickle.loads(pickle.dumps(observer)).outcomes == observer.outcomes


def test_a_failed_trial_has_the_one_message_of_its_error(about, tmp_path):
    heard, trial = Heard(), tune_trial(tmp_path, 0)
    trial.max_failures = 1
    observer = StudyObserver(about, heard)
    observer.on_trial_start(0, [trial], trial)
    message = "placement.cpus: no node has 64 CPUs; the largest has 2"
    trial.handle_error(wrapped(PlacementError(message)))
    observer.on_trial_recover(0, [trial], trial)
    assert heard[-1] == ("failed", "waiting", 0) and heard.last.error == message and heard.last.failures == 1
    trial.handle_error(wrapped(ValueError("two\nlines")))
    observer.on_trial_error(0, [trial], trial)
    assert heard[-1] == ("ended", "failed", 0) and heard.last.error == "ValueError: two\nlines"
    assert heard.last.failures == 2


def wrapped(error: Exception) -> RayTaskError:
    """An error as Ray hands it on: raised in one actor's call, which another one waited for."""
    import traceback

    try:
        raise error
    except Exception:
        inner = RayTaskError("Engine.start", traceback.format_exc(), error, "Engine", 1, "127.0.0.1")
    try:
        raise inner.as_instanceof_cause()
    except Exception as again:
        return RayTaskError("S2LPO.train", traceback.format_exc(), again, "S2LPO", 2, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "The actor died because of an error raised in its creation task, \x1b[36mray::S2LPO.__init__()\x1b[39m\n"
            '  File "/x.py", line 3, in setup\n    raise ConfigError(text)\ns2l_ray.errors.ConfigError: a: b is wrong',
            "a: b is wrong",
        ),
        (
            "\x1b[36mray::S2LPO.train()\x1b[39m (pid=1)\nKeyError: 'c'\n\nDuring handling of the above exception, "
            "another exception occurred:\n\n\x1b[36mray::S2LPO.train()\x1b[39m (pid=1)\n"
            "s2l_ray.errors.DataError: x.jsonl:3 has no c:\nadd it",
            "x.jsonl:3 has no c:\nadd it",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: S2LPO\n\tactor_id: f\n\tpid: 12\n",
            "its own process (pid 12) died unexpectedly. Perhaps it was killed for want of memory, as dmesg on its "
            "node would say. max_failures of the study is how often a trial is tried again",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: Learner\n\tpid: 12\n",
            "The actor died unexpectedly before finishing this task.",
        ),
        ("s2l_ray.tasks.verifiers.BrokenVerifierError: m:f failed", "m:f failed"),
        (
            "s2l_ray.errors.ActorLostError: the update failed: an actor is gone. It died. "
            "The same command resumes from the last checkpoint.",
            "the update failed: an actor is gone. It died.",
        ),
        (
            "s2l_ray.errors.ActorLostError: lower trainer.micro_batch_tokens; the same command resumes from the "
            "last checkpoint. Memory on the node",
            "lower trainer.micro_batch_tokens. Memory on the node",
        ),
        ("", "it failed without a message"),
    ],
)
def test_what_is_no_traceback_of_ours_has_a_message_too(text: str, message: str):
    assert message_of(f"Failure # 1 (occurred at 2026-11-27_15-00-00)\n{text}") == message
