"""Engines, evaluation, checkpoints, tracking, cluster; and the whole of a run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

from s2l_ray.config.bank import BankConfig
from s2l_ray.config.objective import ObjectiveConfig
from s2l_ray.config.placement import PlacementConfig
from s2l_ray.config.placement_modes import PLACEMENT_MODES, SLEEPLESS
from s2l_ray.config.rollout import (
    DataConfig,
    ModelsConfig,
    RolloutConfig,
    SamplingConfig,
    ScheduleConfig,
    VerifierConfig,
)
from s2l_ray.config.section import Field, LocalPath, NonNegative, Positive, PositiveFloat, Section, model_validator
from s2l_ray.config.trainer import TrainerConfig
from s2l_ray.kinds import Source
from s2l_ray.schedule import ADAPTIVE

NOT_IN_A_FILE_NAME = r"[/\x00-\x1f\x7f]"
TAKEN_IN_OUTPUTS = ("bank", "mlartifacts", "mlflow.db")
"""What else lies in outputs/ by default."""
LONGEST_RUN_DIRECTORY = 200
"""Bytes: leaves room for -2, -3, ..."""


class EngineConfig(Section):
    count: Positive | None = None
    """Engines of this kind; default: the plan decides (on CPUs: 1)."""
    tensor_parallel: Positive | None = None
    """Devices of each engine; default: the plan decides (on CPUs: 1)."""
    max_model_len: Positive | None = None
    """Prompt plus response; default: data.max_prompt_tokens + rollout.max_tokens."""
    max_num_seqs: Positive = 256
    """Sequences in one batch of the engine."""
    kv_cache_gb: PositiveFloat | None = None
    """KV cache on each device in GiB; default: what the plan finds room and use for (on CPUs: 0.5)."""
    enforce_eager: bool = False
    """Skip compilation and graph capture: slower sampling, much faster start."""
    threads: Positive = 1
    """CPU threads of a CPU engine."""
    cpus: PositiveFloat = 0.5
    """CPUs that Ray reserves per engine."""


class EnginesConfig(Section):
    explorer: EngineConfig = EngineConfig()
    learner: EngineConfig = EngineConfig()


class EvaluationConfig(Section):
    samples: Positive = 16
    """n: responses per problem, from which pass@k is estimated without bias."""
    k: tuple[Positive, ...] = (1, 8)
    every: NonNegative = 0
    """Also evaluate every N steps; 0: before and after only."""
    sampling: SamplingConfig = SamplingConfig()
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationConfig:
        if 1 not in self.k:
            raise ValueError("k must include 1")
        if max(self.k) > self.samples:
            raise ValueError(f"samples ({self.samples}) must be at least the largest k ({max(self.k)})")
        return self


class CheckpointConfig(Section):
    every: Positive = 20
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Newest checkpoints kept."""


class TrackingConfig(Section):
    enabled: bool = True
    uri: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = "s2l-ray"
    timeout_s: PositiveFloat = 10.0
    """How long a server may take to answer."""


class ClusterConfig(Section):
    address: str | None = None
    """Ray cluster to join: HOST:PORT of its head; `auto` for that of RAY_ADDRESS, else the Ray that runs on this
    machine; or `local` for a private Ray on this machine. Default: that of RAY_ADDRESS (which `ray job submit` sets),
    else a private Ray."""
    start_timeout_s: PositiveFloat = 300.0
    """Bound on starting a private Ray, and then on placing and starting all actors."""
    step_timeout_s: PositiveFloat = 3600.0
    """Bound on each phase of a step."""
    weight_sync_timeout_s: PositiveFloat = 120.0
    """Bound on a weight sync."""


class Config(Section):
    """A whole run."""

    name: str = "run"
    """Any text; what MLflow and the screen call the run."""
    run_dir: LocalPath | None = None
    """Default: outputs/NAME. Of a name that cannot be a directory there (a/b, say), outputs/a_b-DIGEST."""
    resume: LocalPath = "auto"
    """auto: go on from the newest checkpoint of run_dir if there is one; never: refuse a run_dir with results;
    or where a run begins that has no checkpoint of its own yet: another run's checkpoint, or its directory (the newest
    one). Data and settings may then differ, the learner may not; with trainer.lr_schedule linear or cosine the learning
    rate is that of this run's schedule.steps."""
    seed: int = 1
    models: ModelsConfig
    data: DataConfig
    verifier: VerifierConfig = VerifierConfig()
    rollout: RolloutConfig = RolloutConfig()
    bank: BankConfig = BankConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    trainer: TrainerConfig = TrainerConfig()
    engines: EnginesConfig = EnginesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    placement: PlacementConfig = PlacementConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        for kind in ("explorer", "learner"):
            limit = getattr(self.engines, kind).max_model_len
            need = self.data.max_prompt_tokens + self.rollout.max_tokens
            if limit is not None and limit < need:
                raise ValueError(
                    f"engines.{kind}.max_model_len ({limit}) is less than "
                    f"data.max_prompt_tokens + rollout.max_tokens ({need})"
                )
        if (k := self.objective.pass_k) is not None and k >= self.rollout.group_size:
            raise ValueError(
                f"objective.pass_k ({k}) must be less than rollout.group_size ({self.rollout.group_size}): "
                "with all of a group drawn at once no rollout stands out"
            )
        if (mini := self.objective.mini_batch_prompts) is not None and self.rollout.prompts_per_step % mini:
            raise ValueError(
                f"objective.mini_batch_prompts ({mini}) must divide "
                f"rollout.prompts_per_step ({self.rollout.prompts_per_step})"
            )
        buffer = self.objective.overlong_buffer_tokens
        if buffer is not None and buffer > self.rollout.max_tokens:
            raise ValueError(
                f"objective.overlong_buffer_tokens ({buffer}) must not exceed "
                f"rollout.max_tokens ({self.rollout.max_tokens}), which it counts back from"
            )
        mode = None if self.placement.mode == "auto" else PLACEMENT_MODES[self.placement.mode]
        if self.rollout.max_staleness and mode is not None and mode.learner_sleeps:
            raise ValueError(
                f"rollout.max_staleness needs learner engines that work while the trainer does; with placement.mode: "
                f"{mode.name} they sleep then. Use placement.mode: {SLEEPLESS.name}"
            )
        if self.schedule.kind == ADAPTIVE:
            if (ahead := self.rollout.prefetch_steps) > self.schedule.adapt_window:
                raise ValueError(
                    f"rollout.prefetch_steps ({ahead}) must not exceed schedule.adapt_every "
                    f"({self.schedule.adapt_window}): the explorer's share is not known further ahead"
                )
            if (stale := self.rollout.max_staleness) > self.schedule.adapt_window:
                raise ValueError(
                    f"rollout.max_staleness ({stale}) must not exceed schedule.adapt_every "
                    f"({self.schedule.adapt_window}): the learner's share is not known further ahead"
                )
            if self.objective.grouping == "separate" and self.trainer.lr_schedule != "constant":
                raise ValueError(
                    f"trainer.lr_schedule: {self.trainer.lr_schedule} needs the number of optimizer steps, which an "
                    "adaptive schedule with objective.grouping: separate does not know beforehand"
                )
        if problem := self.trainer.lr_schedule_problem(self.optimizer_steps):
            raise ValueError(problem)
        return self

    @property
    def optimizer_steps(self) -> int:
        """Of the whole run, if none is skipped."""
        prompts = self.rollout.prompts_per_step
        mini_batches = prompts // (self.objective.mini_batch_prompts or prompts)
        if self.objective.grouping == "mixed":
            return self.schedule.steps * mini_batches
        schedule = self.schedule.build(self.rollout.group_size).nominal()
        shares = [schedule.share(step) for step in range(1, self.schedule.steps + 1)]
        return mini_batches * sum((share.explorer > 0) + (share.learner > 0) for share in shares)

    @property
    def explorer_seed(self) -> int:
        """Of the explorer's training rollouts."""
        return self.seed if self.rollout.explorer_seed is None else self.rollout.explorer_seed

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir or Path("outputs") / directory_name(self.name))

    def max_model_len(self, kind: Source) -> int:
        return getattr(self.engines, kind).max_model_len or self.data.max_prompt_tokens + self.rollout.max_tokens

    def to_yaml(self) -> str:
        """The resolved configuration; `load_config` of it gives an equal Config."""
        from omegaconf import OmegaConf

        from s2l_ray.config.text import literal

        return OmegaConf.to_yaml(OmegaConf.create(literal(self.model_dump(mode="json"))))


def directory_name(name: str) -> str:
    """The name itself where it can be a directory of outputs/; else what of it can, and a digest of the whole name."""
    encoded = name.encode()
    if (
        name not in ("", ".", "..", *TAKEN_IN_OUTPUTS)
        and not re.search(NOT_IN_A_FILE_NAME, name)
        and len(encoded) <= LONGEST_RUN_DIRECTORY
    ):
        return name
    kept = re.sub(NOT_IN_A_FILE_NAME, "_", name).encode()[: LONGEST_RUN_DIRECTORY // 2].decode(errors="ignore")
    return f"{kept or 'run'}-{hashlib.blake2b(encoded, digest_size=4).hexdigest()}"
