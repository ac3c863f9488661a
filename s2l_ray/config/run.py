"""The configuration of a whole run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from s2l_ray.config.rules import RULES
from s2l_ray.config.section import model_validator
from s2l_ray.config.sections import Sections
from s2l_ray.machine.places import output_path

NOT_IN_A_FILE_NAME = r"[/\x00-\x1f\x7f]"
TAKEN_IN_OUTPUTS = ("bank", "mlartifacts", "mlflow.db")
"""Names in outputs/ that other files have by default."""
LONGEST_RUN_DIRECTORY = 200
"""In bytes; a file name may have 255, so this leaves room for -2, -3, ..."""


class Config(Sections):
    """The configuration of a run, whose sections fit together."""

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Config:
        if problems := [problem for rule in RULES if (problem := rule(self))]:
            raise ValueError("; ".join(problems))
        return self

    @property
    def run_path(self) -> Path:
        """Directory of the run, absolute; see `output_path`."""
        return output_path(self.run_dir or Path("outputs") / directory_name(self.name))

    def to_yaml(self) -> str:
        """The resolved configuration; `load_config` of it gives an equal Config."""
        return yaml_of(self.model_dump(mode="json"))


def yaml_of(values: dict[str, Any]) -> str:
    """The content of a configuration file with these values, every text as it is given."""
    from omegaconf import OmegaConf

    from s2l_ray.config.text import literal

    return OmegaConf.to_yaml(OmegaConf.create(literal(values)))


def directory_name(name: str) -> str:
    """The name itself where it can be a directory of outputs/, else its usable characters and a digest of the name."""
    encoded = name.encode()
    if (
        name not in ("", ".", "..", *TAKEN_IN_OUTPUTS)
        and not re.search(NOT_IN_A_FILE_NAME, name)
        and len(encoded) <= LONGEST_RUN_DIRECTORY
    ):
        return name
    kept = re.sub(NOT_IN_A_FILE_NAME, "_", name).encode()[: LONGEST_RUN_DIRECTORY // 2].decode(errors="ignore")
    return f"{kept or 'run'}-{hashlib.blake2b(encoded, digest_size=4).hexdigest()}"
