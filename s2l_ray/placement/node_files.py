"""Whether a node sees the files that a run's actors read and write there. Runs on that node and needs no Ray."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from s2l_ray.errors import HubError
from s2l_ray.hub.fetching import fetch_model
from s2l_ray.hub.names import Repository
from s2l_ray.machine.disk import writing

APPEARS_WITHIN_S = 15.0
"""How long a new file may take to appear on another node: network file systems cache directories."""
POLL_S = 0.2
MODEL_FILES = ("config.json", "tokenizer*", "*.safetensors", "*.safetensors.index.json")
"""Files of a model directory that engines and trainer read."""


@dataclass(frozen=True)
class Token:
    """A file that the driver wrote in the run directory, for the other nodes to find."""

    path: str
    text: str


@dataclass(frozen=True)
class ModelListing:
    """What a model directory holds where the driver is."""

    key: str
    """Key of the configuration that names it."""
    directory: str
    sizes: dict[str, int]
    """File name -> bytes, of those that match MODEL_FILES."""

    @classmethod
    def of(cls, key: str, directory: Path) -> ModelListing:
        """List a model directory on this machine."""
        found = {path for pattern in MODEL_FILES for path in directory.glob(pattern) if path.is_file()}
        return cls(key, str(directory), {path.name: path.stat().st_size for path in sorted(found)})

    def problem(self) -> str | None:
        """What this machine lacks of the model; None if nothing."""
        directory = Path(self.directory)
        if not directory.is_dir():
            return f"{self.key}: {directory} is not there"
        here = ModelListing.of(self.key, directory).sizes
        if lacking := sorted(self.sizes.keys() - here.keys()):
            return f"{self.key}: {directory} lacks {', '.join(lacking)}"
        if other := sorted(name for name, size in self.sizes.items() if here[name] != size):
            return f"{self.key}: {directory} has other files than the driver's node ({', '.join(other)})"
        return None


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub, which a node fetches into its own cache where that is not the driver's."""

    key: str
    """Key of the configuration that names it."""
    repository: Repository
    timeout_s: float
    """Bound on fetching it."""

    def problem(self) -> str | None:
        """Fetch what this machine lacks of the model; says why that cannot be done, or None."""
        try:
            fetch_model(self.repository, lambda done, total: None, self.timeout_s)
        except HubError as error:
            return f"{self.key}: {error}"
        return None


@dataclass(frozen=True)
class NodeFiles:
    """What one node has to see, as the driver found it on its own."""

    token: Token | None = None
    """Proof that the run directory is shared; None where nothing is written to it."""
    models: tuple[ModelListing | HubModel, ...] = field(default=())

    def problems(self, timeout_s: float) -> list[str]:
        """What is wrong on this machine, one line each; [] if it sees everything.

        Args:
            timeout_s: how long the token is waited for.
        """
        about_token = self._token_problem(timeout_s) if self.token else None
        return [problem for problem in (about_token, *(model.problem() for model in self.models)) if problem]

    def _token_problem(self, timeout_s: float) -> str | None:
        assert self.token is not None
        path = Path(self.token.path)
        if not _appears(path, self.token.text, timeout_s):
            return f"run_dir: {path.parent} is not the directory that the driver writes to"
        beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            beside.write_text(self.token.text)
        except OSError as error:
            return f"run_dir: {path.parent} cannot be written to ({os.strerror(error.errno or 0)})"
        finally:
            with suppress(OSError):
                beside.unlink()
        return None


@contextmanager
def token_in(run_dir: Path) -> Iterator[Token]:
    """A token in the run directory for as long as the block lasts.

    Raises:
        DiskError: the directory cannot be written to.
    """
    token = Token(str(run_dir / f".seen-{uuid.uuid4().hex}"), uuid.uuid4().hex)
    path = Path(token.path)
    with writing(path), path.open("w") as file:
        file.write(token.text)
        file.flush()
        os.fsync(file.fileno())
    try:
        yield token
    finally:
        for left in run_dir.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)


def _appears(path: Path, text: str, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(OSError):
            if path.read_text() == text:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
