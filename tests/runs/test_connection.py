"""Which Ray a run joins or starts, and what a user is told when there is none to be had. Real servers, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import psutil
import pytest
import ray
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from actors import address as addresses
from actors.address import find_cluster
from actors.connection import connect
from actors.engine import EngineActor
from actors.private_ray import end_private_ray
from s2l_ray.config import ClusterConfig
from s2l_ray.errors import PlacementError
from s2l_ray.machine.temporary import BELOW, SOCKET_PATH_BYTES, drop_short_names, use_short_tmpdir
from s2l_ray.redaction import redact
from tests.support.paths import ROOT
from tests.support.train_command import wait_until


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


# ---- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "ray_address"),
    [(None, None), ("", None), (None, ""), (" ", " "), ("local", "http://h:8265"), (None, "local"), ("auto", "local")],
)
def test_nothing_or_local_is_a_private_ray(address, ray_address, monkeypatch):
    if ray_address is not None:
        monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert find_cluster(address) is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", r"jobs API. Submit the run to it \(`ray job submit --address http://head:8265 -- s2l"),
        ("https://head", "jobs API"),
        (
            "http://me:hidden@head:8265",
            r"=http://\*\*\*@head:8265 is .* --address http://\*\*\*@head:8265 -- s2l",
        ),
        ("ray", "is not HOST:PORT"),
        ("ray://head:10001", "client server.*start it on a node of the cluster, or with `ray job submit`"),
        *[
            (text, "is not HOST:PORT")
            for text in ("head", "head:", "head:x", "head:0", "h:65536", ":6379", "::1", "[::1]", "redis://h:1", "h:٣٤")
        ],
    ],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_what_is_no_address_of_a_cluster_says_what_to_do(address, message, by_environment, monkeypatch):
    if by_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    key = "RAY_ADDRESS" if by_environment else "cluster.address"
    with pytest.raises(PlacementError, match=message) as caught:
        find_cluster(None if by_environment else address)
    assert str(caught.value).startswith(f"{key}={redact(address)}") and "hidden" not in str(caught.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters=":"), max_size=12))
@example("\ud800")
def test_any_text_without_a_port_is_an_error_for_its_user(text):
    assume(text.strip() not in ("", "auto", "local"))
    with pytest.raises(PlacementError, match="cluster.address="):
        find_cluster(text)


def test_a_host_that_nobody_knows_and_a_port_that_nobody_listens_on():
    with pytest.raises(PlacementError, match=r"no Ray cluster answers at nowhere.invalid:6379 \(.*nowhere.invalid"):
        find_cluster("nowhere.invalid:6379")
    for host in ("127.0.0.1", "[::1]"):
        with pytest.raises(PlacementError, match=r"no Ray cluster answers at .*Connection refused"):
            find_cluster(f"{host}:{free_port()}")


def test_what_listens_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_S", 1.0)
    refused = pytest.raises(PlacementError, match="no Ray cluster answers at .*Deadline Exceeded")
    with socket.create_server(("127.0.0.1", 0)) as silent, refused:
        find_cluster(f"127.0.0.1:{silent.getsockname()[1]}")


def test_other_servers_are_not_taken_for_a_cluster():
    with web_server() as port, pytest.raises(PlacementError, match="something else than a Ray head listens at"):
        find_cluster(f"127.0.0.1:{port}")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(PlacementError, match="something else than a Ray head listens at"):
            find_cluster(f"127.0.0.1:{port}")
    finally:
        server.stop(0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def web_server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def printed(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


def test_the_command_says_it_in_one_line():
    command = [sys.executable, "-m", "s2l_ray", "plan", "configs/quickstart.yaml", "--live"]
    code, output = printed(command, os.environ | {"RAY_ADDRESS": "http://127.0.0.1:8265"})
    assert code == 1 and "error: RAY_ADDRESS=http://127.0.0.1:8265 is the address of Ray's jobs API" in output
    assert "Traceback" not in output


# ---- a cluster that is there --------------------------------------------------------------------------------------

HEAD = """
import sys, ray
from actors.connection import connect
connect()
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Ray that listens on loopback alone, in a process of its own, and asks for a token."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("\n", timeout=300)


def joined(program: str, **environment: str) -> str:
    """What a process prints; a driver can only be one of one cluster at a time."""
    given = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")} | environment
    program = f"from actors.connection import connect\nfrom s2l_ray.config import ClusterConfig\nimport ray\n{program}"
    return printed([sys.executable, "-c", program], given)[1]


JOIN = """
import functools
from ray._private import services
services._cached_find_gcs_addresses = functools.cache(lambda: {{{found!r}}})  # not those of others that run here
print('own', connect(ClusterConfig(address={address!r})), len(ray.nodes()), 'node')
"""


def test_a_cluster_on_loopback_is_joined_by_its_address_and_found(head: str):
    for address in (head, "auto"):
        assert "own False 1 node" in joined(JOIN.format(address=address, found=head), RAY_AUTH_MODE="token")


def test_where_no_ray_runs_auto_finds_none(monkeypatch):
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda temp_dir: None)
    with pytest.raises(PlacementError, match="cluster.address=auto: no Ray runs on this machine. Start one"):
        find_cluster("auto")


def test_a_cluster_that_asks_for_a_token_says_so(head: str):
    for environment in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        refused = joined(JOIN.format(address=head, found=head), **environment)
        assert "PlacementError" in refused and "does not accept our token. Set RAY_AUTH_MODE=token here" in refused


STRANGER = """
import os, socket, sys
from pathlib import Path
import grpc, ray
from s2l_ray import ray_bridge
gcs, session, token = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def attempt(name, act):
    try:
        print(name, "done", act())
    except (OSError, grpc.RpcError, Exception) as error:
        said = getattr(error, "strerror", None) or (error.code().name if isinstance(error, grpc.RpcError) else error)
        print(name, type(error).__name__, said)
attempt("token", lambda: token.read_text())
attempt("session", lambda: list(session.iterdir()))
attempt("code", lambda: (session / "runtime_resources" / "x.py").write_text("x"))
attempt("raylet", lambda: socket.socket(socket.AF_UNIX).connect(str(session / "sockets" / "raylet")))
with grpc.insecure_channel(gcs) as channel:
    attempt("nodes", lambda: ray_bridge.nodes_alive(channel, 5))
"""
FROM_OUTSIDE = """
from pathlib import Path
import subprocess, sys
from actors.connection import connect
connect()
import ray
from ray._private.worker import _global_node as node
where = [ray.get_runtime_context().gcs_address, node.get_session_dir_path(), str(Path.home() / ".ray" / "auth_token")]
print(subprocess.run([sys.executable, "-c", sys.argv[1], *where], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
def test_a_second_user_of_the_machine_cannot_reach_into_a_private_ray(tmp_path, short: Path):
    home = short / "home"
    for folder in (short, home):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # as homes often are: the token's own mode has to do
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"HOME": str(home), "TMPDIR": str(short), "RAY_AUTH_MODE": "disabled"}
    said = printed([sys.executable, "-c", FROM_OUTSIDE, STRANGER], environment)[1].strip().splitlines()
    denied = [f"{name} PermissionError Permission denied" for name in ("token", "session", "code", "raylet")]
    assert said == [*denied, "nodes _InactiveRpcError UNAUTHENTICATED"]


OPEN = """
import ray, subprocess, sys
from s2l_ray.ray_bridge import on_loopback
with on_loopback():
    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
where = ray.get_runtime_context().gcs_address
print(subprocess.run([sys.executable, "-c", sys.argv[1], where], capture_output=True, text=True).stdout)
"""
JOIN_ALOUD = """
import sys
from actors.connection import connect
from s2l_ray.config import ClusterConfig
connect(ClusterConfig(address=sys.argv[1]), print)
"""


def test_a_cluster_that_asks_for_no_token_is_joined_and_said(short: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(short)}
    code, said = printed([sys.executable, "-c", OPEN, JOIN_ALOUD], environment)
    assert code == 0 and "asks for no token: whoever reaches it can run code in it. Start it with" in said, said


def test_a_cluster_that_asks_for_a_token_is_joined_without_a_word(head: str):
    program = f"print('said', connect(ClusterConfig(address={head!r}), print))"
    said = joined(program, RAY_AUTH_MODE="token")
    assert "said False" in said and "asks for no token" not in said


ASK = """
from actors.address import find_cluster
import json, ray
{before}
try:
    print(find_cluster({address!r}{bound}))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_other_versions_a_silent_node_and_other_machines_are_said_within_seconds(head: str):
    metadata = {"ray_version": "2.9.9", "python_version": "3.8.1"}
    put = (
        f"ray._raylet.GcsClient(address={head!r}).internal_kv_put("
        "b'CLUSTER_METADATA', json.dumps({metadata}).encode(), True, b'cluster')"
    )
    own = {"ray_version": ray.__version__, "python_version": sys.version.split()[0]}
    try:
        said = joined(ASK.format(address=head, before=put.format(metadata=metadata), bound=""), RAY_AUTH_MODE="token")
        assert re.search(r"PlacementError cluster.address=.*Version mismatch.*Ray: 2.9.9 Python: 3.8.1", said), said
    finally:
        joined(ASK.format(address=head, before=put.format(metadata=own), bound=""), RAY_AUTH_MODE="token")
    raylet = next(p for p in psutil.process_iter() if p.name() == "raylet" and f"--gcs-address={head}" in p.cmdline())
    raylet.suspend()
    try:
        said = joined(ASK.format(address=head, before="", bound=", 3"), RAY_AUTH_MODE="token")
        assert "PlacementError" in said and "but its node on this machine" in said and "(DEADLINE_EXCEEDED)" in said, (
            said
        )
    finally:
        raylet.resume()
    elsewhere = "import s2l_ray.ray_bridge as b; b.services.find_node_ids = lambda: {'of another cluster'}"
    said = joined(ASK.format(address=head, before=elsewhere, bound=""), RAY_AUTH_MODE="token")
    assert "the cluster answers, but none of its 1 nodes is on this machine" in said


# ---- a private Ray ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
@pytest.mark.parametrize("how", ["exit 1", "exec sleep 600"])
def test_a_ray_that_does_not_start_is_one_message_and_leaves_nothing(part, how, tmp_path, monkeypatch):
    program = tmp_path / part
    program.write_text(f"#!/bin/sh\n{how}\n")
    program.chmod(0o755)
    monkeypatch.setattr(f"ray._private.services.{part.upper()}_EXECUTABLE", str(program))
    expected = f"its {part} has ended" if how == "exit 1" else r"it is not up after 2 s \(cluster.start_timeout_s"
    before = running_children()
    with pytest.raises(PlacementError, match=f"Ray did not start on this machine: {expected}.* logs are in /"):
        connect(ClusterConfig(start_timeout_s=2))
    assert not ray.is_initialized()
    wait_until(lambda: running_children() <= before, "what was killed ends")  # on a busy machine that takes a while


def running_children() -> set[psutil.Process]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def test_a_private_ray_has_time_starts_in_a_deep_tmpdir_and_ends_whole(short: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "777000")  # what the user says, stays
    monkeypatch.setenv("TMPDIR", str(deep(short, 150)))
    before, others = dict(os.environ), set(psutil.Process().children(recursive=True))
    assert connect(ClusterConfig(start_timeout_s=200))
    try:
        raylet = next(p for p in psutil.Process().children() if p.name() == "raylet")
        given = {name: value for name, value in raylet.environ().items() if name.startswith("RAY_")}
        assert given["RAY_worker_register_timeout_seconds"] == "200"
        assert given["RAY_gcs_rpc_server_connect_timeout_s"] == "60"
        assert given["RAY_health_check_failure_threshold"] == "20"
        assert given["RAY_agent_register_timeout_ms"] == "777000"
        nice = ray.remote(num_cpus=0)(lambda: os.nice(0))
        assert ray.get(nice.remote(), timeout=300) == os.nice(0)
        assert os.getpgid(raylet.pid) != os.getpgid(0)  # a signal to the driver's group does not end it
        started = set(psutil.Process().children(recursive=True)) - others
    finally:
        end_private_ray()
        drop_short_names()
    assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    left = {name for name in os.environ.keys() - before.keys() if name.startswith(("RAY_", "S2L_"))}
    assert left <= {"RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"}


GIVEN_UP = """
import psutil, threading
from actors.connection import connect
from actors.private_ray import while_it_lives
from s2l_ray.machine.ending import leave
connect()
for process in psutil.Process().children():
    process.kill()
while_it_lives(threading.Event().wait)
print("given up", flush=True)
leave(0)  # at its usual exit Ray would wait for itself
"""


def test_what_a_ray_that_is_gone_would_have_to_answer_is_given_up():
    code, said = printed([sys.executable, "-c", GIVEN_UP], dict(os.environ))
    assert "given up" in said, (code, said)


# ---- TMPDIR -------------------------------------------------------------------------------------------------------


def deep(directory: Path, length: int) -> Path:
    """A directory below `directory` whose path has so many characters."""
    target = directory / ("d" * (length - len(str(directory)) - 1))
    target.mkdir()
    return target


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("length", [SOCKET_PATH_BYTES - len(BELOW) + 1, 107, 200])
def test_a_deep_tmpdir_gets_a_short_name(length, short, monkeypatch):
    target, notes = deep(short, length), []
    monkeypatch.setenv("TMPDIR", str(target))
    monkeypatch.setenv("RAY_TMPDIR", str(target))
    use_short_tmpdir(notes.append)
    assert os.environ["TMPDIR"] == tempfile.gettempdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        place = Path(f"{os.environ[name]}{BELOW}")
        place.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(str(place))
        place.unlink()
        assert (target / BELOW[1:]).parent.is_dir()  # what is written is where it was meant to be
        (target / BELOW[1:]).parent.rmdir()
    assert len(notes) == 2 and notes[1].startswith(f"TMPDIR is too deep for sockets ({length} characters)")
    use_short_tmpdir(notes.append)
    assert len(notes) == 2  # once is enough


def test_a_tmpdir_that_is_short_enough_stays(short, monkeypatch):
    target = deep(short, SOCKET_PATH_BYTES - len(BELOW))
    monkeypatch.setenv("TMPDIR", str(target))
    use_short_tmpdir(pytest.fail)
    assert os.environ["TMPDIR"] == str(target)


def test_an_empty_tmpdir_is_none_and_a_relative_one_is_of_here(short, monkeypatch):
    monkeypatch.chdir(short)
    monkeypatch.setenv("TMPDIR", "")
    use_short_tmpdir(pytest.fail)
    assert "TMPDIR" not in os.environ
    monkeypatch.setenv("TMPDIR", ".")
    use_short_tmpdir(pytest.fail)
    assert os.environ["TMPDIR"] == str(short)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_tmpdir_that_cannot_be_used_is_one_message(variable, short, monkeypatch):
    (short / "file").touch()
    for name, reason in (("missing", "No such file"), ("file", "Not a directory"), ("n" * 300, "too long")):
        monkeypatch.setenv(variable, str(short / name))
        with pytest.raises(PlacementError, match=f"^{variable}={short}/.*{reason}.* Set {variable} to a directory"):
            use_short_tmpdir()
    monkeypatch.setenv(variable, "/proc/self")  # nobody can write there
    with pytest.raises(PlacementError, match=f"{variable}=/proc/self: no temporary files can be made there"):
        use_short_tmpdir()


def test_an_engine_on_a_node_with_an_unusable_tmpdir_says_so_before_it_starts(short, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(short / "missing"))
    with pytest.raises(PlacementError, match="missing: no temporary files can be made there: No such file"):
        asyncio.run(EngineActor(None, {}).ready())


def test_the_short_name_goes_with_its_process(short):
    program = "import os; from s2l_ray.machine import temporary as t; t.use_short_tmpdir(); print(os.environ['TMPDIR'])"
    code, output = printed([sys.executable, "-c", program], os.environ | {"TMPDIR": str(deep(short, 107))})
    name = Path(output.strip())
    assert code == 0
    assert name.name == "t" and not name.parent.exists()
