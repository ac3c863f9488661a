"""The directory of one run: who may write to it, what it holds, and where a killed run goes on.

config.yaml             resolved configuration
run.json                what outlives a crash before the first checkpoint: the MLflow run id
steps.jsonl             one record per step
trace.json              who did what when, for https://ui.perfetto.dev
checkpoints/step-000020 whole checkpoints: `trainer/`, the log of steps, and `state.json`, without which it is not one
left_out.jsonl          groups that were left out (rollout.straggler_groups)
rollouts/               texts and verdicts of a few groups per step
model/                  the trained learner, Hugging Face layout
summary.json, figures/  at the end
"""

from __future__ import annotations

import datetime
import fcntl
import json
import shutil
from pathlib import Path
from typing import IO, Any

from s2l_ray.config import Config, load_config
from s2l_ray.disk import write_whole, writing
from s2l_ray.errors import ConfigError
from s2l_ray.evaluation.summary import StepLog

STEPS = "steps.jsonl"
FREE_TO_CHANGE = (
    *(
        "name",
        "run_dir",
        "resume",
        "cluster",
        "tracking",
        "checkpoint",
        "engines",
        "placement",
        "verifier.workers",
        "verifier.timeout_s",
    ),
    *(
        "rollout.explore_ahead_steps",
        "rollout.explore_ahead_gb",
        "bank",
        "rollout.keep_groups",
        "trainer.ranks",
        "trainer.cpus",
        "trainer.threads",
    ),
    *("trainer.micro_batch_tokens", "trainer.logprob_chunk_tokens"),
)
"""Keys that may differ when a run is resumed: where and how fast it is computed, not what."""


class RunDirectory:
    """Holds the directory's lock for as long as it lives, so that two runs never write to one directory."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.log = StepLog(path / STEPS)
        self._lock = lock

    @classmethod
    def claim(cls, config: Config) -> RunDirectory:
        """Lock the run's directory and check that what it holds, if anything, is this run.

        Raises:
            ConfigError: another process is writing to it; `resume: never` and it holds a run; or the run that it holds
                was configured differently (the keys that differ are named).
            DiskError: the directory cannot be written to.
        """
        path = config.run_path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is writing to {path}; wait for it, or choose another run_dir") from None
        run = cls(path, lock)
        before = path / "config.yaml"
        if before.exists():
            if config.resume == "never":
                raise ConfigError(
                    f"{path} already holds a run and resume is never; choose another run_dir, or resume=auto"
                )
            _check_same(load_config(before), config, path)
        write_whole(before, config.to_yaml())
        run._drop_unfinished()
        return run

    @property
    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, directory) of every whole checkpoint, oldest first."""
        found = (self.path / "checkpoints").glob("step-*/state.json")
        return sorted((int(state.parent.name.removeprefix("step-")), state.parent) for state in found)

    def to_resume(self, resume: str) -> Path | None:
        """The checkpoint that the run goes on from; None: it begins.

        Args:
            resume: "auto" (this directory's newest), "never", or a checkpoint's directory.
        """
        if resume not in ("auto", "never"):
            return Path(resume).resolve()
        return self.checkpoints[-1][1] if self.checkpoints else None

    def _drop_unfinished(self) -> None:
        """What a run that ended while it saved left behind: it takes room, and is no checkpoint."""
        for directory in (self.path / "checkpoints").glob("step-*"):
            if not (directory / "state.json").exists():
                shutil.rmtree(directory, ignore_errors=True)

    def begin_checkpoint(self, step: int) -> Path:
        """An empty directory to write the checkpoint of `step` into; nothing counts until `commit_checkpoint`."""
        target = self.path / "checkpoints" / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        with writing(target):
            target.mkdir(parents=True)
        return target

    def commit_checkpoint(self, target: Path, state: dict[str, Any], keep: int) -> None:
        """Make it whole, in one rename, and drop all but the `keep` newest."""
        write_state(target, state)
        for _, old in self.checkpoints[:-keep]:
            with writing(old):
                (old / "state.json").unlink()  # first, so that a half-deleted directory is not a checkpoint
                shutil.rmtree(old)

    def remember(self, **values: Any) -> None:
        """Merge values into run.json."""
        write_whole(self.path / "run.json", json.dumps(self.remembered() | values, indent=2) + "\n")

    def remembered(self) -> dict[str, Any]:
        path = self.path / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def close(self) -> None:
        """Give the directory free."""
        self._lock.close()


def next_free(config: Config) -> Config:
    """The configuration with a run directory that a run may start or go on in.

    When outputs/NAME holds a finished run, outputs/NAME-2 is next, and so on: nothing that was produced is overwritten.

    Raises:
        ConfigError: `run_dir` was given and holds a finished run.
    """
    if config.run_dir is not None and _is_finished(config.run_path):
        raise ConfigError(f"{config.run_path} already holds a finished run; choose another run_dir")
    first, path, number = config.run_path, config.run_path, 1
    while _is_finished(path):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return config.model_copy(update={"run_dir": str(path)})


def _is_finished(path: Path) -> bool:
    return (path / "summary.json").exists()


def begun_on(config: Config) -> datetime.date | None:
    """data.date of the run that a run with this configuration goes on with; None: it has none, or nothing goes on.

    Raises:
        ConfigError: `resume` names no whole checkpoint, or the directory's config.yaml cannot be read.
    """
    before = config.run_path / "config.yaml"
    if before.exists():
        return load_config(before).data.date
    if config.resume in ("auto", "never"):
        return None
    date = read_state(Path(config.resume)).get("date")
    return date and datetime.date.fromisoformat(date)


def write_state(directory: Path, state: dict[str, Any]) -> None:
    write_whole(directory / "state.json", json.dumps(state, indent=2) + "\n")


def read_state(directory: Path) -> dict[str, Any]:
    """State of a checkpoint.

    Raises:
        ConfigError: `directory` is not a whole checkpoint.
    """
    path = directory / "state.json"
    if not path.exists():
        raise ConfigError(f"{directory} is not a whole checkpoint: it has no state.json")
    return json.loads(path.read_text())


def _check_same(before: Config, now: Config, path: Path) -> None:
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    differ = [k for k in sorted(old | new) if old.get(k) != new.get(k) and not _is_free(k)]
    if differ:
        listed = "; ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in differ[:5])
        raise ConfigError(f"{path} holds a run of another configuration ({listed}); choose another name or run_dir")


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in FREE_TO_CHANGE)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
