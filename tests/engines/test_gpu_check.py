"""`s2l gpu-check`: its runner with stages that crash, hang and lie, and that its stages see what is wrong."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from s2l_ray.config import load_config
from s2l_ray.gpu_check import command, runner, stage_attention, stage_mfu, stage_ranks, stage_train, stage_update
from s2l_ray.gpu_check.check import Check, Skip, StageResult
from s2l_ray.gpu_check.flops import update_flops
from s2l_ray.gpu_check.profile import kind_of, seconds_by_part
from s2l_ray.gpu_check.stages import STAGES, Stage
from s2l_ray.gpu_check.workload import groups_of, lognormal_lengths
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.search import make_plan
from s2l_ray.training.attention import PackedLayout
from tests.support.training_models import VOCABULARY, make_trainer, write_model

BOUND = 100.0


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check("made up", BOUND, tmp_path / "result.json")


def result_of(check: Check) -> StageResult:
    return StageResult(**json.loads(check._file.read_text()))


def run_made_up(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float = BOUND, own: float | None = None
) -> StageResult:
    """A stage of its own module, in its own process; `own`: its bound where there is time for all of it."""
    (tmp_path / "made_up_stage.py").write_text(f"import os, sys, time\n\ndef run(check):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return runner._run_stage(Stage("made up", "", own or bound, "made_up_stage"), bound)


ENDS = {
    "right": ("check.measure(rate=2.5); check.expect(True, 'it holds')", "PASS", ""),
    "wrong": ("check.measure(rate=2.5); check.expect(False, 'one is two')", "FAIL", "one is two"),
    "raises": ("check.measure(rate=2.5); raise ValueError('no such kernel')", "FAIL", "ValueError: no such kernel"),
    "crashes": ("check.measure(rate=2.5); os.abort()", "FAIL", "its process ended"),
    "leaves": ("check.measure(rate=2.5); os._exit(0)", "FAIL", "its process ended"),
    "no GPU": (
        "check.measure(rate=2.5); check.cuda = False; check.need_gpu('the rest holds')",
        "SKIP",
        "no CUDA device; the rest holds",
    ),
    "no GPU, wrong": (
        "check.measure(rate=2.5); check.cuda = False; check.expect(False, 'bad'); check.need_gpu('the rest holds')",
        "FAIL",
        "bad",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stage_ends(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, status, reason = ENDS[end]
    result = run_made_up(body, tmp_path, monkeypatch)
    assert result.status == status
    assert result.reason.startswith(reason) if reason else result.reason == ""
    assert result.measured == {"rate": 2.5}  # also where the process is gone
    assert 0 < result.seconds < BOUND


def test_a_stage_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    start = "import subprocess; child = subprocess.Popen(['sleep', '600'])"
    body = f"{start}; open({str(child)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    result = run_made_up(body, tmp_path, monkeypatch, bound=15)
    assert (result.status, result.reason) == ("FAIL", "it did not end within 15 s")
    if child.exists() and (status := Path(f"/proc/{child.read_text()}/status")).exists():
        assert "State:\tZ" in status.read_text()


def test_a_stage_that_the_total_cuts_short_has_not_failed_unless_something_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_made_up("check.measure(rate=2.5); time.sleep(600)", tmp_path, monkeypatch, bound=15, own=90)
    assert (result.status, result.measured) == ("SKIP", {"rate": 2.5})
    assert result.reason == "it was cut short after 15 s, and may take 90 s; give more with --minutes"
    result = run_made_up("check.expect(False, 'bad'); time.sleep(600)", tmp_path, monkeypatch, bound=15, own=90)
    assert (result.status, result.reason) == ("FAIL", "bad; it did not end within 15 s")


def test_a_stage_counts_as_it_ended_if_only_its_process_lingers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "check.finish('nothing to do'); time.sleep(600)"
    result = run_made_up(body, tmp_path, monkeypatch, bound=15)
    assert (result.status, result.reason) == ("SKIP", "nothing to do")
    result = run_made_up("check.expect(False, 'bad'); os.abort()", tmp_path, monkeypatch)
    assert (result.status, result.reason) == ("FAIL", "bad; its process ended early, with status -6")


def test_the_runner_goes_on_and_writes_after_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.json"
    written: list[int] = []

    def ended(stage: Stage, bound: float) -> StageResult:
        assert bound == pytest.approx(min(stage.seconds, 1200), abs=5)
        written.append(len(json.loads(report.read_text())["stages"]) if report.exists() else 0)
        return StageResult(stage.name, "FAIL" if stage.name == "attention" else "PASS")

    monkeypatch.setattr(runner, "_run_stage", ended)
    assert command.main(["--json", str(report)]) == 1
    assert written == list(range(len(STAGES)))
    stages = json.loads(report.read_text())["stages"]
    assert [s["stage"] for s in stages] == list(STAGES)
    assert [s["status"] for s in stages].count("FAIL") == 1


def test_what_there_is_no_time_for_is_skipped(capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--minutes", "0.01", "--stages", "mfu", "machine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("SKIP")] == [
        f"SKIP {name} in 0.0 s: the 0.01 minutes are over; give more with --minutes" for name in ("machine", "mfu")
    ]


@pytest.mark.parametrize("name", ["engine", "weight_sync", "ranks", "train"])
def test_stages_that_need_gpus_say_why_they_are_skipped(
    name: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = importlib.import_module(STAGES[name].module)
    check.cuda = False
    with pytest.raises(Skip, match="no CUDA device; .*CPUs|gloo"):
        stage.run(check)
    check.cuda = True
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package == "vllm" else object())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    reason = "there is 1 GPU, and it takes 2" if name == "ranks" else "not installed: vllm"
    with pytest.raises(Skip, match=reason):
        stage.run(check)


@pytest.mark.long
def test_two_ranks_and_two_replicas_move_the_weights_as_one(check: Check) -> None:
    stage_ranks.compare(check, "cpu")
    assert check.finish() == "PASS"
    assert set(check._result.measured) == {"error_of_ranks", "error_of_replicas"}


def test_a_part_that_raises_fails_alone(check: Check) -> None:
    with check.part("first"):
        raise KeyError("lost")
    with check.part("second"):
        check.measure(second=2)
    assert check.finish() == "FAIL"
    assert result_of(check).reason == "first: KeyError: 'lost'" and result_of(check).measured == {"second": 2}


def test_without_a_gpu_what_is_wrong_is_no_skip(check: Check) -> None:
    check.cuda = False
    with pytest.raises(Skip, match="no CUDA device; done"):
        check.need_gpu("done")


@pytest.mark.parametrize("lengths", [[5, 20, 1], [7, 7]])
def test_attention_across_sequences_is_seen(lengths: list[int], check: Check) -> None:
    packed = stage_attention.Packed.random(4, 2, 8, lengths, "cpu", torch.float32)
    stage_attention._compare(check, "right", packed)
    assert check.finish() == "PASS"
    joined = packed._replace(layout=PackedLayout.of([sum(lengths)]))
    stage_attention._compare(check, "joined", joined)
    assert check.finish() == "FAIL"


def test_errors_that_are_not_finite_are_wrong() -> None:
    nothing = torch.full((3,), torch.nan)
    assert not stage_attention.relative_error(nothing, torch.ones(3)) <= 1e9
    assert stage_attention.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    weights = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert stage_update.difference({"a": torch.tensor([3.0]), "b": torch.tensor([4.5])}, weights) == pytest.approx(0.1)


TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}


def test_flops_by_hand() -> None:
    """Two layers; a layer multiplies by q 16x32, k and v 16x16, o 32x16 and three of 16x24: 2688 weights."""
    shape = ModelShape.from_config({"model_type": "qwen3", "vocab_size": 100, **TINY}, "tiny")
    # sequences of 3 + 1 and 3 + 2 tokens, so 9 in all, 3 of them responses; they attend to 10 and 15 tokens
    forward = 2 * (2 * 2688) * 9 + 2 * 4 * (4 * 8) * (10 + 15) + 2 * (100 * 16) * 3
    assert update_flops(shape, [[1, 2]], prompt_tokens=3) == 3 * forward


def test_lengths_are_as_asked_for() -> None:
    lengths = lognormal_lengths(2, 4, median=6, sigma=0.5, most=20)
    assert [len(group) for group in lengths] == [4, 4] and all(2 <= n <= 20 for group in lengths for n in group)


@pytest.mark.parametrize("recompute", ["on", "off"])
def test_the_parts_of_an_update(recompute: str, tmp_path: Path) -> None:
    trainer = make_trainer(write_model("qwen3", tmp_path))
    stage_mfu.reconfigure(trainer, {"gradient_checkpointing": recompute, "compile": False})
    assert trainer.policy.model.is_gradient_checkpointing == (recompute == "on")
    groups = groups_of([[4, 9, 3, 5]], prompt_tokens=3, vocabulary=VOCABULARY)
    ended: list[Any] = []
    seconds = seconds_by_part(trainer, lambda: ended.append(trainer.update([groups])))
    parts = {f"{where}, {way}" for where in ("layers", "log-prob head") for way in ("forward", "backward")}
    assert set(seconds) == parts | {"loss", "optimizer", "the rest"}
    assert all(value > 0 for value in seconds.values())
    assert seconds_by_part(trainer, lambda: None).keys() == {"the rest"}  # and no hook is left behind
    trainer.update([groups])


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass::bfloat16_t>", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, bfloat16_copy_kernel_cuda>", "copies and casts"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::reduce_kernel<512, 1, MeanOps>", "reductions"),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>", "other elementwise"),
        ("ncclDevKernel_AllGather", "collectives"),
        ("what_is_it_kernel", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_options_that_do_not_fit_are_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """8,192 tokens of 28 layers' activations are gigabytes; recomputed they are not."""
    shape = ModelShape.load("Qwen/Qwen3-0.6B")
    kept, recomputed = (
        stage_mfu.bytes_needed(shape, stage_mfu.Option(8192, mode, False)) / 2**30 for mode in ("off", "on")
    )
    assert 20 < kept < 40 and 10 < recomputed < 15


@pytest.mark.parametrize("mode", stage_train.MODES)
def test_a_run_of_the_train_stage_fits_as_many_gpus_as_it_says_and_no_fewer(mode: str) -> None:
    least, keys = stage_train.MODES[mode]
    config = load_config("quickstart", [f"{key}={value}" for key, value in (stage_train.RUN | keys).items()])
    machines = [Inventory.model_validate({"nodes": [{"gpus": n, "gpu": "H100"}]}) for n in (least, least - 1) if n]
    fits = [make_plan(config, machine).fits for machine in machines]
    assert fits == [True, False][: len(machines)]
