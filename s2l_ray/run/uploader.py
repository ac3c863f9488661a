"""Copying a run directory to its mirror while the run goes on, in a thread that no step waits for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Set
from pathlib import Path
from types import TracebackType
from typing import Self

from s2l_ray.errors import StorageError
from s2l_ray.reporter import Reporter
from s2l_ray.run.checkpoints import STEPS, checkpoints_in
from s2l_ray.run.lineage import LINEAGE
from s2l_ray.run.mirror import KEY, Mirror, reports_in
from s2l_ray.tracking.undelivered import UNDELIVERED

WITH_EACH_CHECKPOINT = ("config.yaml", "run.json", "plan.json", "stragglers.jsonl", LINEAGE, STEPS)
"""Small files that are copied again after each checkpoint."""
RETRY_S = (2.0, 60.0)
"""Seconds until the first attempt after one that failed; doubled each time, up to the second number."""
STOPPED_S = 5.0
"""Seconds for copying at the end of a run that was stopped by a signal."""


class _Ended(Exception):
    """The copy was told to end."""


class Uploader:
    """Keeps the mirror of a run directory up to date: its newest whole checkpoint, and at the end all of its reports.

    Checkpoints are copied in their order, one at a time. One that is not copied before the next is whole is left out:
    only the newest is worth the time. A store that fails is tried again until the end of the run.

    Use as a context manager, around the run; leaving it waits for what is not copied yet, within bounds.

    Args:
        mirror: checked.
        run: the run directory.
        keep: whole checkpoints that stay in the mirror.
        timeout_s: bound on the wait at the end. Where a signal ended the run, it is STOPPED_S.
        reporter: told, by the methods that the run calls, when the store fails, and at the end what is copied and
            what is not.
        stay: gives the names of further checkpoints that stay in the mirror; called in the thread.
    """

    def __init__(
        self,
        mirror: Mirror,
        run: Path,
        keep: int,
        timeout_s: float,
        reporter: Reporter,
        stay: Callable[[], Set[str]] = frozenset,
    ) -> None:
        self._mirror, self._run, self._keep, self._stay = mirror, run, keep, stay
        self._timeout_s, self._reporter = timeout_s, reporter
        self._told = False
        self.uploading: str | None = None
        """Name of the checkpoint that is being copied, which has to stay until it is."""
        self._problem: str | None = None  # why the last attempt failed; None if it did not
        self._made: Counter[str] = Counter()  # a step that is done again makes its checkpoint again
        self._uploaded: set[str] = set()
        self._failures = 0
        self._begun: tuple[str, set[str]] = ("", set())  # checkpoint that was begun, and its files that are copied
        self._copied: dict[str, tuple[int, int] | None] = {}  # report -> what `_about` said of it when it was copied
        self._cut_off = False
        self._wake = threading.Condition()
        self._due = self._settling = self._finishing = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(STOPPED_S if isinstance(error, KeyboardInterrupt) else self._timeout_s)

    def copy(self, name: str) -> None:
        """Copy a checkpoint that has just become whole, soon. Returns at once; any thread may call it.

        Args:
            name: of the checkpoint.
        """
        with self._wake:
            self._made[name] += 1
            self._uploaded.discard(name)
            self._begun = ("", set())
            self._due = True
            self._wake.notify_all()

    def tell(self) -> None:
        """Say if the store fails now or answers again. Returns at once."""
        problem = self._problem
        if self._told != (problem is not None):
            self._told = problem is not None
            self._reporter.note(f"{problem}; it is tried again" if problem else f"{self._mirror} answers again")

    def wait(self, name: str) -> None:
        """Wait until the newest checkpoint is in the mirror.

        Args:
            name: of it.

        Raises:
            StorageError: it is not there within checkpoint.mirror_timeout_s. It is still tried.
        """
        self._begin()
        with self._wake:
            if self._wake.wait_for(lambda: name in self._uploaded, self._timeout_s):
                return
        raise StorageError(
            f"{KEY}: {name} is not in {self._mirror} after {self._timeout_s:g} s ({self._problem or 'it is slow'}); it "
            f"is whole in {self._run}, from where the run resumes. Mend the store, or raise checkpoint.mirror_timeout_s"
        )

    def settle(self) -> None:
        """Wait until the reports are in the mirror too, or checkpoint.mirror_timeout_s has gone by.

        What MLflow has not confirmed yet is left out: it is to be in the mirror only if the run ends with it.
        """
        with self._wake:
            self._settling = True
        self._begin()
        with self._wake:
            self._wake.wait_for(lambda: not self._settling, self._timeout_s)

    def close(self, timeout_s: float) -> None:
        """Copy what is left, all reports included, and say what is there and what is not.

        Args:
            timeout_s: bound on it.
        """
        self._reporter.phase(f"copying to {self._mirror}")
        self._begin(finishing=True)
        self._thread.join(timeout_s)
        self._cut_off = True
        self._reporter.note(self._closing_words(timeout_s))

    def _begin(self, finishing: bool = False) -> None:
        with self._wake:
            self._due, self._finishing = True, finishing
            self._wake.notify_all()

    def _closing_words(self, timeout_s: float) -> str:
        lacking = [f"checkpoint {newest.name}"] if (newest := self._newest()) else []
        lacking += [name for name in reports_in(self._run) if self._copied.get(name) != _about(self._run / name)]
        left_out = sorted(set(self._made) - self._uploaded - ({newest.name} if newest else set()))
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            reason = f" ({self._problem})" if self._problem else ""
            words = f"not copied to {self._mirror} within {timeout_s:g} s: {', '.join(lacking[:3])}{more}{reason}"
            words += f"; all of it is in {self._run}"
        else:
            words = f"all reports and the newest checkpoints are in {self._mirror}"
        if left_out:
            words += f"; checkpoints left out, since a newer one was whole before they were copied: {len(left_out)}"
        return words + (f"; failed attempts: {self._failures}" if self._failures else "")

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        delay = RETRY_S[0]
        while not self._cut_off:
            with self._wake:
                self._wake.wait_for(lambda: self._due)
                self._due, settling, finishing = False, self._settling, self._finishing
            try:
                self._copy(settling, finishing)
            except _Ended:
                return
            except (StorageError, OSError) as error:  # OSError: a file that was about to be copied has gone
                self._problem, self._failures = str(error), self._failures + 1
                self._rest(delay, finishing)
                delay = min(2 * delay, RETRY_S[1])
                continue
            self._problem, delay = None, RETRY_S[0]
            if settling:
                with self._wake:
                    self._settling = False
                    self._wake.notify_all()
            if finishing:
                return

    def _rest(self, seconds: float, finishing: bool) -> None:
        """Wait before the next attempt. The end of the run is worth one at once."""
        with self._wake:
            self._wake.wait_for(lambda: self._finishing > finishing, seconds)
            self._due = True

    def _copy(self, settling: bool, finishing: bool) -> None:
        """Bring the mirror up to date."""
        while newest := self._newest():
            self._copy_checkpoint(newest)
        names = reports_in(self._run)
        if not finishing:
            names = [name for name in names if (settling and name != UNDELIVERED) or name in WITH_EACH_CHECKPOINT]
        for name in names:
            self._copy_report(name)

    def _copy_report(self, name: str) -> None:
        about = _about(self._run / name)
        if about is None or self._copied.get(name) == about:
            return
        try:
            self._mirror.upload(self._run, [name], self._go_on)
        except StorageError:
            if _about(self._run / name) is not None:
                raise
            return  # the run has removed it meanwhile
        self._copied[name] = about

    def _newest(self) -> Path | None:
        """The newest whole checkpoint, if it is not in the mirror."""
        there = checkpoints_in(self._run)[-1:]
        return there[0][1] if there and there[0][1].name not in self._uploaded else None

    def _copy_checkpoint(self, directory: Path) -> None:
        self.uploading = name = directory.name
        made = self._made[name]
        try:
            # What was there at the start need not be copied again.
            if made or name not in self._mirror.checkpoints():
                if self._begun[0] != name:
                    self._begun = (name, set())
                self._mirror.upload_checkpoint(directory, self._go_on, self._begun[1])
        finally:
            self.uploading = None
        with self._wake:
            if self._made[name] != made:
                return  # it was made again meanwhile, and is copied again
            self._uploaded.add(name)
            self._wake.notify_all()
        self._mirror.prune(self._keep, self._stay())

    def _go_on(self) -> None:
        if self._cut_off:
            raise _Ended


def _about(path: Path) -> tuple[int, int] | None:
    """Bytes and time of change of a file; None if it has gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
