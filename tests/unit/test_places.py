"""Where outputs go, what Ray's session directory is refused for, and what a job's upload has."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.embedded import family_directory
from s2l_ray.errors import ConfigError, DataError, ModelError
from s2l_ray.machine.places import existing_output, output_path, refuse_session_directory
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.rows import rows_and_errors
from tests.support.paths import ROOT

SESSION = "session_2026-11-27_11-49-25_177280_18486"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without S2L_OUTPUTS."""
    monkeypatch.delenv("S2L_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_outputs_are_in_the_working_directory_or_where_s2l_outputs_says(here: Path, monkeypatch: pytest.MonkeyPatch):
    assert output_path("outputs/a") == here / "outputs" / "a" and output_path("/x/a") == Path("/x/a")
    monkeypatch.setenv("S2L_OUTPUTS", "/shared/runs")
    assert output_path("outputs/a") == output_path("a") == Path("/shared/runs/a")
    assert output_path("sweep/outputs/a") == Path("/shared/runs/sweep/outputs/a")
    assert output_path("/x/a") == Path("/x/a") and output_path("~/a") == Path("~/a").expanduser()
    monkeypatch.setenv("S2L_OUTPUTS", "here")
    assert output_path("outputs/a") == here / "here" / "a"
    for nothing in ("", " "):
        monkeypatch.setenv("S2L_OUTPUTS", nothing)
        assert output_path("a") == here / "a"


def test_the_home_of_nobody_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch, capsys):
    for key in ("run_dir", "models.learner", "data.train", "checkpoint.mirror"):
        with pytest.raises(ConfigError, match=f"{key}: ~nobody-here/a: there is no home directory"):
            load_config("quickstart", [f"{key}=~nobody-here/a"])
    assert main(["trace", "~nobody-here/a"]) == 1
    assert "~nobody-here/a: there is no home directory" in capsys.readouterr().err
    monkeypatch.setenv("S2L_OUTPUTS", "~nobody-here/a")
    with pytest.raises(ConfigError, match="S2L_OUTPUTS: ~nobody-here/a: there is no home directory"):
        output_path("a")


def test_a_run_its_bank_and_the_commands_that_read_them_agree(here: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("S2L_OUTPUTS", str(here / "shared"))
    assert load_config("quickstart").run_path == here / "shared" / "quickstart"
    assert load_config("quickstart", ["run_dir=a/b"]).run_path == here / "shared" / "a" / "b"
    assert main(["trace", "outputs/none"]) == 1 and main(["bank", "show"]) == 1
    said = capsys.readouterr().err
    assert f"{here}/shared/none is no run directory" in said and f"{here}/shared/bank holds no recordings" in said
    (here / "outputs" / "none").mkdir(parents=True)
    assert existing_output("outputs/none") == here / "outputs" / "none"  # as a shell completes it


def test_an_output_in_rays_session_directory_is_refused_and_names_the_key(here: Path, monkeypatch: pytest.MonkeyPatch):
    job = here / SESSION / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    with pytest.raises(
        ConfigError, match=f"^run_dir: {job}/outputs/quickstart is in the session directory.*S2L_OUTPUTS"
    ):
        refuse_session_directory("run_dir", load_config("quickstart").run_path)
    (here / "link").symlink_to(job)
    with pytest.raises(ConfigError, match="bank.path: .*/link/bank is in the session directory"):
        refuse_session_directory("bank.path", here / "link" / "bank")
    for lasting in (here / "outputs", here / "session_notes" / "a", Path(f"/x/my_{SESSION}")):
        refuse_session_directory("run_dir", lasting)


def test_a_path_that_an_upload_lacks_says_what_may_have_left_it_out(here: Path, monkeypatch: pytest.MonkeyPatch):
    def messages(model: str, data: str) -> list[str]:
        with pytest.raises(ModelError) as first:
            model_directory("models.learner", model)
        with pytest.raises(DataError) as second:
            list(rows_and_errors(Path(data)))
        return [str(first.value), str(second.value)]

    relative, absolute = (".cache/models/large", "data/train.jsonl"), ("/mnt/models/large", "/mnt/train.jsonl")
    assert not [text for text in messages(*relative) if "upload" in text]
    job = here / SESSION / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    for text in messages(*relative):
        assert "does not exist in this job's working directory, an upload without what .gitignore and .rayign" in text
    assert not [text for text in messages(*absolute) if "upload" in text]


def test_the_upload_of_a_checkout_is_small_and_has_the_program(tmp_path: Path):
    """As `ray job submit --working-dir .` makes it, of what is in the checkout's index."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a checkout")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    (tmp_path / "checkout" / ".cache").mkdir()
    (tmp_path / "checkout" / ".cache" / "model.safetensors").write_bytes(bytes(6 * 2**20))
    package = tmp_path / "package.zip"
    excludes = get_runtime_env_default_excludes()
    create_package(str(tmp_path / "checkout"), package, include_gitignore=True, excludes=excludes)
    shutil.unpack_archive(package, tmp_path / "unpacked")
    assert package.stat().st_size < 5 * 2**20
    for needed in ("s2l_ray/cli.py", "actors/graph.py", "configs/quickstart.yaml", "cluster/inventories"):
        assert (tmp_path / "unpacked" / needed).exists()


def test_an_upload_has_the_embedded_family_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    upload, site = tmp_path / "upload", tmp_path / "site"
    (upload / "s2l_ray").mkdir(parents=True)
    (site / "s2l_ray-0.1.0.dist-info").mkdir(parents=True)
    (site / "s2l_ray-0.1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: s2l-ray\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(str(site))
    assert family_directory(upload) == upload / "s2l_ray" / "miniature" / "family"
    (tmp_path / "check out" / "s2l_ray" / "miniature" / "family").mkdir(parents=True)
    origin = {"url": (tmp_path / "check out").as_uri(), "dir_info": {"editable": True}}
    (site / "s2l_ray-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    assert family_directory(upload) == tmp_path / "check out" / "s2l_ray" / "miniature" / "family"
    (site / "s2l_ray" / "miniature" / "family").mkdir(parents=True)
    assert family_directory(upload) == site / "s2l_ray" / "miniature" / "family"
    (upload / "s2l_ray" / "miniature" / "family").mkdir(parents=True)
    assert family_directory(upload) == upload / "s2l_ray" / "miniature" / "family"
