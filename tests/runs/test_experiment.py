"""A whole experiment from the command line: killed, gone on with, compared, and compared again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.miniature.build import Family
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import newest_checkpoint, processes_of, start_s2l, steps_of, wait_until, words_of

STEPS = 6
PASS_AT_1 = "eval/learner/pass_at_1"
BROKEN = "tests.support.losses:is_broken"


@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.long
def test_an_experiment_goes_on_after_a_kill_and_compares_what_finished(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Two seeds of three arms: GRPO, S2L-PO, and one whose loss raises."""
    settings = run_config(family, tmp_path) | {
        "schedule.steps": STEPS,
        "schedule.mix_steps": 3,
        "checkpoint.every": 2,
        "evaluation.every": 3,
        "evaluation.samples": 2,
        "evaluation.k": [1, 2],
        "trainer.cpus": 0.4,
        "engines.learner.cpus": 0.2,
        "engines.explorer.cpus": 0.2,
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
    }
    fixed = {key: value for key, value in settings.items() if key not in ("run_dir", "seed", "rollout.explorer_seed")}
    arms = {"grpo": {"schedule.kind": "off"}, "s2l_po": {}, "broken": {"objective.loss": BROKEN}}
    file = tmp_path / "small.yaml"
    content = {"arms": arms, "seeds": [3, 5], "cpus_per_trial": 1, "max_failures": 0, "also": ["eval/learner/reward"]}
    fixed = {key: value for key, value in fixed.items() if not key.startswith(("schedule.kind", "objective.loss"))}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    words = ["experiment", str(file), *words_of(fixed)]
    outputs = tmp_path / "outputs"
    here = outputs / "small"

    def start():
        return start_s2l(words, tmp_path, S2L_OUTPUTS=str(outputs), COLUMNS="200")

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
    found = json.loads((here / "experiment.json").read_text())
    assert [(run["arm"], run["seed"], run["status"]) for run in found["runs"]] == [
        *[("grpo", 3, "finished"), ("s2l_po", 3, "finished"), ("broken", 3, "failed")],
        *[("grpo", 5, "finished"), ("s2l_po", 5, "finished"), ("broken", 5, "failed")],
    ]
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
    assert (here / "figures" / "experiment.png").stat().st_size > 10_000

    file.write_text(yaml.safe_dump(content | {"axis": "flops"}, sort_keys=False))
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "The experiment is finished; its arms are compared again." in said
    again = json.loads((here / "experiment.json").read_text())
    assert again["arms"] == found["arms"] and again["experiment"]["axis"] == "flops"
