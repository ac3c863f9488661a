"""The file of a study (TUNE.yaml): what is varied, how it is searched, and what is given to each trial.

name: schedule
trials: 8
space:
  schedule.kind: [linear, cosine]
  trainer.learning_rate: {loguniform: [5.0e-5, 5.0e-4]}
scheduler: {kind: asha, grace: 20}
config: {evaluation.every: 20}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from s2l_ray.config.section import Field, Name, NonNegative, Place, Positive, PositiveFloat, Section, model_validator
from s2l_ray.tuning.domain import Domain

PASS_AT_1 = "eval/learner/pass_at_1"


class SchedulerSection(Section):
    """Which trials are ended early, or go on from others."""

    kind: Literal["none", "asha", "pbt"] = "none"
    """Who decides which trials go on:

    - `none`: nobody, each trial runs to its last step;
    - `asha`: asynchronous successive halving (arXiv 1810.05934): at grace, grace * reduction_factor, ... steps only the
      best 1/reduction_factor of the trials that got there go on, the others are pruned;
    - `pbt`: population based training (arXiv 1711.09846): every `interval` steps the worst trials go on from the
      weights of the best ones, with their values changed a little. Only keys that may change within a run can be
      varied then."""
    grace: Positive | None = None
    """asha: steps before a trial may be pruned; default: evaluation.every."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """asha: one in how many trials goes on; default 2."""
    interval: Positive | None = None
    """pbt: steps between exploits; default: evaluation.every."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] | None = None
    """pbt: share of the trials that go on from others, and of those that they may go on from; default 0.25."""
    resample: Annotated[float, Field(ge=0, le=1)] | None = None
    """pbt: probability that a value is drawn anew instead of changed a little; default 0.25."""

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> SchedulerSection:
        of = {"grace": "asha", "reduction_factor": "asha", "interval": "pbt", "quantile": "pbt", "resample": "pbt"}
        for key, kind in of.items():
            if getattr(self, key) is not None and self.kind != kind:
                raise ValueError(f"{key} is for kind: {kind}, not {self.kind}")
        return self


class StudyFile(Section):
    """All keys of a study."""

    name: Name = "study"
    """Name of the study: its directory in `storage`, and the beginning of its trials' names. Default: that of the
    file."""
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    """The values that trials may have, by dotted key of the configuration: a list to choose from, {grid: [...]},
    {uniform: [a, b]}, {loguniform: [a, b]} or {randint: [a, b]}."""
    runs: tuple[dict[str, Any], ...] = ()
    """Trials by their values, one each in this order, in place of what would be drawn: every one of them gives each key
    of the space one of its values."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values that all trials have, by dotted key; they take the place of CONFIG's."""
    metric: str = PASS_AT_1
    """What trials are compared by: a metric of docs/reference/metrics.md, by default held-out pass@1."""
    mode: Literal["max", "min"] = "max"
    """Whether more of the metric is better, or less."""
    trials: Positive | None = None
    """Number of trials. With grids it must be a multiple of the number of their combinations, which is the default;
    without it must be given."""
    search: Literal["random", "optuna"] = "random"
    """Where values come from. random: drawn with the seed before anything starts; optuna: suggested by Optuna's TPE
    from the results so far (needs the extra tune)."""
    scheduler: SchedulerSection = SchedulerSection()
    nodes_per_trial: Positive | None = None
    """Nodes of the cluster that each trial is planned for. Default: all of them, so that one trial runs at a time."""
    cpus_per_trial: PositiveFloat | None = None
    """CPUs of one node that each trial is planned for, in place of whole nodes."""
    storage: Place = "outputs"
    """Where the study's directory is: a directory, or a URI of an object store (s3://..., gs://...), which is then all
    that the nodes need to share."""
    seed: int = 1
    """Seed of the values that are drawn. The runs' own seed is a key of the configuration."""
    max_failures: NonNegative = 1
    """How often a trial that failed is tried again, from its last checkpoint. A mistake in its configuration is not."""
    share_bank: bool = True
    """Record what all trials need of the explorers first, once, and let the trials read it. Without it the trials use
    the bank as the configuration says."""

    @model_validator(mode="after")
    def _whole_runs(self) -> StudyFile:
        if self.runs and self.search == "optuna":
            raise ValueError("search: optuna chooses values by itself; leave runs out")
        for number, run in enumerate(self.runs, 1):
            if wrong := sorted(set(run) ^ set(self.space)):
                raise ValueError(f"runs: number {number} and space differ in the keys {', '.join(wrong)}")
        return self

    @model_validator(mode="after")
    def _one_slice(self) -> StudyFile:
        if self.nodes_per_trial and self.cpus_per_trial:
            raise ValueError("give nodes_per_trial or cpus_per_trial, not both")
        return self
