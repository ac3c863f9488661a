"""The first process of a container: sees the image, the volumes and nothing else, then becomes the container's command.

Runs as a program, with the path of a JSON description, in mount and process namespaces of its own; as what a container
runtime does before it starts the command. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(*words: str | Path) -> None:
    """As the command."""
    subprocess.run(["mount", *map(str, words)], check=True)


def bind(source: str, target: Path, read_only: bool) -> None:
    """Show a file or folder at another place."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)
    if read_only:
        mount("-o", "remount,bind,ro", target)


def lay_out(root: Path, spec: dict[str, Any]) -> None:
    """Put the container's file system together under `root`."""
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for target, source in spec["links"].items():
        (root / target.lstrip("/")).symlink_to(source)
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir()
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "dev")
    for name in DEVICES:
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    for name, number in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        (root / "dev" / name).symlink_to(f"/proc/self/fd{number}")
    (root / "dev" / "shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", root / "dev" / "shm")  # what a pod has by default
    # A folder before what is in it: a checkout may be below /tmp, where each pod has a folder of its own.
    for source, target, read_only in sorted(spec["binds"], key=lambda bound: len(Path(bound[1]).parts)):
        bind(source, root / target.lstrip("/"), read_only)
    if spec["memory_cgroup"]:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "sys/fs/cgroup")
        bind(spec["memory_cgroup"], root / "sys/fs/cgroup/memory", read_only=True)


def enter(root: Path) -> None:
    """Make `root` the root, out of which nothing else can be seen."""
    (root / ".before").mkdir()
    os.chdir(root)
    subprocess.run(["pivot_root", ".", ".before"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/.before"], check=True)
    Path("/.before").rmdir()
    mount("-o", "remount,ro", "/")


def main(description: str) -> None:
    """Become the container's command."""
    spec = json.loads(Path(description).read_text(encoding="utf-8"))
    if spec["memory_cgroup"]:
        Path(spec["memory_cgroup"], "cgroup.procs").write_text("0", encoding="utf-8")  # this process
    os.umask(0o022)
    root = Path(spec["root"])
    lay_out(root, spec)
    enter(root)
    os.chdir(spec["working_directory"])
    os.execve("/usr/bin/setpriv", ["setpriv", *spec["privileges"], "--", *spec["command"]], spec["environment"])


if __name__ == "__main__":
    main(sys.argv[1])
