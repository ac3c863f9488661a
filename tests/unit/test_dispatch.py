"""Who gets which request when: the pool of workers, the prefetch buffer, the stragglers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.dispatch import WorkerPool
from s2l_ray.rollouts.prefetch import Prefetch
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.rollouts.step_planner import StepPlanner
from s2l_ray.rollouts.stragglers import append_stragglers, read_stragglers, replayed_stragglers
from s2l_ray.schedule import Schedule


def in_loop(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


# ---- the pool -------------------------------------------------------------------------------------------------------


def test_work_goes_to_the_worker_with_the_least_outstanding():
    async def play():
        pool = WorkerPool({1: "b", 0: "a"})
        taken = [await pool.take(rollouts, priority=1) for rollouts in (8, 2, 2, 8)]
        assert [member.worker for member in taken] == ["a", "b", "b", "b"]
        pool.give_back(taken[0], 8)
        assert (await pool.take(1, priority=1)).worker == "a"

    in_loop(play())


def test_no_worker_has_more_than_its_capacity_and_the_free_one_gets_the_next():
    async def play():
        pool = WorkerPool({0: "a", 1: "b"}, capacity=8)
        first, second = await pool.take(8, 1), await pool.take(4, 1)
        waiting = asyncio.ensure_future(pool.take(8, 1))
        await asyncio.sleep(0)
        assert not waiting.done()  # b has 4 of 8
        pool.give_back(second, 4)
        assert (await waiting).worker == "b"
        assert [first.load, second.load] == [8, 8]

    in_loop(play())


def test_a_request_larger_than_the_capacity_gets_an_idle_worker():
    async def play():
        pool = WorkerPool({0: "a"}, capacity=4)
        assert (await pool.take(16, 1)).load == 16

    in_loop(play())


def test_requests_of_earlier_steps_overtake_those_that_wait():
    async def play():
        pool, order = WorkerPool({0: "a"}, capacity=1), []
        first = await pool.take(1, 5)

        async def work(name, step):
            member = await pool.take(1, step)
            order.append(name)
            pool.give_back(member, 1)

        waiting = [asyncio.create_task(work(*job)) for job in (("7", 7), ("5", 5), ("5 later", 5), ("2", 2))]
        await asyncio.sleep(0)
        pool.give_back(first, 1)
        await asyncio.gather(*waiting)
        assert order == ["2", "5", "5 later", "7"]

    in_loop(play())


def test_a_held_pool_gives_nothing_out_and_requests_wait_for_weights_new_enough():
    async def play():
        pool = WorkerPool({0: "a"})
        pool.release(3)
        pool.hold()
        old, new = (asyncio.ensure_future(pool.take(1, step, oldest)) for step, oldest in ((4, 3), (6, 5)))
        await asyncio.sleep(0)
        assert not old.done()
        pool.release(4)
        await asyncio.sleep(0)
        assert old.done()
        assert not new.done()
        pool.release(5)
        await new

    in_loop(play())


def test_who_gives_up_waiting_takes_nothing_with_it():
    async def play():
        pool = WorkerPool({0: "a"}, capacity=1)
        member = await pool.take(1, 1)
        quitter, patient = (asyncio.ensure_future(pool.take(1, 1)) for _ in range(2))
        await asyncio.sleep(0)
        pool.give_back(member, 1)  # the quitter has its turn, and is cancelled before it learns of it
        quitter.cancel()
        await asyncio.wait({quitter})
        assert (await patient).load == 1

    in_loop(play())


def test_a_removed_worker_is_idle_once_its_work_is_back():
    async def play():
        pool = WorkerPool({0: "a", 1: "b"})
        taken = await pool.take(2, 1)
        leaving = pool.remove(0)
        assert leaving is taken
        assert not leaving.idle.is_set()
        pool.give_back(taken, 2)
        assert leaving.idle.is_set()
        assert (await pool.take(2, 1)).worker == "b"

    in_loop(play())


# ---- the buffer -----------------------------------------------------------------------------------------------------


def explorers(step):
    """Four rollouts of each of two prompts until step 4, none later."""
    return [ExplorerRequest(step, p, 4, 1, 0) for p in ("p", "q")] if step <= 4 else []


def taken(buffer):
    found = []
    while (request := buffer.next()) is not None:
        found.append((request.step, request.prompt_id))
    return found


def test_as_many_steps_are_explored_ahead_as_are_allowed():
    buffer = Prefetch(explorers, 9, steps=2, capacity=10**6, bytes_per_rollout=100)
    assert [request.prompt_id for request in buffer.begin(1)] == ["p", "q"]
    assert taken(buffer) == [(2, "p"), (2, "q"), (3, "p"), (3, "q")]
    assert buffer.held == 4 * 4 * 100
    assert buffer.begin(2) == []  # all of it was handed out
    assert buffer.held == 2 * 4 * 100
    assert taken(buffer) == [(4, "p"), (4, "q")]


def test_nothing_is_explored_that_no_step_uses():
    buffer = Prefetch(explorers, 3, steps=5, capacity=10**6, bytes_per_rollout=100)
    buffer.begin(1)
    assert taken(buffer)[-1] == (3, "q")  # T
    later = Prefetch(explorers, 9, steps=5, capacity=10**6, bytes_per_rollout=100)
    later.begin(3)
    assert taken(later) == [(4, "p"), (4, "q")]  # the schedule takes none after step 4


def test_a_full_buffer_waits_and_real_sizes_make_room():
    buffer = Prefetch(explorers, 9, steps=3, capacity=900, bytes_per_rollout=100)
    buffer.begin(1)
    assert taken(buffer) == [(2, "p"), (2, "q")]  # 800 of 900 bytes, and the next may take 400
    buffer.finished(ExplorerRequest(2, "p", 4, 1, 0), 50)
    assert buffer.held == 450
    assert taken(buffer) == [(3, "p")]
    buffer.finished(ExplorerRequest(1, "p", 4, 1, 0), 9999)  # the present step's do not count
    assert buffer.held == 850
    assert [request.prompt_id for request in buffer.begin(2)] == []
    assert buffer.held == 400
    assert [(r.step, r.prompt_id) for r in buffer.begin(3)] == [(3, "q")]
    assert buffer.held == 0


# ---- stragglers -----------------------------------------------------------------------------------------------------


def planner(extra=2):
    return StepPlanner([f"p{i}" for i in range(20)], Schedule("linear", 4, 2), 4, 1, 1, extra)


def test_candidates_are_the_prompts_and_as_many_spares_as_may_be_stragglers():
    found = planner().sampled_prompts(3)
    assert found[:4] == planner(0).prompts(3)
    assert found[4:] == planner(0).spare_prompts(3)[:2]
    assert len(set(found)) == 6


def test_what_was_stragglers_is_read_back_after_a_crash_in_the_middle_of_a_row(tmp_path: Path):
    path = tmp_path / "stragglers.jsonl"
    append_stragglers(path, 1, ["a", "b"])
    append_stragglers(path, 2, ["c"])
    with path.open("a") as file:
        file.write('{"step": 3, "le')
    assert read_stragglers(path) == {1: ["a", "b"], 2: ["c"]}
    append_stragglers(path, 3, ["d"])
    assert read_stragglers(path) == {1: ["a", "b"], 2: ["c"], 3: ["d"]}


@given(st.lists(st.text(st.characters() | st.sampled_from("\u2028\x85\x1c\udc80é"))), st.data())
def test_any_prompt_can_be_stragglers_and_a_crash_anywhere_costs_one_row(ids: list[str], data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stragglers.jsonl"
        append_stragglers(path, 1, ids)
        first = path.stat().st_size
        append_stragglers(path, 2, ids)
        assert read_stragglers(path) == {1: ids, 2: ids}
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(first, len(whole) - 2))])
        assert read_stragglers(path) == {1: ids}
        append_stragglers(path, 2, ["again"])
        assert read_stragglers(path) == {1: ids, 2: ["again"]}


def test_a_replay_needs_the_choices_of_a_run_like_this_one(tmp_path: Path):
    path, steps = tmp_path / "stragglers.jsonl", planner()
    for step in (1, 2):
        append_stragglers(path, step, steps.sampled_prompts(step)[1:3])
    assert replayed_stragglers(path, steps, 2) == {step: steps.sampled_prompts(step)[1:3] for step in (1, 2)}
    with pytest.raises(ConfigError, match="should name 2 prompts that step 3 samples, but names none"):
        replayed_stragglers(path, steps, 3)
    with pytest.raises(ConfigError, match="should name 3 prompts that step 1 samples"):
        replayed_stragglers(path, planner(3), 2)
    with pytest.raises(ConfigError, match="no.jsonl cannot be read .No such file or directory.; rollout.replay_strag"):
        replayed_stragglers(tmp_path / "no.jsonl", steps, 2)
