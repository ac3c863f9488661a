"""Which keys may change within a trial."""

from typing import Any

from s2l_ray.config import ObjectiveConfig, TrainerConfig
from s2l_ray.trials.changeable import CHANGEABLE, NOT_CHANGEABLE, unchangeable, why_not


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_every_key_of_trainer_and_objective_is_decided_once() -> None:
    keys = flat({"trainer": TrainerConfig().model_dump(), "objective": ObjectiveConfig().model_dump()})
    assert sorted([*CHANGEABLE, *NOT_CHANGEABLE]) == sorted(keys)


def test_a_key_outside_trainer_and_objective_cannot_change() -> None:
    assert why_not("trainer.learning_rate") is None
    assert why_not("rollout.group_size") == "only keys of trainer and objective can change within a trial"


def test_differences_that_may_be_made_are_not_named() -> None:
    before = {"trainer.learning_rate": 1e-6, "objective.entropy": 0.0, "objective.kl": 0.1, "trainer.lora_rank": 0}
    assert unchangeable(before, before | {"trainer.learning_rate": 2e-6, "objective.kl": 0.2}) == []
    assert unchangeable(before, before | {"trainer.lora_rank": 8, "objective.entropy": 0.1}) == [
        "trainer.lora_rank was 0, now 8: it makes another model"
    ]


def test_a_reference_model_neither_comes_nor_goes() -> None:
    for before, now in ((0.0, 0.1), (0.1, 0.0)):
        (line,) = unchangeable({"objective.kl": before}, {"objective.kl": now})
        assert line.startswith(f"objective.kl was {before}, now {now}: the reference model")
