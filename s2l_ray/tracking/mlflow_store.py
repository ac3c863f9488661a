"""Finding and opening an MLflow store: where it is, whether it answers in time, its experiment and run.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shlex
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from s2l_ray.errors import TrackingError
from s2l_ray.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from s2l_ray.config import TrackingConfig

T = TypeVar("T")

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DEFAULT_EXPERIMENT = "s2l-ray"
UNWELCOME = ("PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "BAD_REQUEST")
"""Error codes of answers to which waiting changes nothing."""
ARTIFACTS = "mlartifacts"
"""Directory beside a sqlite file."""
CREATION_S = 120.0
"""Bound in seconds on waiting for other runs that start at the same time: they open a new store one by one."""


def how_to_open(uri: str) -> str:
    """What opens the store at `uri` in a browser: a server's own address, or the shell command that serves a store."""
    if uri.startswith(("http://", "https://")):
        return uri
    # Not "mlflow" alone: the environment that the run used need not be active in the user's shell.
    command = Path(sys.executable).with_name("mlflow")
    return f"{shlex.quote(str(command))} ui --backend-store-uri {shlex.quote(uri)}"


def locate(uri: str | None, default_store: Path) -> tuple[str, str | None]:
    """Tracking URI, and where a new experiment's artifacts go: beside a sqlite file; a server knows its own place."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(default_store / "mlflow.db")
    file = sqlite_file(uri)
    return uri, (file.resolve().parent / ARTIFACTS).as_uri() if file else None


def sqlite_file(uri: str) -> Path | None:
    """The file that a URI names; None where it names a server, or a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        path = make_url(uri).database
    except ArgumentError:  # MLflow says what is wrong with it
        return None
    return Path(path) if path and path != ":memory:" else None


def _sqlite_uri(file: Path) -> str:
    """The URI of a sqlite file, quoted only if characters of its path mean something in a URI."""
    from sqlalchemy.engine import URL, make_url

    uri = f"sqlite:///{file}"
    if make_url(uri).database == str(file) and redact(uri) == uri:
        return uri
    # With the driver's name: MLflow would also make a directory of the quoted name for a plain sqlite:/// URI.
    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string()


def probe(uri: str, timeout_s: float) -> None:
    """Fail within `timeout_s` where MLflow would retry for minutes: no database server, no sqlite file to write to."""
    parts = urlsplit(uri)
    dialect = parts.scheme.split("+")[0]
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=timeout_s, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    elif dialect in DATABASE_PORTS:
        socket.create_connection((parts.hostname or "", _port(uri) or DATABASE_PORTS[dialect]), timeout_s).close()


def _port(uri: str) -> int | None:
    try:
        return urlsplit(uri).port
    except ValueError:  # its message has part of what may be a password
        raise TrackingError(
            f"the MLflow store {redact(uri)} has no number as its port; in a user or password write / as %2F, @ as %40 "
            "and : as %3A"
        ) from None


def connect(uri: str, timeout_s: float) -> MlflowClient:
    """A client; the first one of a sqlite file makes its tables, which only one may do at a time.

    Args:
        uri: tracking URI.
        timeout_s: bound on each HTTP request of this process, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.
    """
    from mlflow import MlflowClient
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    )

    # MLflow would wait 120 s for each request and repeat it seven times. It takes these bounds from the environment
    # only, at each request. Their defaults are changed instead: the environment belongs to the user and to all threads.
    MLFLOW_HTTP_REQUEST_TIMEOUT.default = timeout_s
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True  # it takes two more requests at the end of a run
    # They log with a traceback what they also raise, such as a full disk, and what the run then says in a line.
    for noisy in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    file = sqlite_file(uri)
    with _alone(file) if file else nullcontext(), quiet(logging.WARNING):  # migrations are a line each
        return MlflowClient(tracking_uri=uri)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Let only one process at a time run the block, of those that share a sqlite file.

    Raises:
        TrackingError: others have kept it for CREATION_S seconds.
    """
    with file.with_name(file.name + ".lock").open("a") as lock:
        deadline = time.monotonic() + CREATION_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"another process has been making the MLflow store {file} for {CREATION_S:g} s; see what it "
                        "does (it may be stopped), set tracking.uri to another store, or tracking.enabled=false"
                    ) from None
                time.sleep(0.1)
        yield


def first_answer(client: MlflowClient, config: TrackingConfig, ask: Callable[[], T]) -> T:
    """What the first request of a run returns. It is repeated until the server answers or time is up.

    Raises:
        TrackingError: the server does not answer in time.
    """
    from mlflow.exceptions import MlflowException, RestException

    deadline = time.monotonic() + config.timeout_s
    while True:
        try:
            return ask()
        except MlflowException as error:
            if isinstance(error, RestException) or error.error_code in UNWELCOME:
                raise  # an answer, though not a welcome one
            if time.monotonic() + 0.5 >= deadline:
                raise TrackingError(
                    f"no answer from MLflow at {redact(str(client.tracking_uri))} within {config.timeout_s:g} s "
                    f"({_cause(error)}). Start the server, set tracking.uri to another one, raise "
                    "tracking.timeout_s, or set tracking.enabled=false"
                ) from None
            time.sleep(0.5)


def named_experiment(config: TrackingConfig) -> str | None:
    """The experiment that the configuration or the environment names."""
    return config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")


def find_experiment(client: MlflowClient, config: TrackingConfig, artifacts: str | None) -> str:
    """Id of the experiment, created if needed.

    Raises:
        TrackingError: the server does not answer in time, or the experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    name = named_experiment(config) or DEFAULT_EXPERIMENT
    experiment = first_answer(client, config, lambda: client.get_experiment_by_name(name))
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another run was quicker
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment {name!r} is deleted; set tracking.experiment to another name or "
            f"restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def run_or_none(client: MlflowClient, run_id: str) -> Run | None:
    """The run `run_id`; None if the store has no such run, or has deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return None if run.info.lifecycle_stage == "deleted" else run


def bring_artifacts_home(client: MlflowClient, run: Run, artifacts: str | None) -> Run:
    """Correct the absolute path of this run's artifacts, if the store was moved together with them.

    Entries of other runs are left alone: where the store is shared, they may be right for whoever writes them.

    Args:
        client: of the store.
        run: to correct.
        artifacts: URI of the artifacts beside the store's sqlite file; None: a server knows.

    Returns:
        The run as it is now.
    """
    run_id, uri = run.info.run_id, run.info.artifact_uri or ""
    place = f"/{ARTIFACTS}/{run_id}/artifacts"
    file = sqlite_file(str(client.tracking_uri))
    if artifacts is None or file is None or not (uri.startswith("file:") and uri.endswith(place)):
        return run
    home = artifacts.removesuffix(f"/{ARTIFACTS}") + place
    if uri == home:
        return run
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (home, run_id))
    return client.get_run(run_id)


@contextmanager
def quiet(level: int) -> Iterator[None]:
    """In the block, drop what MLflow and its migrations log below `level`."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("mlflow", "alembic"))}
    for logger in levels:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in levels.items():
            logger.setLevel(before)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without passwords and without SQLAlchemy's prefix."""
    text = re.sub(r"^\(raised as a result of [^)]*\)", "", str(error)).strip()
    return redact((text or type(error).__name__).splitlines()[0])


def why_not(error: BaseException) -> str:
    """Why a request failed, in a line."""
    return _cause(error) if "failed with exception" in str(error) else first_line(error)


def what_to_do(uri: str, error: BaseException) -> str:
    """Why a store cannot be used, and what the user can do."""
    why, ways = why_not(error), "set tracking.uri to another store, or set tracking.enabled=false"
    if found := re.search(r"found version (\w+), but expected (\w+)", why):
        theirs, ours = found.groups()
        return (
            f"its tables are of another version of MLflow (schema {theirs}, this one has {ours}). Bring older ones up "
            f"to date with `mlflow db upgrade` (back them up first), use that version for newer ones, {ways}"
        )
    if "Invalid Host header" in why:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        return (
            f"it refuses requests to the host {host}. Start it with `mlflow server --allowed-hosts {host}` (names with "
            f"their ports, separated by commas; or MLFLOW_SERVER_ALLOWED_HOSTS), {ways}"
        )
    if refused := re.search(r"error code 40[13]|PERMISSION_DENIED", why):
        return (
            f"it refuses this user ({refused[0]}). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            f"MLFLOW_TRACKING_TOKEN, to those of a user who may write to the experiment, {ways}"
        )
    if "unsupported URI" in why:
        return f"its address must begin with http, https, sqlite, postgresql or mysql. Correct it, {ways}"
    return f"{why.rstrip('.')}{_remedy(uri, error, why)}, {ways}"


def _remedy(uri: str, error: BaseException, why: str) -> str:
    if "database is locked" in why:
        return "; another program is writing to it. End it"
    if isinstance(error, ModuleNotFoundError):
        return ". Install it (postgresql:// needs psycopg, postgresql+psycopg2:// psycopg2-binary)"
    return ". See to the file" if sqlite_file(uri) else ". Start it"


def _cause(error: BaseException) -> str:
    """The innermost reason that requests and urllib3 print in one line, such as "[Errno 111] Connection refused"."""
    reason = first_line(error).rsplit(": ", 1)[-1].rsplit("(Caused by ", 1)[-1].split(". ")[0]
    reason = reason.rsplit("('", 1)[-1].strip("\"')")
    return reason + ")" * (reason.count("(") - reason.count(")"))
