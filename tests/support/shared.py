"""What is built once for all workers of a test session, and for the pytest that some tests start."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

DIRECTORY = "S2L_TEST_SHARED"
"""Environment variable that names the shared directory, for a pytest that a test starts."""
T = TypeVar("T")


def shared_directory(factory: pytest.TempPathFactory) -> Path:
    """The directory that the session's workers share: pytest-xdist gives each a directory of its own below it."""
    own = factory.getbasetemp()
    named = os.environ.get(DIRECTORY)
    directory = Path(named) if named else (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    directory.mkdir(exist_ok=True)
    return directory


def built_once(directory: Path, build: Callable[[Path], T]) -> T:
    """What `build` returns, given `directory` to fill; another worker that wants it waits and gets a copy.

    When `build` raises, the next one who asks tries again, in a directory of another name.
    """
    directory.parent.mkdir(exist_ok=True)
    done = directory.with_suffix(".pickle")
    with directory.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return pickle.loads(done.read_bytes())
        tries = len(list(directory.parent.glob(f"{directory.name}-*")))
        fresh = directory.with_name(f"{directory.name}-{tries}")
        fresh.mkdir()
        built = build(fresh)
        done.write_bytes(pickle.dumps(built))
        return built
