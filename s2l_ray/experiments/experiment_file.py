"""The file of an experiment: arms, seeds, the baseline, and what is compared when.

question: does S2L-PO learn more than GRPO?
hypothesis: it does not, unless the explorer's negative advantages are dropped
config: quickstart
arms:
  grpo: {schedule.kind: off}
  s2l_po: {}
seeds: 5
baseline: grpo
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from s2l_ray.config.section import (
    Field,
    Name,
    NonNegative,
    Place,
    Positive,
    PositiveFloat,
    Section,
    field_validator,
    model_validator,
)
from s2l_ray.tuning.study_file import PASS_AT_1

Axis = Literal["steps", "prompts", "tokens", "flops", "seconds"]
AXES: tuple[Axis, ...] = get_args(Axis)
COMMON: Literal["common"] = "common"
CSV = ".csv"
MOST_SEEDS = 1000
Values = dict[str, Any]
Arms = dict[Name, Values]


class AtSection(Section):
    """Where on an axis the arms are compared."""

    axis: Axis
    """`steps`, `prompts`, `tokens` (sampled response tokens), `flops` (of rollouts and updates) or `seconds` (of
    training): what a run had spent."""
    value: PositiveFloat | Literal["common"] = COMMON
    """How much of it; `common`: as much as every run got to. Between two evaluations a value is interpolated."""


class ExperimentFile(Section):
    """All keys of an experiment."""

    name: Name = "experiment"
    """Name of the experiment: its directory in `storage`, and the beginning of its runs' names. Default: that of the
    file."""
    extends: str | None = None
    """Another experiment, by name or by its path from this file: its keys are taken where this file has none, but for
    `name` and `earlier_looks`. In `values` this file adds to them or replaces them key by key, in `arms` arm by arm and
    in each arm key by key; an arm that is null is left out."""
    question: str = ""
    """What is asked, in a sentence: the title of figure and table."""
    hypothesis: str = ""
    """What is expected and why, fixed before the first run: it is shown with the results, and cannot be changed while
    the experiment runs."""
    config: str = "quickstart"
    """The configuration that all runs share: a file, or the name of one that s2l-ray ships."""
    values: Values = Field(default_factory=dict)
    """Values that all runs have, by dotted key; they override those of `config`."""
    arms: Arms
    """The arms by name: the values, by dotted key, in which each differs from what all runs share; {} is an arm that
    does not."""
    seeds: Annotated[int, Field(gt=0, le=MOST_SEEDS)] | Annotated[tuple[NonNegative, ...], Field(min_length=1)] = 5
    """How often each arm is run: with the seeds 1 to this number, or those of a list. Arms are paired by seed."""
    baseline: str = ""
    """The arm that the others are compared with. Default: the first."""
    metric: str = PASS_AT_1
    """What is compared and tested, of held-out evaluations: `eval/learner/pass_at_K`, for a K of `evaluation.k`, or
    `eval/learner/reward`; by default pass@1."""
    also: tuple[str, ...] = ()
    """Further metrics of evaluations, which are shown with intervals and not tested."""
    at: AtSection | None = None
    """Where on an axis the arms are compared. Default: at the end of each run."""
    axis: Axis = "steps"
    """The horizontal axis of the figure."""
    earlier_looks: NonNegative = 0
    """How many experiments have asked this question before, with other settings, say. P-values are shown with this
    number; they are not corrected for it."""
    runs_from: str | tuple[str, ...] | None = None
    """What is compared in place of runs of its own; nothing is run. Name of another experiment in `storage`, whose runs
    of the same configurations are taken: so one large experiment answers several questions. Or the path of a runs.csv
    file, or a list of such paths, which together have all runs of this experiment, one file per seed, say. P-values are
    corrected for the arms of this one."""
    share_explorer_rollouts: bool = False
    """Let runs with different seeds train on the same recorded explorer rollouts, which costs less and makes the seeds
    less independent. By default each seed has its own, and the arms share those."""
    nodes_per_trial: Positive | None = None
    """Nodes of the cluster that each run is planned for. Default: all of them, so that one runs at a time."""
    cpus_per_trial: PositiveFloat | None = None
    """CPUs of one node that each run is planned for, in place of whole nodes."""
    storage: Place = "outputs"
    """Where the experiment's directory is: a directory, or a URI of an object store (s3://..., gs://...)."""
    max_failures: NonNegative = 1
    """How often a run that failed is tried again, from its last checkpoint."""

    @model_validator(mode="after")
    def _several_arms(self) -> ExperimentFile:
        if len(self.arms) < 2:
            raise ValueError("arms: give two or more, to compare")
        return self

    @model_validator(mode="after")
    def _known_baseline(self) -> ExperimentFile:
        if self.baseline and self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline!r} is no arm; there are {', '.join(self.arms)}")
        return self

    @model_validator(mode="after")
    def _one_slice(self) -> ExperimentFile:
        if self.nodes_per_trial and self.cpus_per_trial:
            raise ValueError("give nodes_per_trial or cpus_per_trial, not both; null takes an inherited one away")
        return self

    @model_validator(mode="after")
    def _different_seeds(self) -> ExperimentFile:
        if len(set(self.seed_list)) < len(self.seed_list):
            raise ValueError("seeds: a seed is there twice")
        return self

    @field_validator("runs_from", mode="before")
    @classmethod
    def _name_or_files(cls, value: Any) -> Any:
        are_files = isinstance(value, (list, tuple)) and all(isinstance(v, str) and v.endswith(CSV) for v in value)
        if value is None or (isinstance(value, str) and value) or (are_files and value):
            return value
        raise ValueError(f"give the name of an experiment, or a list of paths that end in {CSV}")

    @property
    def csv_files(self) -> tuple[str, ...]:
        """Paths of the runs.csv files of `runs_from`; none where it names an experiment."""
        if isinstance(self.runs_from, str):
            return (self.runs_from,) if self.runs_from.endswith(CSV) else ()
        return self.runs_from or ()

    @property
    def baseline_arm(self) -> str:
        """The arm that the others are compared with."""
        return self.baseline or next(iter(self.arms))

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds

    @property
    def at_axis(self) -> Axis:
        """The axis on which the arms are compared."""
        return self.at.axis if self.at else "steps"
