from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache

import pytest
from rich.console import Console

from s2l_ray.config import ModelsConfig
from s2l_ray.placement.plan import Layout, Plan
from s2l_ray.planner.show import look
from s2l_ray.planner.show.drawing import draw_plan, plan_figure
from s2l_ray.planner.show.grouping import blocks, hand_overs, memory_classes, memory_key, node_groups, ranges
from s2l_ray.planner.show.report import PlanReport
from s2l_ray.planner.show.serialise import plan_json
from s2l_ray.planner.show.terminal_bars import cells
from tests.support.plans import CAPACITY, GIB, colocated_plan, cpu_plan, impossible_plan, load, phase, separate_plan


@cache
def large_plan() -> Plan:
    """4096 GPUs."""
    return separate_plan(512)


PLANS = [separate_plan, colocated_plan, cpu_plan, impossible_plan, large_plan]


def document(plan: Plan) -> dict:
    return json.loads(plan_json(plan, ModelsConfig(learner="org/large", explorer="org/small")))


def printed(plan: Plan, width: int = 100, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(PlanReport(plan, "run.yaml on nodes.yaml"))
    return console.file.getvalue()


def squeezed(text: str) -> str:
    return " ".join(text.split())


def one_node_plan(loads) -> Plan:
    return Plan(fits=True, problems=(), mode="separate", phases=(phase("mix", 1, 2, loads),))


# JSON


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_is_one_document_with_the_same_keys(plan):
    assert list(document(plan())) == [
        "models", "fits", "problems", "mode", "device", "ranks", "tensor_parallel", "dtype", "dtype_reason",
        "run_seconds", "phases", "gpus", "bundles",
        "slots", "sleep", "replicas", "recomputed_layers", "hand_overs",
        "weight_sync", "saving", "notes", "alternatives",
    ]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_ledgers_sum_to_what_is_used(plan):
    found = document(plan())
    devices = [gpu for one in found["phases"] for gpu in one["gpus"]] + found["gpus"]
    assert all(sum(gpu["ledger"].values()) == gpu["used_bytes"] for gpu in devices)


def test_the_phases_of_a_plan_in_json():
    explore, mix, on_policy = document(separate_plan())["phases"]
    assert [p["name"] for p in (explore, mix, on_policy)] == ["explore", "mix", "on-policy"]
    assert [(p["steps"], p["first_step"], p["last_step"]) for p in (explore, mix, on_policy)] == [
        (1, 1, 1), (3, 2, 4), (4, 5, 8),
    ]  # fmt: skip
    assert explore["step_seconds"] == 301.5 and explore["seconds"]["update"] == 240.0
    assert mix["utilisation"] == {"trainer": 0.6, "learner": 0.1, "explorer": 0.75, "all": 0.55}
    assert (mix["explorer_flops"], mix["learner_flops"]) == (4e18, 2e19)
    assert len(explore["gpus"]) == 16
    assert explore["gpus"][3] == {
        "node": 0,
        "gpu": 3,
        "capacity_bytes": CAPACITY,
        "used_bytes": 31 * GIB,
        "ledger": {
            "trainer/weights": 4 * GIB,
            "trainer/gradients": 4 * GIB,
            "trainer/optimizer": 8 * GIB,
            "trainer/activations": 12 * GIB,
            "transfer_buffers": GIB,
            "context": 2 * GIB,
        },
        "roles": ["trainer:3"],
    }
    assert explore["gpus"][9]["roles"] == ["learner:0/1"] and explore["gpus"][12]["roles"] == ["explorer:0/0"]


def test_a_gpu_in_json_is_at_its_fullest():
    found = document(separate_plan())["gpus"]
    assert [(gpu["node"], gpu["gpu"]) for gpu in found] == [(node, gpu) for node in (0, 1) for gpu in range(8)]
    changing = found[12]  # an explorer of 37 GiB, then a learner of 31
    assert changing["used_bytes"] == 37 * GIB and changing["worst_phase"] == "explore"
    assert changing["ledger"]["explorer/kv_cache"] == 30 * GIB and "learner/kv_cache" not in changing["ledger"]
    assert changing["roles"] == {"explore": ["explorer:0/0"], "mix": ["explorer:0/0"], "on-policy": ["learner:2/0"]}


def test_a_later_phase_may_be_the_fullest():
    first, second = load(0, 0, ("learner:0/0",), {"a": 1}), load(0, 0, ("learner:0/0",), {"a": 2})
    plan = replace(one_node_plan([first]), phases=(phase("mix", 1, 1, [first]), phase("on-policy", 2, 2, [second])))
    (gpu,) = document(plan)["gpus"]
    assert (gpu["used_bytes"], gpu["worst_phase"]) == (2 * GIB, "on-policy")


def test_bundles_slots_and_hand_overs_in_json():
    found = document(separate_plan())
    assert found["bundles"][0] == {"node": 0, "gpus": [0], "resources": {"GPU": 1, "CPU": 1}}
    assert found["bundles"][10] == {"node": 1, "gpus": [4, 5], "resources": {"GPU": 2, "CPU": 1}}
    assert [slots["name"] for slots in found["slots"]] == ["explore", "mix", "on-policy"]
    assert found["slots"][0]["slots"][8] == {
        "role": "learner", "index": 0, "bundle": 8, "devices": [0, 1], "share": 1.0, "kv_cache_bytes": 20 * GIB,
        "transfer": "nccl",
    }  # fmt: skip
    assert found["hand_overs"] == [
        {
            "step": 5,
            "ends": [
                {"role": "explorer", "index": i, "bundle": 10 + i // 2, "devices": [i % 2]} for i in range(4)
            ],
            "begins": [{"role": "learner", "index": 2 + i, "bundle": 10 + i, "devices": [0, 1]} for i in range(2)],
            "bundles": [10, 11],
        }
    ]  # fmt: skip
    assert (found["sleep"], document(colocated_plan())["sleep"]) == (False, True)


def test_weight_sync_and_saving_in_json():
    found = document(separate_plan())
    assert found["weight_sync"] == {"bytes": 16_381_470_720, "seconds": 1.5, "transfers": {"nccl": 4}}
    assert found["saving"] == {"explorer_flops": 8e18, "learner_flops": 4e19, "grpo_flops": 8e19, "saved": 0.4}
    assert found["run_seconds"] == 2781.5 and found["ranks"] == 8
    assert found["alternatives"][1] == {
        "description": "separate, 4 trainer ranks", "mode": "separate", "fits": False, "run_seconds": None,
        "reason": "trainer/optimizer: node 0 GPU 0 would hold 86.0 of 76.0 GiB",
    }  # fmt: skip


def test_a_plan_that_does_not_fit_in_json():
    found = document(impossible_plan())
    assert found["fits"] is False and len(found["problems"]) == 2 and len(found["alternatives"]) == 2
    assert found["phases"] == found["gpus"] == found["bundles"] == [] and found["mode"] is None


def test_cpu_memory_is_a_device_without_a_number():
    (gpu,) = document(cpu_plan())["gpus"]
    assert gpu["gpu"] is None and gpu["used_bytes"] == (28 + 28 + 34) * GIB


# What is alike


def test_ranges():
    assert ranges([5, 0, 1, 2, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([3]) == "3" and ranges([]) == ""
    assert ranges(range(0, 12, 2)) == "0, 2, 4, 6, 8, 10"
    assert ranges([*range(0, 14, 2), 13]) == "0, 2, 4, 6, ..., 12-13"


def test_nodes_with_the_same_actors_are_one_group():
    first, second = node_groups(large_plan().phases[0].gpus)
    assert first.nodes == (0,) and first.occupants == {"trainer": tuple(range(8))}
    assert second.nodes == tuple(range(1, 512)) and len(second.loads) == 8
    assert second.occupants == {"learner": tuple(range(1022)), "explorer": tuple(range(2044))}


def test_nodes_that_share_an_engine_otherwise_are_not_alike():
    def node(number, engines):
        return [load(number, gpu, (f"learner:{engine}/0",), {"context": 1}) for gpu, engine in enumerate(engines)]

    groups = node_groups([*node(0, [0, 0, 1, 1]), *node(1, [2, 2, 3, 3]), *node(2, [4, 5, 6, 7])])
    assert [group.nodes for group in groups] == [(0, 1), (2,)]


def test_nodes_with_other_ledgers_are_not_alike():
    groups = node_groups([load(n, 0, (f"trainer:{n}",), {"trainer/weights": 4 + (n == 1)}) for n in range(3)])
    assert [group.nodes for group in groups] == [(0, 2), (1,)]


def test_a_tensor_parallel_group_is_one_block():
    (group,) = node_groups(colocated_plan().phases[0].gpus)
    assert [(b.index, b.first, b.devices) for b in blocks(group.loads, "learner")] == [
        (0, 0, 2), (1, 2, 2), (2, 4, 2), (3, 6, 2),
    ]  # fmt: skip
    assert [(b.index, b.first, b.devices) for b in blocks(group.loads, "trainer")] == [(i, i, 1) for i in range(8)]


def test_an_engine_on_devices_that_are_not_neighbours_is_two_blocks():
    loads = [
        load(0, gpu, (role,), {"context": 1}) for gpu, role in enumerate(["learner:0/0", "trainer:0", "learner:0/1"])
    ]
    assert [(b.index, b.first) for b in blocks(loads, "learner")] == [(0, 0), (0, 2)]


def test_an_engine_across_nodes_has_all_of_its_devices():
    loads = [load(node, gpu, (f"learner:0/{2 * node + gpu}",), {"context": 1}) for node in (0, 1) for gpu in (0, 1)]
    (group,) = node_groups(loads)
    assert group.occupants == {"learner": (0,)} and group.devices == {"learner": 4}
    assert "engine 0, TP 4" in printed(one_node_plan(loads))


def test_memory_classes_are_lettered_by_appearance_over_all_phases():
    plan = separate_plan()
    classes = memory_classes(plan.phases)
    assert [one.letter for one in classes.values()] == ["A", "B", "C"]
    assert classes[memory_key(plan.phases[2].gpus[12])].letter == "B"  # the handed-over GPU is as the learner's others


def test_more_classes_than_letters():
    loads = [load(0, gpu, (f"trainer:{gpu}",), {"trainer/weights": gpu + 1}) for gpu in range(28)]
    assert [one.letter for one in memory_classes([phase("mix", 1, 1, loads)]).values()][24:] == ["Y", "Z", "AA", "AB"]


def test_a_plan_that_never_changes_has_no_hand_over():
    layout = separate_plan().layout
    assert hand_overs(Layout(layout.mode, layout.device, layout.bundles, layout.phases[:2], False)) == []


# Terminal


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("plan", PLANS)
def test_the_report_fits_every_terminal(plan, width, colour):
    console = Console(file=io.StringIO(), width=width)
    for line in console.render_lines(PlanReport(plan(), "run.yaml on nodes.yaml"), pad=False):
        assert sum(segment.cell_length for segment in line) <= width


def test_a_large_plan_is_as_long_as_one_for_its_kinds_of_node():
    assert len(printed(large_plan()).splitlines()) <= len(printed(separate_plan(2)).splitlines()) + 4


def test_the_headline_says_what_and_how_long():
    text = squeezed(printed(separate_plan(), 130))
    assert "fits yes, separate: trainer, learner and explorer have devices of their own" in text
    assert "8 trainer ranks, learner tensor parallel 2, explorer tensor parallel 1" in text
    assert "run 46m22s for 8 steps: explore 1 x 302 s, mix 3 x 400 s, on-policy 4 x 320 s" in text
    assert "40.0% fewer FLOPs than plain GRPO: explorer 8.0e18 + learner 4.0e19, GRPO 8.0e19" in text
    assert "weight sync 15.3 GiB in 1.5 s; 4 engines by nccl" in text
    assert "22.5% more FLOPs" in printed(colocated_plan())


def test_the_map_shows_ranks_engines_and_memory_classes():
    lines = [line.rstrip() for line in printed(separate_plan(), 80).splitlines()]
    assert any(line.startswith("explore (step 1), mix (steps 2-4) ──") for line in lines)
    at = lines.index("node 1       0    1    2    3    4    5    6    7")
    assert lines[at + 1 : at + 4] == [
        "  learner  [===0===] [===1===]                      engines 0-1, TP 2",
        "  explorer                     [0=] [1=] [2=] [3=]  engines 0-3",
        "  memory     B    B    B    B    C    C    C    C",
    ]
    assert "  learner  [===0===] [===1===] [===2===] [===3===]  engines 0-3, TP 2" in lines[at + 4 :]


def test_equal_nodes_are_drawn_once():
    text = printed(large_plan(), 120)
    assert "nodes 1-511  511 alike" in text and "engines 0-1021, TP 2" in text and "engines 0-2043" in text
    assert "2044 GPUs in explore, mix; 4088 GPUs in on-policy" in text


def test_many_kinds_of_node_are_cut_with_a_word():
    loads = [load(n, 0, (f"trainer:{n}",), {"trainer/weights": n + 1}) for n in range(15)]
    text = printed(one_node_plan(loads))
    assert "node 11 " in text and "node 12 " not in text and "and 3 nodes of 3 more kinds; --json has all" in text


def test_ledgers_in_figures():
    rows = [" ".join(line.split()) for line in printed(separate_plan(), 80).splitlines()]
    for row in (
        "A B C", "■ trainer weights 4.00 - -", "■ learner KV cache - 20.0 -", "■ explorer KV cache - - 30.0",
        "used 31.0 31.0 37.0", "free 49.0 49.0 43.0",
    ):  # fmt: skip
        assert row in rows
    order = [row.split()[1:3] for row in rows if row.startswith("■")]
    assert [name for _, name in order[:4]] == ["weights", "optimizer", "gradients", "activations"]
    assert order[4] == ["learner", "weights"] and order[-1] == ["transfer", "buffers"]


def test_memory_that_overflows_is_told():
    text = squeezed(printed(one_node_plan([load(0, 0, ("trainer:0",), {"trainer/weights": 93})])))
    assert "93.0 of 80.0" in text and "free -13.0" in text
    assert "93.0 of 100.0" in printed(colocated_plan())


def test_times_are_on_one_scale():
    rows = {
        line[:17].strip(): line[20:]
        for line in printed(separate_plan(), 80).splitlines()
        if line[20:21] in "1234567890-"
    }
    explore, update = rows["explorer samples"], rows["update"]
    assert explore.split()[:2] == ["300", "s"] and explore.count("█") == 21  # 7 cells in each of three phases
    assert update.count("█") == 15 and update.count("▋") == 3  # 240 / 300 of 7 cells is 5.6
    assert rows["learner samples"].startswith("-") and rows["learner samples"].count("150 s") == 2
    assert squeezed(rows["whole step"]) == "302 s 400 s 320 s"
    assert rows["explorer busy"].split()[0] == "75%" and rows["learner FLOPs"].split() == ["0", "2.0e19", "2.0e19"]


def test_hand_overs_notes_and_alternatives():
    text = squeezed(printed(separate_plan(), 130))
    assert "before step 5: explorer engines 0-3 end, learner engines 2-3 begin (bundles 10-11 on node 1)" in text
    assert "8 of the explorer's GPUs go to the learner" in text
    assert "colocated, 16 trainer ranks, tensor parallel: learner 2 56m40s 618 s slower" in text
    assert "separate, 4 trainer ranks - trainer/optimizer: node 0 GPU 0 would hold" in text


def test_a_plan_that_does_not_fit_begins_with_its_problems():
    lines = [line.strip() for line in printed(impossible_plan(), 120).splitlines()]
    assert lines[1] == "fits      no" and lines[3].startswith("why it does not fit")
    assert lines[4].startswith("- trainer: 8 ranks need 31.2 GiB") and lines[5].startswith("- give it at least 12")
    assert "why it does not fit" in lines[8] and "nodes" not in lines[8]


def test_a_cpu_plan_names_its_actors():
    text = printed(cpu_plan())
    assert "node 0  CPUs" in text and "trainer  rank 0" in text and "explorer engine 0" in text
    assert "memory of one node at its fullest moment, GiB" in text and "1 node in mix" in text
    assert "weight sync  1.6 MiB in 0.0031 s; 1 engine by gloo" in text


def test_square_brackets_in_texts_are_printed_as_they_are():
    plan = replace(impossible_plan(), problems=("[bold]x[/bold] [0, 1]",))
    assert "- [bold]x[/bold] [0, 1]" in printed(plan)


@pytest.mark.parametrize(
    ("sizes", "width", "expected"),
    [
        ([1, 1], 4, [2, 2]),
        ([3, 1], 4, [3, 1]),
        ([1000, 1], 10, [9, 1]),  # what exists is seen
        ([0, 5], 3, [0, 3]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([5, 1, 1, 1], 3, [1, 0, 1, 1]),  # no room for all
    ],
)
def test_cells_by_hand(sizes, width, expected):
    assert cells(sizes, width) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0041, "0.0041 s"), (0.613, "0.61 s"), (1.934, "1.93 s"), (51.23, "51.2 s"), (512.4, "512 s"), (1690, "28m10s"),
     (28_500, "7h55m"), (3_599.7, "1h00m"), (3600 * 100, "4d 04h")],
)  # fmt: skip
def test_seconds(value, text):
    assert look.seconds(value) == text


def test_sizes():
    assert [look.gib(n * GIB) for n in (0, 0.001, 0.031, 1.5, 14.13, 640.2, 2000)] == [
        "0.00",
        "<0.01",
        "0.03",
        "1.50",
        "14.1",
        "640.2",
        "2000",
    ]
    assert [look.amount(n) for n in (16_381_470_720, 1_722_368, 2048, 12)] == ["15.3 GiB", "1.6 MiB", "2.0 KiB", "12 B"]


# Picture


def rectangles(axes, gid: str):
    return [patch for patch in axes.patches if str(patch.get_gid()).startswith(gid)]


def all_axes(figure):
    """Of maps, memory and times."""
    maps, memory, times = figure.subfigs
    return maps.axes, memory.axes[0], times.axes


def test_the_picture_has_a_box_for_every_actor():
    maps, _, _ = all_axes(plan_figure(separate_plan(), "title"))
    assert [axes.get_title("left") or axes.get_title() for axes in maps] == [
        "explore, step 1", "mix, steps 2-4", "on-policy, steps 5-8",
    ]  # fmt: skip
    for axes, (learners, explorers) in zip(maps, [(2, 4), (2, 4), (4, 0)], strict=True):
        assert len(rectangles(axes, "node")) == 2
        assert len(rectangles(axes, "trainer:")) == 8
        assert [r.get_gid() for r in rectangles(axes, "learner:")] == [f"learner:{i}" for i in range(learners)]
        assert len(rectangles(axes, "explorer:")) == explorers
    (first, second) = rectangles(maps[0], "learner:")
    (rank, *_) = rectangles(maps[0], "trainer:")
    assert first.get_width() == pytest.approx(2 - 0.12) and rank.get_width() == pytest.approx(1 - 0.12)
    assert second.get_x() - first.get_x() == pytest.approx(2)


def test_the_picture_stacks_memory_against_capacity():
    _, memory, _ = all_axes(plan_figure(separate_plan(), "title"))
    explorer = rectangles(memory, "C:")
    assert [(r.get_gid(), r.get_x(), r.get_width()) for r in explorer] == [
        ("C:explorer/weights", 0, 4), ("C:explorer/kv_cache", 4, 30), ("C:context", 34, 2),
        ("C:transfer_buffers", 36, 1), ("C:capacity", 0, 80),
    ]  # fmt: skip
    assert any("37.0 of 80.0 GiB" in text.get_text() for text in memory.texts)


def test_the_picture_has_the_seconds_of_every_part():
    _, _, times = all_axes(plan_figure(separate_plan(), "title"))
    assert [bar.get_width() for bar in rectangles(times[0], "seconds")] == [300, 0, 240, 1.5, 3, 12]
    assert [bar.get_width() for bar in rectangles(times[1], "seconds")] == [300, 150, 240, 1.5, 3, 12]
    assert [label.get_text() for label in times[0].get_yticklabels()][:3] == [
        "explorer samples", "learner samples", "update",
    ]  # fmt: skip
    assert len({axes.get_xlim() for axes in times}) == 1


def test_a_large_plan_is_drawn_by_kind():
    maps, _, _ = all_axes(plan_figure(large_plan(), "title"))
    assert len(rectangles(maps[0], "node")) == 2 and len(rectangles(maps[0], "explorer:")) == 4
    assert "nodes 1-511 (511 alike)" in [text.get_text() for text in maps[0].texts]


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_can_be_drawn(plan, tmp_path):
    path = draw_plan(plan(), "title", tmp_path / "new" / "plan.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_a_plan_that_does_not_fit_says_why():
    texts = " ".join(text.get_text() for text in plan_figure(impossible_plan(), "title").texts)
    assert "does not fit" in texts and "give it at least 12 GPUs" in texts
