"""A trial of Tune's that does no work, in a module of its own: each of its processes imports it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from s2l_ray.errors import ActorLostError, ConfigError

STEPS = 6


class Quick(Trainable):
    """A trial whose metric is its learning rate times its step. 4 fails for good, 5 once, 6 where it is set up."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([{}, {"CPU": 0.1}])

    def setup(self, config: dict[str, Any]) -> None:
        self.rate, self.done = config["trainer"]["learning_rate"], 0
        self.log = Path(config["run_dir"], self.trial_name)
        self.log.mkdir(parents=True, exist_ok=True)
        self.began = len(list(self.log.iterdir()))
        (self.log / str(self.began)).write_text(str(os.getpid()))
        if self.rate == 6:
            raise ConfigError("trainer.learning_rate: 6 is impossible")

    def step(self) -> dict[str, Any]:
        if self.rate == 4 and self.done == 2:
            raise ConfigError("data.train: row 3 is empty")
        if self.rate == 5 and self.done == 2 and not self.began:
            raise ActorLostError("a node went away")
        self.done += 1
        value = self.rate * self.done
        return {
            "step": self.done,
            "eval/learner/pass_at_1": value,
            "done": self.done == STEPS,
            "run_dir": str(self.log),
        }

    def save_checkpoint(self, directory: str) -> None:
        Path(directory, "state.json").write_text(json.dumps([self.done, self.rate]))

    def load_checkpoint(self, directory: str) -> None:
        self.done = json.loads(Path(directory, "state.json").read_text())[0]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
