"""Does it fit: what lives on one device at every moment of a step, and the KV cache that there is room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_ray.kinds import Source, Transfer
from s2l_ray.planner.memory import (
    CPU_BLOCK_TOKENS,
    GPU_BLOCK_TOKENS,
    Ledger,
    TrainerMemory,
    dtype_bytes,
    engine_ledger,
    kv_bytes_per_token,
    kv_cache_bytes_for,
)

if TYPE_CHECKING:
    from s2l_ray.config import Config
    from s2l_ray.planner.architecture import ModelShape

SHARED_ITEMS = ("context", "transfer_buffers")
"""Added up over the actors of a device."""
ASLEEP_ITEMS = ("context", "cuda_graphs", "sampler")
"""Items that vLLM's sleep mode leaves on the device."""
KV_STEP = 256 * 2**20
"""Large KV caches are whole multiples of it, so that plans do not differ by a few blocks."""


@dataclass(frozen=True)
class EngineNeed:
    """One engine's memory on a device, its KV cache apart."""

    role: Source
    ledger: Ledger
    """Without the KV cache."""
    least: int
    """KV cache for one sequence of full length, without which vLLM does not start."""
    useful: int
    """KV cache for max_num_seqs sequences of full length."""
    pinned: int | None
    """engines.ROLE.kv_cache_gb."""
    weight: float = 1.0
    """Weight of its claim to the KV cache that two engines share."""


@dataclass(frozen=True)
class Fit:
    """The actors of a device fit on it."""

    kv: dict[Source, int]
    ledger: Ledger
    """Bytes at the fullest moment of a step."""

    @property
    def used(self) -> int:
        """Bytes at the fullest moment."""
        return sum(self.ledger.values())


@dataclass(frozen=True)
class Misfit:
    """The actors of a device do not fit on it."""

    actors: str
    ledger: Ledger
    """Bytes at the fullest moment of a step, with the least KV cache."""
    budget: int

    @property
    def short(self) -> int:
        """Bytes over the budget."""
        return sum(self.ledger.values()) - self.budget


def engine_need(
    shape: ModelShape,
    config: Config,
    role: Source,
    tensor_parallel: int,
    *,
    cuda: bool,
    transfer: Transfer | None,
    rollouts: int = 1,
) -> EngineNeed:
    """Memory that an engine of this role needs on one device.

    With C sequences at a time, rollouts take rollouts * weights / C seconds (weights are read once per token of all C),
    and C sequences take C * (KV bytes per token). The sum of two engines' times is least when the bytes of their KV
    caches are as the square roots of rollouts * weights * (KV bytes per token).

    Args:
        transfer: how new weights arrive; None: the engine is an explorer, which gets none.
        rollouts: in the whole run, in any unit.
    """
    engine, dtype = getattr(config.engines, role), dtype_bytes(config)
    length = config.max_model_len(role)
    block = GPU_BLOCK_TOKENS if cuda else CPU_BLOCK_TOKENS
    per_token = kv_bytes_per_token(shape, tensor_parallel, dtype)
    ledger = engine_ledger(shape, config, role, tensor_parallel, 0, cuda=cuda, transfer=transfer)
    return EngineNeed(
        role=role,
        ledger=ledger,
        least=kv_cache_bytes_for(shape, length, tensor_parallel, dtype, block_tokens=block),
        useful=engine.max_num_seqs * (length + block) * per_token,
        pinned=None if engine.kv_cache_gb is None else int(engine.kv_cache_gb * 2**30),
        weight=math.sqrt(max(1, rollouts) * ledger["weights"] * per_token),
    )


def tensor_parallel_sizes(shape: ModelShape, most: int) -> tuple[int, ...]:
    """Powers of two up to `most` that divide the model."""
    return tuple(
        n
        for n in (2**power for power in range(most.bit_length()))
        if shape.heads % n == 0 and shape.intermediate % n == 0 and (shape.kv_heads % n == 0 or n % shape.kv_heads == 0)
    )


def fit(budget: int, trainer: TrainerMemory | None, engines: list[EngineNeed], *, sleep: bool) -> Fit | Misfit:
    """Everything that shares one device.

    Args:
        budget: bytes.
        trainer: a rank, whose engines (if any) sample only while it waits.
        sleep: engines give their weights and KV cache back while they do not sample. On wake the learner's weights come
            first, then the new version, then the KV caches, so that these three are never there at once.
    """
    moments = _moments(trainer, engines, sleep)
    room = budget - max(_total(ledger) for ledger, holds_kv in moments if holds_kv) if engines else 0
    kv = _share(room, engines)
    fullest = _fullest(moments, kv)
    if _total(fullest) <= budget:
        return Fit(kv, fullest)
    actors = [*(["trainer rank"] if trainer else []), *(f"{need.role} engine" for need in engines)]
    return Misfit(" and ".join(actors), fullest, budget)


def device_ledger(trainer: TrainerMemory | None, engines: list[tuple[EngineNeed, int]], *, sleep: bool) -> Ledger:
    """The fullest moment of a device whose engines have KV caches of these bytes."""
    moments = _moments(trainer, [need for need, _ in engines], sleep)
    return _fullest(moments, {need.role: kv for need, kv in engines})


def _fullest(moments: list[tuple[Ledger, bool]], kv: Mapping[Source, int]) -> Ledger:
    return max((_with_kv(ledger, kv) if holds_kv else ledger for ledger, holds_kv in moments), key=_total)


def _moments(trainer: TrainerMemory | None, engines: list[EngineNeed], sleep: bool) -> list[tuple[Ledger, bool]]:
    """(ledger without KV caches, whether they are held) of every moment of a step."""
    whole = [(need, need.ledger) for need in engines]
    if trainer is None:
        return [(_joined(None, whole), True)]
    if not engines:
        return [(_joined(ledger, []), False) for ledger in (trainer.update, trainer.weight_sync, trainer.idle)]
    awake = [(need, _without(need.ledger, ("transfer_buffers",))) for need in engines]
    if not sleep:
        away = [(need, _without(need.ledger, ("transfer_buffers", "activations"))) for need in engines]
        receiving = [(need, _without(need.ledger, ("activations",))) for need in engines]
        return [
            (_joined(trainer.idle, awake), True),
            (_joined(trainer.update, away), True),
            (_joined(trainer.weight_sync, receiving), True),
        ]
    asleep = [(need, {k: v for k, v in need.ledger.items() if k in ASLEEP_ITEMS}) for need in engines]
    receiving = [
        (need, _without(need.ledger, ("activations",))) if need.role == "learner" else (need, rest)
        for need, rest in asleep
    ]
    return [
        (_joined(trainer.idle, awake), True),
        (_joined(trainer.update, asleep), False),
        (_joined(trainer.weight_sync, receiving), False),
    ]


def _share(room: int, engines: list[EngineNeed]) -> dict[Source, int]:
    """KV cache of each engine, in bytes.

    A pinned size as it is; else the least the engine needs and, of what is left, its part by weight, but no more than
    it can use.
    """
    open_ = [need for need in engines if need.pinned is None]
    found = {need.role: need.pinned for need in engines if need.pinned is not None}
    left = max(0, room - sum(found.values()) - sum(need.least for need in open_))
    weights = sum(need.weight for need in open_)
    # Whoever can use less of its part comes first, so that the rest goes to the other.
    for need in sorted(open_, key=lambda need: (need.useful - need.least) / need.weight):
        extra = min(max(0, need.useful - need.least), int(left * need.weight / weights))
        left, weights = left - extra, weights - need.weight
        size = need.least + extra
        found[need.role] = max(need.least, size - size % KV_STEP if size > 2 * KV_STEP else size)
    return found


def _joined(trainer: Mapping[str, int] | None, engines: list[tuple[EngineNeed, Ledger]]) -> Ledger:
    ledger: Ledger = {}
    parts = [("trainer", trainer or {}), *((need.role, own) for need, own in engines)]
    for role, items in parts:
        for item, size in items.items():
            key = item if item in SHARED_ITEMS else f"{role}/{item}"
            ledger[key] = ledger.get(key, 0) + size
    return ledger


def _with_kv(ledger: Ledger, kv: Mapping[Source, int]) -> Ledger:
    return ledger | {f"{role}/kv_cache": size for role, size in kv.items()}


def _without(ledger: Ledger, items: tuple[str, ...]) -> Ledger:
    return {item: size for item, size in ledger.items() if item not in items}


def _total(ledger: Mapping[str, int]) -> int:
    return sum(ledger.values())
