"""The configuration of a run: pydantic models, read and merged with OmegaConf.

`load_config("configs/quickstart.yaml", ["schedule.mix_steps=8"])` reads the files that `extends:` names (relative to
the file), the file, and the dotted overrides, in that order of increasing precedence. Unknown keys, wrong types and
impossible values raise `ConfigError` with the key's full name.

A key's type decides how its value is read. Text (a name, a prompt, a path) is what is written: `name=007` is "007" and
`data.prompt={question} >` needs no quotes. In a file it is what YAML takes for the scalar, quoted or not; `${...}` is
interpolated (write `\\${` for the characters) and `???` must be given by whoever uses the file. An override of a text
key is verbatim. Where a key can be none, `null` says so; in a file, "null" in quotes is the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.config.bank import BankConfig
from s2l_ray.config.cluster import ClusterConfig
from s2l_ray.config.engines import EngineConfig, EnginesConfig
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.objective import CorrectionConfig, ObjectiveConfig
from s2l_ray.config.placement import PlacementConfig
from s2l_ray.config.records import CheckpointConfig, TrackingConfig
from s2l_ray.config.rollout import (
    DataConfig,
    ModelsConfig,
    RolloutConfig,
    SamplingConfig,
    ScheduleConfig,
    VerifierConfig,
)
from s2l_ray.config.run import Config
from s2l_ray.config.trainer import TrainerConfig

if TYPE_CHECKING:
    from s2l_ray.config.loading import load_config, parse_config

__all__ = [
    "BankConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "Config",
    "CorrectionConfig",
    "DataConfig",
    "EngineConfig",
    "EnginesConfig",
    "EvaluationConfig",
    "ModelsConfig",
    "ObjectiveConfig",
    "PlacementConfig",
    "RolloutConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "TrainerConfig",
    "VerifierConfig",
    "load_config",
    "parse_config",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that sections can be had where neither OmegaConf nor pydantic is installed (plain.py).
    if name in ("load_config", "parse_config"):
        from s2l_ray.config import loading

        return getattr(loading, name)
    raise AttributeError(f"module 's2l_ray.config' has no attribute {name!r}")
