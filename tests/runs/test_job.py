"""`ray job submit` to a cluster on loopback that asks for a token: where outputs go, and how a job is stopped."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from s2l_ray.tracking.mlflow_store import locate
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config

RAY = str(Path(sys.executable).with_name("ray"))
STATE = """
import json, ray
from ray.util.state import list_actors, list_placement_groups
from actors.connection import connect
connect()
actors = [actor.class_name for actor in list_actors() if actor.state != "DEAD"]
groups = [group.state for group in list_placement_groups() if group.state != "REMOVED"]
print("left", json.dumps([sorted(actors), groups]))
"""


@dataclass(frozen=True)
class Head:
    """A Ray head, as a pod has it: `ray start --block`."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    """Of its clients: addresses and token."""

    def ray(self, *words: str) -> str:
        """What a command of Ray's prints."""
        done = subprocess.run(
            [RAY, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout + done.stderr

    def submit(self, name: str, overrides: dict[str, object], variables: dict[str, str]) -> None:
        """Submit `s2l train` with an upload of the checkout."""
        words = [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in overrides.items()]
        entry = [sys.executable, "-m", "s2l_ray", "train", "quickstart", *words]
        said = self.ray(
            *("job", "submit", "--no-wait", "--submission-id", name, "--working-dir", str(ROOT)),
            *("--runtime-env-json", json.dumps({"env_vars": variables}), "--", *entry),
        )
        assert f"'{name}' submitted successfully" in said, said

    def left(self) -> list[list[str]]:
        """Actors that live (those that watch over jobs aside), and placement groups."""
        address = {"RAY_ADDRESS": self.environment["S2L_TEST_GCS"]}
        command = [sys.executable, "-c", STATE]
        done = subprocess.run(command, cwd=ROOT, env=self.environment | address, capture_output=True, text=True)
        return json.loads(done.stdout.rpartition("left ")[2])


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def head() -> Iterator[Head]:
    gcs, dashboard, *others = free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "S2L_TEST_GCS": f"127.0.0.1:{gcs}",
    }
    with tempfile.TemporaryDirectory(prefix="s2l-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        mine = environment | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "S2L_TEST_HEAD": temporary}
        mine.pop("RAY_ADDRESS")
        options = [
            *("--node-ip-address", "127.0.0.1", "--port", gcs, "--num-cpus", "4", "--temp-dir", temporary),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard, "--object-store-memory", "200000000"),
            *("--dashboard-agent-listen-port", others[0], "--dashboard-agent-grpc-port", others[1]),
            *("--metrics-export-port", others[2]),
        ]
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options], env=mine, stdout=subprocess.DEVNULL, start_new_session=True
        )
        started = Head(process, environment)
        try:
            wait_until(lambda: "No jobs" in started.ray("job", "list") or "[]" in started.ray("job", "list"), "a head")
            yield started
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            for left in processes_with("S2L_TEST_HEAD", temporary):
                left.kill()


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


STRANGER = """
import encodings.idna, json, os, sys, urllib.error, urllib.request
os.setgroups([]); os.setgid(65534); os.setuid(65534)
submission = json.dumps({"entrypoint": "id"}).encode()
def status(path, data=None, token=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(sys.argv[1] + path, data, headers), timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code
paths = ["/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/actors", "/api/cluster_status", "/logs/"]
found = {path: status(path) for path in paths}
found["submit"] = status("/api/jobs/", submission)
found["submit with another token"] = status("/api/jobs/", submission, "0" * 64)
print(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
def test_a_second_user_can_neither_submit_a_job_nor_read_the_dashboard(head: Head):
    command = [sys.executable, "-c", STRANGER, head.environment["RAY_ADDRESS"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    found = json.loads(done.stdout)
    # A wrong token is 403, none is 401; what the dashboard does not know is 404 and tells nothing.
    assert set(found.values()) <= {401, 403, 404}, (found, done.stderr)
    assert found["/api/jobs/"] == found["submit"] == 401 and found["submit with another token"] == 403, found
    assert "id" not in head.ray("job", "list").split()


@pytest.mark.long
def test_a_job_writes_where_s2l_outputs_says_and_is_stopped_whole_while_engines_start(head: Head, family, tmp_path):
    overrides = {k: v for k, v in run_config(family, tmp_path).items() if k not in ("run_dir", "verifier.kind")}
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": "60", "S2L_OUTPUTS": str(tmp_path / "shared")}
    head.submit("kept", overrides | {"name": "mine", "schedule.kind": "off", "schedule.steps": 500}, variables)
    head.submit("lost", overrides, {})
    log = tmp_path / "shared" / "mine" / "driver.log"
    wait_until(lambda: log.exists() and "starting engines" in log.read_text(), "engines start")
    head.ray("job", "stop", "kept")
    assert "Job 'kept' was stopped" in head.ray("job", "status", "kept")
    assert "ended by SIGTERM" in head.ray("job", "logs", "kept") and "stopped by" in log.read_text()
    run_id = json.loads((log.parent / "run.json").read_text())["mlflow_run_id"]
    assert MlflowClient(locate(None, tmp_path / "shared")[0]).get_run(run_id).info.status == "KILLED"
    assert not processes_with("S2L_OUTPUTS", variables["S2L_OUTPUTS"])
    wait_until(lambda: head.left() == [[], []], "no actor and no placement group is left")

    wait_until(lambda: "Job 'lost' failed" in head.ray("job", "status", "lost"), "outputs that would go are refused")
    refused = head.ray("job", "logs", "lost")
    assert "error: run_dir: /tmp/" in refused and "is in the session directory of Ray" in refused, refused
