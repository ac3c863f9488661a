"""Pods as process trees: what the kubelet and a container runtime make of a Pod object.

Containers of a pod share network, host name and IPC; each has processes and mounts of its own. They see the image
read-only, the volumes that the pod declares, and a /tmp and home of their own unless their root is read-only. Users,
groups, capabilities and limits of memory are applied. Limits of CPU are not, the machine has few; a container that ends
is not started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.rehearsal import container as container_program
from tests.support.rehearsal.environment import Objects, environment, expand
from tests.support.rehearsal.memory import MemoryGroup
from tests.support.rehearsal.network import START_S, World, first_child
from tests.support.rehearsal.operator import Object
from tests.support.rehearsal.quantities import value
from tests.support.rehearsal.volumes import Volumes

INIT_S = 240.0
"""Bound on an init container: `wait-gcs-ready` asks every five seconds, on a machine that has other work."""
PAUSE = 'hostname "$0" && while :; do sleep 3600 & wait; done'
"""A pod's pause process: it keeps the namespaces, and collects processes that have ended if it is the first one."""
NSENTER = "/usr/bin/nsenter"
SYSTEM_FILES = ("alternatives", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "os-release", "ssl")
"""What the image has of this machine's /etc."""


@dataclass(frozen=True)
class Image:
    """What containers are made of, beside this machine's /usr and a part of /etc."""

    binds: Mapping[str, Path]
    """Folders of this machine, by the place where the image has them."""
    environment: Mapping[str, str]
    working_directory: str
    home: str
    user: int = 1000


@dataclass(frozen=True)
class Node:
    """Where pods run, and what they may ask for."""

    world: World
    image: Image
    folder: Path
    claims: Mapping[str, Path]
    """Folder of each PersistentVolumeClaim."""
    objects: Objects


class _Container:
    """One container of a pod."""

    def __init__(self, pod: str, name: str, limit: str | None) -> None:
        self.name = name
        self.memory = MemoryGroup(f"{pod}-{name}")
        if limit:
            self.memory.limit(value(limit))
        self.process: subprocess.Popen[bytes] | None = None
        self.first = 0
        """Its first process."""

    def started(self, process: subprocess.Popen[bytes], above: int) -> None:
        """Find the first process; `above` of those that entered its namespaces are between it and `process`."""
        self.process = process
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            found = [psutil.Process(process.pid)]
            for _ in range(above + 1):
                found = [child for parent in found for child in parent.children()]
            if found:
                self.first = found[0].pid
                return
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.process and self.process.poll() is None and self.first:
                os.kill(self.first, number)

    @property
    def processes(self) -> list[psutil.Process]:
        if not self.first or not psutil.pid_exists(self.first):
            return []
        first = psutil.Process(self.first)
        return [first, *first.children(recursive=True)]


class Pod:
    """One pod.

    Args:
        manifest: a Pod object.
    """

    def __init__(self, manifest: Object, node: Node) -> None:
        self.name: str = manifest["metadata"]["name"]
        self.folder = node.folder / self.name
        self.folder.mkdir(parents=True)
        self.manifest, self._spec, self._node = manifest, manifest["spec"], node
        self._failure: BaseException | None = None
        self._containers: dict[str, _Container] = {}
        self._pause = subprocess.Popen(
            [*node.world.enter, "unshare", *self._namespaces, "--fork", "dash", "-c", PAUSE, self.name]
        )
        self._shared = first_child(self._pause, "dash")
        """The process whose namespaces the containers share."""
        self.address = node.world.attach(self._shared)
        node.world.name(self.name, self.address)
        self._volumes = Volumes(manifest, node.world, node.claims, node.objects, self.folder)

    # ---- starting ----

    def start(self) -> None:
        """Begin to run the init containers one after the other, and then the containers."""
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def _run(self) -> None:
        try:
            for spec in self._spec.get("initContainers", []):
                process = self._start(spec)
                if status := process.wait(INIT_S):
                    raise RuntimeError(f"init container {spec['name']} of {self.name} ended with {status}")
            for spec in self._spec["containers"]:
                self._start(spec)
        except BaseException as error:  # raised by `check`, in the thread that waits for the pod
            self._failure = error

    def check(self) -> None:
        """Raise what kept the pod from starting, or ended it."""
        if self._failure is not None:
            raise self._failure
        for container in self._containers.values():
            if not self._is_init(container.name) and container.process and container.process.poll() is not None:
                raise RuntimeError(f"container {container.name} of {self.name} ended: {self.log(container.name)}")

    def _is_init(self, name: str) -> bool:
        return any(spec["name"] == name for spec in self._spec.get("initContainers", []))

    def _start(self, spec: Object) -> subprocess.Popen[bytes]:
        limit = spec.get("resources", {}).get("limits", {}).get("memory")
        container = _Container(self.name, spec["name"], limit)
        self._containers[spec["name"]] = container
        description = self.folder / f"{spec['name']}.json"
        description.write_text(json.dumps(self._describe(spec, container.memory.path)), encoding="utf-8")
        # Where the pod's processes are shared, unshare becomes the container's first process, else its parent.
        own = [] if self._shares_processes else ["--pid", "--fork", "--kill-child=SIGKILL"]
        unshare = ["unshare", "--mount", *own]
        program = [os.path.realpath(sys.executable), "-IS", container_program.__file__, str(description)]
        with (self.folder / f"{spec['name']}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._enter, *unshare, *program], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        container.started(process, above=len(own) > 0)
        return process

    @property
    def _shares_processes(self) -> bool:
        return bool(self._spec.get("shareProcessNamespace"))

    @property
    def _namespaces(self) -> list[str]:
        """What the containers share."""
        return ["--net", "--uts", "--ipc", *(["--pid"] if self._shares_processes else [])]

    @property
    def _enter(self) -> list[str]:
        world, shared = f"/proc/{self._node.world.pid}/ns", f"/proc/{self._shared}/ns"
        processes = shared if self._shares_processes else world
        own = [f"--{name}={shared}/{name}" for name in ("net", "uts", "ipc")]
        return [NSENTER, *own, f"--mount={world}/mnt", f"--pid={processes}/pid"]

    # ---- what a container is ----

    def _describe(self, spec: Object, memory_group: Path | None) -> Object:
        """The description that `container` reads."""
        image = self._node.image
        variables = self._environment(spec)
        words = [expand(word, variables) for word in [*spec.get("command", []), *spec.get("args", [])]]
        context = self._security(spec)
        return {
            "root": str(self._made("root")),
            "links": {f"/{name}": os.readlink(f"/{name}") for name in ("bin", "sbin", "lib", "lib64")},
            "binds": [
                ("/usr", "/usr", True),
                *((f"/etc/{name}", f"/etc/{name}", True) for name in SYSTEM_FILES if Path("/etc", name).exists()),
                *((str(path), place, True) for place, path in image.binds.items()),
                *self._own_files(),
                *([] if context.get("readOnlyRootFilesystem") else self._own_folders(spec["name"])),
                *self._volumes.binds(spec),
            ],
            "memory_cgroup": str(memory_group) if memory_group else None,
            "working_directory": spec.get("workingDir", image.working_directory),
            "privileges": self._privileges(context),
            "command": words,
            "environment": variables,
        }

    def _environment(self, spec: Object) -> dict[str, str]:
        image = self._node.image
        declared = environment(spec, self.manifest, self.address, self._node.objects)
        return {"HOSTNAME": self.name, "HOME": image.home, **image.environment, **declared}

    def _security(self, spec: Object) -> Object:
        return {**self._spec.get("securityContext", {}), **spec.get("securityContext", {})}

    def _privileges(self, context: Object) -> list[str]:
        user = context.get("runAsUser", self._node.image.user)
        groups = {context["fsGroup"]} if "fsGroup" in context else set()
        groups |= set(context.get("supplementalGroups", []))
        words = [f"--reuid={user}", f"--regid={context.get('runAsGroup', user)}"]
        words.append(f"--groups={','.join(map(str, sorted(groups)))}" if groups else "--clear-groups")
        if "ALL" in context.get("capabilities", {}).get("drop", []):
            words += ["--bounding-set=-all", "--inh-caps=-all"]
        return [*words, *(["--no-new-privs"] if context.get("allowPrivilegeEscalation") is False else [])]

    def _own_files(self) -> list[tuple[str, str, bool]]:
        """Files of /etc that are the pod's, and the image's users."""
        image = self._node.image
        texts = {
            "hostname": f"{self.name}\n",
            "resolv.conf": "",
            "passwd": f"root:x:0:0:root:/root:/bin/bash\nray:x:{image.user}:{image.user}:ray:{image.home}:/bin/bash\n",
            "group": f"root:x:0:\nray:x:{image.user}:\n",
        }
        for name, text in texts.items():
            (self._made("etc") / name).write_text(text, encoding="utf-8")
        own = [(str(self.folder / "etc" / name), f"/etc/{name}", True) for name in texts]
        return [*own, (str(self._node.world.hosts), "/etc/hosts", True)]

    def _own_folders(self, container: str) -> list[tuple[str, str, bool]]:
        """Folders that a container may write to where its root is not read-only; gone with it."""
        temporary, home = self._made(f"{container}-tmp"), self._made(f"{container}-home")
        temporary.chmod(0o1777)
        os.chown(home, self._node.image.user, self._node.image.user)
        return [(str(temporary), "/tmp", False), (str(home), self._node.image.home, False)]

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    # ---- looking ----

    def log(self, container: str | None = None, size: int = 3000) -> str:
        """The end of a container's log; of the first container's by default."""
        name = container or self._spec["containers"][0]["name"]
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-size:] if path.exists() else ""

    @property
    def processes(self) -> list[psutil.Process]:
        """All processes of its containers."""
        if self._shares_processes and self._pause.poll() is None:  # the pause process adopts those without a parent
            adopted = psutil.Process(self._shared).children(recursive=True)
            entered = [found for container in self._containers.values() for found in container.processes]
            return [*{process.pid: process for process in [*entered, *adopted]}.values()]
        return [process for container in self._containers.values() for process in container.processes]

    @property
    def out_of_memory(self) -> int:
        """Processes that a limit of memory has ended."""
        return sum(container.memory.kills for container in self._containers.values())

    @property
    def peak(self) -> int:
        """Bytes of memory that its largest container has had at most, cached files included."""
        return max((container.memory.peak for container in self._containers.values()), default=0)

    # ---- acting ----

    def exec(self, words: Sequence[str], timeout_s: float = 60.0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the first container, as `kubectl exec` and the kubelet's hooks do.

        Args:
            more: environment variables to set beside the container's.
        """
        spec = self._spec["containers"][0]
        container = self._containers[spec["name"]]
        inside = [NSENTER, f"--target={container.first}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        directory = spec.get("workingDir", self._node.image.working_directory)
        join = f"echo 0 > {container.memory.path}/cgroup.procs; " if container.memory.path else ""
        command = [*inside, "sh", "-c", 'cd "$0" && exec "$@"', directory]
        command += ["setpriv", *self._privileges(self._security(spec)), "--", *words]
        return subprocess.run(
            ["/bin/sh", "-c", f'{join}exec "$@"', "sh", *command],
            env=self._environment(spec) | more,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def delete(self) -> float:
        """End the pod as the kubelet does: preStop hooks, SIGTERM, and SIGKILL when the grace period is over.

        Returns:
            Seconds that it took.
        """
        begin = time.monotonic()
        grace = float(self._spec.get("terminationGracePeriodSeconds", 30))
        for spec in self._spec["containers"]:
            self._before_stopping(spec, grace)
        for container in self._containers.values():
            container.signal(signal.SIGTERM)
        for container in self._containers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                if container.process:
                    container.process.wait(max(2.0, begin + grace - time.monotonic()))
        self.kill()
        return time.monotonic() - begin

    def _before_stopping(self, spec: Object, grace: float) -> None:
        hook = spec.get("lifecycle", {}).get("preStop", {})
        if "exec" in hook:
            with (self.folder / "preStop.log").open("w") as log, contextlib.suppress(subprocess.TimeoutExpired):
                done = self.exec(hook["exec"]["command"], grace)
                log.write(f"{done.returncode}\n{done.stdout}{done.stderr}")
        elif "sleep" in hook:
            time.sleep(min(grace, hook["sleep"]["seconds"]))

    def kill(self) -> None:
        """End the pod at once, as when its machine is lost."""
        for container in self._containers.values():
            container.signal(signal.SIGKILL)
            if container.process:
                container.process.wait(START_S)
        if self._pause.poll() is None:
            os.kill(self._shared, signal.SIGKILL)
        self._pause.wait(START_S)
        for container in self._containers.values():
            container.memory.remove()
        self._volumes.close()
