"""What a trainer goes on from when its ranks are lost, over ranks that only keep what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors.liveness import Death
from actors.trainer_recovery import RecoveringTrainer


class Group:
    """Ranks that note what they do."""

    def __init__(self, number: int, calls: list[str]) -> None:
        self.ranks, self.groups_named = [f"rank of group {number}"], 0
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            told = [str(a.split.step) if isinstance(a, SimpleNamespace) else str(a) for a in args]
            self._calls.append(" ".join([name, *told]))
            return ({}, []) if name == "update" else None

        return call


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def trainer(calls: list[str]) -> RecoveringTrainer:
    numbers = iter(range(9))
    vigil = SimpleNamespace(add=lambda *args: None, remove=lambda rank: None, gone=lambda ranks, error: [])
    budget = SimpleNamespace(spend=lambda name, cause, log: 0.0)
    return RecoveringTrainer(
        lambda named: Group(next(numbers), calls), lambda rank: None, vigil, budget, lambda text: None
    )


def batch(step: int) -> Any:
    return SimpleNamespace(split=SimpleNamespace(step=step))


def lose_all(trainer: RecoveringTrainer) -> None:
    trainer.lose(Death("trainer rank 0", trainer.ranks[0], "killed", "", None, trainer.lose))
    trainer.recover()


def test_what_became_whole_while_training_went_on_is_gone_on_from_with_the_updates_since(
    trainer: RecoveringTrainer, calls: list[str]
):
    for step in range(1, 5):
        trainer.update(batch(step))
    trainer.saved("step 2", 2)  # its checkpoint was written during steps 3 and 4
    calls.clear()
    lose_all(trainer)
    assert calls == ["finish_build", "load step 2", "update 3", "update 4", "connect []"]
    trainer.saved("step 4", 4)
    calls.clear()
    lose_all(trainer)
    assert calls == ["finish_build", "load step 4", "connect []"]
