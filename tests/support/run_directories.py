"""Run directories and checkpoints of runs that never trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from s2l_ray.config import Config, load_config
from s2l_ray.results import StepRecord
from s2l_ray.run.checkpoints import Checkpoint
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.identity import learner_of

CONTENTS = {
    "models.learner": "digest 11",
    "models.explorer": "digest 22",
    "data.train": "9 problems of digest 33",
    "tokenizer": "digest 44",
}


RECORD = StepRecord(1, 1.0, 4, 0, 0.5, {}, 0, 4, ["a"], "0" * 16, 0, {}, {})


def config(folder: Path, **overrides) -> Config:
    path = folder / "run.yaml"
    path.write_text("name: mine\nmodels: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n")
    return load_config(path, {"run_dir": str(folder / "run"), **overrides})


def acquired(settings: Config, **changed: str) -> RunDirectory:
    """Held by a run with this configuration and contents."""
    run = RunDirectory.acquire(settings)
    try:
        run.adopt(settings, CONTENTS | changed)
    except BaseException:
        run.close()
        raise
    return run


def save(run: RunDirectory, step: int, keep: int = 2) -> Path:
    """A whole checkpoint of the step, as a training run writes it."""
    run.log.clear()
    for number in range(1, step):
        run.log.append(replace(RECORD, step=number))
    run.log.append(replace(RECORD, step=step))
    return write_checkpoint(run, step, {"shard": bytes([step]) * 1000}, keep)


def write_checkpoint(run: RunDirectory, step: int, trainer: dict[str, bytes], keep: int = 2) -> Path:
    """A whole checkpoint of the step with the log as it is, and with these files of the trainer."""
    draft = run.begin_checkpoint(step, {"step": step, "learner": learner(run)})
    draft.trainer.mkdir()
    for name, held in trainer.items():
        (draft.trainer / name).write_bytes(held)
    draft.add_log(run.log)
    draft.complete({})
    run.prune(keep)
    return draft.directory


def learner(run: RunDirectory) -> dict[str, Any]:
    return learner_of(load_config(run.path / "config.yaml"), run.remembered()["contents"])


def to_resume(run: RunDirectory, settings: Config) -> Checkpoint | None:
    return run.to_resume(settings, run.remembered()["contents"])
