"""Heartbeats of real processes: which are gone, which hang, and what is said about them."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest
import ray

from actors.connection import connect
from actors.liveness import Heartbeat, Watch
from s2l_ray.errors import ActorLostError, EngineDiedError
from s2l_ray.machine.processes import kill_with_environment
from tests.support.killed import kill
from tests.support.patience import PATIENCE_S

TIMEOUT_S = 3.0


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    connect(None)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0, concurrency_groups={"alive": 1}, runtime_env={"env_vars": {"S2L_TEST_MARK": "liveness"}})
class Busy:
    """Works, and answers meanwhile."""

    def __init__(self) -> None:
        self.broken = False

    def work(self, seconds: float) -> None:
        time.sleep(seconds)

    def say(self, text: str) -> int:
        print(text, file=sys.stderr, flush=True)
        return os.getpid()

    def break_down(self) -> None:
        self.broken = True

    @ray.method(concurrency_group="alive")
    def alive(self) -> Heartbeat:
        if self.broken:
            raise EngineDiedError("the core is gone")
        return Heartbeat.of_this_process()


def deaths_of(watch: Watch) -> list:
    """Look until somebody is gone."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := watch.look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_who_is_gone_who_hangs_who_broke_down_and_who_only_works():
    killed, stopped, broken, busy = (Busy.remote() for _ in range(4))
    pids = ray.get([actor.say.remote("a last word") for actor in (killed, stopped, broken, busy)])
    watch, lost = Watch(0.1, TIMEOUT_S), []
    for name, actor in (("K", killed), ("S", stopped), ("B", broken), ("W", busy)):
        watch.add(name, actor, lambda death: lost.append(death.name))
    working = busy.work.remote(2 * TIMEOUT_S)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:  # all answer
        assert watch.look() == []
        time.sleep(0.1)
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGSTOP)
    ray.get(broken.break_down.remote())
    found = {}
    while len(found) < 3:
        found |= {death.name: death for death in deaths_of(watch)}
    assert found.keys() == {"K", "S", "B"} and not ray.wait([working], timeout=0)[0] and lost == []
    assert found["K"].cause == "it was killed, or crashed."
    assert found["K"].log.endswith("  a last word") and found["K"].node == ray.get_runtime_context().get_node_id()
    assert "it gave no heartbeat for 3 s (recovery.heartbeat_timeout_s)" in found["S"].cause
    assert found["B"].cause == "the core is gone."
    assert watch.look() == []  # each is told of once
    found["S"].replace(found["S"])
    assert lost == ["S"]

    # What `ray.kill` does not reach: it asks the process itself.
    ray.kill(stopped)
    assert psutil.Process(pids[1]).status() == psutil.STATUS_STOPPED
    kill_with_environment("S2L_TEST_MARK", "liveness")
    assert not psutil.pid_exists(pids[1]) or psutil.Process(pids[1]).status() == psutil.STATUS_ZOMBIE


def test_a_driver_that_did_not_look_takes_nobody_for_hung_and_a_failed_call_asks_at_once():
    actor, gone = Busy.remote(), Busy.remote()
    ray.get([one.say.remote("") for one in (actor, gone)])
    watch = Watch(0.1, TIMEOUT_S)
    for one in (actor, gone):
        watch.add("an actor", one, lambda death: None)
    watch.look()
    time.sleep(TIMEOUT_S + 0.5)  # the driver itself was busy, or stopped
    assert watch.look() == []
    kill(gone)
    assert [death.actor for death in watch.gone([actor, gone], ActorLostError("a call failed"))] == [gone]
    assert watch.gone([actor], ActorLostError("a call failed")) == []
