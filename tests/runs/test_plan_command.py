from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.simulate.calibration import calibrate
from s2l_ray.planner.simulate.simulation import simulate
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.simulated_runs import config as measured_config
from tests.support.simulated_runs import write_run

PAPER = str(ROOT / "configs" / "paper" / "qwen3_1.7b_to_8b.yaml")
HEAVY = ("torch", "ray", "vllm", "transformers", "mlflow", "matplotlib")


@pytest.fixture
def inventory(tmp_path):
    """Writes an inventory file of some nodes, as YAML flow mappings."""

    def write(*nodes: str) -> str:
        path = tmp_path / "nodes.yaml"
        path.write_text("nodes:\n" + "".join(f"  - {{{node}}}\n" for node in nodes))
        return str(path)

    return write


def planned(capsys, *words: str) -> tuple[int, dict]:
    """Exit status and document of `s2l plan ... --json`."""
    status = main(["plan", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_papers_run_on_8_gpus(capsys, inventory):
    status, plan = planned(capsys, PAPER, "--inventory", inventory("gpus: 8, gpu: H100-80GB"))
    assert status == 0 and plan["fits"] is True and plan["problems"] == []
    # G = 16, T = 16, T_mix = 8: only the explorer at step 1, both at 2 to 7, then only the learner.
    assert [(p["name"], p["first_step"], p["last_step"], p["steps"]) for p in plan["phases"]] == [
        ("explore", 1, 1, 1), ("mix", 2, 7, 6), ("on-policy", 8, 16, 9),
    ]  # fmt: skip
    assert len(plan["gpus"]) == 8 and {gpu["capacity_bytes"] for gpu in plan["gpus"]} == {84_900_000_000}
    for gpu in plan["gpus"] + [gpu for phase in plan["phases"] for gpu in phase["gpus"]]:
        assert sum(gpu["ledger"].values()) == gpu["used_bytes"] <= 0.95 * gpu["capacity_bytes"]
    ranks = {role for gpu in plan["phases"][0]["gpus"] for role in gpu["roles"] if role.startswith("trainer:")}
    assert ranks == {f"trainer:{rank}" for rank in range(plan["ranks"])}
    assert plan["phases"][2]["explorer_flops"] == 0 == plan["phases"][0]["learner_flops"]
    assert (
        0 < plan["saving"]["saved"] < 1 and plan["weight_sync"]["bytes"] == 16_381_470_720
    )  # 8.19e9 parameters, 2 bytes


def test_what_is_forced_comes_out(capsys, inventory):
    nodes = inventory("count: 2, gpus: 8, gpu: H100-80GB")
    for mode in ("colocated", "separate", "mixed"):
        status, plan = planned(capsys, PAPER, f"placement.mode={mode}", "--inventory", nodes)
        assert (status, plan["mode"]) == (0, mode)


def test_overrides_may_follow_options(capsys, inventory):
    nodes = inventory("count: 2, gpus: 8, gpu: H100-80GB")
    _, plan = planned(capsys, PAPER, "--inventory", nodes, "placement.mode=separate", "trainer.ranks=8")
    assert plan["mode"] == "separate" and plan["ranks"] == 8


def test_longer_responses_take_longer(capsys, inventory):
    nodes = inventory("gpus: 8, gpu: H100-80GB")
    runs = [
        planned(capsys, PAPER, "--inventory", nodes, "--mean-response-tokens", n)[1]["run_seconds"]
        for n in ("500", "1000", "2048", "4000")
    ]
    default = planned(capsys, PAPER, "--inventory", nodes)[1]["run_seconds"]
    assert runs == sorted(runs) and runs[0] < runs[3] and default == runs[2]


def test_a_run_that_does_not_fit_is_status_1_and_still_a_document(capsys, inventory):
    status, plan = planned(capsys, PAPER, "--inventory", inventory("gpus: 1, gpu_memory_gb: 24"))
    assert status == 1 and plan["fits"] is False and plan["problems"]
    status = main(["plan", PAPER, "--inventory", inventory("gpus: 1, gpu_memory_gb: 24")])
    printed = capsys.readouterr()
    assert status == 1 and "why it does not fit" in printed.out and printed.err == ""


def test_the_report_and_the_picture(capsys, inventory, tmp_path):
    picture = tmp_path / "pictures" / "plan.png"
    status = main(["plan", PAPER, "--inventory", inventory("gpus: 8, gpu: H100-80GB"), "--png", str(picture)])
    text = " ".join(capsys.readouterr().out.split())
    assert status == 0 and picture.read_bytes().startswith(b"\x89PNG")
    for part in ("fits yes", "1 node of 8 x H100-80GB", "memory of one GPU", "an average step", str(picture.name)):
        assert part in text, part


SMALL = ["rollout.prompts_per_step=32", "objective.mini_batch_prompts=8", "schedule.steps=4", "schedule.mix_steps=3"]


def test_a_simulation_beside_the_plan(capsys, inventory, tmp_path):
    nodes, picture = inventory("gpus: 8, gpu: H100-80GB"), tmp_path / "plan.png"
    status, plan = planned(capsys, PAPER, *SMALL, "--inventory", nodes, "--simulate", "--png", str(picture))
    found = plan["simulation"]
    assert status == 0 and found["constants"] == "the plan's costs"
    assert [step["step"] for step in found["steps"]] == [1, 2, 3, 4]
    assert [step["phase"] for step in found["steps"]] == ["explore", "mix", "on-policy", "on-policy"]
    assert found["run_seconds"] == pytest.approx(sum(step["seconds"]["total"] for step in found["steps"]))
    assert picture.read_bytes() != (tmp_path / "plan_timeline.png").read_bytes()
    _, longer = planned(capsys, PAPER, *SMALL, "--inventory", nodes, "--simulate", "--mean-response-tokens", "4000")
    assert longer["simulation"]["run_seconds"] > found["run_seconds"]
    main(["plan", PAPER, *SMALL, "--inventory", nodes, "--simulate"])
    text = capsys.readouterr().out
    assert (
        "simulated with the plan's costs" in text
        and "simulation" not in planned(capsys, PAPER, *SMALL, "--inventory", nodes)[1]
    )


def test_a_simulation_with_a_runs_constants_on_the_inventorys_cores(capsys, inventory, tmp_path, family):
    run = write_run(tmp_path / "run", measured_config())
    words = [str(ROOT / "configs" / "quickstart.yaml"), "schedule.steps=6", "schedule.mix_steps=4"]
    words += [f"models.learner={family.large}", f"models.explorer={family.small}"]
    words += ["--inventory", inventory("gpus: 0, cpus: 8, memory_gb: 32"), "--calibrate", str(run)]
    status, plan = planned(capsys, *words)
    assert status == 0 and plan["simulation"]["constants"] == f"constants of {run}"
    config = load_config(words[0], words[1:5])
    layout = make_plan(config, Inventory.of([{"gpus": 0, "cpus": 8, "memory_gb": 32}])).layout
    constants = replace(calibrate(run).constants, cores=8.0)
    assert plan["simulation"]["run_seconds"] == simulate(config, layout, constants).run_seconds


def test_calibrating_on_what_is_no_run_is_an_error(capsys, inventory, tmp_path):
    nodes = inventory("gpus: 8, gpu: H100-80GB")
    assert main(["plan", PAPER, "--inventory", nodes, "--calibrate", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"{tmp_path} is no run" in printed.err and printed.out == ""


def test_what_does_not_fit_is_not_simulated(capsys, inventory):
    status, plan = planned(capsys, PAPER, "--inventory", inventory("gpus: 1, gpu_memory_gb: 24"), "--simulate")
    assert status == 1 and "simulation" not in plan


def test_the_inventory_of_the_configuration_is_the_default(capsys, inventory):
    status, plan = planned(capsys, PAPER, f"placement.inventory={inventory('gpus: 8, gpu: H100-80GB')}")
    assert status == 0 and len(plan["gpus"]) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([PAPER], "which nodes? Give --inventory FILE"),
        ([PAPER, "--inventory", "missing.yaml"], "inventory missing.yaml does not exist; s2l-ray ships"),
        ([PAPER, "rollout.grup_size=4", "--inventory", "missing.yaml"], "did you mean rollout.group_size"),
    ],
)
def test_what_the_user_can_mend_is_one_error(capsys, words, message):
    assert main(["plan", *words]) == 1
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


@pytest.mark.parametrize("words", [["nonsense"], ["--nonsense"], ["--nonsense=1"]])
def test_words_that_are_no_overrides_are_refused(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", PAPER, "--inventory", "nodes.yaml", *words])
    assert stopped.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_an_override_of_a_command_that_has_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "a=1"])
    assert "unrecognized arguments: a=1" in capsys.readouterr().err


def test_help_is_enough(capsys, inventory, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    # The inventory in the help is one.
    from s2l_ray.placement.inventory import Efficiency, NodeGroup, load_inventory

    example = re.search(r"^  nodes:\n.*?^  efficiency: \{.*?\}", text, re.S | re.M)[0]
    path = tmp_path / "example.yaml"
    path.write_text(re.sub(r"(\}) {3,}.*", r"\1", re.sub(r"^ {20,}.*\n", "", example, flags=re.M)))
    assert [node.gpus for node in load_inventory(path).nodes] == [8, 4, 0]
    for key in NodeGroup.model_fields:
        assert re.search(rf"\b{key}\b", text), key
    assert {"train", "decode"} <= set(Efficiency.model_fields)
    # So are the keys of the document.
    _, plan = planned(capsys, PAPER, "--inventory", inventory("gpus: 8, gpu: H100-80GB"))
    keys = {*plan, *plan["phases"][0], *plan["gpus"][0]}
    assert not [key for key in keys if not re.search(rf"\b{key}\b", text.split("keys of --json")[1])]


def test_help_names_the_known_gpus(capsys):
    from s2l_ray.placement.gpu_types import GPU_TYPES

    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    text = capsys.readouterr().out
    assert not [name for name in GPU_TYPES if name not in text]


def test_json_and_nothing_else_without_anything_heavy(inventory):
    """In a process of its own, for 512 nodes of 8 GPUs."""
    code = f"""
import sys
from s2l_ray.cli import main
status = main(sys.argv[1:])
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
sys.exit(status)
"""
    nodes = inventory("count: 512, gpus: 8, gpu: H100-80GB")
    command = [sys.executable, "-c", code, "plan", PAPER, "--inventory", nodes, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["gpus"]) == 4096 and done.stderr == ""


def test_the_report_imports_nothing_heavy_either(inventory):
    code = "import sys; from s2l_ray.cli import main; main(sys.argv[1:])"
    code += f"; print([name for name in {HEAVY!r} if name in sys.modules])"
    nodes = inventory("gpus: 8, gpu: H100-80GB")
    command = [sys.executable, "-c", code, "plan", PAPER, "--inventory", nodes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_live_asks_ray(family):
    """In a process of its own, which starts a Ray on this machine: CPUs alone."""
    command = [sys.executable, "-m", "s2l_ray", "plan", "configs/quickstart.yaml", "--live", "--json"]
    command += [f"models.learner={family.large}", f"models.explorer={family.small}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] and plan["device"] == "cpu" and plan["mode"] == "separate"
    (node,) = plan["gpus"]
    assert node["gpu"] is None and node["used_bytes"] <= node["capacity_bytes"]
    assert {role.split(":")[0] for role in node["roles"]["mix"]} == {"trainer", "learner", "explorer"}
    assert plan["weight_sync"]["transfers"] == {"gloo": 2}  # the quickstart has two learner engines


def test_the_same_words_give_the_same_document(capsys, inventory):
    nodes = inventory("count: 2, gpus: 8, gpu: A100-40GB")
    assert planned(capsys, PAPER, "--inventory", nodes) == planned(capsys, PAPER, "--inventory", nodes)


@pytest.mark.parametrize("command", ["config", "plan", "plan --json"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str, inventory):
    """`s2l plan ... | head`: here the reader goes before anything is printed."""
    nodes = [PAPER, "--inventory", inventory("gpus: 8, gpu: H100-80GB")]
    words = [*command.split(), *(nodes if command != "config" else [])]
    plan = subprocess.Popen(
        [sys.executable, "-m", "s2l_ray", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    plan.stdout.close()
    with plan.stderr as errors:
        assert errors.read() == ""
    assert plan.wait(PATIENCE_S) == 141


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--mean-response-tokens", "-5"], "must be a number above 0, not '-5'"),
        (["--mean-response-tokens", "nan"], "must be a number above 0, not 'nan'"),
        (["--mean-response-tokens", "1e9"], "is more than rollout.max_tokens, which is 4096"),
        (["--png", "plan.foo"], "must end in .png, not 'plan.foo'"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(option: list[str], message: str, inventory, capsys) -> None:
    try:
        status = main(["plan", PAPER, "--inventory", inventory("gpus: 8, gpu: H100-80GB"), *option])
    except SystemExit as refused:  # argparse
        status = refused.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err.splitlines()[-1]
