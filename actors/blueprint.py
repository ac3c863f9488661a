"""What the actors of a run are launched with. Another run can have them as they are if it would launch the same.

The launcher takes an actor's arguments from here, so that what is compared is what the actor was made with: all that a
run may change while its actors live reaches them later, by `ActorGraph.reconfigure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.config import Config, RecoveryConfig, VerifierConfig
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.placement.plan import EngineSlot, Layout, PlannedBundle, TrainerSlot
from s2l_ray.reporter import Reporter
from s2l_ray.rollouts.records import Prompt


@dataclass(frozen=True)
class RunNeeds:
    """What a run needs of its actors."""

    config: Config
    """Of the run."""
    layout: Layout
    """The actors' slots in every phase."""
    train: list[Prompt]
    """Rendered, in file order."""
    held_out: list[Prompt]
    """With other ids than those of `train`."""
    contents: Mapping[str, str]
    """What the files hold that the configuration names, see `run.identity.contents_of`: models, data, user's code."""
    reporter: Reporter
    """Receives what is being started, the progress of long waits, and engines that were lost."""
    stragglers: dict[int, list[str]]
    """Prompts that steps leave out, as far as they are known beforehand, by step."""
    bank: BankSettings | None
    """The recording of explorer rollouts, or None."""

    @property
    def prompts(self) -> dict[str, Prompt]:
        """All prompts, by id."""
        return {prompt.id: prompt for prompt in [*self.train, *self.held_out]}


@dataclass(frozen=True)
class RankProcess:
    """What the process of a trainer rank keeps as long as it lives. All else comes with `TrainerRank.build`."""

    rank: int
    ranks: int
    threads: int | None
    """CPU threads, where trainer.threads says it."""
    cpus: float
    """CPUs that Ray reserves."""
    deterministic: bool
    """torch computes deterministically, which cannot be undone."""
    step_timeout_s: float
    """Bound on the collectives of the ranks' process group."""
    weight_sync_timeout_s: float
    """Bound on those of weight syncs."""

    @classmethod
    def of(cls, config: Config, rank: int, ranks: int) -> RankProcess:
        """The process of a rank in a run with this configuration."""
        trainer, cluster = config.trainer, config.cluster
        return cls(
            rank,
            ranks,
            trainer.threads,
            trainer.cpus,
            trainer.deterministic,
            cluster.step_timeout_s,
            cluster.weight_sync_timeout_s,
        )


def engine_settings(config: Config, layout: Layout, slot: EngineSlot) -> EngineSettings:
    """What the engine of a slot is started with."""
    source = slot.role
    return EngineSettings(
        model=getattr(config.models, source),
        model_name=Path(getattr(config.models, source)).name,
        source=source,
        engine=getattr(config.engines, source),
        sampling={"train": getattr(config.rollout, source), "eval": config.evaluation.sampling},
        max_tokens=config.rollout.max_tokens,
        max_model_len=config.max_model_len(source),
        dtype=config.models.compute_dtype,
        trust_remote_code=config.models.trust_remote_code,
        weight_transfer=slot.transfer,
        load_weights=source == "explorer",
        tensor_parallel=slot.tensor_parallel,
        kv_cache_bytes=slot.kv_cache_bytes,
        sleep=layout.sleeps(slot),
        weight_sync_mode=config.rollout.weight_sync_mode,
        max_staleness=config.rollout.max_staleness,
        weight_sync_timeout_s=config.cluster.weight_sync_timeout_s,
        own_process=True,
    )


@dataclass(frozen=True)
class Blueprint:
    """The actors that are there, or that a run would launch."""

    bundles: tuple[PlannedBundle, ...]
    """Of the placement group."""
    replicas: int
    """Groups of the trainer's ranks with a copy of the model each, in which they have joined."""
    ranks: Mapping[TrainerSlot, RankProcess]
    engines: Mapping[EngineSlot, EngineSettings]
    verifiers: VerifierConfig
    recovery: RecoveryConfig
    contents: Mapping[str, str]
    """`RunNeeds.contents`; the source of a user's function is that of one with this name."""

    @classmethod
    def of(cls, needs: RunNeeds, engines: Iterable[EngineSlot]) -> Blueprint:
        """What a run launches with engines on these slots."""
        config, layout = needs.config, needs.layout
        trainers = layout.phases[0].trainers
        return cls(
            layout.bundles,
            layout.replicas,
            {slot: RankProcess.of(config, slot.index, len(trainers)) for slot in trainers},
            {slot: engine_settings(config, layout, slot) for slot in engines},
            config.verifier,
            config.recovery,
            {_described(key, config): contents for key, contents in needs.contents.items()},
        )

    def differences(self, other: Blueprint) -> list[str]:
        """What is not the same, such as "learner engine 0: max_tokens"; empty if one's actors can be the other's.

        A file that only one of them names makes no difference: no actor of the other has read it.
        """
        before, now = self._parts(), other._parts()
        differ = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        shared = self.contents.keys() & other.contents.keys() - {"rollout.replay_stragglers"}
        return differ + sorted(f"contents of {key}" for key in shared if self.contents[key] != other.contents[key])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"bundles": self.bundles, "trainer.replicas": self.replicas}
        parts |= _parts("verifiers", self.verifiers)
        parts |= _parts("recovery", self.recovery)
        for rank, process in self.ranks.items():
            name = f"trainer rank {rank.index}"
            parts |= {f"{name}: slot": rank, **_parts(name, process)}
        for engine, settings in self.engines.items():
            name = f"{engine.role} engine {engine.index}"
            parts |= {f"{name}: slot": engine, **_parts(name, settings)}
        return parts


def _described(key: str, config: Config) -> str:
    """Such as "models.learner", and "objective.loss source (mine:loss)"."""
    function = key.removesuffix(" source")
    return key if function == key else f"{key} ({attrgetter(function)(config)})"


def _parts(name: str, values: Any) -> dict[str, Any]:
    keys = type(values).model_fields if hasattr(values, "model_fields") else [field.name for field in fields(values)]
    return {f"{name}: {key}": getattr(values, key) for key in keys}
