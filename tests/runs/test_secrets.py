"""Secrets of the environment are in nothing that a run produces: planted, a real run, and a look at all of it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from s2l_ray.cli import main
from tests.support.mlflow_servers import mlflow_server
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import processes_of, start_s2l, words_of

MARK = "pl4nted"
"""Of every secret here; nothing else has it."""
VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "AZURE_CLIENT_SECRET"),
    *(
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    ),
    *("DATABASE_PASSWORD", "PGPASSWORD", "GITHUB_TOKEN", "SSH_PRIVATE_KEY"),
)
OWN = "def even(response, answer, question):\n    return sum(map(ord, response)) % 2 == 0\n"


def planted(server: str) -> dict[str, str]:
    """Variables that hold a secret each."""
    values = {name: f"{MARK}-{name.lower()}" for name in VARIABLES}
    return values | {
        "RAY_AUTH_TOKEN": f"{MARK}{'0' * 40}",
        "MLFLOW_TRACKING_URI": server.replace("://", f"://someone:{MARK}-in-the-uri@"),
        "PIP_EXTRA_INDEX_URL": f"https://someone:{MARK}-pip@packages.invalid/simple",
        "TUNE_MASTER": f"https://store.invalid/?access_token={MARK}-query",
    }


def told(folder: Path) -> Iterator[str]:
    """The command lines of the processes that live now, which every user of the machine can read."""
    for process in processes_of(folder):
        with suppress(psutil.Error):
            yield " ".join([process.name(), *process.cmdline()])


def files_with_a_secret(*folders: Path) -> list[str]:
    """Every file below these folders in which a secret is, by name or in its contents."""
    return [
        str(file)
        for folder in folders
        for file in folder.rglob("*")
        if MARK in str(file) or (file.is_file() and MARK.encode() in file.read_bytes())
    ]


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory):
    """A run with secrets all about it: its folder, what it printed, and the command lines of its processes."""
    folder = tmp_path_factory.mktemp("secrets")
    (own := folder / "own").mkdir()
    (own / "own_verifier.py").write_text(OWN)
    (temporary := folder / "t").mkdir()
    overrides = run_config(family, folder / "run") | {
        "verifier.kind": "own_verifier:even",
        "schedule.steps": 2,
        "schedule.mix_steps": 1,
        "checkpoint.every": 1,
        "tracking.system_metrics": True,
        "tracking.rollout_traces": 2,
    }
    with mlflow_server(folder, f"sqlite:///{folder}/store.db") as server:
        environment = planted(server) | {"PYTHONPATH": f"{ROOT}:{own}", "TMPDIR": str(temporary)}
        process = start_s2l(["train", "quickstart", *words_of(overrides)], folder, **environment)
        lines: set[str] = set()
        deadline = time.monotonic() + PATIENCE_S
        with (folder / "screen").open("w") as screen:
            reading = threading.Thread(target=lambda: screen.writelines(process.stdout))
            reading.start()
            while process.poll() is None:
                assert time.monotonic() < deadline
                lines.update(told(folder))
                time.sleep(0.3)
            reading.join()
        output = (folder / "screen").read_text()
        assert process.returncode == 0, output
        yield folder, output, lines, server, own


@pytest.mark.long
def test_a_run_leaves_no_secret_in_its_files_its_logs_its_tracking_or_on_the_screen(finished):
    folder, output, lines, _, _ = finished
    assert (folder / "run" / "summary.json").exists() and (folder / "store.db").stat().st_size > 0
    sessions = list((folder / "t").rglob("session_*/logs"))
    assert sessions  # Ray's logs are among what is looked at
    assert MARK not in output
    assert files_with_a_secret(folder) == []
    assert len(lines) > 10 and [line for line in lines if MARK in line] == []


def test_the_look_would_have_found_one(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\0binary " + MARK.encode())
    assert files_with_a_secret(tmp_path) == [str(tmp_path / "deep" / "file")]


@pytest.mark.long
def test_the_users_own_code_is_named_on_the_screen_in_the_record_and_in_mlflow(finished):
    folder, output, _, server, own = finished
    file, digest = str(own / "own_verifier.py"), hashlib.sha256(OWN.encode()).hexdigest()
    record = json.loads((folder / "run" / "run.json").read_text())
    expected = {"key": "verifier.kind", "name": "own_verifier:even", "files": {file: digest}}
    assert record["own_code"] == [expected]
    said = f"verifier.kind=own_verifier:even from {file} (sha256 {digest[:12]})"
    assert said in " ".join((folder / "run" / "driver.log").read_text().split())
    run = MlflowClient(server).get_run(record["mlflow_run_id"])
    assert run.data.tags["own_code/verifier.kind"] == said


def test_a_manifest_and_other_commands_have_no_secret(monkeypatch, capsys, tmp_path):
    for name, value in planted("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    infra = tmp_path / "infra.yaml"
    infra.write_text("secrets: {HF_TOKEN: hugging-face/token}\nmlflow_uri: http://mlflow:5000\nclaims: {data: d}\n")
    emit = ["--inventory", "8xH100", "--emit", "rayjob", "--infra", str(infra), "data.train=/data/x.jsonl"]
    commands = [
        ["plan", "paper/qwen3_1.7b_to_8b", *emit],
        ["config", "tracking"],
        ["doctor"],
    ]
    for command in commands:
        main(command)
        said = capsys.readouterr()
        assert said.out and MARK not in said.out + said.err, command


@pytest.mark.parametrize(
    "override",
    [
        f"tracking.uri=http://someone:{MARK}@127.0.0.1:1",
        f"checkpoint.mirror=s3://someone:{MARK}@bucket/runs",
        f"bank.path=s3://someone:{MARK}@bucket/bank",
        f"cluster.address=http://someone:{MARK}@127.0.0.1:8265",
        "name=${oc.env:HF_TOKEN}",
        "data.system=${oc.env:SSH_PRIVATE_KEY,none}",
    ],
)
def test_a_key_that_would_hold_a_secret_is_refused_without_showing_it(override, tmp_path, monkeypatch, capsys):
    key, _, value = override.partition("=")
    file = tmp_path / "own.yaml"
    section, _, name = key.rpartition(".")
    line = f'{section}: {{{name}: "{value}"}}' if section else f'{name}: "{value}"'
    file.write_text(f"extends: quickstart\nrun_dir: {tmp_path}/run\n{line}\n")
    for name, value in planted("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(file)]) == 1
    said = "".join(capsys.readouterr())
    assert "error: " in said and "Traceback" not in said, said
    assert MARK not in said
    file.unlink()
    assert files_with_a_secret(tmp_path) == []
