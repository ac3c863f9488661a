"""The lock of a run directory: one process writes to it, and whoever finds it locked learns who that is.

The file's lock (flock) keeps others out; its contents say who holds it and prove, by a number that grows every few
seconds, that the holder lives. Both are needed: a network file system may keep the lock of a machine that is gone, may
keep locks on each machine for itself, or may have none.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from s2l_ray.errors import ConfigError
from s2l_ray.machine.disk import writing

BEAT_S = 5.0
"""Seconds between two signs of life."""
SILENT_S = 30.0
"""Seconds without one after which a holder on another machine is taken for dead."""
POLL_S = 0.5
REPORT_EVERY_S = 30.0
CONFIRM_S = 2.0
"""On a file system without locks: how long after we wrote our name another's may still appear there."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that have no flock."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as the lock's file has it."""

    id: str
    """Identifies this holding of the lock; no other has it."""
    host: str
    pid: int
    process: str
    """Boot, process namespace and start time: with `pid` it names one process that ever was."""
    since: str
    """Local time, ISO 8601."""
    job: str | None
    """Submission id of the Ray job."""
    beat: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        """A new holding by this process."""
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        process = f"{_namespace()}/{_started(os.getpid())}"
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), process, now, _ray_job())

    @classmethod
    def of_json(cls, text: str | bytes) -> Holder | None:
        """The holder that was written; None if it is damaged."""
        try:
            found = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = found.id, found.host, found.process, found.since
        numbers = found.pid, found.beat
        right = all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)
        return found if right else None

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"

    @property
    def is_visible(self) -> bool:
        """Whether this process would see that one in /proc."""
        return self.process.rpartition("/")[0] == _namespace()

    @property
    def runs_here(self) -> bool:
        """Whether it is a process that runs on this machine, in our process namespace."""
        return self.is_visible and self.process.rpartition("/")[2] == _started(self.pid)


class RunLock:
    """A lock that is held from `acquire` to `close`."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self._path, self._descriptor, self._holder = path, descriptor, holder
        self._closed = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._beating.start()

    @classmethod
    def acquire(
        cls, path: Path, timeout_s: float, on_wait: Callable[[str], None], holder_ends: bool = False
    ) -> RunLock:
        """Lock a file, which is made if it is not there.

        A holder that shows signs of life is an error. One that does not is waited for: it may be dead.

        Args:
            path: of the file.
            timeout_s: bound on that wait.
            on_wait: told at once and then every 30 s who is waited for.
            holder_ends: whoever holds it is ending, and is waited for as well.

        Raises:
            ConfigError: another process holds the lock; the message says which, since when, and what to do.
            DiskError: the file cannot be written.
        """
        waiting = _Waiting(path, timeout_s, on_wait, holder_ends)
        while True:
            with writing(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if taken := waiting.try_to_take(descriptor):
                    return cls(path, descriptor, taken)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            time.sleep(POLL_S)

    def check(self) -> None:
        """Make sure that no other process has taken the lock over while this one showed no sign of life.

        Raises:
            ConfigError: one has.
        """
        holder = _read(self._path)
        if holder is not None and holder.id != self._holder.id:
            raise ConfigError(
                f"{self._path.parent} was taken over by {holder}, while this process did not get to run; "
                "end one of them"
            )

    def close(self) -> None:
        """Release the lock. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._beating.join(BEAT_S)  # a file system that hangs must not hold the end of the run up
        with suppress(OSError):
            if (holder := _read(self._path)) is None or holder.id == self._holder.id:
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(OSError):
                if (holder := _read(self._path)) is not None and holder.id != self._holder.id:
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                _write(self._descriptor, self._holder)


class _Waiting:
    """One attempt to get a lock, over several looks at its file."""

    def __init__(self, path: Path, timeout_s: float, on_wait: Callable[[str], None], holder_ends: bool) -> None:
        self._path, self._timeout_s, self._on_wait, self._holder_ends = path, timeout_s, on_wait, holder_ends
        self._begin = self._seen_at = time.monotonic()
        self._reported = -REPORT_EVERY_S
        self._seen: Holder | None = None

    def try_to_take(self, descriptor: int) -> Holder | None:
        """Take the lock if that is possible now. Returns our name in it; None: look again later.

        Raises:
            ConfigError: its holder lives, or the wait is over.
        """
        with writing(self._path):
            locked = _flock(descriptor)
        holder = _read(self._path)
        # A lock of this machine's processes is free as soon as they end, so that what the file still says is old.
        ours = locked is True and holder is not None and holder.is_visible
        lives = holder is not None and not ours and self._lives(holder)
        if lives and not self._holder_ends:
            raise ConfigError(
                f"another process is writing to {self._path.parent}: {holder}; wait for it, or choose another run_dir"
            )
        if locked is not False and not lives and (holder is None or self._is_dead(holder)):
            return self._claim(descriptor, confirm=locked is None)
        self._wait_for(holder, lives)
        return None

    def _claim(self, descriptor: int, confirm: bool) -> Holder | None:
        mine = Holder.this_process()
        with writing(self._path):
            _write(descriptor, mine)
        if confirm:
            time.sleep(CONFIRM_S)
        now = _read(self._path)  # another one's, or none if the file was removed
        return mine if now is not None and now.id == mine.id else None

    def _lives(self, holder: Holder) -> bool:
        """Whether it has shown a sign of life: it runs here, or its number has grown while we looked."""
        before, self._seen = self._seen, holder
        if holder.is_visible:
            return holder.runs_here
        if before is None or before.id != holder.id:
            self._seen_at = time.monotonic()
            return False
        if holder.beat != before.beat:
            self._seen_at = time.monotonic()
            return True
        return False

    def _is_dead(self, holder: Holder) -> bool:
        return holder.is_visible or time.monotonic() - self._seen_at > SILENT_S

    def _wait_for(self, holder: Holder | None, lives: bool) -> None:
        waited = time.monotonic() - self._begin
        by = str(holder) if holder else "a process that left no name"
        if waited > self._timeout_s:
            if lives:
                raise ConfigError(
                    f"{self._path.parent} is in use by {by}, which has not ended within {waited:.0f} s; end it"
                )
            raise ConfigError(
                f"{self._path.parent} is locked by {by}, which has shown no sign of life for {waited:.0f} s "
                f"(cluster.lock_timeout_s). If it is dead, its file system has not noticed: remove {self._path} and "
                "give the same command again. If it may live, choose another run_dir"
            )
        if waited - self._reported >= REPORT_EVERY_S:
            self._reported = waited
            to = "until it has ended" if self._holder_ends else "to see whether it lives"
            self._on_wait(f"waiting for the lock of {self._path.parent}, held by {by}, {to}")


def _flock(descriptor: int) -> bool | None:
    """Whether the file's lock is ours now; None if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _read(path: Path) -> Holder | None:
    """The holder that the file names. Opened anew each time: then a network file system asks its server."""
    try:
        return Holder.of_json(path.read_bytes())
    except OSError:
        return None


def _write(descriptor: int, holder: Holder) -> None:
    text = json.dumps(asdict(holder)).encode() + b"\n"
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)


def _namespace() -> str:
    """Names this machine since it was started, and the process namespace in it, which each container has for itself."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """When a process of this machine started, in clock ticks since boot; "" if there is none, or it has ended."""
    with suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    return ""


def _ray_job() -> str | None:
    """Submission id of the Ray job whose entrypoint this process is."""
    with suppress(ValueError, AttributeError):
        about = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""))
        return about.get("metadata", {}).get("job_submission_id")  # type: ignore[no-any-return]
    return None
