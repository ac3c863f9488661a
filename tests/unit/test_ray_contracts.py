"""What s2l_ray/ray_bridge.py relies on inside Ray, one test each; tests/runs/test_connection.py shows that it works."""

from __future__ import annotations

import dataclasses
import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import node, ray_constants, services, state, utils, worker
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from s2l_ray import ray_bridge


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_addresses() -> None:
    assert ray_bridge.host_and_port("head:6379") == ("head", "6379")
    assert ray_bridge.host_and_port("[::1]:6379") == ("::1", "6379")
    assert ray_bridge.host_and_port("head") is None and ray_bridge.host_and_port("\ud800:1") is None
    assert ray_bridge.is_loopback("127.0.0.1:1") and not ray_bridge.is_loopback("10.1.2.3:1")
    assert ray_bridge.outward_address("10.1.2.3:6379") == "10.1.2.3:6379"


def test_where_no_ray_runs_the_question_for_one_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: None)
    with pytest.raises(ConnectionError):
        ray_bridge.ray_on_this_machine()


def test_nodes_of_this_machine_are_found() -> None:
    assert parameters(services.find_node_ids) == []


def test_versions_are_compared_by_ray() -> None:
    own = {"ray_version": ray.__version__, "python_version": ".".join(map(str, __import__("sys").version_info[:3]))}
    utils.check_version_info(own, "this process")
    with pytest.raises(RuntimeError, match=r"2\.9\.9"):
        utils.check_version_info(own | {"ray_version": "2.9.9"}, "this process")


def test_the_questions_to_a_cluster() -> None:
    request = ray_bridge.messages.InternalKVGetRequest(namespace=ray_constants.KV_NAMESPACE_CLUSTER, key=b"k")
    assert request.namespace == b"cluster"
    ray_bridge.messages.GetAllNodeInfoRequest(state_filter=ray_bridge.GcsNodeInfo.ALIVE)
    for stub in ("InternalKVGcsServiceStub", "NodeInfoGcsServiceStub"):
        assert hasattr(ray_bridge.stubs, stub)
    with ray_bridge.gcs_channel("127.0.0.1:1") as channel:
        assert hasattr(channel, "unary_unary")


def test_ray_for_a_single_machine_is_a_constant_that_ray_reads_when_it_starts() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    with ray_bridge.on_loopback():
        assert ray_constants.ENABLE_RAY_CLUSTER is False
        assert ray_bridge.outward_address("127.0.0.1:6379") == "127.0.0.1:6379"
    assert ray_constants.ENABLE_RAY_CLUSTER is before
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services) + inspect.getsource(utils)


def test_ray_sets_its_handler_of_sigterm_by_this_function() -> None:
    before = utils.set_sigterm_handler
    assert len(parameters(before)) == 1
    connect = worker.connect
    with ray_bridge.keeping_sigterm_handler():
        assert utils.set_sigterm_handler is not before and worker.connect is not connect
    assert (utils.set_sigterm_handler, worker.connect) == (before, connect)
    assert "set_sigterm_handler(" in inspect.getsource(worker)


def test_a_sigterm_while_ray_connects_is_kept_for_this_processs_own_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append("own"))

    def connect() -> None:
        signal.signal(signal.SIGTERM, lambda *_: got.append("Ray's"))
        signal.raise_signal(signal.SIGTERM)
        got.append("connected")

    monkeypatch.setattr(worker, "connect", connect)
    try:
        with ray_bridge.keeping_sigterm_handler():
            worker.connect()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == ["connected", "own"]
    assert "\n    connect(\n" in inspect.getsource(worker.init), "ray.init calls it by this name"


def test_ray_calls_this_function_in_each_process_that_ends_with_this_one() -> None:
    before = utils.set_kill_on_parent_death_linux
    with ray_bridge.away_from_group_signals():
        assert utils.set_kill_on_parent_death_linux is not before
    assert utils.set_kill_on_parent_death_linux is before
    start = inspect.getsource(services.start_ray_process)
    assert start.index("def preexec_fn") < start.index("utils.set_kill_on_parent_death_linux()")
    assert "detect_fate_sharing_support()" in inspect.getsource(node.Node.__init__)


def test_placement_groups_say_which_job_has_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(job: bytes, state: str, *bundles: dict[str, float]) -> bytes:
        made = PlacementGroupTableData(
            creator_job_id=job, state=PlacementGroupTableData.PlacementGroupState.Value(state)
        )
        for index, resources in reversed(list(enumerate(bundles))):
            bundle = made.bundles.add(unit_resources=resources)
            bundle.bundle_id.bundle_index = index
        return bytes(made.SerializeToString())

    own, other = b"\1\0\0\0", b"\2\0\0\0"
    rows = [
        row(own, "CREATED", {"CPU": 1.0}, {"CPU": 0.25, "GPU": 2.0}),
        row(own, "PENDING", {"CPU": 2.0}),
        row(other, "CREATED", {"CPU": 4.0}),
    ]
    accessor = SimpleNamespace(get_placement_group_table=lambda: rows)
    monkeypatch.setattr(state.state, "_connect_and_get_accessor", lambda: accessor)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))
    assert ray_bridge.groups_of_this_job() == [[{"CPU": 1.0}, {"CPU": 0.25, "GPU": 2.0}]]
    table = inspect.getsource(state.GlobalState.placement_group_table)
    assert "self._connect_and_get_accessor()" in table and "accessor.get_placement_group_table()" in table
    assert ray.JobID.from_int(1).binary() == own and ray.JobID(own).hex() == "01000000"


def test_whether_ray_was_started_here() -> None:
    assert worker._global_node is None and not ray_bridge.has_own_cluster()
    assert "self.all_processes: dict = {}" in inspect.getsource(node.Node.__init__)


def test_the_two_waits_of_a_starting_ray() -> None:
    assert "services.get_node(" in inspect.getsource(node), "Node asks for its node by this name"
    assert "wait_for_persisted_port(" in inspect.getsource(node.Node)
    assert "timeout_ms" in parameters(node.wait_for_persisted_port)
    before = services.get_node, node.wait_for_persisted_port
    with ray_bridge.waits_replaced(lambda ask: lambda *where, **how: "replaced"):
        assert services.get_node() == node.wait_for_persisted_port() == "replaced"
    assert before == (services.get_node, node.wait_for_persisted_port)


def test_settings_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ray._raylet.Config
    before = config.health_check_failure_threshold()
    monkeypatch.setenv("RAY_health_check_failure_threshold", str(before + 7))
    ray_bridge.read_settings_again()
    assert config.health_check_failure_threshold() == before + 7
    monkeypatch.undo()
    ray_bridge.read_settings_again()
    assert config.health_check_failure_threshold() == before


def test_logs_are_below_the_newest_session(tmp_path: Path) -> None:
    (tmp_path / "session_7").mkdir()
    (tmp_path / "session_latest").symlink_to("session_7")
    assert ray_bridge.log_directory(tmp_path) == tmp_path / "session_7" / "logs"


def test_temporary_files_are_where_ray_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/of/tmpdir")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert ray_bridge.temporary_directory() == "/of/tmpdir"
    monkeypatch.setenv("RAY_TMPDIR", "/of/ray_tmpdir")
    assert ray_bridge.temporary_directory() == "/of/ray_tmpdir"


def test_a_new_token_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for token in ("a" * 64, "b" * 64):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        ray_bridge.read_token_again()
        assert loader.get_raw_token() == token
    monkeypatch.undo()
    ray_bridge.read_token_again()


def test_what_a_worker_knows_of_its_process_and_job() -> None:
    assert callable(worker.global_worker.get_err_file_path)
    assert "py_driver_sys_path" in inspect.getsource(worker)


def test_what_a_trial_knows_of_its_storage() -> None:
    from ray.train._internal.storage import StorageContext

    names = set(parameters(StorageContext.__init__)) | set(dir(StorageContext))
    source = inspect.getsource(StorageContext)
    for name in ray_bridge.TrialStorage.__annotations__:
        assert name in names or f"self.{name}" in source, f"trials/trial.py reads {name} of Tune's StorageContext"
    assert not dataclasses.is_dataclass(StorageContext)


def test_only_reports_of_dead_workers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: told.extend(data["lines"]))
    monkeypatch.delenv("RAY_IGNORE_UNHANDLED_ERRORS", raising=False)
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)
    for _ in range(2):
        ray_bridge.leave_out_death_reports()
    for line in ("A worker died or was killed while executing a task by a fault", "The disk is nearly full"):
        worker.print_to_stdstream({"lines": [line]}, ignore_prefix=False)
    assert told == ["The disk is nearly full"]
    assert '"RAY_IGNORE_UNHANDLED_ERRORS" in os.environ' in inspect.getsource(worker)
