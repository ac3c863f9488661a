"""Trials of Ray Tune that only count."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune

from s2l_ray.errors import ConfigError

STEPS = 3
METRIC = "eval/learner/pass_at_1"


class Counter(tune.Trainable):
    """Counts steps, in a file too. The second trial fails in its second step while the file `broken` is there.

    The first one is impossible while there is a file `impossible`. While there is a file `stops`, with the driver's
    process, the second one's last step writes the run's summary and has the study stopped before Tune hears of it.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        if config["number"] == 1 and (Path(config["folder"]) / "impossible").exists():
            raise ConfigError("no node has 64 CPUs")
        return tune.PlacementGroupFactory([{"CPU": 1}])

    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0
        self.folder = Path(config["folder"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.config["number"] == 2 and self.count == 1 and (self.folder / "broken").exists():
            raise RuntimeError("no memory")
        self.count += 1
        with (self.folder / "steps").open("a") as file:
            print(f"{self.config['number']}: {self.count}", file=file)
        if self.config["number"] == 2 and self.count == STEPS and (self.folder / "stops").exists():
            shutil.copy(self.folder / "summary.json", self._storage.trial_fs_path)
            os.kill(int((self.folder / "stops").read_text()), signal.SIGUSR1)
            time.sleep(600)
        return {"step": self.count, METRIC: 0.1, "done": self.count == STEPS, "should_checkpoint": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint: str) -> None:
        self.count = int((Path(checkpoint) / "count").read_text())
