"""Where engines share devices with the trainer: they sleep whenever lost ranks are brought back, and only then wake."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors.calls import RolloutsGoneError
from actors.graph import ActorGraph
from actors.liveness import Death
from actors.supervision import Supervision
from actors.trainer_recovery import RecoveringTrainer
from s2l_ray.errors import ActorLostError
from s2l_ray.reporter import SilentReporter

SLEEP = ["explorer sleep", "learner sleep"]
AGAIN = ["start", "finish_build", "update 1", "connect []"]
"""A trainer is brought back after one step without a snapshot."""
WEIGHT_SYNC = ["learner wake weights", "begin_weight_sync 1", "finish_weight_sync"]
WAKE = ["explorer wake weights", "explorer wake kv_cache", "learner wake kv_cache"]
HOLD = "hold ['explorer', 'learner']"


class Ranks:
    """Note what they are asked, and die once of the call named `fatal`."""

    groups_named = 0

    def __init__(self, calls: list[str], fatal: list[str]) -> None:
        self.ranks = [object()]
        self._calls, self._fatal = calls, fatal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            told = [str(a.split.step) if isinstance(a, SimpleNamespace) else str(a) for a in args]
            self._calls.append(" ".join([name, *told]))
            if name in self._fatal:
                self._fatal.remove(name)
                raise ActorLostError(f"{name} failed: an actor is gone")
            return SimpleNamespace(lost=()) if name == "finish_weight_sync" else ({}, [])

        return call


class Run:
    """The graph of a colocated run after its first step, whose calls are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fatal: list[str] = []
        self.graph = graph = object.__new__(ActorGraph)
        engines = [
            SimpleNamespace(slot=SimpleNamespace(role=role), settings=SimpleNamespace(sleep=True))
            for role in ("explorer", "learner")
        ]
        graph._awake, graph.version, graph._observed = "all", -1, {1: (0, 4), 2: (1, 4)}
        graph._reporter = SilentReporter()
        graph._workers = SimpleNamespace(share_devices=True, all_engines=engines)
        graph._supervision = SimpleNamespace(await_sleepers=lambda: None, lose_members=lambda lost, version: None)
        graph._scheduler = SimpleNamespace(tell=self._tell, forget=lambda: self.calls.append("forget"))
        monkeypatch.setattr(graph, "_sleepers", lambda: (self._of("explorer"), self._of("learner")))
        vigil = SimpleNamespace(add=lambda *args: None, remove=lambda rank: None, gone=self._gone)
        budget = SimpleNamespace(spend=lambda name, cause, log: 0.0)
        graph.trainer = RecoveringTrainer(self._start, lambda rank: None, vigil, budget, lambda text: None, graph._room)
        self.batch: Any = SimpleNamespace(split=SimpleNamespace(step=1))
        graph.weight_sync(0)
        graph.update(self.batch)
        graph.weight_sync(1)
        self.calls.clear()

    def _start(self, named: int) -> Any:
        self.calls.append("start")
        return Ranks(self.calls, self.fatal)

    def _gone(self, ranks: list[Any], error: BaseException) -> list[Death]:
        return [Death("trainer rank 0", ranks[0], "killed", "", None, self.graph.trainer.lose)]

    def _tell(self, method: str, *args: Any, what: str) -> None:
        self.calls.append(" ".join([method, *map(str, args)]))

    def _of(self, role: str) -> Callable[..., None]:
        return lambda *call: self.calls.append(" ".join([role, *call]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_ranks_lost_while_engines_sample(run: Run):
    run.fatal.append("save")
    run.graph.trainer.save("there")
    weight_sync = [HOLD, *SLEEP, *WEIGHT_SYNC, *WAKE, "release 1"]
    assert run.calls == ["save there", HOLD, *SLEEP, *AGAIN, *weight_sync, "save there"]
    assert run.graph.version == 1


def test_ranks_lost_in_a_weight_sync(run: Run):
    run.fatal.append("finish_weight_sync")
    run.graph.weight_sync(1)
    again = [*SLEEP, *AGAIN, *WEIGHT_SYNC]
    assert run.calls == [HOLD, *SLEEP, *WEIGHT_SYNC, *again, *WAKE, "release 1"]


def test_ranks_lost_in_an_update_for_which_engines_sleep_already(run: Run):
    run.fatal.append("update")
    run.graph.update(SimpleNamespace(split=SimpleNamespace(step=2)))
    assert run.calls == [*SLEEP, "update 2", *AGAIN, "update 2"]


@pytest.mark.parametrize("share_devices", [True, False])
def test_rollouts_that_are_gone_are_sampled_again_by_engines_that_are_awake(
    run: Run, monkeypatch: pytest.MonkeyPatch, share_devices: bool
):
    gone, again = (SimpleNamespace(split=SimpleNamespace(step=2)) for _ in range(2))
    update = run.graph.trainer.update

    def without_rollouts(batch: Any) -> Any:
        if batch is gone:
            raise RolloutsGoneError("rollouts of step 2 have gone")
        return update(batch)

    def collect(step: int) -> Any:
        run.calls.append(f"collect {step}")
        return again

    monkeypatch.setattr(run.graph.trainer, "update", without_rollouts)
    monkeypatch.setattr(run.graph, "collect", collect)
    run.graph._workers.share_devices = share_devices
    assert run.graph.update(gone)[0] is again
    awake = [HOLD, *SLEEP, *WEIGHT_SYNC, *WAKE, "release 1"]
    assert run.calls == [
        *SLEEP,
        "forget",
        "restore_schedule {1: (0, 4)}",
        *(awake if share_devices else []),
        "collect 2",
        *SLEEP,
        "update 2",
    ]


@pytest.mark.parametrize("share_devices", [True, False])
def test_ranks_lost_while_the_driver_waits_for_rollouts(share_devices: bool):
    """They are not needed before the next update, for which engines sleep."""
    care, recovered = object.__new__(Supervision), []
    care.serving = True
    care.watch = SimpleNamespace(look=list)
    care.workers = SimpleNamespace(share_devices=share_devices, fill=lambda free: None, arrivals=lambda kinds: [])
    care.trainer = SimpleNamespace(recover=lambda: recovered.append(True))
    care.tend(devices_free=True)
    assert recovered == ([] if share_devices else [True])
