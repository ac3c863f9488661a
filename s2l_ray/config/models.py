"""The models of a run."""

from __future__ import annotations

from typing import Literal

from s2l_ray.config.embedded import ModelSource
from s2l_ray.config.section import Section
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Dtype


class ModelsConfig(Section):
    """The learner, the explorer, and the type they compute in."""

    learner: ModelSource
    """The large model that is trained: a directory in Hugging Face layout, or `ORG/NAME[@REVISION]` on the Hugging Face
    Hub, which is fetched into the local cache (HF_HOME). `embedded:large` is that of the embedded family, which the
    package carries."""
    explorer: ModelSource
    """The frozen small model of the same family, named in the same way, or `embedded:small`. It may be the learner's,
    as a control in which only the schedule acts."""
    dtype: Literal["auto"] | Dtype = "auto"
    """Type in which engines sample and the trainer computes forward and backward. auto: bfloat16 where all devices
    compute it natively (GPUs, and CPUs with AVX512-BF16 or AMX), else float32. A resumed run keeps its type."""
    trust_remote_code: bool = False
    """Run the Python code in a model's directory. Leave it off unless you trust the directory."""

    @property
    def compute_dtype(self) -> Dtype:
        """`dtype` of a run that has settled it for its devices.

        Raises:
            ConfigError: it is still `auto`.
        """
        if self.dtype == "auto":
            raise ConfigError("models.dtype is still auto: set bfloat16 or float32, or settle it for the devices first")
        return self.dtype
