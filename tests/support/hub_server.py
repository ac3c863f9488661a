"""A server on loopback that speaks as much of the Hub's API as fetching needs: revisions, trees and files."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class HubRepository:
    """A repository: files by path at each commit, and branches."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    token: str | None = None
    """Who may read it; None: everybody."""


@dataclass
class HubServer:
    """Repositories by kind and id ("models/org/name"), and what was asked."""

    repositories: dict[str, HubRepository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    authorisations: list[str | None] = field(default_factory=list)
    pause_s: float = 0.0
    """Pause after each piece of 10,000 bytes of a file."""
    status: int | None = None
    """What every request is answered with."""
    says: str | None = None
    """What every request about a repository is answered with, in place of JSON of the Hub."""
    url: str = ""

    def add(self, kind: str, name: str, files: dict[str, bytes], branch: str = "main", **settings: object) -> str:
        """Commit files to a branch; returns the commit."""
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        found = self.repositories.setdefault(f"{kind}/{name}", HubRepository({}, {}, **settings))
        found.commits[commit] = files
        found.branches[branch] = commit
        return commit

    def downloads(self) -> list[str]:
        return [
            path.rsplit("/", 1)[-1]
            for method, path in map(str.split, self.requests)
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """The server, as long as the block runs."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} /{path}")
        self.hub.authorisations.append(self.headers.get("Authorization"))
        try:
            if self.hub.status is not None:
                raise _RefusedError(self.hub.status)
            if path.startswith("api/") and self.hub.says is not None:
                self._send(200, self.hub.says.encode())
            elif path.startswith("api/"):
                kind, *parts = path.removeprefix("api/").split("/")
                self._describe(self._repository(kind, parts), parts)
            else:
                kind = "datasets" if path.startswith("datasets/") else "models"
                parts = path.removeprefix("datasets/").split("/")
                self._file(self._repository(kind, parts), parts[3:])
        except _RefusedError as refused:
            self._send(refused.status, b"", {"X-Error-Code": refused.code, "X-Error-Message": refused.code})

    def _repository(self, kind: str, parts: list[str]) -> HubRepository:
        repository = self.hub.repositories.get("/".join([kind, *parts[:2]]))
        if repository is None or (not repository.gated and not self._may_read(repository)):
            raise _RefusedError(401, "RepoNotFound")
        return repository

    def _may_read(self, repository: HubRepository) -> bool:
        return repository.token in (None, (self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _describe(self, repository: HubRepository, parts: list[str]) -> None:
        """A revision and its files; everybody sees those of a gated repository too."""
        commit, files = _at(repository, "/".join(parts[3:]) or "main")
        if parts[2:3] == ["tree"]:
            listed = [{"type": "file", "path": p, "size": len(data), "oid": _oid(data)} for p, data in files.items()]
            self._json(listed)
            return
        siblings = [{"rfilename": p, "size": len(data), "blobId": _oid(data)} for p, data in files.items()]
        self._json({"id": "/".join(parts[:2]), "sha": commit, "siblings": siblings, "tags": [], "downloads": 0})

    def _file(self, repository: HubRepository, parts: list[str]) -> None:
        revision, *path = parts
        if not self._may_read(repository):
            raise _RefusedError(403, "GatedRepo")
        commit, files = _at(repository, revision)
        if "/".join(path) not in files:
            raise _RefusedError(404, "EntryNotFound")
        data = files["/".join(path)]
        self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_oid(data)}"'})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        begin = 0
        if status == 200 and (asked := self.headers.get("Range")):
            begin = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(begin, len(data), 10_000):
            self.wfile.write(data[start : start + 10_000])
            self.wfile.flush()
            time.sleep(self.hub.pause_s)


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(code)
        self.status, self.code = status, code


def _at(repository: HubRepository, revision: str) -> tuple[str, dict[str, bytes]]:
    commit = repository.branches.get(revision, revision)
    if commit not in repository.commits:
        raise _RefusedError(404, "RevisionNotFound")
    return commit, repository.commits[commit]


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
