"""What keeps other users of the machine out of a private Ray: its token, and a directory of its own.

Ray writes its token so that every user can read it, and makes the directory of a session, with its sockets and the code
that workers run, so that every user can write to it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from s2l_ray import ray_bridge
from s2l_ray.errors import PlacementError

TOKEN_BYTES = 32


def require_token(note: Callable[[str], None]) -> None:
    """Make this process, and the Ray that it starts, ask for a token: the user's, or a new one.

    Args:
        note: told where RAY_AUTH_MODE said otherwise, and of a token that others could read until now.

    Raises:
        PlacementError: the token's file cannot be read, or belongs to somebody else.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        note(f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} is not for a private Ray, which asks for a token")
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN"):
        given = os.environ.get("RAY_AUTH_TOKEN_PATH")
        path = Path(given) if given else Path.home() / ".ray" / "auth_token"
        if path.exists():
            _keep_to_ourselves(path, note)
        elif given or not _write_token(path):  # Ray says what is wrong with a file that was named
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(TOKEN_BYTES)
    ray_bridge.read_token_again()


def _write_token(path: Path) -> bool:
    """Write a new token; False where there is no home to write to."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process of this user was quicker
        return True
    except OSError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    return True


def _keep_to_ourselves(path: Path, note: Callable[[str], None]) -> None:
    try:
        status = path.stat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(stat.S_IMODE(status.st_mode) & 0o700)
            note(f"others could read Ray's token in {path}; that is over. To be sure make a new one: remove the file")
    except OSError as error:
        raise PlacementError(f"Ray's token in {path} cannot be kept private: {error.strerror}") from error


def private_directory() -> Path:
    """A directory below TMPDIR that only this user can enter, for Ray's sessions; it stays for the next run.

    Raises:
        PlacementError: the name is taken by somebody else, or it cannot be made.
    """
    path = Path(ray_bridge.temporary_directory(), f"s2l-{os.geteuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PlacementError(
                f"{path} is not a directory of this user: somebody else could reach into our Ray. Remove it, or "
                "set TMPDIR to a directory of your own"
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise PlacementError(f"{path} cannot be made for Ray's sessions: {error.strerror}. Set TMPDIR") from error
    return path / "ray"
