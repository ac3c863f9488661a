from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError
from s2l_ray.run_directory import RunDirectory, next_free, read_state


def config(folder: Path, **overrides) -> Config:
    path = folder / "run.yaml"
    path.write_text("name: mine\nmodels: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n")
    return load_config(path, {"run_dir": str(folder / "run"), **overrides})


def test_only_one_run_writes_to_a_directory(tmp_path: Path):
    first = RunDirectory.claim(config(tmp_path))
    with pytest.raises(ConfigError, match="another process is writing"):
        RunDirectory.claim(config(tmp_path))
    first.close()
    RunDirectory.claim(config(tmp_path)).close()


def test_another_configuration_is_refused_and_the_keys_named(tmp_path: Path):
    RunDirectory.claim(config(tmp_path)).close()
    with pytest.raises(ConfigError, match="seed was 1, now 2"):
        RunDirectory.claim(config(tmp_path, seed=2))
    # What does not enter the computation may change.
    RunDirectory.claim(config(tmp_path, **{"checkpoint.every": 3, "cluster.step_timeout_s": 9})).close()


def test_never_resume_refuses_what_is_there(tmp_path: Path):
    RunDirectory.claim(config(tmp_path)).close()
    with pytest.raises(ConfigError, match="resume is never"):
        RunDirectory.claim(config(tmp_path, resume="never"))


def test_checkpoints_count_when_whole_and_the_newest_are_kept(tmp_path: Path):
    run = RunDirectory.claim(config(tmp_path))
    for step in (2, 4, 6):
        target = run.begin_checkpoint(step)
        (target / "weights").write_text("w")
        run.commit_checkpoint(target, {"step": step}, keep=2)
    run.begin_checkpoint(8)  # killed before it was whole
    assert [step for step, _ in run.checkpoints] == [4, 6]
    assert read_state(run.checkpoints[-1][1]) == {"step": 6}
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        read_state(run.path / "checkpoints" / "step-000008")


def test_a_finished_run_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fresh = config(tmp_path, run_dir=None)
    assert next_free(fresh).run_path == Path("outputs/mine")
    for name in ("mine", "mine-2"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "summary.json").write_text("{}")
    assert next_free(fresh).run_path == Path("outputs/mine-3")
    with pytest.raises(ConfigError, match="already holds a finished run"):
        next_free(config(tmp_path, run_dir="outputs/mine"))


def test_what_is_remembered_adds_up(tmp_path: Path):
    run = RunDirectory.claim(config(tmp_path))
    run.remember(mlflow_run_id="a")
    run.remember(other=1)
    assert run.remembered() == {"mlflow_run_id": "a", "other": 1}
