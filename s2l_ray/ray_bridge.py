"""Everything that uses Ray's private parts, written for Ray 2.60. tests/unit/test_ray_contracts.py checks each of them.

Ray has no public way to bind to loopback, to ask a cluster whether it can be joined, to bound its own start, or to keep
a program's handler of SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray._common.network_utils import build_address, is_localhost, parse_address
from ray._common.utils import get_default_system_temp_dir
from ray._private import node, ray_constants, services, state, utils, worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2 as messages
from ray.core.generated import gcs_service_pb2_grpc as stubs
from ray.core.generated.gcs_pb2 import GcsNodeInfo, PlacementGroupTableData

if TYPE_CHECKING:
    import grpc

Ask = Callable[..., Any]

# ---- addresses, and a cluster that is asked before it is joined -----------------------------------------------------


def host_and_port(address: str) -> tuple[str, str] | None:
    """The parts of HOST:PORT, the brackets of an IPv6 host removed; None if it is not of that form."""
    try:
        found = parse_address(address)
    except UnicodeEncodeError:  # bytes of the environment that are no text
        return None
    return None if found is None else (str(found[0]), str(found[1]))


def is_loopback(address: str) -> bool:
    """Whether the host of HOST:PORT is this machine's loopback."""
    return bool(is_localhost(parse_address(address)[0]))


def outward_address(address: str) -> str:
    """The address that Ray itself would use: this machine's outward one instead of a loopback one."""
    return str(services.canonicalize_bootstrap_address(address))


def ray_on_this_machine() -> str:
    """Address of the Ray that runs on this machine; token authentication is prepared as Ray does for it.

    Raises:
        ConnectionError: none runs.
    """
    found = str(services.get_ray_address_from_environment("auto", None))
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return found


def nodes_of_this_machine() -> set[str]:
    """Ids (hex) of the Ray nodes that run on this machine, of any cluster."""
    return set(services.find_node_ids())


def gcs_channel(address: str) -> grpc.Channel:
    """A channel to a cluster's GCS, with this process's token if it has one. A context manager."""
    return init_grpc_channel(address, options=ray_constants.GLOBAL_GRPC_OPTIONS)


def check_versions(channel: grpc.Channel, timeout_s: float) -> None:
    """Compare Ray's and Python's versions with the cluster's.

    Raises:
        RuntimeError: they differ.
        grpc.RpcError: the cluster does not answer.
    """
    request = messages.InternalKVGetRequest(namespace=ray_constants.KV_NAMESPACE_CLUSTER, key=b"CLUSTER_METADATA")
    reply = stubs.InternalKVGcsServiceStub(channel).InternalKVGet(request, timeout=timeout_s)
    if reply.value:  # else the cluster has only just begun
        utils.check_version_info(json.loads(reply.value), "this process")


def nodes_alive(channel: grpc.Channel, timeout_s: float) -> dict[str, str]:
    """Ids (hex) of the cluster's nodes that it takes for alive, and HOST:PORT of the raylet of each.

    Raises:
        grpc.RpcError: the cluster does not answer.
    """
    request = messages.GetAllNodeInfoRequest(state_filter=GcsNodeInfo.ALIVE)
    reply = stubs.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(request, timeout=timeout_s)
    return {
        info.node_id.hex(): build_address(info.node_manager_address, info.node_manager_port)
        for info in reply.node_info_list
    }


def check_health(channel: grpc.Channel, timeout_s: float) -> None:
    """Ask a raylet whether it serves, as the cluster does every few seconds.

    Raises:
        grpc.RpcError: it does not answer.
    """
    ask = channel.unary_unary("/grpc.health.v1.Health/Check", lambda _: b"", lambda reply: reply)
    ask(None, timeout=timeout_s)


# ---- starting Ray ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Ray started in here listens on 127.0.0.1 only.

    Asked for 127.0.0.1, Ray takes this machine's outward address instead, and listens on every interface, unless it is
    built for a single machine: that is what this constant says. With it, its servers bind to loopback.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def keeping_sigterm_handler() -> Iterator[None]:
    """Keep the program's own handler of SIGTERM while it connects to Ray in here. For the main thread.

    Ray would install two: one in Python, which exits with status 15, and one in C++, which aborts within 3 s. The
    latter is replaced as soon as it is there; a SIGTERM that comes in between is kept for the program's own.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = utils.set_sigterm_handler, worker.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return before[1](*args, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    utils.set_sigterm_handler, worker.connect = (lambda _: None), connect
    try:
        yield
    finally:
        utils.set_sigterm_handler, worker.connect = before


DEATH_REPORT = "A worker died or was killed while executing a task"


def leave_out_death_reports() -> None:
    """Print no more of Ray's own reports of dead actors in this process, nor errors of calls that nobody waits for.

    Each is a paragraph or a traceback on the terminal, whatever `log_to_driver` says. A run says itself what died.
    """
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # which Ray reads whenever there is such an error
    told = worker.print_to_stdstream

    def tell(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if not any(line.startswith(DEATH_REPORT) for line in data["lines"]):
            told(data, *args, **kwargs)

    if getattr(told, "__name__", "") != "tell":
        worker.print_to_stdstream = tell


@contextlib.contextmanager
def away_from_group_signals() -> Iterator[None]:
    """Processes that Ray starts in here lead sessions of their own: they end with this process, not with its group.

    `timeout`, batch systems and closed terminals signal a whole group. Once its raylet is gone, Ray ends this process
    within milliseconds, with status 1, whatever it still has to do.
    """
    before = utils.set_kill_on_parent_death_linux

    def alone() -> None:
        os.setsid()
        before()

    utils.set_kill_on_parent_death_linux = alone
    try:
        yield
    finally:
        utils.set_kill_on_parent_death_linux = before


@contextlib.contextmanager
def waits_replaced(repeated: Callable[[Ask], Ask]) -> Iterator[None]:
    """Ray's two waits for its starting parts, each replaced by what `repeated` makes of a short version of it.

    The short versions answer, or raise RuntimeError after about a second.
    """
    before = services.get_node, node.wait_for_persisted_port
    services.get_node = repeated(before[0])
    node.wait_for_persisted_port = repeated(lambda *where, timeout_ms: before[1](*where, timeout_ms=1000))
    try:
        yield
    finally:
        services.get_node, node.wait_for_persisted_port = before


def read_settings_again() -> None:
    """Take RAY_... variables of the environment that changed since Ray was imported into account in this process."""
    ray._raylet.Config.initialize("")


def has_own_cluster() -> bool:
    """Whether the Ray that this process is connected to is one that it has started."""
    own = worker._global_node
    return own is not None and bool(own.all_processes)


def temporary_directory() -> str:
    """The directory that Ray takes for temporary files, below which its sessions are."""
    return str(get_default_system_temp_dir())


def log_directory(sessions: Path) -> Path:
    """Where the Ray started last writes its logs, of those whose sessions are in a directory."""
    return (sessions / "session_latest" / "logs").resolve()


def read_token_again() -> None:
    """Take a token that is new since Ray was imported into account, and whether there is one."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def asks_for_no_token(address: str, timeout_s: float) -> bool:
    """Whether the cluster at HOST:PORT of a GCS answers those who have no token.

    Raises:
        grpc.RpcError: it does not answer.
    """
    import grpc

    with grpc.insecure_channel(address, options=ray_constants.GLOBAL_GRPC_OPTIONS) as channel:
        try:
            nodes_alive(channel, timeout_s)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
    return True


# ---- within a job ---------------------------------------------------------------------------------------------------


def error_log() -> Path:
    """The file that takes this worker process's standard error."""
    return Path(worker.global_worker.get_err_file_path())


def driver_directories() -> list[str]:
    """Directories of the driver that workers of this job import from; the last is where it called `ray.init`."""
    return list(worker.global_worker.core_worker.get_job_config().py_driver_sys_path)


def groups_of_this_job() -> list[list[dict[str, float]]]:
    """The bundles of each placement group that this job has made and that has its resources.

    Ray's own `placement_group_table` has the groups of all jobs, and does not say whose each is.
    """
    rows = state.state._connect_and_get_accessor().get_placement_group_table()
    job = ray.get_runtime_context().get_job_id()
    groups = [PlacementGroupTableData.FromString(row) for row in rows]
    return [
        [dict(bundle.unit_resources) for bundle in sorted(group.bundles, key=lambda one: one.bundle_id.bundle_index)]
        for group in groups
        if group.creator_job_id.hex() == job and group.state == PlacementGroupTableData.CREATED
    ]


class TrialStorage(Protocol):
    """What is used of Tune's `StorageContext`, which a Trainable gets."""

    storage_filesystem: Any
    """pyarrow's."""
    trial_fs_path: str
    trial_dir_name: str
