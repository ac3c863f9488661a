"""A run as a trial of Ray Tune: what its relative paths are relative to, its name and its run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem

from s2l_ray.config import Config
from s2l_ray.ray_bridge import TrialStorage, driver_directories
from s2l_ray.trials.storage import storage_url


def launch_directory() -> Path:
    """The directory in which the Tuner was started, from which the relative paths of its trials begin.

    Tune puts every trial into a working directory of its own, and a Ray process begins where its node was started.
    """
    # The last of the driver's directories is where it called ray.init; a job with a runtime_env working_dir has none.
    for directory in (*driver_directories()[-1:], os.environ.get("TUNE_ORIG_WORKING_DIR", ".")):
        if Path(directory).is_dir():
            return Path(directory)
    return Path()


def as_trial(config: Config, storage: TrialStorage, name: str) -> Config:
    """The configuration of a trial: it has the trial's name, and a run directory that it shares with no other trial.

    By default that is the directory of the trial in Tune's storage_path, or, where that is not on a file
    system of this machine, outputs/NAME/TRIAL. With a run_dir it is RUN_DIR/TRIAL. Tune keeps the name
    of a trial that it resumes, so that the run resumes too.

    In a store, the directory of the trial is the mirror of the run, unless checkpoint.mirror is given.

    Args:
        config: the same for all trials, but for what Tune varies.
        storage: of the trial.
        name: of the trial, which MLflow then shows.

    Raises:
        ConfigError: Tune's storage is neither on a file system of this machine nor in S3 or GCS.
    """
    local = isinstance(storage.storage_filesystem, LocalFileSystem)
    own = Path(storage.trial_fs_path) if config.run_dir is None and local else config.run_path / storage.trial_dir_name
    update: dict[str, Any] = {"name": name, "run_dir": str(own)}
    if not local and config.checkpoint.mirror is None:
        mirror = storage_url(storage.storage_filesystem, str(Path(storage.trial_fs_path).parent))
        update["checkpoint"] = config.checkpoint.model_copy(update={"mirror": mirror})
    return config.model_copy(update=update)
