"""Interpolations of a configuration: other keys and harmless variables are read, functions and secrets are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from s2l_ray.config import load_config
from s2l_ray.errors import ConfigError

BASE = "models: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n"


def read(folder: Path, text: str):
    (folder / "own.yaml").write_text(BASE + text)
    return load_config(folder / "own.yaml")


def test_other_keys_and_variables_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/here")
    config = read(
        tmp_path, "seed: 3\nname: r${seed}-${data.train}\nrun_dir: ${oc.env:WHERE}/${oc.env:NONE,x}/${name}\n"
    )
    assert (config.name, config.run_dir) == ("r3-x.jsonl", "/here/x/r3-x.jsonl")
    assert read(tmp_path, "name: \\${oc.env:HF_TOKEN}\n").name == "${oc.env:HF_TOKEN}"  # text


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_DATA", raising=False)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "run_dir: ${oc.env:MY_DATA}/x\n")
    assert str(caught.value).endswith(
        "own.yaml: run_dir: the environment variable MY_DATA is not set; set it, or write ${oc.env:MY_DATA,DEFAULT}"
    )


@pytest.mark.filterwarnings("ignore:register_new_resolver")  # how users still have them
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${oc.decode:1}", "name: ${oc.decode:...} would call a function, and a configuration is data"),
        ("a ${ours:x} b", "name: ${ours:...} would call a function"),
        ("${oc.env:HF_TOKEN}", "name: HF_TOKEN looks like a secret"),
        ("${ oc.env : MLFLOW_TRACKING_PASSWORD , none}", "name: MLFLOW_TRACKING_PASSWORD looks like a secret"),
        ("${oc.env:AWS_SECRET_ACCESS_KEY}", "name: AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("${oc.env:${data.train}}", "name: an interpolation is written ${KEY}"),
        ("${oc.${seed}:HF_TOKEN}", "name: an interpolation is written ${KEY}"),
        ("\\\\${oc.env:HF_TOKEN}", "name: HF_TOKEN looks like a secret"),  # the backslash itself is escaped
        ("${seed}" * 201, "own.yaml: has 201 interpolations; 200 are the most"),
    ],
)
def test_functions_and_secrets_are_refused(value, said, tmp_path, monkeypatch):
    called = []
    OmegaConf.register_new_resolver("ours", lambda word: called.append(word) or "x", replace=True)
    monkeypatch.setenv("HF_TOKEN", "very secret")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"name: '{value}'\n")
    assert said in str(caught.value) and "very secret" not in str(caught.value) and not called
    OmegaConf.clear_resolver("ours")


def test_in_lists_and_sections_too(tmp_path):
    for text in ("trainer: {lora_targets: [a, '${oc.env:HF_TOKEN}']}\n", "data: {system: '${oc.env:HF_TOKEN}'}\n"):
        with pytest.raises(ConfigError, match="HF_TOKEN looks like a secret"):
            (tmp_path / "own.yaml").write_text("extends: quickstart\n" + text)
            load_config(tmp_path / "own.yaml")


@pytest.mark.parametrize("reference", ["${name}", "${data.system}", "${.system}", "${data[system]}"])
def test_what_would_grow_without_bound_is_refused(reference, tmp_path):
    """Twenty references to twenty references to a text of 3,000 are 1.2 million characters; and so on."""
    twenty = "${models.learner}" * 20
    lines = ["extends: quickstart", f"models: {{learner: {'x' * 3000}}}", f"name: '{twenty}'"]
    lines += ["data:", f"  system: '{twenty}'", f"  prompt: '{reference * 20}'"]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="data.prompt: refers to values that refer to others, until it is larger"):
        load_config(tmp_path / "own.yaml")


def test_a_circle_is_an_error(tmp_path):
    for text in ("data: {system: '${data}'}", "data: {system: '${.prompt}', prompt: '${data.system}'}"):
        (tmp_path / "own.yaml").write_text(f"extends: quickstart\n{text}\n")
        with pytest.raises(ConfigError, match="own.yaml: data"):
            load_config(tmp_path / "own.yaml")
