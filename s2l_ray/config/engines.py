"""The vLLM engines of either source."""

from __future__ import annotations

from s2l_ray.config.section import Positive, PositiveFloat, Section, model_validator
from s2l_ray.kinds import Source

BATCHED_TOKENS, CPU_BATCHED_TOKENS = 8192, 2048
"""max_num_batched_tokens by default, on GPUs and on CPUs. vLLM's own default for engines such as ours is 2048, and 8192
or more for its offline engines: with small models 2048 tokens leave a GPU waiting for the host."""


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
    max_num_batched_tokens: Positive | None = None
    """Most tokens that the engine computes at once: pieces of prompts, and one token of each sequence that is being
    sampled. Default: 8192 on GPUs and 2048 on CPUs. On GPUs it is never more than `max_num_seqs` sequences of full
    length come to. On CPUs, where prompts are not cut, the longest text beside a token of each other sequence always
    fits."""
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

    @model_validator(mode="after")
    def _a_token_of_each_sequence_fits(self) -> EngineConfig:
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens must be at least max_num_seqs ({self.max_num_seqs}), a token of each sequence"
            )
        return self

    def batched_tokens(self, max_model_len: int, *, gpu: bool) -> int:
        """Most tokens of one batch, of sequences of at most `max_model_len` tokens."""
        if gpu:
            wanted = self.max_num_batched_tokens or max(BATCHED_TOKENS, self.max_num_seqs)
            return min(wanted, self.max_num_seqs * max_model_len)
        # A prompt is never cut on CPUs (`vllm_bridge.arguments`): the longest text beside a token of each other one.
        return max(max_model_len + self.max_num_seqs, self.max_num_batched_tokens or CPU_BATCHED_TOKENS)


class EnginesConfig(Section):
    """The vLLM engines."""

    explorer: EngineConfig = EngineConfig()
    learner: EngineConfig = EngineConfig()

    def of(self, source: Source) -> EngineConfig:
        """The engines of a source."""
        return self.explorer if source == "explorer" else self.learner
