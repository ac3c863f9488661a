"""What the driver does about actors that are lost, in which order, and how long it waits for those that start."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors import graph, launcher, trainer_group
from actors.graph import ActorGraph
from actors.launcher import ActorLauncher
from actors.liveness import Death
from actors.scheduler_client import NAME as SCHEDULER
from actors.supervision import Supervision
from actors.trainer_group import TrainerGroup
from actors.weight_sync import RANK_0, LearnerMember, WeightSync
from actors.workers import Worker, Workers
from s2l_ray.errors import ActorLostError, BroadcastError, StepTimeoutError
from s2l_ray.placement.start_bound import StartBound

WAITED = StepTimeoutError("not done within 130 s (cluster.weight_sync_timeout_s)")
NO_MEMORY = BroadcastError("CUDA out of memory")


def death(name: str, replace: Callable[[Death], None], actor: Any = None) -> Death:
    return Death(name, actor, "killed", "", None, replace)


def test_a_scheduler_that_is_lost_is_there_again_before_it_is_told_of_other_losses() -> None:
    replaced: list[str] = []
    care = object.__new__(Supervision)
    care.serving = True
    names = ["learner engine 0", "verifier 1", SCHEDULER, "trainer rank 0"]
    deaths = [death(name, lambda death: replaced.append(death.name)) for name in names]
    care.watch = SimpleNamespace(look=lambda: deaths)
    care.look()
    assert replaced == [SCHEDULER, "learner engine 0", "verifier 1", "trainer rank 0"]


# ---- workers ------------------------------------------------------------------------------------------------------


class Watched:
    """Launcher and watch of `Workers`, which note what is asked of them."""

    def __init__(self) -> None:
        self.replace: dict[Any, Callable[[Death], None]] = {}
        self.buried: list[Any] = []
        self.stopped: list[Any] = []
        self.notes: list[str] = []
        budget = SimpleNamespace(spend=lambda name, cause, log: 0.0)
        self.workers = Workers(self, self, budget, self.notes.append, lambda key: None)  # type: ignore[arg-type]

    def there(self, key: tuple[str, int], actor: str) -> None:
        self.workers._starting[key] = Worker(key, actor, None, 0.0)  # type: ignore[arg-type]
        self.workers._arrive(key)

    def add(self, name: str, actor: Any, replace: Callable[[Death], None]) -> None:
        self.replace[actor] = replace

    def remove(self, actor: Any) -> None:
        self.replace.pop(actor, None)

    def bury(self, actor: Any, node: str | None = None) -> None:
        self.buried.append(actor)

    def is_lost(self, node: str | None) -> bool:
        return False

    def node_of(self, actor: Any) -> None: ...

    def stop(self, actor: Any) -> None:
        self.stopped.append(actor)


def test_an_engine_that_hangs_while_it_finishes_its_requests_is_ended_and_not_replaced() -> None:
    run = Watched()
    run.there(("explorer", 0), "engine")
    run.workers.withdraw(("explorer", 0))
    assert run.workers.actor(("explorer", 0)) is None
    run.replace["engine"](death("explorer engine 0", print, "engine"))
    run.workers.stop(("explorer", 0))
    assert (run.buried, run.stopped) == (["engine"], []) and not run.workers.expects("explorer")
    assert run.notes == ["explorer engine 0, which was about to be stopped, is ended: killed"]


def test_an_engine_that_has_finished_its_requests_is_stopped() -> None:
    run = Watched()
    run.there(("explorer", 0), "engine")
    run.workers.withdraw(("explorer", 0))
    run.workers.stop(("explorer", 0))
    assert (run.buried, run.stopped, run.replace) == ([], ["engine"], {})


def test_a_death_that_is_known_already_does_not_cost_the_next_worker_its_place() -> None:
    run = Watched()
    run.there(("verifier", 0), "first")
    replace = run.replace["first"]
    run.workers.lose(("verifier", 0), "a call of it failed")
    run.there(("verifier", 0), "second")
    replace(death("verifier 0", print, "first"))
    assert run.workers.actor(("verifier", 0)) == "second" and run.buried == ["first"]


# ---- trainer ranks that start ---------------------------------------------------------------------------------------


def test_ranks_that_do_not_begin_to_build_leave_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        def __init__(self, ranks: list[Any], *_: Any) -> None: ...

        def begin_build(self, config: Any) -> None:
            raise ActorLostError("trainer rank 0 is gone")

    buried: list[str] = []
    run = object.__new__(ActorGraph)
    cluster = SimpleNamespace(step_timeout_s=1.0, weight_sync_timeout_s=1.0)
    run._config, run._needs = SimpleNamespace(cluster=cluster), SimpleNamespace(prompts={})
    run._layout = SimpleNamespace(phase_at=lambda step: SimpleNamespace(trainers=["slot 0", "slot 1"]))
    run._launcher = SimpleNamespace(
        launch_rank=lambda slot, ranks: f"rank on {slot}", bury=buried.append, start_bound=StartBound(1.0, "1 s")
    )
    run._supervision = SimpleNamespace(tend_busy=lambda: None)
    monkeypatch.setattr(graph, "TrainerGroup", Group)
    monkeypatch.setattr(graph, "as_planned", lambda config, layout: config)
    with pytest.raises(ActorLostError):
        run._start_ranks(1, 0)
    assert buried == ["rank on slot 0", "rank on slot 1"]


def test_what_was_ended_already_is_not_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(launcher.ray, "kill", killed.append)
    run = object.__new__(ActorLauncher)
    run._marks = {}
    run.bury("an actor")
    assert killed == []


def test_the_trainer_starts_within_the_bound_of_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    def fetch(refs: Any, timeout_s: float, what: str, tend: Any) -> Any:
        bounds.append(timeout_s)
        raise StepTimeoutError(f"{what} did not finish within {timeout_s:.0f} s")

    monkeypatch.setattr(trainer_group, "fetch", fetch)
    rank = SimpleNamespace(listen=SimpleNamespace(remote=lambda: None))
    bound = StartBound(300.0, "300 s (cluster.start_timeout_s)")
    group = TrainerGroup([rank], 3600.0, 120.0, start_bound=bound)
    message = r"trainer rank 0 did not start within 300 s \(cluster.start_timeout_s\); raise .* CPUs left$"
    with pytest.raises(StepTimeoutError, match=message):
        group.begin_build(SimpleNamespace(cluster=SimpleNamespace(verify_weights=False)))  # type: ignore[arg-type]
    assert bounds == [300.0]


# ---- groups that do not form, and broadcasts that fail ---------------------------------------------------------------


class Syncs(WeightSync):
    """Members that all answer; what goes wrong with whom is given."""

    def __init__(self, failures: list[dict[int, Exception]], members: int = 3) -> None:
        super().__init__([], [], 120.0, 3600.0)
        self._members = [LearnerMember(number, f"engine {number}", 1, "nccl") for number in range(members)]
        self.failures, self.attempts = failures, 0

    def _drop_absent(self, transfer: str) -> None: ...

    def _wait_for_drains(self, transfer: str) -> None: ...

    def _form(self, transfer: str) -> dict[int, Exception]:
        self.attempts += 1
        return self.failures.pop(0) if self.failures else {}


class Broadcasts(Syncs):
    """Groups form, and broadcasts fail."""

    def _form(self, transfer: str) -> dict[int, Exception]:
        return {}

    def _broadcast(self, transfer: str) -> dict[int, Exception]:
        return super()._form(transfer)


def test_a_group_that_forms_at_the_second_time() -> None:
    it = Syncs([{RANK_0: WAITED, 1: WAITED}])
    it._regroup("nccl")
    assert it.attempts == 2 and len(it._members) == 3 and it._standing == {"nccl"}


def test_a_group_that_never_forms_says_why_after_two_attempts() -> None:
    system = BroadcastError("NCCL error: unhandled system error, bond0 has no address")
    it = Syncs([{RANK_0: system, 0: WAITED, 1: WAITED, 2: WAITED}] * 9)
    message = (
        "no nccl group of trainer rank 0 .* all of them answer; trainer rank 0: NCCL error: .* bond0 has no address"
    )
    with pytest.raises(BroadcastError, match=message):
        it._regroup("nccl")
    assert it.attempts == 2


def test_time_outs_alone_are_named_as_such() -> None:
    it = Syncs([{2: WAITED}] * 9)
    with pytest.raises(BroadcastError, match=re.escape(f"learner engine 2: {WAITED}")):
        it._regroup("nccl")


def test_a_member_that_answers_and_cannot_join_is_dropped_with_its_reason() -> None:
    it = Syncs([{RANK_0: WAITED, 0: WAITED, 1: NO_MEMORY, 2: WAITED}] * 2)
    it._regroup("nccl")
    assert it.attempts == 3 and [member.number for member in it._members] == [0, 2]
    assert [(member.number, member.why) for member in it._lost] == [(1, "CUDA out of memory")]


def test_a_member_that_answers_and_cannot_load_is_dropped_with_its_reason() -> None:
    broken = BroadcastError("the broadcast failed: not all members took part within 120 s")
    it = Broadcasts([{RANK_0: broken, 0: WAITED, 2: NO_MEMORY}] * 2)
    it._broadcast_until_held("nccl")
    assert it.attempts == 3 and [(member.number, member.why) for member in it._lost] == [(2, "CUDA out of memory")]


@pytest.mark.parametrize(
    ("of_rank_0", "neighbour"),
    [
        ("the broadcast failed: NCCL error: remote process exited or there was a network error", "Broken pipe"),
        ("the broadcast failed: [Errno 32] Broken pipe", "NCCL error: remote process exited"),
    ],
)
def test_an_engine_is_the_culprit_if_one_of_its_workers_is(of_rank_0: str, neighbour: str) -> None:
    workers = "not all members took part within 120 s; " * 20 + "CUDA out of memory"
    failed = {RANK_0: BroadcastError(of_rank_0), 0: BroadcastError(workers), 1: BroadcastError(neighbour), 2: WAITED}
    it = Broadcasts([dict(failed)] * 2)
    it._broadcast_until_held("nccl")
    assert [member.number for member in it._lost] == [0]


def test_a_broadcast_that_fails_for_all_ends_the_run() -> None:
    it = Broadcasts([{0: NO_MEMORY, 1: NO_MEMORY, 2: NO_MEMORY}] * 9)
    with pytest.raises(BroadcastError, match=r"failed twice .* learner engine 0: CUDA out of memory"):
        it._broadcast_until_held("nccl")
    assert it.attempts == 2


# ---- the end --------------------------------------------------------------------------------------------------------


def test_ranks_leave_their_process_groups_before_they_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An NCCL group that is killed, and not left, can keep the others of it waiting."""
    done: list[str] = []

    class Actor:
        def __init__(self, name: str) -> None:
            self.close = SimpleNamespace(remote=lambda: done.append(f"ask {name}") or name)
            self.name = name

    run = object.__new__(ActorLauncher)
    ranks = [Actor("rank 0"), Actor("rank 1")]
    run._ranks, run._ready, run._actors, run._closed = ranks, {}, [*ranks, Actor("a worker")], False
    run._reservation = SimpleNamespace(release=lambda: done.append("release"))
    monkeypatch.setattr(launcher, "_finish", lambda refs, timeout_s: done.append(f"wait for {refs}"))
    monkeypatch.setattr(launcher.ray, "kill", lambda actor: done.append(f"kill {actor.name}"))
    run.close()
    run.close()
    asked = ["ask rank 0", "ask rank 1", "wait for []", "wait for ['rank 0', 'rank 1']"]
    assert done == [*asked, "kill rank 0", "kill rank 1", "kill a worker", "release"]
