"""A run that is stopped goes on exactly: the same prompts, groups and losses as one that nothing has stopped."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from s2l_ray import S2LPO, load_config
from s2l_ray.miniature.build import Family
from s2l_ray.training.checkpoint import read_about
from tests.support.notes import Notes
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import output_of, processes_of, start_train, steps_of, wait_until
from tests.support.undisturbed import QUICKSTART

STEPS = 6
"""That are trained of a run that has one more: its end, with a model and figures, is not of interest here."""
KILLS = 6
SMALL: dict[str, Any] = {
    "models.dtype": "float32",
    "data.eval": None,
    "tracking.enabled": False,
    "rollout.prompts_per_step": 4,
    "objective.mini_batch_prompts": 2,
    "schedule.steps": STEPS + 1,
    "schedule.mix_steps": 4,
    "trainer.deterministic": True,
    "trainer.lr_schedule": "cosine",
    "checkpoint.every": 1,
    "checkpoint.keep": STEPS,
}


def stopped_after(step: int, whole: Path, run_dir: Path) -> None:
    """What a run leaves that is killed while it writes the checkpoint and the record of the step after this one."""
    run_dir.mkdir()
    for name in ("config.yaml", "run.json", "plan.json"):
        shutil.copyfile(whole / name, run_dir / name)
    lines = (whole / "steps.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "steps.jsonl").write_text("".join(lines[:step]) + lines[step][: len(lines[step]) // 2])
    for done in range(1, step + 1):
        name = f"checkpoints/step-{done:06d}"
        shutil.copytree(whole / name, run_dir / name)
    half = run_dir / f"checkpoints/step-{step + 1:06d}"
    shutil.copytree(whole / half.relative_to(run_dir) / "trainer", half / ".partial" / "trainer")


def told(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Prompts, rollouts and the numbers of the update, to the last bit."""
    return [(r["step"], r["prompts"], r["digest"], r["trainer"]) for r in records]


def trained(algo: S2LPO) -> tuple[list[tuple[Any, ...]], bytes]:
    """What the steps were, and the whole state of the only trainer rank after the last one: see `told`."""
    while algo.run.steps_done < STEPS:
        algo.train()
    state = algo.run.state.checkpoint() / "trainer" / "rank-00000.safetensors"
    return told([record.to_json() for record in algo.run.records]), state.read_bytes()


@pytest.mark.parametrize(("boundaries", "ranks"), [([3], 1), pytest.param([1, 2, 4, 5], 2, marks=pytest.mark.long)])
def test_stopped_at_a_step_boundary_the_rest_is_the_same_to_the_bit(
    family: Family, tmp_path: Path, boundaries: list[int], ranks: int
):
    """And after another one, on other ranks, the same but for the last bits."""

    def config(name: str, **changed: Any) -> dict[str, Any]:
        return load_config(QUICKSTART, run_config(family, tmp_path / name) | SMALL | changed).model_dump(mode="json")

    reporter = Notes()
    algo = S2LPO(config("whole"), reporter)
    try:
        steps, state = trained(algo)
        assert [step for step, *_ in steps] == list(range(1, STEPS + 1))
        for boundary in boundaries:
            stopped_after(boundary, tmp_path / "whole", tmp_path / f"stopped after {boundary}")
            assert algo.reset(config(f"stopped after {boundary}")) and algo.run.steps_done == boundary
            assert trained(algo) == (steps, state)
        assert not [note for note in reporter.notes if "started anew" in note]
        if ranks > 1:
            stopped_after(3, tmp_path / "whole", tmp_path / "ranks")
            assert algo.reset(config("ranks", **{"trainer.ranks": ranks, "trainer.cpus": 0.4}))
            assert algo.run.steps_done == 3
            same_but_for_rounding(trained(algo)[0], steps)
            checkpoints = [tmp_path / "ranks" / "checkpoints" / f"step-00000{step}" / "trainer" for step in (3, 4)]
            assert [read_about(checkpoint)["ranks"] for checkpoint in checkpoints] == [1, ranks]
    finally:
        algo.stop()


def same_but_for_rounding(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    """The same prompts and rollouts; losses and gradients that are added up in another order."""
    for one, other in zip(ours, theirs, strict=True):
        assert one[:3] == other[:3]
        for key in ("loss", "grad_norm"):
            assert one[3][key] == pytest.approx(other[3][key], rel=1e-3, abs=1e-6)


@pytest.mark.long
@pytest.mark.timeout(2 * PATIENCE_S)
def test_killed_at_random_moments_it_is_the_same_run(family: Family, tmp_path: Path):
    """SIGKILL of the whole driver, from its first seconds on; every command after it is the same."""
    drawn = random.Random(17)

    def overrides(name: str) -> dict[str, Any]:
        return run_config(family, tmp_path / name) | SMALL | {"schedule.steps": 12, "checkpoint.every": 2}

    output_of(start_train(overrides("whole"), tmp_path))
    killed, log = tmp_path / "killed", tmp_path / "killed" / "steps.jsonl"

    def written() -> int:
        return log.stat().st_mtime_ns if log.exists() else 0

    process = start_train(overrides("killed"), tmp_path)
    for _ in range(KILLS):
        before = written()
        if drawn.random() < 0.8:  # else while it sets up
            wait_until(lambda: written() > before or process.poll() is not None, "another step")  # noqa: B023
        time.sleep(drawn.uniform(0, 4))
        if process.poll() is not None:
            break  # it had got to its end
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        process = start_train(overrides("killed"), tmp_path)
    output_of(process)
    assert told(steps_of(killed)) == told(steps_of(tmp_path / "whole"))
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]
    assert json.loads((killed / "summary.json").read_text())["weight_versions"] == list(range(12))
    wait_until(lambda: not processes_of(tmp_path), "nothing outlives a killed run and the next one")
