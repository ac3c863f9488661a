"""Plans with bank.mode: read: no explorer engine anywhere, exploring takes no time, all else is as it was."""

from __future__ import annotations

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.placement.search import make_plan
from s2l_ray.placement.simulate.plan_constants import constants_of_plan
from s2l_ray.placement.simulate.simulation import simulate
from tests.undisturbed import QUICKSTART, ROOT

PAPER = ROOT / "configs" / "paper" / "qwen3_1.7b_to_8b.yaml"
GPUS = ROOT / "cluster" / "inventories" / "8xH100.yaml"
CPUS = Inventory.of([{"gpus": 0, "cpus": 8, "memory_gb": 64}])


def planned(config: Config, inventory: Inventory) -> tuple[Plan, set[str]]:
    plan = make_plan(config, inventory)
    return plan, {seat.role for phase in plan.layout.phases for seat in phase.seats}


@pytest.mark.parametrize("mode", ["colocated", "separate"])
def test_on_gpus_exploring_takes_no_engine_and_no_time(mode: str) -> None:
    inventory = load_inventory(GPUS)
    (live, with_explorer), (read, without) = (
        planned(load_config(PAPER, [f"placement.mode={mode}", f"bank.mode={bank}"]), inventory)
        for bank in ("off", "read")
    )
    assert with_explorer == {"trainer", "learner", "explorer"} and without == {"trainer", "learner"}
    assert live.phases[0].seconds["explore"] > 0 and live.saving.explorer_flops > 0
    assert [phase.seconds["explore"] for phase in read.phases] == [0, 0, 0]
    assert read.saving.explorer_flops == 0 and read.saving.learner_flops == live.saving.learner_flops
    assert read.run_seconds < live.run_seconds
    # Step 1 samples nothing: it is the update, the swap, and a cycle of sleep where engines share GPUs.
    first = read.phases[0]
    assert first.step_seconds == pytest.approx(sum(first.seconds[k] for k in ("update", "swap", "sleep_wake")))
    assert any("read from the bank" in note for note in read.notes)


def test_verifiers_check_only_what_is_sampled(family) -> None:
    """32 prompts x 8 rollouts in the on-policy phase, none in the explore phase; 500 answers a second."""
    overrides = [f"models.learner={family.large}", f"models.explorer={family.small}", "bank.mode=read"]
    plan, roles = planned(load_config(QUICKSTART, overrides), CPUS)
    assert roles == {"trainer", "learner"}
    assert plan.phases[0].seconds["verify"] == 0 and plan.phases[-1].seconds["verify"] == 32 * 8 / 500


def test_a_simulated_run_reads_what_it_does_not_explore() -> None:
    config, inventory = load_config(PAPER, ["bank.mode=read"]), load_inventory(GPUS)
    plan = make_plan(config, inventory)
    simulation = simulate(config, plan.layout, constants_of_plan(config, plan, inventory))
    assert len(simulation.steps) == 16
    assert not [a for a in simulation.activities if "explore" in a.actor or a.kind == "explore"]
    assert simulation.steps[0].seconds["rollout"] == 0 < simulation.steps[-1].seconds["rollout"]


def test_plain_grpo_is_simulated_without_an_explorer() -> None:
    config, inventory = load_config(PAPER, ["schedule.kind=off"]), load_inventory(GPUS)
    plan = make_plan(config, inventory)
    assert len(simulate(config, plan.layout, constants_of_plan(config, plan, inventory)).steps) == 16
