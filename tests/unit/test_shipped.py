"""Configurations and inventories by name: which file is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.config import load_config
from s2l_ray.config.shipped import CONFIGURATIONS, INVENTORIES, ShippedFiles
from s2l_ray.errors import ConfigError, PlacementError
from s2l_ray.placement.inventory import load_inventory
from tests.support.paths import ROOT

MINIMAL = "models: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is not the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_of_the_two_folders_is_shipped():
    assert list(CONFIGURATIONS.paths()) == [
        "embedded_experiment",
        "gsm8k_smollm2",
        "paper/qwen3_1.7b_to_8b",
        "paper/qwen3_4b_to_14b",
        "quickstart",
    ]
    assert list(INVENTORIES.paths()) == ["2x8xH100", "8x24GB", "8xH100"]


def test_a_name_is_that_file_wherever_one_is(elsewhere: Path):
    assert load_config("quickstart") == load_config(ROOT / "configs" / "quickstart.yaml")
    assert load_config("paper/qwen3_1.7b_to_8b").schedule.steps == 16
    assert load_inventory("8xH100") == load_inventory(ROOT / "cluster" / "inventories" / "8xH100.yaml")


@pytest.mark.parametrize("own", ["quickstart", "quickstart.yaml"])
def test_a_file_of_that_name_in_the_working_directory_wins(elsewhere: Path, own: str):
    (elsewhere / own).write_text(MINIMAL + "seed: 77\n")
    assert load_config("quickstart").seed == 77


def test_a_directory_of_that_name_is_no_file(elsewhere: Path):
    (elsewhere / "quickstart").mkdir()
    assert load_config("quickstart").name == "quickstart"


def test_a_file_may_extend_a_shipped_one_also_under_its_name(elsewhere: Path):
    (elsewhere / "mine.yaml").write_text("extends: quickstart\nseed: 5\n")
    (elsewhere / "quickstart.yaml").write_text("extends: quickstart\nname: mine\n")
    own = load_config("quickstart")
    assert (own.name, own.schedule.steps, own.seed) == ("mine", 120, 1)
    assert (load_config("mine").name, load_config("mine").seed) == ("mine", 5)  # a file beside it wins


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("quikstart", "quickstart"),
        ("configs/quickstart.yaml", "quickstart"),
        ("qwen3_1.7b_to_8b", "paper/qwen3_1.7b_to_8b"),
        ("other", None),
    ],
)
def test_an_unknown_name_lists_the_shipped_ones_and_the_nearest(elsewhere: Path, name: str, meant: str | None):
    hint = f"did you mean {meant}\\? " if meant else ""
    shipped = "s2l-ray ships embedded_experiment, gsm8k_smollm2, paper/qwen3_1"
    message = f"configuration file {elsewhere / name} does not exist; {hint}{shipped}"
    with pytest.raises(ConfigError, match=message):
        load_config(name)


def test_an_unknown_inventory_does_too():
    with pytest.raises(PlacementError, match="8xh100 does not exist; did you mean 8xH100\\? s2l-ray ships 2x8xH100, "):
        load_inventory("8xh100")


def test_a_wheels_files_are_used_where_there_are_some(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("s2l_ray.config.shipped.PACKAGE", elsewhere / "package")
    files = ShippedFiles("configs", "sources")
    for folder in ("sources", "package/shipped/configs"):
        assert list(files.paths()) == []
        (elsewhere / folder).mkdir(parents=True)
        (elsewhere / folder / "a.yaml").touch()
        assert files.paths() == {"a": elsewhere / folder / "a.yaml"}
        files = ShippedFiles("configs", "nowhere")
