"""A run as a trial of Ray Tune: where its relative paths begin, and which directory is its own."""

from __future__ import annotations

import os
from pathlib import Path

from pyarrow.fs import LocalFileSystem

from s2l_ray.config import Config
from s2l_ray.ray_bridge import TrialStorage, driver_directories


def enter_launch_directory() -> None:
    """Make relative paths mean what they mean to the program that started the Tuner.

    Tune puts every trial into a working directory of its own, and a Ray process begins where its node was started.
    """
    # The last of the driver's directories is where it called ray.init; a job with a runtime_env working_dir has none.
    for directory in (*driver_directories()[-1:], os.environ.get("TUNE_ORIG_WORKING_DIR", ".")):
        if Path(directory).is_dir():
            os.chdir(directory)
            return


def with_own_directory(config: Config, storage: TrialStorage) -> Config:
    """The configuration of one trial: trials share what it says, and must not share a run directory.

    By default a trial's run directory is the trial's directory in Tune's storage_path, or, where that is not on a file
    system of this machine, outputs/NAME/TRIAL. With a run_dir it is RUN_DIR/TRIAL. Tune keeps a trial's name when it
    goes on with it later, so the run goes on too.
    """
    if config.run_dir is None and isinstance(storage.storage_filesystem, LocalFileSystem):
        own = Path(storage.trial_fs_path)
    else:
        own = config.run_path / storage.trial_dir_name
    return config.model_copy(update={"run_dir": str(own)})
