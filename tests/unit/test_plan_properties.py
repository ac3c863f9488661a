"""What holds for every plan, over random clusters, models and configurations."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from s2l_ray.config import Config, parse_config
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.planner.search import make_plan
from tests.support.examples import examples

MODELS = ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B"]
GPUS = ["H100-80GB", "A100-40GB", "L4", "RTX-4090", "H200"]

node_groups = st.fixed_dictionaries(
    {
        "count": st.integers(1, 4),
        "gpus": st.integers(1, 8),
        "gpu": st.sampled_from(GPUS),
        "cpus": st.sampled_from([4, 16, 64]),
    }
)
inventories = st.lists(node_groups, min_size=1, max_size=3)


@st.composite
def configs(draw, modes=("auto",)) -> Config:
    """Configurations whose models, batch, schedule and pins vary."""
    learner = draw(st.integers(0, len(MODELS) - 1))
    group = draw(st.integers(2, 16))
    steps = draw(st.integers(1, 20))
    mini = draw(st.sampled_from([4, 8, 32]))
    kind = draw(st.sampled_from(["linear", "abrupt", "cosine", "constant", "off"]))
    values = {
        "models": {"learner": MODELS[learner], "explorer": MODELS[draw(st.integers(0, learner))]},
        "data": {"train": "train.jsonl"},
        "rollout": {
            "group_size": group,
            "prompts_per_step": mini * draw(st.integers(1, 8)),
            "max_tokens": draw(st.sampled_from([256, 1024, 4096])),
            "prefetch_steps": draw(st.integers(0, 1)),
        },
        "schedule": {
            "kind": kind,
            "steps": steps,
            "mix_steps": draw(st.integers(1, steps)),
            "start": draw(st.sampled_from([1.0, 0.5])),
        },
        "objective": {"mini_batch_prompts": mini, "kl": draw(st.sampled_from([0.0, 0.001]))},
        "trainer": {
            "lora_rank": draw(st.sampled_from([0, 0, 16])),
            "ranks": draw(st.sampled_from([None, None, None, 1, 2, 3, 8])),
        },
        "engines": {role: draw(engines) for role in ("learner", "explorer")},
        "placement": {
            "mode": draw(st.sampled_from(modes)),
            "hand_over": draw(st.sampled_from(["auto", "on", "off"])),
        },
    }
    return parse_config(values)


engines = st.fixed_dictionaries(
    {
        "count": st.sampled_from([None, None, None, 1, 2, 3]),
        "tensor_parallel": st.sampled_from([None, None, None, 1, 2]),
        "kv_cache_gb": st.sampled_from([None, None, None, 2.0]),
        "cpus": st.sampled_from([0.5, 1.0]),
    }
)
EVERY_MODE = ("auto", "colocated", "separate", "mixed")
many = settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
fewer = settings(many, max_examples=examples(200))


def planned(config: Config, nodes: list[dict]) -> tuple[Plan, Inventory]:
    inventory = Inventory.of(nodes)
    plan = make_plan(config, inventory)
    assume(plan.fits)
    return plan, inventory


def no_gpu_is_over_its_memory(config: Config, plan: Plan, inventory: Inventory) -> None:
    for phase in plan.phases:
        assert [(load.node, load.gpu) for load in phase.gpus] == [
            (node, gpu) for node, spec in enumerate(inventory.specs) for gpu in range(spec.gpus)
        ]
        for load in phase.gpus:
            assert load.capacity_bytes == inventory.specs[load.node].gpu_memory_bytes
            assert load.used_bytes <= load.capacity_bytes * (1 - config.placement.headroom)
            assert load.used_bytes == sum(load.ledger.values())
            assert all(size > 0 for size in load.ledger.values())
            assert bool(load.ledger) == bool(load.roles)


def every_actor_sits_once_on_devices_that_are_there(config: Config, plan: Plan, inventory: Inventory) -> None:
    layout = plan.layout
    reserved = Counter((bundle.node, gpu) for bundle in layout.bundles for gpu in bundle.gpus)
    assert not reserved or max(reserved.values()) == 1
    for bundle in layout.bundles:
        assert all(0 <= gpu < inventory.specs[bundle.node].gpus for gpu in bundle.gpus)
        assert bundle.resources["GPU"] == len(bundle.gpus)
    for node, spec in enumerate(inventory.specs):
        assert sum(b.resources["CPU"] for b in layout.bundles if b.node == node) <= spec.cpus + 1e-6
    for phase in layout.phases:
        assert sorted(s.index for s in phase.slots if s.role == "trainer") == list(range(plan.ranks))
        actors = Counter((slot.role, slot.index) for slot in phase.slots)
        assert max(actors.values()) == 1
        shares: dict[tuple[int, int], float] = defaultdict(float)
        cpus: dict[int, float] = defaultdict(float)
        for slot in phase.slots:
            # A slot has one bundle, and a bundle one node: no tensor-parallel group crosses nodes.
            size = 1 if slot.role == "trainer" else plan.tensor_parallel[slot.role]
            assert len(set(slot.devices)) == len(slot.devices) == size
            own = config.trainer if slot.role == "trainer" else getattr(config.engines, slot.role)
            cpus[slot.bundle] += own.cpus
            for device in slot.devices:
                assert 0 <= device < len(layout.bundles[slot.bundle].gpus)
                shares[slot.bundle, device] += slot.share
        assert max(shares.values()) <= 1
        assert all(cpus[n] <= bundle.resources["CPU"] + 1e-6 for n, bundle in enumerate(layout.bundles))


def roles_of_devices_are_the_slots(config: Config, plan: Plan, inventory: Inventory) -> None:
    for phase, slots in zip(plan.phases, plan.layout.phases, strict=True):
        expected = Counter()
        for slot in slots.slots:
            bundle = plan.layout.bundles[slot.bundle]
            for position, device in enumerate(slot.devices):
                label = f"{slot.role}:{slot.index}" + ("" if slot.role == "trainer" else f"/{position}")
                expected[bundle.node, bundle.gpus[device], label] += 1
        shown = Counter((load.node, load.gpu, role) for load in phase.gpus for role in load.roles)
        assert shown == expected


def phases_are_contiguous_and_only_explorers_hand_over(config: Config, plan: Plan, inventory: Inventory) -> None:
    phases = plan.layout.phases
    assert phases[0].first_step == 1 and phases[-1].last_step == config.schedule.steps
    assert [p.name for p in phases] == [p.name for p in plan.phases]
    schedule = config.schedule.build(config.rollout.group_size)
    for phase in phases:
        shares = [schedule.split(step) for step in range(phase.first_step, phase.last_step + 1)]
        assert all((s.learner == 0) == (phase.name == "explore") for s in shares)
        assert all((s.explorer == 0) == (phase.name == "on-policy") for s in shares)
        roles = Counter(slot.role for slot in phase.slots)
        assert roles["learner"] >= 1
        assert roles["explorer"] >= 1 or not any(share.explorer for share in shares)
    for before, after in itertools.pairwise(phases):
        assert after.first_step == before.last_step + 1
        ended, begun = set(before.slots) - set(after.slots), set(after.slots) - set(before.slots)
        assert {slot.role for slot in ended} <= {"explorer"} and {slot.role for slot in begun} <= {"learner"}
        assert bool(ended) == bool(begun)
        assert {slot.bundle for slot in ended} == {slot.bundle for slot in begun}
        assert config.placement.hand_over != "off" or not begun


def what_is_forced_is_respected(config: Config, plan: Plan, inventory: Inventory) -> None:
    assert config.placement.mode in ("auto", plan.mode)
    assert plan.ranks == (config.trainer.ranks or plan.ranks)
    first = plan.layout.phases[0].slots
    for role, size in plan.tensor_parallel.items():
        engine = getattr(config.engines, role)
        assert size == (engine.tensor_parallel or size)
        slots = [slot for slot in first if slot.role == role]
        if role == "explorer" or plan.mode != "mixed":
            assert len(slots) == (engine.count or len(slots))
        if engine.kv_cache_gb:
            assert {slot.kv_cache_bytes for slot in slots} == {int(engine.kv_cache_gb * 2**30)}
    if not any(phase.explorer_flops for phase in plan.phases):
        assert not any(slot.role == "explorer" for phase in plan.layout.phases for slot in phase.slots)
    trainer_devices = {(s.bundle, d) for s in first if s.role == "trainer" for d in s.devices}
    beside = {s.role for s in first if s.role != "trainer" and trainer_devices & {(s.bundle, d) for d in s.devices}}
    expected = {"separate": set(), "mixed": {"learner"}, "colocated": set(plan.tensor_parallel)}
    assert beside == expected[plan.mode]


def times_add_up(config: Config, plan: Plan, inventory: Inventory) -> None:
    assert abs(sum(p.steps * p.step_seconds for p in plan.phases) - plan.run_seconds) < 1e-6 * plan.run_seconds
    for phase in plan.phases:
        parts = phase.seconds
        rest = parts["learner_generate"] + parts["sleep_wake"] + parts["update"] + parts["weight_sync"]
        trained = rest - parts["learner_generate"]
        assert phase.step_seconds >= max(parts["explore"], trained) * (1 - 1e-9)
        assert all(0 <= share <= 1 for share in phase.utilisation.values())
    others = [row.run_seconds for row in plan.alternatives if row.fits]
    assert others == sorted(others) and (not others or others[0] >= plan.run_seconds * (1 - 1e-9))


CHECKS = (
    no_gpu_is_over_its_memory,
    every_actor_sits_once_on_devices_that_are_there,
    roles_of_devices_are_the_slots,
    phases_are_contiguous_and_only_explorers_hand_over,
    what_is_forced_is_respected,
    times_add_up,
)
"""What holds for one plan. Making it takes longer than all of them, so they share their examples."""


@many
@given(configs(EVERY_MODE), inventories)
def test_every_plan_keeps_every_promise(config: Config, nodes: list[dict]) -> None:
    plan, inventory = planned(config, nodes)
    for check in CHECKS:
        check(config, plan, inventory)


@fewer
@given(configs(EVERY_MODE), inventories, st.data())
def test_the_same_input_gives_the_same_plan_and_more_nodes_never_a_worse_one(
    config: Config, nodes: list[dict], data: st.DataObject
) -> None:
    plan, inventory = planned(config, nodes)
    assert make_plan(config, inventory) == plan
    if data.draw(st.booleans(), label="nodes of the last kind"):
        more = [*nodes[:-1], nodes[-1] | {"count": nodes[-1]["count"] + data.draw(st.integers(1, 4))}]
    else:
        more = [*nodes, data.draw(node_groups)]
    larger = make_plan(config, Inventory.of(more))
    assert larger.fits
    assert larger.run_seconds <= plan.run_seconds * (1 + 1e-9)
