"""What MLflow is told a run is: tags to search by, and its data and bank as inputs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from s2l_ray.config import Config
from s2l_ray.config.embedded import source_name
from s2l_ray.config.own_code import own_functions
from s2l_ray.run.inputs import Inputs

if TYPE_CHECKING:
    from s2l_ray.bank.rollout_bank import BankSettings
    from s2l_ray.tracking.tracker import Tracker

CONTEXTS = {"train": "training", "eval": "evaluation"}
"""Use of a data set -> what MLflow calls it."""
GIT_TIMEOUT_S = 5.0


def describe(tracker: Tracker, settings: Config, inputs: Inputs, bank: BankSettings | None) -> None:
    """Tell a tracker what the run is made of: its configuration, tags, data and bank."""
    tracker.log_params(settings.model_dump(mode="json"))
    tracker.log_text(settings.to_yaml(), "config.yaml")
    tracker.set_tags(tags_of(settings, bank))
    for use, problems in inputs.problems.items():
        source = problems.path if "://" in problems.path else str(Path(problems.path).resolve())
        profile = {"num_rows": len(problems.problems)}
        tracker.log_dataset(use, source, problems.digest, CONTEXTS[use], profile)
    if bank is not None:
        tracker.log_dataset("bank", bank.path, fingerprint(bank), "explorer rollouts", {"recording": bank.shards})


def tags_of(settings: Config, bank: BankSettings | None) -> dict[str, str]:
    """The tags of a run. One that does not apply, such as the bank's, is left out."""
    tags = {
        "explorer": source_name(settings.models.explorer),
        "learner": source_name(settings.models.learner),
        "schedule": settings.schedule.kind,
        "T_mix": str(settings.schedule.mix_steps),
        "G": str(settings.rollout.group_size),
        "bank_fingerprint": fingerprint(bank) if bank else None,
        "mlflow.source.name": "s2l-ray",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": git_commit(Path.cwd()),
        "ray_job_id": ray_job_id(),
    }
    own = {f"own_code/{function.key}": function.describe() for function in own_functions(settings)}
    return own | {key: value for key, value in tags.items() if value is not None}


def fingerprint(bank: BankSettings) -> str:
    """The fingerprint of the recording that a run uses, which is the recording's name."""
    return bank.shards.partition("/")[0]


def git_commit(directory: Path) -> str | None:
    """The commit that is checked out in a directory; None if there is none, or no git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def ray_job_id() -> str | None:
    """The submission id of the Ray job that this process is the driver of, else Ray's own id of the driver."""
    try:
        submitted = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]
    except (KeyError, ValueError, TypeError):
        return str(ray.get_runtime_context().get_job_id()) if ray.is_initialized() else None
    return str(submitted)
