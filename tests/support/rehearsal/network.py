"""The closed world in which pods run: a network of its own without a way out, and processes that end with the test.

All of it hangs on one process, which the kernel ends when the test ends, however that ends. It is the first process of
a process namespace, so that everything in there ends with it; bridge, addresses and mounts are in namespaces that then
have no process left, and disappear.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

BRIDGE = "10.244.0.1"
CLONE_NEWNET = 0x40000000
START_S = 30.0
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount", "pivot_root", "sysctl")


def first_child(process: subprocess.Popen[bytes], name: str) -> int:
    """The process of this name that `process` starts, as the first of new namespaces."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() == name:
                    return child.pid
        time.sleep(0.01)
    raise TimeoutError(f"{process.args!r} did not start {name} within {START_S:g} s")


class World:
    """Namespaces of processes, mounts and network; a bridge; names. Made by root.

    Args:
        folder: for the hosts file.
    """

    def __init__(self, folder: Path) -> None:
        self._names: dict[str, str] = {}
        self._addresses = iter(range(10, 250))
        self.hosts = folder / "hosts"
        self.hosts.touch()
        unshare = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "sleep", "infinity"]
        self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *unshare])
        try:
            self.pid = first_child(self._process, "sleep")
            self._lay_network()
        except BaseException:
            self.close()
            raise

    def _lay_network(self) -> None:
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "add", "pods", "type", "bridge")
        self.run("ip", "address", "add", f"{BRIDGE}/24", "dev", "pods")
        self.run("ip", "link", "set", "pods", "up")
        # What is not in here is answered with "unreachable" at once, instead of with silence.
        self.run("ip", "route", "add", "unreachable", "default")
        self.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")

    @property
    def enter(self) -> list[str]:
        """Words before a command that is to run in this world, as its parent's child."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid"]

    def run(self, *words: str) -> None:
        """Run a command in this world."""
        subprocess.run([*self.enter, *words], check=True)

    def attach(self, pid: int) -> str:
        """Give the network namespace of a process an address on the bridge, and return it."""
        number = next(self._addresses)
        address, link = f"{BRIDGE.rpartition('.')[0]}.{number}", f"pod{number}"
        # `ip` has to see the process by its number out here.
        network = ["nsenter", "--target", str(self.pid), "--net", "ip", "link"]
        subprocess.run([*network, "add", link, "type", "veth", "peer", "eth0", "netns", str(pid)], check=True)
        subprocess.run([*network, "set", link, "master", "pods", "up"], check=True)
        pod = ["nsenter", "--target", str(pid), "--net", "ip"]
        subprocess.run([*pod, "link", "set", "lo", "up"], check=True)
        subprocess.run([*pod, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
        subprocess.run([*pod, "link", "set", "eth0", "up"], check=True)
        subprocess.run([*pod, "route", "add", "default", "via", BRIDGE], check=True)
        return address

    def name(self, names: str, address: str) -> None:
        """Let names, separated by blanks, stand for an address from now on, as a cluster's DNS does."""
        self._names[names] = address
        lines = ["127.0.0.1 localhost", *(f"{address} {names}" for names, address in self._names.items())]
        self.hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")  # in place: it is mounted

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread opens in here are in this world's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as before, open(f"/proc/{self.pid}/ns/net", "rb") as there:
            _check(libc.setns(there.fileno(), CLONE_NEWNET))
            try:
                yield
            finally:
                _check(libc.setns(before.fileno(), CLONE_NEWNET))

    def close(self) -> None:
        """End everything in here."""
        for process in psutil.Process(self._process.pid).children(recursive=False):
            process.kill()  # with it the kernel ends all others
        self._process.kill()
        self._process.wait()


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def why_impossible() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    if os.geteuid():
        return "a rehearsal makes namespaces and mounts, for which it has to be root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"a rehearsal needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "sh", "-c", "ip link add x type bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces or bridges cannot be made here: {tried.stderr.strip()}" if tried.returncode else None
