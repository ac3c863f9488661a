"""What the directory of a comparison of diversity remembers from one command to the next."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from s2l_ray.kinds import Dtype
from s2l_ray.machine.disk import read_json, write_whole

SETTINGS = "settings.json"


@dataclass
class DiversitySettings:
    """The content of settings.json."""

    dtype: Dtype | None = None
    """That engines compute in: of the first samples, so that others go with them."""
    mlflow_run: str | None = None

    @classmethod
    def read(cls, directory: Path) -> DiversitySettings:
        """Those of a directory, which may have none yet.

        Raises:
            DataError: they are damaged.
        """
        file = directory / SETTINGS
        if not file.is_file():
            return cls()
        known = read_json(file, "move it away, and its directory's samples/ with it")
        return cls(known.get("dtype"), known.get("mlflow_run"))

    def write(self, directory: Path) -> None:
        """Keep them.

        Raises:
            DiskError: the file cannot be written.
        """
        write_whole(directory / SETTINGS, json.dumps(asdict(self)) + "\n")

    def remember_run(self, directory: Path, run_id: str) -> None:
        """Keep which MLflow run the directory has; raises as `write`."""
        self.mlflow_run = run_id
        self.write(directory)
