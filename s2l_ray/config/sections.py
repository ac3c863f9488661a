"""All keys and sections of a run's configuration, and what follows from several of them."""

from __future__ import annotations

from s2l_ray.config.bank import BankConfig
from s2l_ray.config.checkpoint import CheckpointConfig
from s2l_ray.config.cluster import ClusterConfig
from s2l_ray.config.data import DataConfig
from s2l_ray.config.engines import EnginesConfig
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.health import HealthConfig
from s2l_ray.config.models import ModelsConfig
from s2l_ray.config.objective import ObjectiveConfig
from s2l_ray.config.placement import PlacementConfig
from s2l_ray.config.recovery import RecoveryConfig
from s2l_ray.config.rollout import RolloutConfig
from s2l_ray.config.schedule import ScheduleConfig
from s2l_ray.config.section import LocalPath, Section
from s2l_ray.config.tracking import TrackingConfig
from s2l_ray.config.trainer import TrainerConfig
from s2l_ray.config.verifier import VerifierConfig
from s2l_ray.kinds import Source


class Sections(Section):
    """Everything that a run is configured with, before it is known whether the sections fit together."""

    name: str = "run"
    """Name of the run, any text, as MLflow and the terminal show it."""
    run_dir: LocalPath | None = None
    """Directory of the run; default: outputs/NAME. A name that cannot be a directory there, such as a/b, becomes
    outputs/a_b-DIGEST. The environment variable S2L_OUTPUTS names a directory that takes the place of outputs/: with it
    `outputs/a` and `a` are both S2L_OUTPUTS/a."""
    resume: LocalPath = "auto"
    """Where the run begins:

    - `auto`: at the newest checkpoint of run_dir, if there is one;
    - `never`: at step 1; a run_dir that has results is refused;
    - another run's checkpoint, as RUN:step-N or by its path, or its directory RUN (for its newest checkpoint): there,
      unless run_dir has a checkpoint of its own. Data and settings may differ from that run's, the learner may not.
      With trainer.lr_schedule linear or cosine the learning rate follows this run's schedule.steps."""
    seed: int = 1
    """Seed of everything that is random in the run. Equal configuration, seed and data give an equal run."""
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
    health: HealthConfig = HealthConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    placement: PlacementConfig = PlacementConfig()
    recovery: RecoveryConfig = RecoveryConfig()

    @property
    def optimizer_steps(self) -> int:
        """Number of optimizer steps of the whole run, if none is skipped."""
        prompts = self.rollout.prompts_per_step
        mini_batches = prompts // (self.objective.mini_batch_prompts or prompts)
        if self.objective.grouping == "mixed":
            return self.schedule.steps * mini_batches
        schedule = self.schedule.build(self.rollout.group_size).nominal()
        splits = [schedule.split(step) for step in range(1, self.schedule.steps + 1)]
        return mini_batches * sum((split.explorer > 0) + (split.learner > 0) for split in splits)

    @property
    def explorer_seed(self) -> int:
        """Seed of the explorer's training rollouts."""
        return self.seed if self.rollout.explorer_seed is None else self.rollout.explorer_seed

    def max_model_len(self, source: Source) -> int:
        """Most tokens of a prompt and its response together, in the engines of a source."""
        return self.engines.of(source).max_model_len or self.data.max_prompt_tokens + self.rollout.max_tokens
