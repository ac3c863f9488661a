"""The settings that a vLLM engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2l_ray.config import EngineConfig
    from s2l_ray.kinds import Transfer


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """One engine: its model, its memory and the processes it runs in."""

    model: str
    """Hugging Face directory."""
    engine: EngineConfig
    """Batch size, eager mode and CPU threads."""
    max_model_len: int
    """Prompt plus response, in tokens."""
    dtype: str
    """Name of the torch dtype to compute in."""
    trust_remote_code: bool
    weight_transfer: Transfer | None = None
    """The way in which weights reach it; None: they never change."""
    load_weights: bool = True
    """False: start without reading them from disk; they arrive by a weight sync before anything is sampled."""
    sleep: bool = False
    """It shares its devices with a trainer rank, and gives their memory back while it sleeps."""
    tensor_parallel: int = 1
    """Devices of this engine."""
    kv_cache_bytes: int = 2**29
    """Size of the KV cache on each device."""
    own_process: bool = False
    """Whether this process holds nothing but this engine, so that vLLM may run inside it where that is faster."""
