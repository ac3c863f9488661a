"""Models out of checkpoints: whole ones alone, in the type of their run, of learners that are whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2l_ray.benchmark.models import find_models
from s2l_ray.cli import main
from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.errors import DataError, ModelError, S2LError
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.run.checkpoint_models import ready
from s2l_ray.run.checkpoints import CheckpointDraft
from s2l_ray.tasks.compat import check_models
from s2l_ray.training.checkpoint import save_checkpoint
from s2l_ray.training.checkpoint_model import write_checkpoint_model
from s2l_ray.training.stored_model import StoredTensors
from tests.support.evaluated_runs import run_directory


def checkpoint_of(run: Path, tensors: dict[str, torch.Tensor], name: str = "step-000020") -> Path:
    draft = CheckpointDraft(run / "checkpoints" / name, {"step": 20})
    save_checkpoint(str(draft.trainer), tensors, optimizer_steps=5, rank=0, ranks=1)
    draft.complete({})
    return run / "checkpoints" / name


def trained_run(path: Path, *settings: str) -> Path:
    """A run with a checkpoint of step 20: of the whole learner, or of an adapter of one layer."""
    run = run_directory(path, trained=False)
    (run / "config.yaml").write_text("\n".join(["extends: quickstart", *settings]) + "\n")
    weights = load_file(DIRECTORY / "large" / "model.safetensors")
    torch.manual_seed(0)
    if any("lora" in line for line in settings):
        layer = "model.layers.0.self_attn.q_proj"
        out, into = weights[f"{layer}.weight"].shape
        sides = {"lora_A": torch.randn(2, into), "lora_B": torch.randn(out, 2) / 100}
        checkpoint_of(run, {f"model/model.{layer}.{side}.default.weight": one for side, one in sides.items()})
    else:
        noisy = {key: one.float() + torch.randn(one.shape) / 100 for key, one in weights.items()}
        checkpoint_of(run, {f"model/model.{key}": one for key, one in noisy.items()})
    return run


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("settings", [[], ["trainer: {lora_rank: 2, lora_alpha: 6}"]], ids=["whole", "adapters"])
def test_what_is_evaluated_is_what_is_exported_in_the_type_of_the_run(settings, dtype, tmp_path):
    run = trained_run(tmp_path / "mine", f"models: {{dtype: {dtype}}}", *settings)
    (model,) = find_models([f"{run}:step-20"], tmp_path / "out")
    ready([model], lambda key, value: value, print)
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    evaluated, exported = (
        load_file(Path(place) / "model.safetensors") for place in (model.source, tmp_path / "exported")
    )
    assert evaluated.keys() == exported.keys()
    assert {one.dtype for one in evaluated.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(evaluated[key], exported[key]) for key in exported)


def test_of_several_checkpoints_of_a_step_the_newest_branch_is_evaluated(tmp_path):
    run = run_directory(tmp_path / "mine", trained=False)
    for name in ("step-000020", "step-000020-branch-2", "step-000020-branch-10"):
        checkpoint_of(run, {}, name)
    (model,) = find_models([f"{run}:step-20"], tmp_path / "out")
    assert model.checkpoint == run / "checkpoints" / "step-000020-branch-10"


FILES = ("trainer/rank-00000.safetensors", "trainer/trainer.json", "manifest.json", "state.json")
DAMAGES = [(file, damage) for file in FILES for damage in ("changed", "empty", "gone")]
DAMAGES.remove(("state.json", "gone"))  # then it is no checkpoint


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_no_model_is_made_of_a_damaged_checkpoint(file, damage, tmp_path, capsys):
    run = trained_run(tmp_path / "mine", "trainer: {lora_rank: 2, lora_alpha: 6}")
    damaged = run / "checkpoints" / "step-000020" / file
    content = bytearray(damaged.read_bytes())
    content[-8] ^= 1
    damaged.unlink() if damage == "gone" else damaged.write_bytes(b"" if damage == "empty" else content)
    for words in ([], ["--adapter"]):
        assert main(["export", f"{run}:step-20", "--to", str(tmp_path / "exported"), *words]) == 1
        assert f"{damaged} is " in (error := capsys.readouterr().err) and "damaged checkpoint" in error
        assert "\n" not in error.strip()
    (model,) = find_models([f"{run}:step-20"], tmp_path / "out")
    with pytest.raises(DataError, match=f"{damaged} is .*; no model is made of a damaged checkpoint: name another one"):
        ready([model], lambda key, value: value, print)
    assert not (tmp_path / "exported").exists() and not Path(model.source).exists()


LEARNER = {
    "config.json is no JSON": ("config.json", "{", "config.json is not readable JSON"),
    "config.json is no object": ("config.json", "[1]", "config.json is not a JSON object"),
    "config.json is gone": ("config.json", None, "has no config.json"),
    "index is no JSON": ("model.safetensors.index.json", "{", "index.json is not readable JSON"),
    "index is empty": ("model.safetensors.index.json", "{}", "index.json names no shards"),
    "tokenizer is gone": ("tokenizer", None, "has no tokenizer"),
    "a link leads nowhere": ("tokenizer.json", "link", "tokenizer.json is a link to a file that is not there"),
}


@pytest.mark.parametrize("case", LEARNER)
def test_a_damaged_learner_is_named_when_a_model_is_made_of_a_checkpoint(case, tmp_path, capsys):
    file, content, message = LEARNER[case]
    learner = tmp_path / "learner"
    shutil.copytree(DIRECTORY / "large", learner)
    run = trained_run(tmp_path / "mine", f"models: {{learner: {learner}}}", "trainer: {lora_rank: 2, lora_alpha: 6}")
    for path in learner.glob(f"{file}*") if content in (None, "link") else ():
        path.unlink()
    if content == "link":
        (learner / file).symlink_to(tmp_path / "none")
    elif content is not None:
        (learner / file).write_text(content)
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: models.learner: {learner}") and message in error and error.count("\n") == 1
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[]", "{"])
def test_stored_tensors_name_an_index_that_is_damaged(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        S2LError, match=f"{tmp_path}/model.safetensors.index.json is damaged .*; fetch or copy the model"
    ):
        StoredTensors(str(tmp_path))


def test_a_copy_of_a_checkpoint_is_not_exported_by_itself(tmp_path, capsys):
    run = trained_run(tmp_path / "mine", "trainer: {lora_rank: 2, lora_alpha: 6}")
    copy = tmp_path / "copies" / "step-000020"
    shutil.copytree(run / "checkpoints" / "step-000020", copy)
    (tmp_path / "config.yaml").write_text("extends: quickstart\n")  # is none of its run
    assert main(["export", str(copy), "--to", str(tmp_path / "exported")]) == 1
    assert f"error: {copy} is not inside a run directory, whose config.yaml says" in capsys.readouterr().err


def test_what_is_trivially_wrong_with_an_export_is_said_without_importing_torch(tmp_path):
    run = trained_run(tmp_path / "mine")
    (tmp_path / "there").symlink_to("nowhere")
    code = (
        "import sys; from s2l_ray.cli import main; status = main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    )
    for words in ([f"{tmp_path}/none", "--to", "x"], [str(run), "--to", str(tmp_path / "there")]):
        done = subprocess.run(
            [sys.executable, "-c", code, "export", *words], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "1 False\n", done.stderr


def test_what_is_taken_for_a_model_is_told_apart(tmp_path):
    run, finished = trained_run(tmp_path / "mine"), run_directory(tmp_path / "done", trained=True)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    checkpoint = run / "checkpoints" / "step-000020"
    said = {
        str(adapter): f"{adapter} holds an adapter alone .*merge_and_unload.*without --adapter",
        str(checkpoint): f"{checkpoint} is a checkpoint.*`s2l export {checkpoint} --to DIR`",
        f"{run}:step-20": f"{run}:step-20 is a checkpoint.*`s2l export {run}:step-20 --to DIR`",
        str(run): f"{run} is the directory of a run without a trained model.*`s2l export {run} --to DIR`",
        str(finished): f"{finished} is a run directory.*name its trained model, {finished}/model",
    }
    for name, message in said.items():
        with pytest.raises(ModelError, match=f"^models.learner: {message}"):
            check_models(name, str(DIRECTORY / "small"))
        with pytest.raises(ModelError, match=f"^{message}"):
            ModelShape.load(name)
    for name in (str(adapter), str(checkpoint)):
        with pytest.raises(ModelError, match=f"^{said[name]}"):
            find_models([name], tmp_path / "out")


def test_a_checkpoint_becomes_a_model_with_its_weights(tmp_path):
    run = run_directory(tmp_path / "mine", trained=False)
    weights = load_file(DIRECTORY / "large" / "model.safetensors")
    trained = {f"model/model.{name}": tensor.float() + 1 for name, tensor in weights.items()}
    state = {"exp_avg/model.lm_head.weight": torch.zeros(2, 2), "step": torch.tensor(5.0)}
    with pytest.raises(ModelError, match="no checkpoint of step 20; it has none"):
        find_models([f"{run}:step-20"], tmp_path / "out")
    checkpoint = checkpoint_of(run, trained | state)
    (model,) = find_models([f"{run}:step-20"], tmp_path / "out")
    assert (model.label, model.config.models.learner) == ("mine:step-20", str(DIRECTORY / "large"))
    said: list[str] = []
    assert ready([model], lambda key, value: value, said.append) == [model]
    assert said == ["checking step-000020", "writing the learner of step-000020 in float32"]
    found = load_file(Path(model.source) / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name].float() + 1) for name in weights)
    assert {"config.json", "tokenizer.json"} <= {file.name for file in Path(model.source).iterdir()}
    check_models(model.source, str(DIRECTORY / "small"))
    write_checkpoint_model(checkpoint / "trainer", DIRECTORY / "large", tmp_path / "half", "bfloat16", lora_alpha=1)
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(half[name], found[name].bfloat16()) for name in weights)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config
    with pytest.raises(ModelError, match=r"no checkpoint of step 40; it has .*mine:step-20"):
        find_models([f"{run}:step-40"], tmp_path / "out")
    for word in (run, f"{run}:step-20", checkpoint):
        assert main(["export", str(word), "--to", str(tmp_path / "exported"), "--dtype", "float32"]) == 0
        exported = load_file(tmp_path / "exported" / "model.safetensors")
        assert all(torch.equal(exported[name], found[name]) for name in weights)
        assert main(["export", str(word), "--to", str(tmp_path / "exported")]) == 1  # it exists
        shutil.rmtree(tmp_path / "exported")
    assert main(["export", f"{run}:step-40", "--to", str(tmp_path / "exported")]) == 1
    assert main(["export", f"{run}:step-20", "--adapter", "--to", str(tmp_path / "exported")]) == 1  # it has none


def test_adapters_of_a_checkpoint_are_merged_or_written_by_themselves(tmp_path):
    run = run_directory(tmp_path / "mine", trained=False)
    (run / "config.yaml").write_text("extends: quickstart\ntrainer: {lora_rank: 2, lora_alpha: 6}\n")
    name = "model.layers.0.self_attn.q_proj"
    weights = load_file(DIRECTORY / "large" / "model.safetensors")
    out, into = weights[f"{name}.weight"].shape
    a, b = torch.linspace(-1, 1, 2 * into).view(2, into), torch.linspace(1, 2, 2 * out).view(out, 2)
    adapters = {f"{name}.lora_A.default.weight": a, f"{name}.lora_B.default.weight": b}
    checkpoint_of(run, {f"model/model.{key}": tensor for key, tensor in adapters.items()})
    assert main(["export", str(run), "--to", str(tmp_path / "model"), "--dtype", "float32"]) == 0
    found = load_file(tmp_path / "model" / "model.safetensors")
    expected = {key: tensor.float() for key, tensor in weights.items()}
    expected[f"{name}.weight"] += 3 * (b @ a)  # 6 / 2
    torch.testing.assert_close(found, expected)
    (model,) = find_models([f"{run}:step-20"], tmp_path / "out")
    ready([model], lambda key, value: value, print)
    torch.testing.assert_close(load_file(Path(model.source) / "model.safetensors"), expected, check_dtype=False)
    assert main(["export", str(run), "--adapter", "--to", str(tmp_path / "adapter")]) == 0
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert torch.equal(written[f"base_model.model.{name}.lora_A.weight"], a) and len(written) == 2
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 6.0, ["q_proj"])
