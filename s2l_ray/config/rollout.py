"""Models, data, verifier, rollouts and the explorer's schedule."""

from __future__ import annotations

import datetime
from fractions import Fraction
from typing import Annotated, Literal

from s2l_ray.config.embedded import SourcePath
from s2l_ray.config.section import (
    AfterValidator,
    Field,
    Fractional,
    LocalPath,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    YamlWord,
    model_validator,
)
from s2l_ray.extensions import VERIFIERS
from s2l_ray.kinds import Dtype, WeightSyncMode
from s2l_ray.schedule import ADAPTIVE, SCHEDULES, AdaptiveSchedule, Schedule


class ModelsConfig(Section):
    """The learner, the explorer, and the type they compute in."""

    learner: SourcePath
    """Directory (Hugging Face layout) of the large model that is trained; `embedded:large` is that of the family that
    the package carries."""
    explorer: SourcePath
    """Directory of the frozen small model of the same family, or `embedded:small`. May equal `learner` (the
    control that has the schedule alone)."""
    dtype: Literal["auto"] | Dtype = "auto"
    """Compute type of the engines and of the trainer's forward and backward. auto: bfloat16 where the devices compute
    it natively (GPUs; CPUs with AVX512-BF16 or AMX), else float32; a resumed run keeps the type that it began with."""
    trust_remote_code: bool = False
    """Run Python code that a model directory carries. Off unless you trust the directory."""


class DataConfig(Section):
    train: SourcePath
    """JSONL or Parquet file of training problems; `embedded:train.jsonl` is that of the embedded family."""
    eval: SourcePath | None = None
    """The same for held-out problems, such as `embedded:heldout.jsonl`; without it nothing is evaluated."""
    train_limit: Positive | None = None
    eval_limit: Positive | None = None
    """Use only the first N rows."""
    chat: bool = True
    """Render questions with the tokenizer's chat template; off: `prompt` alone."""
    system: str | None = None
    """System message, with `chat` only."""
    chat_template: str | None = None
    """Name of the chat template, of a tokenizer that has several; default: the one that is named default."""
    date: datetime.date | None = None
    """The day (YYYY-MM-DD) that a chat template which writes today's date gets. Default: that of the bank's recording
    which the run reads or adds to, else the day on which the run begins; a run that goes on keeps its day. Templates
    without a date leave it null."""
    prompt: str = "{question}"
    """What the question is put into before the template; must contain {question}."""
    max_prompt_tokens: Positive = 512

    @model_validator(mode="after")
    def _has_question(self) -> DataConfig:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        for key in ("system", "chat_template", "date"):
            if getattr(self, key) is not None and not self.chat:
                raise ValueError(f"{key} needs chat: true")
        return self


class VerifierConfig(Section):
    """How responses are judged."""

    kind: Annotated[str, AfterValidator(VERIFIERS.checked)] = "math"
    """`math` (math-verify), `countdown` (exact, the embedded task), or your own `module:function`, called as
    function(response=..., answer=..., question=...) and returning a bool or a reward in [0, 1]."""
    timeout_s: PositiveFloat = 5.0
    """A check that takes longer is killed and counted as a timeout."""
    workers: Positive = 1
    """Verifier actors, each with one worker process."""


class SamplingConfig(Section):
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: NonNegative = 0
    """0: no limit."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0


class RolloutConfig(Section):
    group_size: Positive = 8
    """G: rollouts per prompt."""
    prompts_per_step: Positive = 32
    max_tokens: Positive = 256
    """Response length limit."""
    explorer: SamplingConfig = SamplingConfig()
    learner: SamplingConfig = SamplingConfig()
    explorer_seed: int | None = None
    """Of the explorer's training rollouts; default: seed. Runs that differ in their seed alone can share explorer
    rollouts (bank) when they share this one, and are then less independent of each other."""
    prefetch_steps: NonNegative = 1
    """Explorer rollouts of so many coming steps are sampled while the trainer works; they can never be stale."""
    prefetch_gb: PositiveFloat = 1.0
    """What is sampled ahead, finished or under way, takes at most so many GiB of the object store; exploring waits
    when they are full. The present step's rollouts are not counted."""
    max_staleness: NonNegative = 0
    """The learner's engines sample a step with weights at most so many versions old, so that they work while the
    trainer does. 0: on-policy, and the run is reproducible; above, versions depend on who was faster. Needs learner
    engines on devices of their own. Old log-probs are the trainer's; objective.correction.learner corrects the
    difference."""
    weight_sync_mode: WeightSyncMode = "drain"
    """What a weight sync does with requests that are running, which only happens with max_staleness above 0.
    `drain`: it waits until they are done; those that wait for an engine start under the new weights.
    `in_flight`: they go on under the new weights, their caches computed anew; each token's version is recorded."""
    straggler_groups: NonNegative = 0
    """So many more prompts are sampled per step than it takes; its groups are those that are whole first, and the
    others are stopped and left out. Short answers finish first, so this favours them. Which ones were left out is
    recorded in RUN_DIR/stragglers.jsonl, and a step that is done again leaves out the same ones."""
    replay_stragglers: LocalPath | None = None
    """stragglers.jsonl of another run: its steps leave out the same groups, whatever finishes first here."""
    refill_rounds: NonNegative = 0
    """DAPO's dynamic sampling: groups whose rewards are all equal teach nothing; they are replaced by groups of further
    prompts, up to so many times per step. What still has no variance then is trained on as it is."""
    keep_groups: NonNegative = 2
    """Groups of every step whose texts and verdicts are written to RUN_DIR/rollouts/, for people to read."""

    @model_validator(mode="after")
    def _a_group(self) -> RolloutConfig:
        if self.group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage is relative to the rest of its group")
        if self.weight_sync_mode == "in_flight" and self.max_staleness == 0:
            raise ValueError(
                "weight_sync_mode: in_flight needs max_staleness above 0: on-policy nothing runs during a weight sync"
            )
        if self.replay_stragglers is not None and self.straggler_groups == 0:
            raise ValueError("replay_stragglers needs straggler_groups, as many as in the run that is replayed")
        if self.straggler_groups and self.refill_rounds:
            raise ValueError("straggler_groups and refill_rounds both replace prompts of a step; choose one of them")
        return self


class ScheduleConfig(Section):
    """The length of the run, and the explorer's share of each step."""

    kind: Annotated[str, YamlWord, AfterValidator(SCHEDULES.checked)] = "linear"
    """How the explorer's share alpha_i falls over steps i = 1, 2, ...; ceil(alpha_i * group_size) rollouts of a group
    are the explorer's, the rest the learner's. With u = (i - 1) / (mix_steps - 1):
    `linear` (the paper's): start * (1 - u) for i <= mix_steps, then 0;
    `cosine`: start * (1 + cos(pi * u)) / 2 for i <= mix_steps, then 0 (its factor of start in units of 2**-20);
    `abrupt`: start for i <= mix_steps, then 0;
    `constant`: start at every step;
    `off`: 0 at every step, plain GRPO;
    `adaptive`: starts like linear and loses one rollout per group after every adapt_every steps in which the explorer
    alone solved fewer than adapt_below of the groups; 0 from mix_steps on (s2l_ray/schedule.py says it exactly).
    or your own `module:function`, called as function(step, mix_steps, start) and returning alpha_i, which must not rise
    (s2l_ray/schedule.py says it exactly, examples/schedule.py is one).
    With mix_steps = 1 the first step is at start and all others at 0 (linear, cosine, abrupt)."""
    steps: Positive = 60
    """T: logical steps of the run."""
    mix_steps: Positive = 30
    """T_mix: the step at which linear and cosine reach 0, and the last one of abrupt with the explorer."""
    start: Fractional = 1.0
    """alpha_1, the explorer's share of a group at step 1; below 1 the learner takes part from the start."""
    adapt_every: Positive | None = None
    """adaptive: steps between decisions; default 2."""
    adapt_below: Fractional | None = None
    """adaptive: default 0.1."""

    @model_validator(mode="after")
    def _mix_within_run(self) -> ScheduleConfig:
        if self.mix_steps > self.steps:
            raise ValueError(f"mix_steps (T_mix = {self.mix_steps}) must not exceed steps (T = {self.steps})")
        if self.kind != ADAPTIVE and (self.adapt_every, self.adapt_below) != (None, None):
            raise ValueError(f"adapt_every and adapt_below need kind: adaptive, not {self.kind}")
        return self

    @property
    def adapt_window(self) -> int:
        """Steps between decisions of an adaptive schedule."""
        return self.adapt_every or 2

    def build(self, group_size: int) -> Schedule | AdaptiveSchedule:
        """The schedule of a run with groups of this size.

        Raises:
            ConfigError: a user's own schedule cannot be imported, or its values are impossible.
        """
        start = Fraction(str(self.start))
        if self.kind == ADAPTIVE:
            below = Fraction("0.1") if self.adapt_below is None else Fraction(str(self.adapt_below))
            return AdaptiveSchedule(group_size, self.mix_steps, start, self.adapt_window, below)
        schedule = Schedule(self.kind, group_size, self.mix_steps, start)
        if not SCHEDULES.is_built_in(self.kind):
            schedule.check(self.steps)
        return schedule
