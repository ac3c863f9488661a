"""Real MLflow servers on 127.0.0.1, the database below one, and a proxy before one that makes it slow, deaf or dead."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.patience import PATIENCE_S, until

ADMIN = ("admin", "a-password-of-12+")


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextmanager
def running(command: list[str], log: Path, port: int, end: signal.Signals, **options) -> Iterator[None]:
    """A process that listens on a port until the block ends; then its group gets the signal `end`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def mlflow_server(directory: Path, backend: str, users: bool = False) -> Iterator[str]:
    """The URL of an MLflow server; with `users`, it wants ADMIN's name and password."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(directory / "artifacts")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if users:
        command += ["--app-name", "basic-auth"]
        environment |= {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1], "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-a-test"}
    with running(command, directory / "server.log", port, signal.SIGKILL, cwd=directory, env=environment):
        yield f"http://127.0.0.1:{port}"


def why_no_postgres() -> str | None:
    """Why no PostgreSQL server can be started here; None: one can."""
    if not (shutil.which("initdb") and shutil.which("postgres")):
        return "there is no PostgreSQL (initdb, postgres) on this machine"
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return "psycopg2 is not installed"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL database for MLflow. It refuses to be root's, so it is in a place of its own."""
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="s2l-postgres-") as name:
        directory = Path(name)
        if user:
            os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
        make = ["initdb", "-D", "data", "-U", "mlflow", "--auth=trust", "--no-sync", "--no-instructions"]
        subprocess.run(make, user=user, cwd=directory, check=True, capture_output=True, timeout=PATIENCE_S)
        port = free_port()
        serve = ["postgres", "-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        with running(serve, directory / "log", port, signal.SIGINT, cwd=directory, user=user):
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"


class Proxy:
    """Stands before a server on a port of its own, and does to every request what its attributes say."""

    def __init__(self, server: str) -> None:
        self._upstream = server.removeprefix("http://")
        self._port = free_port()
        self._server: ThreadingHTTPServer | None = None
        self.delay_s = 0.0
        """Seconds before a request is passed on."""
        self.status: int | None = None
        """Answered in the server's place."""
        self.too_large = ""
        """Part of the paths of requests that are answered with 413, in words that are not MLflow's."""
        self.deaf = False
        """Whether requests are taken, and not answered."""
        self.mute = False
        """Whether requests are passed on, but their answers are not."""
        self.host: str | None = None
        """Host header, in place of the request's."""
        self.seen: list[tuple[str, str, str | None]] = []
        """Method, path and Authorization header of every request that was passed on."""
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: object) -> None: ...  # a client that gave up

        self._server = Server(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        deaf = self.deaf
        while self.deaf and self._server is not None:
            time.sleep(0.02)
        if self._server is None or deaf:
            request.close_connection = True
            return None
        time.sleep(self.delay_s)
        if self.too_large and self.too_large in request.path:
            return self._answer(request, 413, {}, b"<html>Request Entity Too Large</html>")
        if self.status is not None:
            return self._answer(request, self.status, {}, b"not now")
        headers = dict(request.headers.items()) | ({"Host": self.host} if self.host else {"Host": self._upstream})
        connection = http.client.HTTPConnection(self._upstream, timeout=PATIENCE_S)
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.seen.append((request.command, request.path, request.headers.get("Authorization")))
        if self.mute:
            request.close_connection = True
            return None
        return self._answer(request, answer.status, dict(answer.getheaders()), content)

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
