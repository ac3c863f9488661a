"""The failure budget, what is said of a death, and what the bank's client keeps until it is written."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors.bank_client import BankClient
from actors.launcher import ActorLauncher, PlacedEngine
from actors.workers import Workers
from s2l_ray.bank.writer import Receipt
from s2l_ray.errors import ActorLostError, NodeLostError
from s2l_ray.placement.plan import EngineSlot, TrainerSlot
from s2l_ray.placement.start_bound import StartBound
from s2l_ray.recovery.budget import RestartBudget
from s2l_ray.recovery.causes import kernel_kills, log_tail, short_cause
from s2l_ray.rollouts.requests import ExplorerRequest

# ---- the failure budget --------------------------------------------------------------------------------------------


def budget(max_restarts: int, clock: list[float]) -> RestartBudget:
    return RestartBudget(max_restarts, window_s=100.0, backoff_s=2.0, clock=lambda: clock[0])


def test_the_first_restart_waits_for_nothing_and_the_next_ones_back_off() -> None:
    spent = budget(9, [0.0])
    assert [spent.spend("a", "") for _ in range(8)] == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert spent.spend("b", "") == 0.0  # every actor has its own


def test_one_restart_too_many_within_the_window_is_an_error_with_its_cause() -> None:
    clock = [0.0]
    spent = budget(2, clock)
    for clock[0] in (0.0, 60.0):
        spent.spend("learner engine 3", "")
    clock[0] = 99.0
    with pytest.raises(
        ActorLostError, match=r"learner engine 3 is gone after 2 restarts within 100 s.* It burned\. Its log ends so\."
    ):
        spent.spend("learner engine 3", "It burned.", "Its log ends so.")
    clock[0] = 101.0  # the first of them does not count any more
    assert spent.spend("learner engine 3", "") == 2.0
    with pytest.raises(ActorLostError):
        spent.spend("learner engine 3", "")


def test_without_restarts_every_death_is_an_error() -> None:
    with pytest.raises(ActorLostError, match=r"the bank is gone and recovery\.max_restarts is 0\. Killed\."):
        budget(0, [0.0]).spend("the bank", "Killed.")


# ---- causes --------------------------------------------------------------------------------------------------------


def test_the_end_of_a_log_is_repeated_and_a_log_that_is_not_there_is_not(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_bytes(b"".join(b"line %d\n\n" % i for i in range(40)) + b"\xff" + b"x" * 400 + b"\n")
    lines = log_tail(log).splitlines()
    assert lines[:2] == ["  line 29", "  line 30"] and len(lines) == 12
    assert lines[-1] == "  \ufffd" + "x" * 299
    assert log_tail(tmp_path / "nowhere") == ""


def test_the_kernels_count_of_kills(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 3\n")
    assert kernel_kills(tmp_path / "vmstat") == 3
    assert kernel_kills(tmp_path / "nowhere") == 0


def test_rays_advice_is_left_out() -> None:
    error = RuntimeError("The worker\n died. Some common causes include: (1) magic")
    assert short_cause(error) == "The worker died."
    assert short_cause(ValueError()) == "ValueError"


def test_a_rank_whose_node_is_lost_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = object.__new__(ActorLauncher)
    launcher._reservation = SimpleNamespace(places=[SimpleNamespace(node="a" * 56), SimpleNamespace(node="b" * 56)])
    slot = TrainerSlot(3, 1, (), 1.0)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": c * 56, "Alive": c == "a"} for c in "ab"])
    with pytest.raises(NodeLostError, match=r"node bbbbbbbb is lost, and with it trainer rank 3\. The same command"):
        launcher.launch_rank(slot, 4)


class Nodes:
    """Stands for the launcher: engines that sleep share a node with a trainer rank, and some bundles have none."""

    start_bound = StartBound(30.0, "30 s (cluster.start_timeout_s)")

    def __init__(self, lost: set[int], asleep: bool) -> None:
        self.lost, self._asleep = lost, asleep
        self.launched: list[int] = []
        self.on = "there"

    def has_node(self, slot: EngineSlot) -> bool:
        return slot.bundle not in self.lost

    def is_lost(self, node: str | None) -> bool:
        return node == "lost"

    def bury(self, actor: Any, node: str | None) -> None: ...

    def launch_verifier(self) -> tuple[Any, Any]:
        return object(), object()

    def node_of(self, actor: Any) -> str:
        return self.on

    def sleeps(self, slot: EngineSlot) -> bool:
        return self._asleep

    def launch_engine(self, slot: EngineSlot) -> Any:
        if not self.has_node(slot):
            raise NodeLostError(f"node {slot.bundle} is lost, and with it explorer engine {slot.index}. Again.")
        self.launched.append(slot.bundle)
        return PlacedEngine(slot, None, object(), object())


@dataclass
class Away:
    """Two explorer engines on bundles 0 and 1, at a time of the test's own."""

    nodes: Nodes
    monkeypatch: pytest.MonkeyPatch
    notes: list[str] = field(default_factory=list)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(time, "monotonic", lambda: self.now)
        spent = RestartBudget(0, 100.0, 2.0)
        self.workers = Workers(
            self.nodes, SimpleNamespace(remove=lambda actor: None), spent, self.notes.append, lambda key: None
        )
        self.workers.launch_engines({("explorer", i): EngineSlot("explorer", i, i, (), 1.0, 1, None) for i in (0, 1)})


def test_an_engine_whose_node_is_lost_is_started_once_it_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the failure budget, which allows nothing, that takes nothing."""
    away = Away(Nodes({1}, asleep=False), monkeypatch)
    assert away.nodes.launched == [0] and not away.workers.expects("learner")
    assert away.notes == [
        "node 1 is lost, and with it explorer engine 1: one explorer engine is left. The lost engine "
        "is started again once there is a node for it"
    ]
    away.now += 4.0
    away.nodes.lost.clear()
    away.workers.fill(devices_free=False)
    assert away.nodes.launched == [0]  # nobody looks before 5 s are over
    away.now += 1.0
    away.workers.fill(devices_free=False)
    assert away.nodes.launched == [0, 1] and len(away.notes) == 1 and away.workers.restarts == 1
    assert away.workers.engine_keys == {("explorer", 0), ("explorer", 1)}


def test_the_last_engine_of_its_kind_is_waited_for_within_the_bound_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(Nodes({1}, asleep=False), monkeypatch)
    away.now += 3600.0  # an hour without one of them
    away.nodes.lost.add(0)
    away.workers.lose(("explorer", 0), "its node died", node="lost")
    away.workers.fill(devices_free=False)
    assert "explorer engine 0: none is left, and one is waited for" in away.notes[1]
    assert away.workers.away == [("explorer", 0), ("explorer", 1)]
    away.now += 29.0
    away.workers.fill(devices_free=False)
    assert away.workers.count("explorer") == 0 and away.workers.has("explorer") and not away.workers.has("learner")
    away.now += 5.0
    with pytest.raises(NodeLostError, match=r"node . is lost, .* no other node came within 30 s .* The same command"):
        away.workers.fill(devices_free=False)


def test_a_process_whose_node_is_lost_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(Nodes(set(), asleep=False), monkeypatch)
    away.workers.launch_verifiers(1)
    for key, name in ((("verifier", 0), "verifier 0"), (("explorer", 1), "explorer engine 1")):
        away.workers.lose(key, "its node died", node="lost")
        away.workers.fill(devices_free=False)
        assert away.notes.pop() == f"{name} is lost and is started again: its node died"
        with pytest.raises(ActorLostError, match=rf"{name} is gone and recovery\.max_restarts is 0\. it crashed"):
            away.workers.lose(key, "it crashed", node="there")
    away.nodes.on = "lost"  # an engine that has not answered yet says nothing of its node
    away.workers.lose(("explorer", 0), "it does not start")
    assert away.notes.pop().startswith("explorer engine 0 is lost and is started again")


def test_an_engine_beside_a_rank_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeLostError, match="node 1 is lost, and with it explorer engine 1"):
        Away(Nodes({1}, asleep=True), monkeypatch)


# ---- the bank's client ---------------------------------------------------------------------------------------------


class Dead:
    """Every call of it fails, as calls of an actor do whose process is gone."""

    def __getattr__(self, method: str) -> Any:
        async def call(*_: Any) -> None:
            raise ray.exceptions.ActorDiedError

        return SimpleNamespace(remote=call)


class There:
    """Writes with every third rollout set all that it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.record = SimpleNamespace(remote=self._record)
        self.covers = SimpleNamespace(remote=self._covers)

    async def _record(self, request: ExplorerRequest, scored: str) -> Receipt:
        self.given.append(scored)
        return Receipt(len(self.given), len(self.given) // 3 * 3)

    async def _covers(self, requests: list[ExplorerRequest]) -> list[bool]:
        return [True] * len(requests)


def request(number: int) -> ExplorerRequest:
    return ExplorerRequest(1, f"p{number}", 2, 0, 0)


class Lost:
    """Rollouts of the first set are gone."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.record = SimpleNamespace(remote=self._record)

    async def _record(self, request: ExplorerRequest, scored: str) -> Receipt:
        if scored == "set 0":
            raise ray.exceptions.ObjectLostError("0" * 56, None, "")
        self.given.append(scored)
        return Receipt(len(self.given), len(self.given))


def test_what_a_lost_node_held_is_missing_from_the_next_bank() -> None:
    async def story() -> None:
        client, next_one = BankClient(There()), Lost()
        for number in range(2):
            await client.record(request(number), f"set {number}")
        await client.replace(next_one)
        assert next_one.given == ["set 1"]

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_new_bank_gets_what_the_old_one_had_not_written_and_calls_wait_for_it() -> None:
    async def story() -> None:
        first, second = There(), There()
        client = BankClient(first)
        for number in range(5):
            await client.record(request(number), f"set {number}")
        client._bank = Dead()  # it dies with sets 3 and 4 in memory
        recording = asyncio.ensure_future(client.record(request(5), "set 5"))
        asking = asyncio.ensure_future(client.covers([request(0)]))
        await asyncio.sleep(0.01)
        assert client.failed and not recording.done() and not asking.done()
        await client.replace(second)
        await asyncio.gather(recording, asking)
        assert sorted(second.given) == ["set 3", "set 4", "set 5"]
        assert not client.failed and client._unwritten == {}

    asyncio.run(asyncio.wait_for(story(), 10))
