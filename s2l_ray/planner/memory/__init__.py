"""Memory of a trainer rank and of an engine, item by item, in closed form from model shape and configuration.

Bytes are per device. tests/engines/test_memory.py and tests/engines/test_memory_engine.py compare them with what
real updates and real engines allocate.
"""

from __future__ import annotations

from s2l_ray.planner.memory.engine import (
    engine_ledger,
    engine_weight_bytes,
    kv_bytes_per_token,
    kv_cache_bytes_for,
)
from s2l_ray.planner.memory.items import CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS, Ledger, dtype_bytes
from s2l_ray.planner.memory.trainer import TrainerMemory, trainer_ledger

__all__ = [
    "CPU_BLOCK_TOKENS",
    "GPU_BLOCK_TOKENS",
    "Ledger",
    "TrainerMemory",
    "dtype_bytes",
    "engine_ledger",
    "engine_weight_bytes",
    "kv_bytes_per_token",
    "kv_cache_bytes_for",
    "trainer_ledger",
]
