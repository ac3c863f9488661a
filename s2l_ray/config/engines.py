"""The vLLM engines of either source."""

from __future__ import annotations

from s2l_ray.config.section import Positive, PositiveFloat, Section
from s2l_ray.kinds import Source


class EngineConfig(Section):
    """The engines of one source."""

    count: Positive | None = None
    """Number of engines; default: the plan decides (on CPUs: 1)."""
    tensor_parallel: Positive | None = None
    """Number of devices of each engine; default: the plan decides (on CPUs: 1)."""
    max_model_len: Positive | None = None
    """Most tokens of a prompt and its response together; default: data.max_prompt_tokens + rollout.max_tokens."""
    max_num_seqs: Positive = 256
    """Most sequences in one batch of the engine."""
    kv_cache_gb: PositiveFloat | None = None
    """Size of the KV cache on each device, in GiB; default: what the plan finds room and use for (on CPUs: 0.5)."""
    enforce_eager: bool = False
    """Skip compilation and graph capture: slower sampling, much faster start."""
    batch_invariant: bool = False
    """GPUs of compute capability 8.0 or later: vLLM's batch-invariant mode, in which a rollout does not depend on what
    else is in the batch, so that a run can be repeated to the token. Slower. On CPUs engines are so without it."""
    threads: Positive = 1
    """CPU threads of a CPU engine."""
    cpus: PositiveFloat = 0.5
    """CPUs that Ray reserves for each engine."""


class EnginesConfig(Section):
    """The vLLM engines."""

    explorer: EngineConfig = EngineConfig()
    learner: EngineConfig = EngineConfig()

    def of(self, source: Source) -> EngineConfig:
        """The engines of a source."""
        return self.explorer if source == "explorer" else self.learner
