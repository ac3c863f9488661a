"""The configuration of a run: pydantic models, read and merged with OmegaConf.

`load_config("quickstart", ["schedule.mix_steps=8"])` reads the files that `extends:` names, the file itself, and the
dotted overrides, each of which replaces values of those before it. Unknown keys, wrong types and impossible values
raise `ConfigError` with the full name of the key.

The type of a key decides how its value is read. Text (a name, a prompt, a path) is taken as it is written: `name=007`
is "007", and `data.prompt={question} >` needs no quotes. In a file it is the YAML scalar, quoted or not; `${...}` is an
interpolation (a backslash before the `$` makes it text), and `???` is a value that whoever uses the file must give. An
override of a text key is verbatim. Where a key can be none, `null` is none; in a file, "null" in quotes is the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.config.bank import BankConfig
from s2l_ray.config.checkpoint import CheckpointConfig
from s2l_ray.config.cluster import ClusterConfig
from s2l_ray.config.data import DataConfig
from s2l_ray.config.engines import EngineConfig, EnginesConfig
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.health import HealthConfig
from s2l_ray.config.models import ModelsConfig
from s2l_ray.config.objective import CorrectionConfig, ObjectiveConfig
from s2l_ray.config.placement import PlacementConfig
from s2l_ray.config.recovery import RecoveryConfig
from s2l_ray.config.rollout import RolloutConfig, SamplingConfig
from s2l_ray.config.run import Config
from s2l_ray.config.schedule import ScheduleConfig
from s2l_ray.config.tracking import TrackingConfig
from s2l_ray.config.trainer import TrainerConfig
from s2l_ray.config.verifier import VerifierConfig

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
    "HealthConfig",
    "ModelsConfig",
    "ObjectiveConfig",
    "PlacementConfig",
    "RecoveryConfig",
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
