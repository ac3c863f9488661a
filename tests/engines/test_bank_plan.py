"""Plans with bank.mode: read: no explorer engine anywhere, exploring takes no time, all else is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.plan import EngineSlot, Plan
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.search.explorer_plan import plan_explorers
from s2l_ray.planner.simulate.plan_constants import constants_of_plan
from s2l_ray.planner.simulate.simulation import simulate
from tests.support.undisturbed import QUICKSTART, ROOT

PAPER = ROOT / "configs" / "paper" / "qwen3_1.7b_to_8b.yaml"
GPUS = ROOT / "cluster" / "inventories" / "8xH100.yaml"
CPUS = Inventory.of([{"gpus": 0, "cpus": 8, "memory_gb": 64}])


def planned(config: Config, inventory: Inventory) -> tuple[Plan, set[str]]:
    plan = make_plan(config, inventory)
    return plan, {slot.role for phase in plan.layout.phases for slot in phase.slots}


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
    # Step 1 samples nothing: it is the update, the weight sync, and a cycle of sleep where engines share GPUs.
    first = read.phases[0]
    assert first.step_seconds == pytest.approx(sum(first.seconds[k] for k in ("update", "weight_sync", "sleep_wake")))
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


# ---- explorers alone: s2l explore -----------------------------------------------------------------------------------


def explorers(overrides: list[str], inventory: Inventory, config: Path = PAPER) -> tuple[list[EngineSlot], list[tuple]]:
    """Slots, and the node and GPUs of each."""
    layout = plan_explorers(load_config(config, overrides), inventory)
    (phase,) = layout.phases
    bundles = [layout.bundles[slot.bundle] for slot in phase.slots]
    assert {slot.role for slot in phase.slots} == {"explorer"} and not layout.sleep
    return list(phase.slots), [(bundle.node, bundle.gpus) for bundle in bundles]


def test_an_explorer_engine_on_every_gpu() -> None:
    slots, places = explorers([], load_inventory(ROOT / "cluster" / "inventories" / "2x8xH100.yaml"))
    assert places == [(node, (gpu,)) for node in (0, 1) for gpu in range(8)]
    # Weights are 1.72e9 parameters of 2 bytes; nearly all the rest of 90 % of 80 GiB is KV cache.
    assert all(70e9 < slot.kv_cache_bytes < 0.95 * 85.9e9 - 2 * 1.72e9 for slot in slots)


def test_engines_as_many_and_as_wide_as_asked_for() -> None:
    inventory = load_inventory(GPUS)
    _, places = explorers(["engines.explorer.tensor_parallel=4"], inventory)
    assert places == [(0, (0, 1, 2, 3)), (0, (4, 5, 6, 7))]
    slots, _ = explorers(["engines.explorer.count=3"], inventory)
    assert [slot.index for slot in slots] == [0, 1, 2]
    with pytest.raises(PlacementError, match="room for 8 explorer engines on 1 node of 8 x H100-80GB, 9 needed"):
        explorers(["engines.explorer.count=9"], inventory)


def test_an_explorer_too_large_for_one_gpu_takes_two() -> None:
    """8.2e9 parameters of 2 bytes are 16.4 GB: more than one of these GPUs has."""
    nodes = Inventory.of([{"gpus": 4, "gpu_memory_gb": 16}])
    _, places = explorers(["models.explorer=Qwen/Qwen3-8B-Base"], nodes)
    assert places == [(0, (0, 1)), (0, (2, 3))]
    small = Inventory.of([{"gpus": 1, "gpu_memory_gb": 16}, {"gpus": 0, "cpus": 4}])
    with pytest.raises(PlacementError, match="does not fit on the GPUs .* GB short of .* GB usable per GPU"):
        explorers(["models.explorer=Qwen/Qwen3-8B-Base"], small)


def test_explorers_on_cpus(family) -> None:
    model = f"models.explorer={family.small}"
    assert len(explorers([model], CPUS, QUICKSTART)[0]) == 1
    two = Inventory.of([{"gpus": 0, "cpus": 1, "memory_gb": 8}, {"gpus": 0, "cpus": 2, "memory_gb": 8}])
    slots, places = explorers([model, "engines.explorer.count=4"], two, QUICKSTART)  # half a CPU each
    assert places == [(0, ()), (0, ()), (1, ()), (1, ())]
    assert all(slot.kv_cache_bytes == 2**28 for slot in slots)  # engines.explorer.kv_cache_gb of the quickstart
    with pytest.raises(PlacementError, match="room for 6 explorer engines on .*, 7 needed"):
        explorers([model, "engines.explorer.count=7"], two, QUICKSTART)
