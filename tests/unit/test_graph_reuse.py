"""From one run to the next in the same actors: what the graph does with engines, verifiers, trainer and bank."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from actors import graph as graphs
from actors import launcher as launchers
from actors.blueprint import engine_settings
from actors.graph import ActorGraph
from actors.launcher import PlacedEngine
from actors.workers import Workers
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.placement.plan import EngineSlot
from s2l_ray.placement.start_bound import StartBound
from tests.support.plans import separate_plan
from tests.unit.test_blueprint import needs

RECORDING = BankSettings("bank", "shards", reads=True, is_local=True)


class Actor:
    """Notes what it is asked, under its name."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self._calls.append(f"{self._name} {method}"))


class Launcher:
    start_bound = StartBound(60.0, "60 s")

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def launch_engine(self, slot: EngineSlot) -> PlacedEngine:
        self.calls.append(f"launch {slot.role} {slot.index}")
        return placed(slot, self.calls)

    def launch_verifier(self) -> tuple[Actor, None]:
        return Actor("verifier", self.calls), None

    def launch_bank(self, settings: BankSettings) -> tuple[Actor, None]:
        self.calls.append("launch bank")
        return Actor("bank", self.calls), None

    def sleeps(self, slot: EngineSlot) -> bool:
        return False

    def stop(self, actor: Actor) -> None:
        self.calls.append(f"stop {actor._name}")

    def wait_ready(self, starting: dict[object, str], *more: object) -> None:
        self.calls.append("wait")

    def serve(self, *args: object) -> None: ...

    def scheduler_settings(self, needs: object, engines: list[PlacedEngine], *more: object) -> None:
        self.calls.append(f"schedule {len(engines)} engines")


def placed(slot: EngineSlot, calls: list[str]) -> PlacedEngine:
    config = needs().config
    name = f"{slot.role} {slot.index}"
    settings = engine_settings(config, separate_plan().layout, slot)
    return PlacedEngine(slot, settings, Actor(name, calls), None)


@pytest.fixture
def calls() -> list[str]:
    return []


def graph_at(step: int, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> ActorGraph:
    """A graph whose run has got to a step: explorers of steps 1 to 4 are two more learner engines from 5 on."""
    monkeypatch.setattr(graphs, "check_node_files", lambda *args: calls.append("check nodes"))
    monkeypatch.setattr(graphs, "fetch", lambda refs, timeout_s, what: None)
    graph = ActorGraph(needs())
    graph._launcher, graph._reservation = Launcher(calls), None
    slots = separate_plan().layout.phase_at(step).engines
    vigil = SimpleNamespace(add=lambda *args: None, remove=lambda actor: None)
    graph._workers = workers = Workers(graph._launcher, vigil, None, print, lambda key: None)
    workers.launch_engines({(slot.role, slot.index): slot for slot in slots})
    workers.launch_verifiers(1)
    workers.wait_ready(lambda *counts: None)
    graph._scheduler = SimpleNamespace(
        tell=lambda method, *args, what: calls.append(f"scheduler {method}"), forget=lambda: None
    )
    names = ("begin_rebuild", "finish_rebuild", "connect")
    group = SimpleNamespace(**{name: lambda *args, name=name: calls.append(f"trainer {name}") for name in names})
    graph.trainer = SimpleNamespace(ranks=[], group=group, connect=group.connect, rebuild=lambda begin: begin(group))
    graph._supervision = SimpleNamespace(serving=True, look=lambda: None)
    calls.clear()
    return graph


def test_actors_that_stay_are_renewed_and_the_scheduler_begins_when_all_are_ready(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
):
    graph = graph_at(1, calls, monkeypatch)
    graph.version = 7
    other = needs(**{"trainer.learning_rate": 1e-5})
    assert graph.differences(other, 2) == []
    graph.rest()
    graph.reconfigure(other, 2)
    engines = [f"{role} {index} renew" for role, count in (("learner", 2), ("explorer", 4)) for index in range(count)]
    assert sorted(calls[3:10]) == sorted([*engines, "verifier renew"])
    assert calls[:3] == ["scheduler rest", "check nodes", "trainer begin_rebuild"]
    assert calls[10:] == ["wait", "schedule 6 engines", "scheduler begin", "trainer finish_rebuild"]
    assert graph.version == -1


def test_engines_of_another_phase_are_exchanged_and_weight_syncs_go_to_those_that_are_there(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
):
    graph = graph_at(5, calls, monkeypatch)
    graph._workers.stop(("learner", 1))
    graph._workers.launch_engines({("learner", 9): EngineSlot("learner", 9, 9, (0, 1), 1.0, 1, "nccl")})
    calls.clear()
    assert graph.differences(needs(), 1) == []
    graph._workers._away.add(("explorer", 1))
    assert graph.differences(needs(), 1) == ["explorer engine 1 has no node"]
    graph._workers._away.clear()
    graph.reconfigure(needs(), 1)
    assert sorted(call for call in calls if call.startswith("stop")) == [f"stop learner {i}" for i in (2, 3, 9)]
    launched = [call for call in calls if call.startswith("launch")]
    assert sorted(launched) == [*(f"launch explorer {i}" for i in range(4)), "launch learner 1"]
    assert calls[-1] == "trainer connect" and [call for call in calls if call.endswith("renew")] == [
        "learner 0 renew",
        "verifier renew",
    ]
    assert graph.engines == {"explorer": 4, "learner": 2} and not graph.phase_changes_before(1)


def test_a_difference_in_what_stays_is_named(calls: list[str], monkeypatch: pytest.MonkeyPatch):
    graph = graph_at(5, calls, monkeypatch)
    longer = needs(**{"rollout.max_tokens": 64})
    assert "learner engine 0: max_tokens" in graph.differences(longer, 1)
    assert not [line for line in graph.differences(longer, 1) if "explorer" in line]


def test_the_bank_is_opened_again_started_or_stopped(calls: list[str], monkeypatch: pytest.MonkeyPatch):
    graph = graph_at(1, calls, monkeypatch)
    for settings in (RECORDING, RECORDING, None, None):
        graph._reopen_bank(settings)
        graph._workers.wait_ready(lambda *counts: None)
    assert [call for call in calls if "bank" in call] == ["launch bank", "bank reopen", "stop bank"]
    assert graph._workers.bank is None


def test_what_a_file_held_when_any_run_of_the_graph_read_it_counts(calls: list[str], monkeypatch: pytest.MonkeyPatch):
    graph = graph_at(1, calls, monkeypatch)
    own = {"objective.loss": "mine:loss"}
    graph.reconfigure(needs(contents={"objective.loss source": "digest 1"}, **own), 1)
    graph.reconfigure(needs(contents={"tokenizer": "digest 44"}), 1)
    edited = {"objective.loss source": "digest 2"}
    named = f"contents of objective.loss source ({own['objective.loss']})"
    assert graph.differences(needs(contents=edited, **own), 1) == [named]
    assert graph.differences(needs(contents=edited), 1) == []  # of another function, whose source nobody has read


def test_a_wait_for_actors_ends_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of them may answer between two looks: a bar must not stay at two of three."""
    launcher = object.__new__(launchers.ActorLauncher)
    launcher.start_bound = StartBound(60.0, "60 s")
    monkeypatch.setattr(launchers, "watch", lambda refs, timeout, tell: tell(refs[:2]))
    monkeypatch.setattr(launchers, "fetch", lambda refs, timeout_s, what: None)
    monkeypatch.setattr(launchers.ray, "wait", lambda refs, **how: (refs, []))
    told: list[tuple[int, int]] = []
    launcher.wait_ready({name: name for name in ("verifier 0", "verifier 1", "the bank")}, lambda *n: told.append(n))
    assert told == [(2, 3), (3, 3)]


def test_the_ranks_recompute_as_many_layers_as_the_plan_says(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """When they are started, and when they serve another run; the run's own configuration stays as it is."""
    plan = separate_plan()
    planned = needs(replace(plan, layout=replace(plan.layout, recomputed_layers=5)))
    graph = graph_at(1, calls, monkeypatch)
    built: list[Any] = []
    graph.trainer.group.begin_rebuild = built.append
    graph.reconfigure(planned, 1)
    group = SimpleNamespace(begin_build=built.append)
    monkeypatch.setattr(graphs, "TrainerGroup", lambda *args: group)
    graph._launcher.launch_rank = lambda slot, ranks: None
    graph._supervision.tend_busy = None
    assert graph._start_ranks(1, 0) is group
    assert [config.trainer.recomputed_layers for config in built] == [5, 5]
    assert planned.config.trainer.recomputed_layers is None
