"""Whole plans: the paper's set-ups, hand-overs, CPU clusters, and what is said when nothing fits."""

from __future__ import annotations

from collections import Counter

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.config.placement_modes import PLACEMENT_MODES, PlacementMode
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.plan import EngineSlot, Plan
from s2l_ray.placement.recomputation import as_planned
from s2l_ray.planner.search import candidate_search, candidates, explanations, make_plan
from s2l_ray.planner.search.candidate_search import Search
from s2l_ray.planner.search.explanations import duration
from s2l_ray.planner.search.frame import make_frame
from s2l_ray.planner.workload import phases, workload
from tests.support.paths import ROOT

H100 = {"gpus": 8, "gpu": "H100"}


def paper(name: str = "qwen3_1.7b_to_8b", *overrides: str) -> Config:
    return load_config(ROOT / "configs" / "paper" / f"{name}.yaml", list(overrides))


def cluster(name: str) -> Inventory:
    return load_inventory(ROOT / "cluster" / "inventories" / f"{name}.yaml")


def slots(plan: Plan, phase: int, role: str) -> list[EngineSlot]:
    return [slot for slot in plan.layout.phases[phase].slots if slot.role == role]


# ---- what there is to do ---------------------------------------------------------------------------------------------


def test_phases_of_the_paper() -> None:
    """G = 16, T_mix = 8: G_w = ceil(16 (8 - i) / 7) is 16, 14, 12, 10, 7, 5, 3 and then 0."""
    explore, mix, on_policy = phases(paper())
    assert (explore.name, explore.first_step, explore.last_step, explore.explorer_groups) == ("explore", 1, 1, 16)
    assert (mix.name, mix.first_step, mix.last_step) == ("mix", 2, 7)
    assert [split.explorer for split in mix.splits] == [14, 12, 10, 7, 5, 3]
    assert (on_policy.name, on_policy.first_step, on_policy.last_step, on_policy.learner_groups) == (
        "on-policy", 8, 16, 9 * 16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["schedule.kind=off"], ["on-policy"]),
        (["schedule.kind=constant", "schedule.start=0.5"], ["mix"]),
        (["schedule.kind=constant"], ["explore"]),
        (["schedule.kind=abrupt"], ["explore", "on-policy"]),
        (["schedule.start=0.5"], ["mix", "on-policy"]),
        (["schedule.mix_steps=1"], ["explore", "on-policy"]),
        (["schedule.kind=adaptive"], ["explore", "mix", "on-policy"]),
    ],
)
def test_phases_without_steps_are_stragglers(overrides: list[str], names: list[str]) -> None:
    assert [phase.name for phase in phases(paper("qwen3_1.7b_to_8b", *overrides))] == names


def test_workload_of_the_paper() -> None:
    work = workload(paper(), cuda=True)
    assert (work.prompts, work.group_size, work.prompt_tokens, work.response_tokens) == (1024, 16, 256, 2048)
    assert work.optimizer_steps(work.phases[1].splits[0]) == 32
    assert work.forwards(work.phases[1].splits[0]) == pytest.approx(5 + 31 / 32)  # recomputation and reference included
    assert workload(paper(), cuda=True, mean_response_tokens=900).response_tokens == 900


# ---- the paper's set-ups ---------------------------------------------------------------------------------------------


def test_8_h100_colocated() -> None:
    plan = make_plan(paper(), cluster("8xH100"))
    assert plan.fits and plan.mode == "colocated" and plan.ranks == 8
    assert plan.layout.sleep and len(plan.layout.bundles) == 1
    trainer, learner = slots(plan, 0, "trainer"), slots(plan, 0, "learner")
    assert [slot.devices for slot in trainer] == [(gpu,) for gpu in range(8)]
    assert {slot.transfer for slot in learner} == {"ipc"} and plan.weight_sync.transfers == {"ipc": len(learner)}
    assert plan.weight_sync.bytes == 2 * 8_190_735_360
    # 37.7 million tokens a step: FSDP at 35 to 45% MFU (6 FLOPs per parameter and token) does the training part in
    # 8.7 to 11.2 minutes, old and reference log-probs a third of that again; and 7,500 tokens/s per engine.
    update = plan.phases[-1].seconds["update"] / 60
    assert 11 < update < 17
    per_engine = 1024 * 16 * 2048 / 8 / plan.phases[-1].seconds["learner_generate"]
    assert 4000 < per_engine < 10_000
    assert {row.mode for row in plan.alternatives} == set(PLACEMENT_MODES)
    descriptions = {row.mode: row.description for row in plan.alternatives}
    assert "trainer ranks, tensor parallel: learner 1, explorer 1" in descriptions["separate"]


def test_two_nodes_halve_the_step() -> None:
    one, two = (make_plan(paper(), cluster(name)) for name in ("8xH100", "2x8xH100"))
    assert two.ranks == 16 and 0.45 < two.run_seconds / one.run_seconds < 0.6
    ranks = Counter(two.layout.bundles[slot.bundle].node for slot in slots(two, 0, "trainer"))
    assert ranks == {0: 8, 1: 8}


def optimizer_bytes(plan: Plan) -> int:
    return next(load.ledger["trainer/optimizer"] for load in plan.phases[0].gpus if "trainer:0" in load.roles)


def test_a_replica_on_each_node_holds_the_whole_model() -> None:
    """8.19e9 parameters with AdamW's two float32 states: over 16 ranks, or over the 8 of each replica."""
    one, two = (
        make_plan(paper("qwen3_1.7b_to_8b", "placement.mode=colocated", f"trainer.replicas={n}"), cluster("2x8xH100"))
        for n in (1, 2)
    )
    assert (one.ranks, one.layout.replicas, two.ranks, two.layout.replicas) == (16, 1, 16, 2)
    assert optimizer_bytes(one) == 8 * 8_190_735_360 // 16 and optimizer_bytes(two) == 8 * 8_190_735_360 // 8
    assert two.weight_sync.seconds < one.weight_sync.seconds  # gathered within a node
    assert one.layout.phases == two.layout.phases or two.layout.phases[0].trainers == one.layout.phases[0].trainers


def test_auto_replicas_are_what_the_same_number_gives() -> None:
    def planned(replicas: object, *overrides: str) -> Plan:
        return make_plan(paper("qwen3_1.7b_to_8b", f"trainer.replicas={replicas}", *overrides), cluster("2x8xH100"))

    auto = planned("auto")
    given = planned(auto.layout.replicas)
    assert auto.run_seconds == given.run_seconds == min(planned(n).run_seconds for n in (1, 2))
    assert any(note.startswith("trainer.replicas: auto keeps") for note in auto.notes)
    config = as_planned(paper("qwen3_1.7b_to_8b", "trainer.replicas=auto"), auto.layout)
    assert config.trainer.replicas == auto.layout.replicas


def test_replicas_that_do_not_divide_are_refused() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL, "trainer.replicas=2"), Inventory.of([CPUS]))
    assert plan.problems == (
        "trainer.replicas: 2 does not divide 1 trainer rank into groups of equal size; set trainer.ranks to a multiple "
        "of it, or lower trainer.replicas",
    )


def test_8_x_24_gb_is_short_and_says_what_helps() -> None:
    """8.19e9 parameters / 8 with AdamW in float32 are 12.3 GB, gradients 4.1 GB more."""
    plan = make_plan(paper(), cluster("8x24GB"))
    assert not plan.fits and plan.layout is None
    *modes, remedies = plan.problems
    assert len(modes) == len(PLACEMENT_MODES)
    colocated, separate, mixed = modes[:3]
    assert "8 ranks in all" in separate and "trainer/optimizer 8.2" in separate and "23.9 GB usable" in separate
    assert "mixed does not fit" in mixed and "explorer engine" in colocated
    for remedy in ("about 16", "trainer.lora_rank=32", "trainer.cpu_offload=true", "reference_offload=true"):
        assert remedies.count(remedy) == 1  # not once per mode
    helped = make_plan(
        paper("qwen3_1.7b_to_8b", "trainer.cpu_offload=true", "trainer.logprob_chunk_tokens=256"), cluster("8x24GB")
    )
    assert helped.fits


def test_explorers_asleep_need_host_memory_for_their_weights() -> None:
    """1,720,574,976 parameters in bfloat16, beside each of 8 ranks: 27.53 GB."""
    config = paper(
        "qwen3_1.7b_to_8b", "placement.mode=colocated", "engines.explorer.tensor_parallel=1", "trainer.ranks=8"
    )
    enough, short = (
        make_plan(config, Inventory.model_validate({"nodes": [{**H100, "cpus": 64, "memory_gb": memory}]}))
        for memory in (27.6, 27.4)
    )
    assert enough.fits and not short.fits
    said = "explorers that sleep beside them keep 28 GB of weights in their node's memory, which has 27"
    assert any(said in problem for problem in short.problems)


def test_batch_invariant_mode_is_planned_with_its_cost() -> None:
    """On GPUs alone; 1 / 0.6 of the time, as no part of sampling is bound by anything else here."""
    invariant = ("engines.explorer.batch_invariant=true", "engines.learner.batch_invariant=true")
    options = ("placement.mode=colocated", "engines.explorer.tensor_parallel=1", "engines.learner.tensor_parallel=1")
    plain, slower = (
        make_plan(paper("qwen3_1.7b_to_8b", *options, *more), cluster("8xH100")) for more in ((), invariant)
    )
    for part in ("explore", "learner_generate"):
        assert slower.phases[1].seconds[part] == pytest.approx(plain.phases[1].seconds[part] / 0.6, rel=1e-6)
    assert any("learner and explorer engines in batch-invariant mode" in note for note in slower.notes)
    assert not any("batch-invariant" in note for note in plain.notes)


@pytest.mark.parametrize(("learner", "high"), [("Qwen/Qwen3-8B-Base", 2.7), ("Qwen/Qwen3-1.7B-Base", 5.0)])
def test_a_plan_on_gpus_says_between_which_times_the_run_is_expected(learner: str, high: float) -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", f"models.learner={learner}"), cluster("8xH100"))
    low, most = (duration(plan.run_seconds * factor) for factor in (0.8, high))
    assert f"no run on GPUs has calibrated these times: the run may take {low} to {most}" in plan.notes


AUTO = "trainer.gradient_checkpointing=auto"


def test_as_few_layers_are_recomputed_as_fit() -> None:
    """So many fit, and one less does not; the rest of the plan is that of the same number given."""
    colocated = "placement.mode=colocated"
    found = make_plan(paper("qwen3_1.7b_to_8b", AUTO, colocated), cluster("8xH100"))
    count = found.layout.recomputed_layers
    assert 0 < count < 36
    assert any(note.endswith(f"auto computes {count} of 36 layers again") for note in found.notes)
    given, fewer = (
        make_plan(paper("qwen3_1.7b_to_8b", AUTO, colocated, f"trainer.recomputed_layers={n}"), cluster("8xH100"))
        for n in (count, count - 1)
    )
    assert given.layout.recomputed_layers is None  # the key says it
    assert given.phases == found.phases and given.run_seconds == found.run_seconds
    assert found.ranks == 8 and not (fewer.fits and fewer.ranks == 8)


def test_an_update_takes_as_long_as_the_layers_that_it_computes_again() -> None:
    """Of the 5 31/32 forwards of the paper's update one is recomputation; it is bound by its FLOPs."""
    plans = {
        count: make_plan(paper("qwen3_1.7b_to_8b", AUTO, f"trainer.recomputed_layers={count}"), cluster("2x8xH100"))
        for count in (18, 36)
    }
    half, whole = (plans[count].phases[1].seconds["update"] for count in (18, 36))
    assert half / whole == pytest.approx((5 + 31 / 32 - 0.5) / (5 + 31 / 32), rel=0.02)


def test_layers_are_recomputed_by_the_key_where_a_plan_has_nothing_to_say() -> None:
    on = make_plan(paper("qwen3_1.7b_to_8b", "trainer.gradient_checkpointing=on"), cluster("8xH100"))
    assert on.layout.recomputed_layers is None
    assert as_planned(paper(), on.layout) == paper()
    auto = make_plan(paper("qwen3_1.7b_to_8b", AUTO), cluster("8xH100"))
    trainer = as_planned(paper("qwen3_1.7b_to_8b", AUTO), auto.layout).trainer
    assert trainer.layers_recomputed(36, cuda=True) == auto.layout.recomputed_layers


def test_the_larger_pair() -> None:
    plan = make_plan(paper("qwen3_4b_to_14b"), cluster("8xH100"))
    assert plan.fits and plan.ranks == 8
    assert 0 < plan.saving.saved < make_plan(paper(), cluster("8xH100")).saving.saved


def test_saving_of_flops_by_hand() -> None:
    """67 of 256 rollouts per prompt are the explorer's, and each costs r of the learner's FLOPs: 67/256 (1 - r), but
    that both models read the prompt in 6 steps."""
    plan = make_plan(paper(), cluster("8xH100"))
    ratio = plan.phases[0].explorer_flops / (plan.saving.grpo_flops / 16)
    assert 0.2 < ratio < 0.3
    assert plan.saving.saved == pytest.approx(67 / 256 * (1 - ratio), abs=0.003)


def test_forced_modes_fit_and_are_slower() -> None:
    best = make_plan(paper(), cluster("2x8xH100"))
    for mode in ("separate", "mixed"):
        plan = make_plan(paper("qwen3_1.7b_to_8b", f"placement.mode={mode}"), cluster("2x8xH100"))
        assert plan.mode == mode and plan.run_seconds > best.run_seconds
        shown = next(row for row in best.alternatives if row.mode == mode)
        assert shown.run_seconds == pytest.approx(plan.run_seconds)
        assert "slower" in shown.reason


# ---- hand-over -------------------------------------------------------------------------------------------------------


def test_hand_over_pays_on_a_large_cluster() -> None:
    """Explorer bundles become learner engines; without, the same cluster is slower."""
    inventory = Inventory.of([H100 | {"count": 8}])
    plan = make_plan(paper(), inventory)
    fixed = make_plan(paper("qwen3_1.7b_to_8b", "placement.hand_over=off", f"placement.mode={plan.mode}"), inventory)
    assert plan.mode == "mixed" and plan.run_seconds < fixed.run_seconds
    counts = [len(slots(plan, phase, "explorer")) for phase in range(3)]
    assert counts[0] >= counts[1] > counts[2] == 0
    begun = set(slots(plan, 2, "learner")) - set(slots(plan, 1, "learner"))
    assert begun and {slot.transfer for slot in begun} == {"nccl"}
    assert any("hands over" in note for note in plan.notes) and any("gains" in note for note in plan.notes)


@pytest.mark.parametrize("nodes", [2, 8])
def test_the_plan_takes_as_long_as_the_search_said(nodes: int) -> None:
    """Waits of the first step and late engines included, which phases are told again from the winner's counts."""
    config = paper("qwen3_1.7b_to_8b", "placement.mode=mixed", "models.dtype=bfloat16")
    inventory = Inventory.of([H100 | {"count": nodes}])
    search = Search(make_frame(config, inventory))
    best = search.run().ordered[0]
    assert best.bundles.hands_over
    assert make_plan(config, inventory).run_seconds == pytest.approx(best.run_seconds, rel=1e-9)


def test_forced_hand_over_hands_everything_over() -> None:
    plan = make_plan(
        paper("qwen3_1.7b_to_8b", "placement.hand_over=on", "placement.mode=separate"), cluster("2x8xH100")
    )
    assert slots(plan, 1, "explorer") and not slots(plan, 2, "explorer")
    before, after = slots(plan, 1, "learner"), slots(plan, 2, "learner")
    assert set(before) < set(after)


# ---- sizes that do not divide, other GPUs ----------------------------------------------------------------------------


def test_6_gpus_explain_tensor_parallel_4() -> None:
    plan = make_plan(
        paper("qwen3_1.7b_to_8b", "engines.learner.tensor_parallel=4"),
        Inventory.of([{"gpus": 6, "gpu": "H200", "count": 1}]),
    )
    assert plan.fits
    text = " ".join(plan.notes)
    assert "powers of two within a node" in text
    assert "2 GPUs with trainer ranks have no learner engine" in text or "GPUs are idle" in text
    assert "does not divide over" in text


def test_tensor_parallel_groups_cross_nodes_only_when_forced() -> None:
    """A 4-GPU node is too small for tensor parallel 8; two of them may be looked at as one."""
    nodes = Inventory.of([{"count": 6, "gpus": 4, "gpu": "H100"}])
    wide = ("engines.learner.tensor_parallel=8", "placement.mode=separate", "placement.hand_over=off")
    refused = make_plan(paper("qwen3_1.7b_to_8b", *wide), nodes)
    assert not refused.fits and "placement.tensor_parallel_across_nodes=true" in refused.problems[0]
    plan = make_plan(paper("qwen3_1.7b_to_8b", *wide, "placement.tensor_parallel_across_nodes=true"), nodes)
    pieces = [slot for slot in slots(plan, 0, "learner") if slot.index == 0]
    assert [len(slot.devices) for slot in pieces] == [4, 4]
    assert len({plan.layout.bundles[slot.bundle].node for slot in pieces}) == 2
    shown = [role for load in plan.phases[0].gpus for role in load.roles if role.startswith("learner:0/")]
    assert sorted(shown) == [f"learner:0/{rank}" for rank in range(8)]
    reserved = [(bundle.node, gpu) for bundle in plan.layout.bundles for gpu in bundle.gpus]
    assert len(set(reserved)) == len(reserved) and all(gpu < 4 for _, gpu in reserved)


def test_trainer_and_samplers_on_different_kinds_of_node() -> None:
    """Nothing but H100s can train this; idle A10Gs are worth having as explorers."""
    mixed = Inventory.of([H100, {"gpus": 8, "gpu": "A10G", "count": 8}])
    plan = make_plan(paper(), mixed)
    assert plan.run_seconds <= make_plan(paper(), Inventory.of([H100])).run_seconds
    trainers = {plan.layout.bundles[slot.bundle].node for slot in slots(plan, 0, "trainer")}
    assert trainers == {0}


def test_memory_alone_is_noted() -> None:
    plan = make_plan(paper(), Inventory.of([{"count": 1, "gpus": 8, "gpu_memory_gb": 80}]))
    assert plan.fits and any("rates not given are those of A100-80GB" in note for note in plan.notes)
    assert {load.capacity_bytes for load in plan.phases[0].gpus} == {80 * 10**9}


def test_a_learner_that_fits_no_gpu_names_the_engine() -> None:
    plan = make_plan(
        paper("qwen3_1.7b_to_8b", "models.learner=Qwen/Qwen3-32B", "engines.learner.tensor_parallel=1",
              "trainer.lora_rank=8"),
        Inventory.of([{"gpus": 8, "gpu": "A100-40GB", "count": 4}]),
    )  # fmt: skip
    assert not plan.fits
    assert "learner engine on a GPU" in plan.problems[1] and "learner/weights 65.5" in plan.problems[1]
    assert "a larger engines.learner.tensor_parallel" in plan.problems[-1]


def test_too_few_cpus_are_named() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", "trainer.ranks=8"), Inventory.of([H100 | {"cpus": 4}]))
    assert not plan.fits and "CPUs" in plan.problems[0]


def test_more_ranks_than_gpus() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", "trainer.ranks=16"), cluster("8xH100"))
    assert not plan.fits and "trainer.ranks=16" in plan.problems[0]


def test_real_and_logical_gpus_do_not_mix() -> None:
    with pytest.raises(PlacementError, match="either real or logical"):
        make_plan(paper(), Inventory.of([H100, {"gpus": 8, "gpu": "logical"}]))


# ---- CPUs and logical GPUs -------------------------------------------------------------------------------------------

SMALL = (
    "models.learner=Qwen/Qwen3-0.6B", "models.explorer=Qwen/Qwen3-0.6B", "rollout.max_tokens=64",
    "data.max_prompt_tokens=64", "trainer.micro_batch_tokens=256", "trainer.logprob_chunk_tokens=32",
)  # fmt: skip
CPUS = {"gpus": 0, "cpus": 4, "memory_gb": 64}


def test_cpu_bundles_in_the_order_of_actors() -> None:
    config = paper("qwen3_1.7b_to_8b", *SMALL, "trainer.ranks=2", "engines.explorer.count=2", "engines.explorer.cpus=1")
    plan = make_plan(config, Inventory.of([CPUS, CPUS]))
    assert (plan.mode, plan.layout.device, plan.layout.sleep) == ("separate", "cpu", False)
    assert [b.resources for b in plan.layout.bundles] == [{"CPU": n} for n in (1.0, 1.0, 0.5, 1.0, 1.0)]
    assert [b.node for b in plan.layout.bundles] == [0, 0, 0, 0, 1]  # 3.5 of 4 CPUs, and the last on the next node
    for phase in plan.layout.phases:
        assert [(s.role, s.index, s.bundle, s.share) for s in phase.slots] == [
            ("trainer", 0, 0, 1.0), ("trainer", 1, 1, 1.0), ("learner", 0, 2, 0.5), ("explorer", 0, 3, 1.0),
            ("explorer", 1, 4, 1.0),
        ]  # fmt: skip
    assert {slot.transfer for slot in slots(plan, 0, "learner")} == {"gloo"}
    assert [load.gpu for load in plan.phases[0].gpus] == [None, None]
    assert sum(len(load.roles) for load in plan.phases[0].gpus) == 5


def test_cpu_hand_over_when_it_is_on() -> None:
    plan = make_plan(
        paper("qwen3_1.7b_to_8b", *SMALL, "placement.hand_over=on", "engines.learner.cpus=0.75"), Inventory.of([CPUS])
    )
    assert [b.resources["CPU"] for b in plan.layout.bundles] == [1.0, 0.75, 0.75]
    last = plan.layout.phases[-1]
    assert [(s.role, s.index, s.bundle) for s in last.slots] == [
        ("trainer", 0, 0),
        ("learner", 0, 1),
        ("learner", 1, 2),
    ]
    assert slots(plan, 1, "explorer")


def test_no_explorer_where_no_step_uses_it() -> None:
    for inventory in (Inventory.of([CPUS]), cluster("8xH100")):
        extra = SMALL if not inventory.gpus else ()
        plan = make_plan(paper("qwen3_1.7b_to_8b", *extra, "schedule.kind=off"), inventory)
        assert plan.fits and not slots(plan, 0, "explorer") and set(plan.tensor_parallel) == {"learner"}
        assert plan.saving.saved == pytest.approx(0.0)


@pytest.mark.parametrize("mode", ["colocated", "mixed"])
def test_cpus_refuse_to_share(mode: str) -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL, f"placement.mode={mode}"), Inventory.of([CPUS]))
    assert not plan.fits and f"placement.mode={mode} needs GPUs" in plan.problems[0]


def test_cpus_that_are_short() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL, "trainer.ranks=8"), Inventory.of([CPUS]))
    assert not plan.fits and "9 CPUs" in plan.problems[0] and "trainer.{ranks,cpus}" in plan.problems[0]


def test_host_memory_that_is_short() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL), Inventory.of([CPUS | {"memory_gb": 8}]))
    assert not plan.fits and "node 0 has 8.0 GB" in plan.problems[0]


def test_gpus_that_are_not_there() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", "placement.device=gpu"), Inventory.of([CPUS]))
    assert not plan.fits and "placement.device is gpu" in plan.problems[0]


def test_gpus_that_are_not_wanted() -> None:
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL, "placement.device=cpu"), Inventory.of([H100]))
    assert plan.layout.device == "cpu" and all(not bundle.gpus for bundle in plan.layout.bundles)


@pytest.mark.parametrize("mode", ["colocated", "separate", "mixed"])
def test_logical_gpus_in_every_mode(mode: str) -> None:
    """Weights go by gloo, engines keep their memory, tensor parallel is 1 unless asked for."""
    inventory = Inventory.of([{"count": 2, "gpus": 4, "gpu": "logical", "cpus": 8, "memory_gb": 100}])
    plan = make_plan(paper("qwen3_1.7b_to_8b", *SMALL, f"placement.mode={mode}"), inventory)
    assert plan.fits and plan.mode == mode and set(plan.weight_sync.transfers) == {"gloo"}
    assert set(plan.tensor_parallel.values()) == {1}
    if mode == "colocated":
        ledger = plan.phases[0].gpus[0].ledger
        assert ledger["learner/weights"] and ledger["explorer/kv_cache"] and ledger["trainer/gradients"]


def test_sleeping_engines_are_not_in_the_update() -> None:
    """On real GPUs the fullest moment has either the update or whole engines, not both."""
    plan = make_plan(paper(), cluster("8xH100"))
    for load in plan.phases[0].gpus:
        assert not ("trainer/gradients" in load.ledger and "learner/kv_cache" in load.ledger)


def test_the_ledger_has_the_communicators_of_each_place() -> None:
    """Explorers of their own have none (tensor parallel 1), learners of their own that of the weight sync; ranks have
    one more where learners are not beside them."""
    contexts = {}
    for mode in ("colocated", "separate", "mixed"):
        plan = make_plan(paper("qwen3_1.7b_to_8b", f"placement.mode={mode}"), cluster("2x8xH100"))
        assert set(plan.tensor_parallel.values()) == {1}
        for load in plan.phases[1].gpus:
            kinds = "+".join(label.split(":")[0] for label in load.roles)
            contexts[mode, kinds] = round((load.ledger["context"] / 2**20 - 850 * len(load.roles)) / 400, 6)
    assert contexts == {
        ("colocated", "trainer+learner+explorer"): 1,
        ("separate", "trainer"): 2,
        ("separate", "learner"): 1,
        ("separate", "explorer"): 0,
        ("mixed", "trainer+learner"): 2,
        ("mixed", "learner"): 1,
        ("mixed", "explorer"): 0,
    }


def test_stale_learners_get_devices_of_their_own() -> None:
    """What sleeps while the trainer works cannot sample then, so the fastest plan of an on-policy run is none here."""
    cluster_of_8 = cluster("8xH100")
    assert make_plan(paper(), cluster_of_8).mode == "colocated"
    stale = make_plan(paper("qwen3_1.7b_to_8b", "rollout.max_staleness=1"), cluster_of_8)
    assert stale.fits and stale.mode == "separate" and not stale.layout.sleep
    on_policy = make_plan(paper("qwen3_1.7b_to_8b", "placement.mode=separate"), cluster_of_8)
    assert stale.run_seconds < on_policy.run_seconds


def test_a_further_mode_is_a_record_of_facts(monkeypatch) -> None:
    """Explorers that sleep beside the ranks while learners have GPUs of their own: the search, the layout and the
    costs ask for nothing but the facts."""
    mode = PlacementMode("turned", "", learner_sleeps=False, explorer_sleeps=True, has_engine_gpus=True)
    for module in (candidate_search, candidates, explanations):
        monkeypatch.setattr(module, "MODES", (mode,))
    plan = make_plan(paper("qwen3_1.7b_to_8b", "placement.hand_over=off"), cluster("2x8xH100"))
    assert plan.fits and plan.mode == "turned" and plan.layout.sleep
    explorers, learners = slots(plan, 0, "explorer"), slots(plan, 0, "learner")
    assert explorers and all(map(plan.layout.shares_gpus_with_trainer, explorers))
    assert learners and not any(map(plan.layout.shares_gpus_with_trainer, learners))
    mix = plan.phases[1]  # exploring and training take turns
    assert mix.step_seconds == pytest.approx(sum(s for part, s in mix.seconds.items() if part != "verify"), rel=1e-6)
