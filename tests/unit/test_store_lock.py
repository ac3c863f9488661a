"""A study in a store has one driver at a time, on whatever machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.machine.storage import Storage
from s2l_ray.run.lock import Holder
from s2l_ray.tuning import store_lock
from s2l_ray.tuning.store_lock import DRIVER, StoreLock
from tests.support.object_stores import Store, s3
from tests.support.patience import until

ELSEWHERE = Holder("of another", "node-7", 42, "boot/pid:[1]/100", "2026-11-29 09:00:00+00:00", "raysubmit_x")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3() as started:
        yield started


@pytest.fixture
def place(store: Store, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Storage:
    for name, seconds in (("SILENT_S", 0.1), ("POLL_S", 0.02), ("CONFIRM_S", 0.0)):
        monkeypatch.setattr(store_lock, name, seconds)
    return Storage(store.uri(f"bucket/studies/{request.node.name}"), "storage")


def put(place: Storage, holder: Holder) -> None:
    place.put(DRIVER, json.dumps(asdict(holder)).encode())


def driver(place: Storage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.read(DRIVER))
    return found


def test_a_study_that_is_driven_on_this_machine_is_refused_until_it_is_given_back(place: Storage) -> None:
    lock = StoreLock.acquire(place, pytest.fail)
    assert driver(place)["pid"] == os.getpid()
    with pytest.raises(ConfigError, match=rf"s3://bucket/studies/\S+ is driven by process {os.getpid()} on .*; wait"):
        StoreLock.acquire(place, pytest.fail)
    lock.close()
    lock.close()
    assert not place.exists(DRIVER)


def test_a_driver_on_another_machine_that_shows_a_sign_of_life_is_left_alone(place: Storage) -> None:
    put(place, ELSEWHERE)
    said: list[str] = []

    def beat(text: str) -> None:
        said.append(text)
        put(place, replace(ELSEWHERE, beat=1))

    with pytest.raises(ConfigError, match="is driven by process 42 on node-7, Ray job raysubmit_x, since 2026-11-29"):
        StoreLock.acquire(place, beat)
    assert len(said) == 1 and driver(place) == asdict(replace(ELSEWHERE, beat=1))


def test_what_a_dead_driver_has_left_is_taken_over(place: Storage) -> None:
    said: list[str] = []
    put(place, ELSEWHERE)  # silent
    StoreLock.acquire(place, said.append).close()
    put(place, replace(Holder.this_process(), pid=2**22 + 1))  # of this machine, and gone: no pid is so large
    StoreLock.acquire(place, pytest.fail).close()
    place.put(DRIVER, b"{")
    lock = StoreLock.acquire(place, pytest.fail)
    assert len(said) == 1 and driver(place)["pid"] == os.getpid()
    put(place, ELSEWHERE)  # which has taken it over
    lock.close()
    assert driver(place) == asdict(ELSEWHERE)
    place.remove(DRIVER)


def test_of_two_that_begin_at_once_one_gets_it(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock.time, "sleep", lambda seconds: put(place, ELSEWHERE))
    with pytest.raises(ConfigError, match="is driven by process 42 on node-7"):
        StoreLock.acquire(place, pytest.fail)


def test_a_driver_that_was_silent_learns_who_has_taken_its_place(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "BEAT_S", 0.02)
    lock = StoreLock.acquire(place, pytest.fail)
    lock.check()
    put(place, ELSEWHERE)

    until(lambda: lock._taken_by is not None)
    with pytest.raises(ConfigError, match="was taken over by process 42 on node-7"):
        lock.check()
    lock.close()
    assert driver(place) == asdict(ELSEWHERE)


@pytest.mark.parametrize("text", ["{", "3", json.dumps(asdict(replace(ELSEWHERE, process=None)))])  # type: ignore[arg-type]
def test_a_damaged_object_is_no_driver(text: str, place: Storage) -> None:
    place.put(DRIVER, text.encode())
    lock = StoreLock.acquire(place, pytest.fail)
    assert driver(place)["pid"] == os.getpid()
    lock.close()


def test_a_driver_shows_signs_of_life(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "BEAT_S", 0.01)
    lock = StoreLock.acquire(place, pytest.fail)
    until(lambda: driver(place)["beat"] >= 2)
    lock.check()
    assert driver(place)["pid"] == os.getpid()
    lock.close()
