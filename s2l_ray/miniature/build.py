"""The embedded family: the package carries it ready; the recipe makes it from scratch, both models side by side."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.errors import DataError, DiskError, ModelError
from s2l_ray.machine.cpu import this_cpu
from s2l_ray.machine.disk import refusal, writing
from s2l_ray.machine.processes import die_with_parent
from s2l_ray.machine.reading import MOST_JSON_BYTES, read_bounded
from s2l_ray.miniature.countdown import CountdownProblem, generate, write_jsonl
from s2l_ray.miniature.recipe import QUICK, Recipe

if TYPE_CHECKING:
    from s2l_ray.miniature.curves import Curve

log = logging.getLogger(__name__)

SIZES = ("small", "large")
STALL_S = 300.0
"""Longest silence of both training processes; they report every few seconds."""
LOCK = ".lock"

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, such as "large", steps done, steps in all, a few words such as "loss 0.512")."""


@dataclass(frozen=True)
class Family:
    """Paths of a built family."""

    directory: Path

    @property
    def small(self) -> Path:
        """Directory of the small model."""
        return self.directory / "small"

    @property
    def large(self) -> Path:
        """Directory of the large model."""
        return self.directory / "large"

    @property
    def train(self) -> Path:
        """JSONL file of the training problems."""
        return self.directory / "train.jsonl"

    @property
    def heldout(self) -> Path:
        """JSONL file of the held-out problems."""
        return self.directory / "heldout.jsonl"

    @property
    def manifest(self) -> Path:
        """JSON file that says how the family was made.

        recipe_fingerprint, recipe
        made_with   versions of packages, the CPU, and the type in which the forward passes computed
        loss        {"small" | "large": [training loss, nats per solution token, of steps 1, 21, 41, ... and the last]}
        pass_at_k   null, or {"small" | "large": {k: [pass@k, low, high]}} on held-out problems (`curves`)
        seconds     in all
        """
        return self.directory / "manifest.json"

    def fingerprint(self) -> str | None:
        """Fingerprint of the recipe that made it; None when the directory holds no family."""
        try:
            return str(json.loads(read_bounded(self.manifest, MOST_JSON_BYTES))["recipe_fingerprint"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not there, or a file of somebody else's
            return None

    def is_whole(self) -> bool:
        """Whether both models and both data files are there."""
        weights = [model / "model.safetensors" for model in (self.small, self.large)]
        return all(part.is_file() for part in (*weights, self.train, self.heldout))


EMBEDDED = Family(DIRECTORY)
"""The family of the recipe QUICK, which the package carries."""


def build_family(
    directory: Path,
    *,
    recipe: Recipe = QUICK,
    force: bool = False,
    measure: bool = False,
    progress: Progress | None = None,
) -> Family:
    """The family of `recipe` in `directory`; built when it is not already there.

    Both models train at the same time, in a process and on a thread each. The directory is replaced in one rename, so
    a killed build leaves the old family, or none. A script that calls this needs an `if __name__ == "__main__"` guard.

    Args:
        force: build even when the directory already holds this recipe's family.
        measure: also sample held-out problems and note each model's pass@k in the manifest.

    Raises:
        ModelError: the directory holds something else, another process is building it, or a training process was killed
            or hung.
        DiskError: the directory cannot be written.
        DataError: there are not as many problems as the recipe asks for.
        RuntimeError: training raised; the message has the traceback.
    """
    with writing(directory):
        family = Family(_target(directory))
    directory = family.directory
    if family.fingerprint() == recipe.fingerprint and family.is_whole() and not force:
        return family
    _may_replace(family)
    with writing(directory), _building(directory) as scratch:
        started = time.monotonic()
        found = _fill(Family(scratch), recipe, measure, progress or (lambda *_: None))
        record = {
            "recipe_fingerprint": recipe.fingerprint,
            "recipe": recipe.model_dump(),
            "made_with": _made_with(),
            "loss": {size: found[size]["loss"] for size in SIZES},
            "pass_at_k": {size: found[size]["pass_at_k"] for size in SIZES} if measure else None,
            "seconds": round(time.monotonic() - started, 1),
        }
        Family(scratch).manifest.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _put_in_place(scratch, directory)
    return family


def _made_with() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "transformers")}
    return packages | {"cpu": this_cpu().describe(), "dtype": "bfloat16" if this_cpu().native else "float32"}


def _target(directory: Path) -> Path:
    """The directory that is put in place at the end: what a link stands for."""
    try:
        found = Path(directory).resolve()
    except RuntimeError:
        raise ModelError(f"{directory} is a link that goes in a circle; name another directory") from None
    if found.is_mount():
        raise ModelError(f"{found} is where a file system is mounted, which cannot be replaced; name a directory in it")
    return found


def _may_replace(family: Family) -> None:
    """Only a family is ever replaced; anything else, in its directory too, is the user's."""
    directory = family.directory
    if family.fingerprint() is not None:
        parts = {part.name for part in (family.small, family.large, family.train, family.heldout, family.manifest)}
        if others := sorted({path.name for path in directory.iterdir()} - parts - {LOCK}):
            raise ModelError(
                f"{directory} holds {', '.join(others)} besides the family, which building it again would remove; move "
                "that, or name another directory"
            )
        log.warning("building %s again: its recipe or format is another, files are missing, or it is forced", directory)
    elif directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ModelError(f"{directory} exists and is not an embedded family; name another directory or remove it")


@contextmanager
def _building(directory: Path) -> Iterator[Path]:
    """An empty directory beside `directory`, this process's own until it is renamed or the block ends.

    It is locked through a file in it. The kernel frees the lock of a process that dies, so the next build recognises
    and clears what a killed one left behind.
    """
    scratch = directory.with_name(f".{directory.name}.building")
    if scratch.exists() and any(scratch.iterdir()) and not (scratch / LOCK).exists():
        raise ModelError(
            f"{scratch} is needed for building, and holds something else; move it, or name another directory"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    if (lock := _lock(scratch / LOCK)) is None:
        raise ModelError(f"another process is building {directory}; wait for it, or name another directory")
    with lock:
        for leftover in scratch.iterdir():
            if leftover.name != LOCK:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield scratch
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        (directory / LOCK).unlink()  # it came along with the rename


def _lock(path: Path) -> IO[str] | None:
    """The open file that holds the lock; None when another process holds it, or has just renamed it into place."""
    try:
        file = path.open("a")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _put_in_place(scratch: Path, directory: Path) -> None:
    """Put the finished family in place of what is there."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    scratch.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _fill(family: Family, recipe: Recipe, measure: bool, progress: Progress) -> dict[str, dict[str, Any]]:
    """Write data and both models; returns what the manifest says of each model."""
    numbers = recipe.numbers
    with _of("problems"):
        pretraining = _pretraining_problems(recipe)
    with _of("train_problems"):
        training = generate(recipe.train_problems, "train", recipe.seed + 1, exclude=pretraining, numbers=numbers)
    with _of("heldout_problems"):
        heldout = generate(recipe.heldout_problems, "heldout", recipe.seed, numbers=numbers)
    write_jsonl(training, family.train, "train")
    write_jsonl(heldout, family.heldout, "heldout")
    context = multiprocessing.get_context("spawn")
    children: dict[Connection, tuple[str, BaseProcess]] = {}
    try:
        for size in SIZES:
            ours, theirs = context.Pipe(duplex=False)
            task = (size, recipe, measure, family.directory / size, theirs, os.getpid())
            child: BaseProcess = context.Process(target=_train, args=task, name=f"pretrain-{size}", daemon=True)
            child.start()
            theirs.close()  # so that the pipe ends when the child does
            children[ours] = (size, child)
        return _listen(dict(children), progress)
    finally:
        for pipe, (_, child) in children.items():
            child.kill()
            child.join()
            pipe.close()


@contextmanager
def _of(key: str) -> Iterator[None]:
    """Name the key of the recipe that asks for too many problems."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def _pretraining_problems(recipe: Recipe) -> list[CountdownProblem]:
    return generate(recipe.problems, "train", recipe.seed, numbers=recipe.numbers)


def _listen(children: dict[Connection, tuple[str, BaseProcess]], progress: Progress) -> dict[str, dict[str, Any]]:
    """Relay progress until both children have sent what came out."""
    found: dict[str, dict[str, Any]] = {}
    while children:
        ready = cast("list[Connection]", wait(list(children), timeout=STALL_S))
        if not ready:
            raise ModelError(
                f"pretraining made no progress for {STALL_S:.0f} s; is the machine overloaded? Build again"
            )
        for pipe in ready:
            size, child = children[pipe]
            try:
                kind, content = pipe.recv()
            except EOFError:
                child.join(STALL_S)
                raise ModelError(
                    f"the process that pretrains the {size} model ended with exit code {child.exitcode}; "
                    "a negative code is the signal that killed it (-9: perhaps out of memory). Build again"
                ) from None
            if kind == "refused":
                raise DiskError(content)
            if kind == "error":
                raise RuntimeError(f"pretraining the {size} model failed:\n{content}")
            if kind == "progress":
                progress(*content)
            else:
                found[size] = content
                del children[pipe]
    return found


def _train(size: str, recipe: Recipe, measure: bool, target: Path, pipe: Connection, parent: int) -> None:
    """Body of a training process.

    It sends ("progress", arguments of Progress) and at last ("done", {"loss": [...], "pass_at_k": curve or None}),
    ("refused", text) or ("error", text).
    """
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    try:
        # Imported here so that the parent needs no torch, and stays quick when the family is already built.
        import torch
        from transformers.utils import logging as transformers_logging

        from s2l_ray.miniature.pretrain import Optimisation, pretrain
        from s2l_ray.miniature.tokenizer import build_tokenizer

        transformers_logging.disable_progress_bar()
        torch.set_num_threads(1)
        losses: list[float] = []

        def report(done: int, total: int, loss: float) -> None:
            losses.append(round(loss, 6))
            pipe.send(("progress", (size, done, total, f"loss {loss:.3f}")))

        problems = _pretraining_problems(recipe)
        how = Optimisation(epochs=recipe.epochs, seed=recipe.seed, bfloat16=this_cpu().native)
        pretrain(problems, build_tokenizer(), recipe.small if size == "small" else recipe.large, how, target, report)
        curve = _curve(size, recipe, target, pipe) if measure else None
        pipe.send(("done", {"loss": losses, "pass_at_k": curve}))
    except Exception as error:
        refused = refusal(error, target)
        pipe.send(("refused", str(refused)) if refused else ("error", traceback.format_exc()))


def _curve(size: str, recipe: Recipe, target: Path, pipe: Connection) -> Curve:
    from s2l_ray.miniature.curves import PROBLEMS, measure_curve

    problems = generate(min(PROBLEMS, recipe.heldout_problems), "heldout", recipe.seed, numbers=recipe.numbers)
    return measure_curve(
        target, problems, report=lambda done, total: pipe.send(("progress", (f"{size} pass@k", done, total, "")))
    )
