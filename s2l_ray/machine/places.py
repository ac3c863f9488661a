"""Where outputs go (S2L_OUTPUTS), and what must not or cannot be in the directory that Ray unpacks for a job."""

from __future__ import annotations

import os
import re
from pathlib import Path

from s2l_ray.errors import ConfigError

OUTPUTS = "S2L_OUTPUTS"
"""Environment variable: the directory that takes the place of outputs/."""
SESSION = re.compile(r"/session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+(/|$)")
"""In the path of a file that belongs to one start of Ray."""
SHOWN = 80
"""Characters of an impossible path that a message repeats."""


def output_path(path: str | Path) -> Path:
    """The absolute path of something that a run writes.

    A relative path is one in the working directory. With S2L_OUTPUTS it is one in that directory instead, which stands
    for `outputs`: `outputs/a` and `a` are both S2L_OUTPUTS/a.
    """
    path, root = expanded(path), os.environ.get(OUTPUTS, "").strip()
    if path.is_absolute() or not root:
        return path.absolute()
    inside = path.parts[1:] if path.parts[:1] == ("outputs",) else path.parts
    return expanded(root, OUTPUTS).absolute().joinpath(*inside)


def expanded(path: str | Path, key: str = "") -> Path:
    """The path, with the home directory that `~` or `~user` stands for.

    Raises:
        ConfigError: there is no such user; `key` names what the path is of.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        where = f"{key}: " if key else ""
        raise ConfigError(f"{where}{path}: there is no home directory of such a user; give the whole path") from None


def existing_output(path: str | Path) -> Path:
    """The absolute path of what a run has written: in the working directory if it is there, else by `output_path`.

    Raises:
        ConfigError: the operating system cannot follow the path.
    """
    here = expanded(path).absolute()
    try:
        here.resolve()
        return here if here.exists() else output_path(path)
    except (OSError, RuntimeError) as error:  # a name that is too long, links that go in a circle
        shown = str(path) if len(str(path)) <= SHOWN else f"{str(path)[:SHOWN]}..."
        raise ConfigError(f"{shown} cannot be looked at: {getattr(error, 'strerror', None) or error}") from None


def refuse_session_directory(key: str | None, path: Path) -> None:
    """Refuse an output in a directory that Ray made when it was started, as a job's working directory is.

    Args:
        key: of the configuration, that says where the output goes; None: S2L_OUTPUTS alone says it.

    Raises:
        ConfigError: `path` is in such a directory.
    """
    if SESSION.search(str(path.resolve())):
        where = f"{key}: " if key else ""
        how = f"Give {key} an absolute path on storage that lasts and that every node has, or set" if key else "Set"
        raise ConfigError(
            f"{where}{path} is in the session directory of Ray, where Ray unpacks the working directory of a job: it "
            f"is lost with the node or pod, and every job of the same code would share it. {how} "
            f"{OUTPUTS} to a directory {'there' if key else 'elsewhere'} (`ray job submit "
            f'--runtime-env-json \'{{"env_vars": {{"{OUTPUTS}": "/shared/outputs"}}}}\'`)'
        )


def left_out_of_upload(path: str | Path) -> str:
    """What to add to "PATH does not exist" where it may have been left out when a job's working directory was uploaded.

    Empty outside a job's working directory.
    """
    working = Path.cwd()
    if not (SESSION.search(str(working)) and Path(path).expanduser().absolute().is_relative_to(working)):
        return ""
    return (
        " in this job's working directory, an upload without what .gitignore and .rayignore name (such as .cache/, "
        "outputs/ and large files). Give an absolute path on storage that every node has"
    )
