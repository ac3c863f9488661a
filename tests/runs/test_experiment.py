"""A whole experiment from the command line: killed, gone on with, compared, and compared again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.miniature.build import Family
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import newest_checkpoint, processes_of, start_s2l, steps_of, wait_until, words_of

STEPS = 6
PASS_AT_1 = "eval/learner/pass_at_1"
BROKEN = "tests.support.losses:is_broken_for_now"


def small(family: Family, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of the experiment's file, which is to be `folder`/small.yaml, and the command's words."""
    settings = run_config(family, folder) | {
        "schedule.steps": STEPS,
        "schedule.mix_steps": 3,
        "checkpoint.every": 2,
        "evaluation.every": 3,
        "evaluation.samples": 2,
        "evaluation.k": [1, 2],
        "trainer.cpus": 0.4,
        "engines.learner.cpus": 0.2,
        "engines.explorer.cpus": 0.2,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    varied = ("run_dir", "seed", "rollout.explorer_seed", "schedule.kind", "objective.loss")
    fixed = {key: value for key, value in settings.items() if not key.startswith(varied)}
    arms = {"grpo": {"schedule.kind": "off"}, "s2l_po": {}, "broken": {"objective.loss": BROKEN}}
    content = {"arms": arms, "seeds": [3, 5], "cpus_per_trial": 1, "max_failures": 0, "also": ["eval/learner/reward"]}
    return content, ["experiment", str(folder / "small.yaml"), *words_of(fixed)]


def check_what_finished(found: dict[str, Any]) -> None:
    """The first two arms and the runs of the first seed."""
    grpo, ours, _ = found["arms"]
    assert grpo["compute"]["rollout_compute_saved"] == 0 < ours["compute"]["rollout_compute_saved"] < 1
    assert ours["compute"]["recorded_flops"] == ours["compute"]["rollout_flops"]["explorer"] > 0
    assert ours["metrics"][PASS_AT_1]["difference"]["p_t"] is not None and found["comparisons"] == 1
    assert [point["at"]["steps"] for point in ours["curves"][PASS_AT_1]] == [0, 3, STEPS]
    for run in found["runs"][:2]:
        steps = steps_of(Path(run["directory"]))
        assert len(steps) == STEPS  # also of the run that was killed
        assert run["spent"]["compute"]["prompts"] == sum(len(step["prompts"]) for step in steps)
    prompts = [[step["prompts"] for step in steps_of(Path(run["directory"]))] for run in found["runs"][:2]]
    assert prompts[0] == prompts[1]  # paired by seed


@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.long
def test_an_experiment_goes_on_after_a_kill_and_compares_what_finished(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Two seeds of three arms: GRPO, S2L-PO, and one whose loss raises at first."""
    content, words = small(family, tmp_path)
    arms = content["arms"]
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    outputs = tmp_path / "outputs"
    here = outputs / "small"
    (broken := tmp_path / "broken").touch()

    def start():
        return start_s2l(words, tmp_path, S2L_OUTPUTS=str(outputs), COLUMNS="200", S2L_TEST_BROKEN=str(broken))

    first = start()
    wait_until(lambda: newest_checkpoint(here / "small_00001") or first.poll() is not None, "a checkpoint of a run")
    first.kill()
    said = first.communicate(timeout=PATIENCE_S)[0]
    assert "6 trials, 2 trials at a time" in said, said
    wait_until(lambda: not processes_of(tmp_path), "no process outlives the killed experiment")

    monkeypatch.setenv("S2L_OUTPUTS", str(outputs))
    file.write_text(yaml.safe_dump(content | {"arms": arms | {"grpo": {"schedule.kind": "abrupt"}}}, sort_keys=False))
    assert main(words) == 1
    assert "arms.grpo.schedule.kind: 'off' before, 'abrupt' now" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(content, sort_keys=False))

    second = start()
    said = second.communicate(timeout=PATIENCE_S)[0]
    assert second.returncode == 1, said  # of the broken arm
    assert "not in the comparison: broken, seed 3 (failed): " in said
    assert "try the 2 runs that failed again with" in said
    found = json.loads((here / "experiment.json").read_text())
    assert [(run["arm"], run["seed"], run["status"]) for run in found["runs"]] == [
        *[("grpo", 3, "finished"), ("s2l_po", 3, "finished"), ("broken", 3, "failed")],
        *[("grpo", 5, "finished"), ("s2l_po", 5, "finished"), ("broken", 5, "failed")],
    ]
    check_what_finished(found)
    assert (here / "figures" / "experiment.png").stat().st_size > 10_000

    broken.unlink()
    third = start()
    said = third.communicate(timeout=PATIENCE_S)[0]
    assert third.returncode == 0 and "not in the comparison" not in said, said
    mended = json.loads((here / "experiment.json").read_text())
    assert [run["status"] for run in mended["runs"]] == ["finished"] * 6
    curves = [[arm["curves"] for arm in result["arms"][:2]] for result in (found, mended)]
    assert curves[0] == curves[1] and mended["comparisons"] == 2
    assert len(steps_of(Path(mended["runs"][2]["directory"]))) == STEPS

    file.write_text(yaml.safe_dump(content | {"axis": "flops"}, sort_keys=False))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "The experiment is finished; its arms are compared again." in said
    again = json.loads((here / "experiment.json").read_text())
    assert again["arms"] == mended["arms"] and again["experiment"]["axis"] == "flops"
