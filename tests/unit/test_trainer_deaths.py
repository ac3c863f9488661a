"""A trainer that loses a rank in any of its calls is, after that, where one is that lost none."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from actors.calls import RolloutsGoneError
from actors.liveness import Death
from actors.trainer_recovery import RecoveringTrainer
from s2l_ray.errors import ActorLostError, ConfigError, NodeLostError
from s2l_ray.recovery.budget import RestartBudget

DISK: dict[str, tuple[str, ...]] = {}


class Ranks:
    """Ranks whose state is the names of what they were trained on. The call with the fatal number kills one of them.

    `calls` counts over all that are started.
    """

    groups_named = 0

    def __init__(self, world: World) -> None:
        self.ranks = [object(), object()]
        self.world = world
        self.state: tuple[str, ...] = ()
        self.members: list[Any] = []
        self.dead = False

    def _call(self, name: str) -> None:
        self.world.calls.append(name)
        if self.dead or len(self.world.calls) in self.world.fatal:
            self.dead = True
            self.world.noticed(self.ranks[0])
            raise ActorLostError(f"{name} failed: an actor is gone")

    def finish_build(self) -> None:
        self._call("build")

    def update(self, batch: Any) -> tuple[str, ...]:
        self._call("update")
        self.state += (f"batch {batch.split.step}",)
        return self.state

    def connect(self, members: list[Any]) -> None:
        self._call("connect")
        self.members = members

    def save(self, directory: str) -> None:
        self._call("save")
        DISK[directory] = self.state

    def load(self, directory: str) -> None:
        self._call("load")
        self.state = DISK[directory]

    def begin_snapshot(self) -> list[tuple[str, ...]]:
        return [self.state]

    def is_whole(self, snapshot: list[tuple[str, ...]]) -> bool:
        return self.world.whole

    def finish_snapshot(self, snapshot: list[tuple[str, ...]]) -> None:
        self._call("snapshot")

    def restore(self, snapshot: list[tuple[str, ...]]) -> None:
        self._call("restore")
        (self.state,) = snapshot


@dataclass
class World:
    """Starts ranks, watches over them, and has some of their calls fail."""

    fatal: tuple[int, ...]
    calls: list[str] = field(default_factory=list)
    started: list[Ranks] = field(default_factory=list)
    buried: list[Any] = field(default_factory=list)
    watched: dict[Any, Any] = field(default_factory=dict)
    whole: bool = False
    """Whether snapshots under way are whole when a rank is lost."""
    looks: bool = False
    """Whether the watch sees who is gone before the call that waits for it does."""

    def noticed(self, rank: Any) -> None:
        if self.looks and (lose := self.watched.get(rank)):
            lose(Death("trainer rank 0", rank, "it gave no heartbeat for 120 s", "", None, lose))

    def start(self, named: int) -> Ranks:
        self.started.append(Ranks(self))
        return self.started[-1]

    def add(self, name: str, rank: Any, replace: Any) -> None:
        self.watched[rank] = replace

    def remove(self, rank: Any) -> None:
        self.watched.pop(rank, None)

    def gone(self, ranks: list[Any], why: Exception) -> list[Death]:
        now = self.started[-1]
        return [Death("trainer rank 0", ranks[0], "killed.", "", None, print)] if now.dead else []


def batch(step: int) -> Any:
    return SimpleNamespace(split=SimpleNamespace(step=step))


def trained(
    fatal: tuple[int, ...], in_memory: bool, max_restarts: int = 9, looks: bool = False
) -> tuple[World, RecoveringTrainer]:
    """Five steps as a run does them, with a checkpoint after the second and fourth."""
    world = World(fatal, looks=looks)
    budget = RestartBudget(max_restarts, 1e9, 1e-9)
    trainer = RecoveringTrainer(world.start, world.buried.append, world, budget, lambda text: None)
    trainer.finish_build()
    if in_memory:
        trainer.keep_snapshots()
    trainer.connect(["engine"])
    for step in range(1, 6):
        assert trainer.update(batch(step)) == tuple(f"batch {i}" for i in range(1, step + 1))
        trainer.surviving(lambda: trainer.group._call("weight_sync"))
        trainer.begin_snapshot()
        if step % 2 == 0:
            trainer.save(f"step {step}")
            trainer.saved(f"step {step}", step)
    return world, trainer


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_rank_that_dies_in_any_call_changes_nothing_but_the_number_of_calls(in_memory: bool) -> None:
    calls = len(trained((), in_memory)[0].calls)
    assert calls == 2 + 5 * 2 + 2 + (4 if in_memory else 0)
    for fatal in range(2, calls + 1):
        world, trainer = trained((fatal,), in_memory)
        assert len(world.started) == 2 and trainer.restarts == 1
        assert world.started[-1].state == tuple(f"batch {i}" for i in range(1, 6))
        assert world.started[-1].members == (["engine"] if fatal > 2 else world.started[-1].members)
        assert world.buried == world.started[0].ranks
        assert DISK["step 4"] == tuple(f"batch {i}" for i in range(1, 5))


@pytest.mark.parametrize("looks", [False, True])
def test_ranks_that_die_while_they_are_brought_back_are_started_once_more(looks: bool) -> None:
    for second in range(9, 14):
        world, trainer = trained((8, second), in_memory=False, looks=looks)
        assert trainer.restarts == 2 and world.started[-1].state == tuple(f"batch {i}" for i in range(1, 6))
        assert world.buried == [rank for ranks in world.started[:2] for rank in ranks.ranks]  # each once


def test_what_is_done_again_is_what_came_after_the_snapshot_or_the_checkpoint() -> None:
    for in_memory, restored, again in ((True, "restore", 0), (False, "load", 1)):
        calls = trained((), in_memory)[0].calls
        fourth = [number for number, name in enumerate(calls, 1) if name == "update"][3]  # the checkpoint has two
        world, _ = trained((fourth,), in_memory)
        assert world.calls.count(restored) == 1
        assert world.calls.count("update") == 5 + 1 + again  # one failed


@pytest.mark.parametrize("whole", [True, False])
def test_a_snapshot_that_is_whole_when_a_rank_is_lost_is_gone_on_from(whole: bool) -> None:
    """Nothing is done again then, so that it does not matter if the scheduler, which has the rollouts, is lost, too."""
    world, trainer = trained((), in_memory=True)
    world.whole, world.started[-1].dead = whole, True
    world.calls.clear()
    assert trainer.update(batch(6)) == tuple(f"batch {i}" for i in range(1, 7))
    again = [] if whole else ["update"]
    assert world.calls == ["snapshot", "build", "restore", *again, "connect", "update"]


def test_the_budget_counts_and_other_errors_are_not_deaths() -> None:
    with pytest.raises(ActorLostError, match=r"the trainer is gone after 2 restarts .* update failed"):
        trained((5, 7, 9), in_memory=True, max_restarts=2)
    _, trainer = trained((), in_memory=True)

    def refuse() -> None:
        raise ConfigError("trainer.lr: no")

    with pytest.raises(ConfigError):
        trainer.surviving(refuse)
    assert trainer.restarts == 0


def test_a_lost_node_ends_the_run_at_once() -> None:
    world, trainer = trained((), in_memory=True)
    world.started[-1].dead = True

    def no_node(named: int) -> Ranks:
        raise NodeLostError("node 1 is lost")

    trainer._start = no_node
    with pytest.raises(NodeLostError):
        trainer.update(batch(6))
    assert trainer.restarts == 1


def test_rollouts_that_are_gone_with_the_scheduler_end_the_run_once_they_are_needed_again() -> None:
    world, trainer = trained((), in_memory=False)
    world.started[-1].dead = True
    start = world.start

    def without_rollouts(named: int) -> Ranks:
        ranks = start(named)
        ranks.update = lambda batch: fetch_nothing()  # type: ignore[method-assign]
        return ranks

    def fetch_nothing() -> tuple[str, ...]:
        raise RolloutsGoneError("rollouts of step 5 have gone")

    trainer._start = without_rollouts
    with pytest.raises(
        ActorLostError, match="have gone with the scheduler .* resumes from the last checkpoint"
    ) as error:
        trainer.update(batch(6))
    assert not isinstance(error.value, RolloutsGoneError)  # which would be taken for one of the step's own groups
    assert trainer.restarts == 1
