"""Finding and opening an MLflow store: where it is, whether it answers in time, which experiment and run.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from s2l_ray.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from s2l_ray.config import TrackingConfig

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def redact(text: str) -> str:
    """`text` without the user:password@ of URIs and the password=, token= or secret= of their queries."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    return re.sub(r"([?&;](?:password|token|secret|pwd)=)[^&;\s]+", r"\1***", text, flags=re.IGNORECASE)


def how_to_open(uri: str) -> str:
    """What opens the store at `uri` in a browser: a server's own address, or the shell command that serves a store."""
    if uri.startswith(("http://", "https://")):
        return uri
    # Not "mlflow" alone: the environment that the run used need not be active in the user's shell.
    command = Path(sys.executable).with_name("mlflow")
    return f"{shlex.quote(str(command))} ui --backend-store-uri {shlex.quote(uri)}"


def locate(uri: str | None, default_store: Path) -> tuple[str, str | None]:
    """Tracking URI, and where a new experiment's artifacts go: beside a sqlite file; a server knows its own place."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default_store / 'mlflow.db'}"
    file = _sqlite_file(uri)
    return uri, (file.resolve().parent / "mlartifacts").as_uri() if file else None


def _sqlite_file(uri: str) -> Path | None:
    scheme, _, path = uri.partition("://")
    path = path.split("?")[0].removeprefix("/")
    return Path(path) if scheme.split("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def probe(uri: str, timeout_s: float) -> None:
    """Fail within `timeout_s` where MLflow would retry for minutes: no database server, no usable sqlite file."""
    parts = urlsplit(uri)
    dialect = parts.scheme.split("+")[0]
    if file := _sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=timeout_s)) as connection:
            connection.execute("PRAGMA schema_version")
    elif dialect in DATABASE_PORTS:
        socket.create_connection((parts.hostname or "", parts.port or DATABASE_PORTS[dialect]), timeout_s).close()


def connect(uri: str) -> MlflowClient:
    # Set before the import that reads it: a training run tells nobody but the user's own server about itself.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    # It logs with a traceback what it also raises, such as a full disk, and what the run then says in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with _quiet("mlflow", "alembic"):  # the first use of a database runs its migrations, a line each
        return MlflowClient(tracking_uri=uri)


def find_experiment(client: MlflowClient, config: TrackingConfig, artifacts: str | None) -> str:
    """Id of the experiment, created if needed. The first request: repeated until the server answers or time is up."""
    from mlflow.exceptions import MlflowException, RestException

    deadline = time.monotonic() + config.timeout_s
    while True:
        try:
            experiment = client.get_experiment_by_name(config.experiment)
            break
        except RestException:
            raise  # an answer, though not a welcome one
        except MlflowException as error:
            if time.monotonic() + 0.5 >= deadline:
                raise TrackingError(
                    f"no answer from MLflow at {redact(str(client.tracking_uri))} within {config.timeout_s:g} s "
                    f"({_cause(error)}). Start the server, set tracking.uri to another one, raise "
                    "tracking.timeout_s, or set tracking.enabled=false"
                ) from None
            time.sleep(0.5)
    if experiment is None:
        return client.create_experiment(config.experiment, artifact_location=artifacts)
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment {config.experiment!r} is deleted; set tracking.experiment to another name or "
            f"restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return experiment.experiment_id


def continued_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run `run_id`, running again; None when the store has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run.info.lifecycle_stage == "deleted":
        return None
    client.update_run(run_id, status="RUNNING")
    return run


@contextmanager
def bounded(timeout_s: float) -> Iterator[None]:
    """Bound MLflow's HTTP requests: it would wait 120 s for each, repeat it seven times, and only reads these names."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(timeout_s)), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in bounds}
    os.environ.update(bounds)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Only warnings and errors of these loggers."""
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """What an error says, in a line, without SQLAlchemy's remark on where it was noticed."""
    text = re.sub(r"^\(raised as a result of [^)]*\)", "", str(error)).strip()
    return redact((text or type(error).__name__).splitlines()[0])


def _cause(error: BaseException) -> str:
    """The end of the chain that requests and urllib3 print in one line: "[Errno 111] Connection refused"."""
    return first_line(error).rsplit(": ", 1)[-1].split(". ")[0].strip("\"')")
