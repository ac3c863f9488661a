"""The configuration of a run: pydantic models, read and merged with OmegaConf.

`load_config("configs/quickstart.yaml", ["schedule.mix_steps=8"])` reads the files that `extends:` names (relative to
the file), the file, and the dotted overrides, in that order of increasing precedence. Unknown keys, wrong types and
impossible values raise `ConfigError` with the key's full name.
"""

from __future__ import annotations

import difflib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from s2l_ray.errors import ConfigError
from s2l_ray.schedule import Schedule, ScheduleKind

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
# YAML reads a bare on or off as a boolean.
YamlWord = BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value)


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelsConfig(Section):
    learner: str
    """Directory (Hugging Face layout) of the large model that is trained."""
    explorer: str
    """Directory of the frozen small model of the same family. May equal `learner` (the schedule-only control)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type of the engines and of the trainer's forward and backward."""
    trust_remote_code: bool = False
    """Run Python code that a model directory carries. Off unless you trust the directory."""


class DataConfig(Section):
    train: str
    """JSONL or Parquet file of training problems."""
    eval: str | None = None
    """The same for held-out problems; without it nothing is evaluated."""
    train_limit: Positive | None = None
    eval_limit: Positive | None = None
    """Use only the first N rows."""
    chat: bool = True
    """Render questions with the tokenizer's chat template; off: `prompt` alone."""
    system: str | None = None
    """System message, with `chat` only."""
    prompt: str = "{question}"
    """What the question is put into before the template; must contain {question}."""
    max_prompt_tokens: Positive = 512

    @model_validator(mode="after")
    def _has_question(self) -> DataConfig:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        if self.system is not None and not self.chat:
            raise ValueError("system needs chat: true")
        return self


class VerifierConfig(Section):
    kind: str = "math"
    """`math` (math-verify), `countdown` (exact, the embedded task), or your own `module:function`, called as
    function(response=..., answer=..., question=...) and returning a bool or a reward in [0, 1]."""
    timeout_s: PositiveFloat = 5.0
    """A check that takes longer is killed and counted as a timeout."""
    workers: Positive = 1
    """Verifier actors, each with one worker process."""

    @model_validator(mode="after")
    def _known(self) -> VerifierConfig:
        if self.kind not in ("math", "countdown") and ":" not in self.kind:
            raise ValueError(f"kind must be math, countdown or module:function, not {self.kind!r}")
        return self


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
    explore_ahead_steps: NonNegative = 1
    """Explorer rollouts of so many coming steps are sampled while the trainer works; they can never be stale."""
    keep_groups: NonNegative = 2
    """Groups of every step whose texts and verdicts are written to RUN_DIR/rollouts/, for people to read."""

    @model_validator(mode="after")
    def _a_group(self) -> RolloutConfig:
        if self.group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage is relative to the rest of its group")
        return self


class ScheduleConfig(Section):
    kind: Annotated[ScheduleKind, YamlWord] = "linear"
    """How the explorer's share alpha_i falls over steps i = 1, 2, ...; ceil(alpha_i * group_size) rollouts of a group
    are the explorer's, the rest the learner's. With u = (i - 1) / (mix_steps - 1):
    `linear` (the paper's): start * (1 - u) for i <= mix_steps, then 0;
    `cosine`: start * (1 + cos(pi * u)) / 2 for i <= mix_steps, then 0 (its factor of start in units of 2**-20);
    `abrupt`: start for i <= mix_steps, then 0;
    `constant`: start at every step;
    `off`: 0 at every step, plain GRPO.
    With mix_steps = 1 the first step is at start and all others at 0 (linear, cosine, abrupt)."""
    steps: Positive = 60
    """T: logical steps of the run."""
    mix_steps: Positive = 30
    """T_mix: the step at which linear and cosine reach 0, and the last one of abrupt with the explorer."""
    start: Fractional = 1.0
    """alpha_1, the explorer's share of a group at step 1; below 1 the learner takes part from the start."""

    @model_validator(mode="after")
    def _mix_within_run(self) -> ScheduleConfig:
        if self.mix_steps > self.steps:
            raise ValueError(f"mix_steps (T_mix = {self.mix_steps}) must not exceed steps (T = {self.steps})")
        return self

    def build(self, group_size: int) -> Schedule:
        return Schedule(self.kind, group_size, self.mix_steps, Fraction(str(self.start)))


class CorrectionConfig(Section):
    explorer: Literal["none", "token", "sequence"] = "none"
    learner: Literal["none", "token", "sequence"] = "none"
    """Weight on the policy loss of that source's tokens: w = exp(learner's log-prob before the step - log-prob that
    the engine sampled with). `none`: 1, as the paper has it; `token`: each token its own w; `sequence`: the product
    over the response, for each of its tokens (verl's token and sequence levels). The engine's log-prob is of the
    distribution sampled from, top-p and top-k included; the learner's has rollout.learner.temperature only."""
    mode: Literal["truncate", "mask"] = "truncate"
    """`truncate`: min(w, cap), truncated importance sampling; `mask`: w within [1/cap, cap], else 0. What is masked
    stays in the loss's denominators. Metric correction_kept/SOURCE: share of tokens with w within [1/cap, cap]."""
    cap: Annotated[float, Field(gt=1)] = 2.0


class ObjectiveConfig(Section):
    advantage: Literal["grpo", "rloo", "reinforce++", "reinforce++_baseline", "pass_at_k"] = "grpo"
    """From the rewards R of a group of G rollouts, of mean m and sample standard deviation s:
    `grpo`: (R - m) / s (arXiv 2402.03300);
    `rloo`: R minus the mean of the G - 1 others (arXiv 2402.14740);
    `reinforce++`: R normalised to mean 0 and deviation 1 over all response tokens of the mini-batch (arXiv 2501.03262);
    `reinforce++_baseline`: R - m, so normalised;
    `pass_at_k`: the group's pass@k, shared out over its rollouts in closed form (arXiv 2508.10751)."""
    normalise_std: bool = True
    """grpo and pass_at_k: divide by the group's standard deviation; off: only the mean is removed (Dr. GRPO)."""
    pass_k: Positive | None = None
    """k of pass_at_k, less than rollout.group_size; 1 is grpo with the population deviation."""
    grouping: Literal["mixed", "separate"] = "mixed"
    """`mixed`: explorer and learner rollouts of a prompt are one group (the paper's Algorithm 1). `separate`: each
    source's are a group of their own and an optimizer step of their own, the explorer's first (the authors' release);
    old log-probs are of before both. A source's step is left out where it has no rollouts; a sub-group of one rollout
    has advantage 0."""
    loss: Literal["ppo", "gspo", "cispo", "sapo"] = "ppo"
    """With r the ratio of a token's probability to that before the step, and A its advantage:
    `ppo`: -min(r A, clip(r) A), per token (GRPO's; DAPO's with clip_high > clip_low and aggregation: token);
    `gspo`: the same with the geometric mean of r over the response (arXiv 2507.18071: clips of 3e-4 and 4e-4,
    aggregation: sequence);
    `cispo`: -clip(r) A log p without gradient through clip(r) (MiniMax-M1, arXiv 2506.13585: clip_low 1);
    `sapo`: -(4 / t) sigmoid(t (r - 1)) A, no clip (arXiv 2511.20347)."""
    clip_low: Fractional = 0.2
    clip_high: PositiveFloat = 0.2
    """ppo, gspo and cispo: clip(r) holds r within [1 - clip_low, 1 + clip_high]."""
    sapo_positive: PositiveFloat = 1.0
    sapo_negative: PositiveFloat = 1.05
    """sapo: t where A > 0, and elsewhere."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the KL estimate to the initial learner."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log p - log p_reference: `k1`: d; `k2`: d^2 / 2; `k3`: exp(-d) - 1 + d. In the loss, k1's gradient is 0
    in expectation and k2's is that of the KL (objective/kl.py)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """`loss`: kl times the estimate is added to each token's loss. `reward`: kl times its sum over the response, under
    the weights before the step, is taken off the rollout's reward; costs another forward of every rollout."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """Mean over all response tokens of the mini-batch (DAPO); or mean over sequences of each sequence's token mean
    (GRPO); or mean over sequences of each sequence's token sum / aggregation_tokens (Dr. GRPO, arXiv 2503.20783)."""
    aggregation_tokens: Positive | None = None
    """For aggregation: constant. Dr. GRPO's choice is rollout.max_tokens."""
    overlong: Literal["keep", "filter"] = "keep"
    """`filter`: responses cut off at rollout.max_tokens have no loss (DAPO, arXiv 2503.14476). Their rewards count in
    the group's advantages and their tokens in the loss's denominators all the same."""
    correction: CorrectionConfig = CorrectionConfig()
    """Off-policy correction with the log-probs that the engines sampled with."""
    explorer_negatives: Fractional = 1.0
    """Weight of negative advantages of explorer rollouts; 1 as published, 0 drops them."""
    recentre: bool = False
    """After explorer_negatives, shift each group's advantages to mean 0 again."""
    mini_batch_prompts: Positive | None = None
    """Prompts per optimizer step; default: all prompts of the step at once."""

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        whole_batch = self.advantage.startswith("reinforce++")
        wrong = {
            "advantage: pass_at_k needs pass_k": self.advantage == "pass_at_k" and self.pass_k is None,
            "pass_k is only for advantage: pass_at_k": self.advantage != "pass_at_k" and self.pass_k is not None,
            "advantage: pass_at_k needs grouping: mixed; a source's share of a group can be smaller than pass_k": (
                self.advantage == "pass_at_k" and self.grouping == "separate"
            ),
            "aggregation: constant needs aggregation_tokens; Dr. GRPO's choice is the value of rollout.max_tokens": (
                self.aggregation == "constant" and self.aggregation_tokens is None
            ),
            "aggregation_tokens is only for aggregation: constant": (
                self.aggregation != "constant" and self.aggregation_tokens is not None
            ),
            "recentre needs explorer_negatives below 1": self.recentre and self.explorer_negatives == 1,
            f"recentre shifts groups, which advantage: {self.advantage} does not centre; set recentre: false": (
                self.recentre and whole_batch
            ),
            "kl_in: reward needs kl above 0": self.kl_in == "reward" and self.kl == 0,
            "kl_in: reward makes rewards other than 0 and 1, which advantage: pass_at_k needs; use kl_in: loss": (
                self.kl_in == "reward" and self.advantage == "pass_at_k"
            ),
        }
        if messages := [message for message, holds in wrong.items() if holds]:
            raise ValueError("; ".join(messages))
        return self


class TrainerConfig(Section):
    ranks: Positive = 1
    """FSDP ranks, one actor each."""
    learning_rate: PositiveFloat = 1e-6
    betas: tuple[Fractional, Fractional] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_norms_and_embeddings: bool = False
    """Off: weight_decay leaves out norms, biases and embeddings (and an output layer tied to them)."""
    warmup_steps: NonNegative = 0
    """W: the n-th optimizer step up to the W-th has learning_rate * n / W."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up. A run has N = schedule.steps * mini-batches per step optimizer steps (with
    objective.grouping: separate one of each source that samples). At the n-th the rate is
    learning_rate * (m + (1 - m) * f), with p = (n - 1 - W) / (N - W), m = lr_min_ratio and
    `constant`: f = 1; `linear`: f = 1 - p; `cosine`: f = (1 + cos(pi * p)) / 2.
    Steps that are skipped do not count in n."""
    lr_min_ratio: Fractional = 0.0
    """m: share of learning_rate that linear and cosine fall to."""
    grad_clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    skip_grad_norm: PositiveFloat | None = None
    """Skip an optimizer step whose global gradient norm, before clipping, is above this. Steps with a norm or loss that
    is not finite are always skipped; the metric skipped_updates counts both."""
    micro_batch_tokens: Positive = 8192
    """Packed tokens (prompt and response) of one forward; a longer sequence is a micro-batch of its own."""
    logprob_chunk_tokens: Positive = 1024
    """Tokens whose logits over the whole vocabulary exist at one time."""
    gradient_checkpointing: Annotated[Literal["auto", "on", "off"], YamlWord] = "auto"
    """Keep only each layer's input for backward and compute the rest again: less memory, about a third more time. Loss
    and gradients are the same. auto: on for CUDA, off for CPUs."""
    deterministic: bool = False
    """Equal inputs give bit-equal updates, at some cost in speed; an operation that cannot raises an error."""
    lora_rank: NonNegative = 0
    """0: every weight is trained. Above: only adapters of this rank (LoRA, through peft) beside frozen weights, so
    gradients, optimizer states and float32 master weights exist for the adapters alone. Engines, exports and checks
    get the merged weights."""
    lora_alpha: PositiveFloat = 32.0
    """An adapter's output is scaled by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers of the decoder with an adapter, such as [q_proj, v_proj]; empty: all of them."""
    threads: Positive = 1
    """CPU threads per rank."""
    cpus: PositiveFloat = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """What Ray reserves per rank."""

    @model_validator(mode="after")
    def _minimum_is_reached(self) -> TrainerConfig:
        if self.lr_min_ratio and self.lr_schedule == "constant":
            raise ValueError("lr_min_ratio needs lr_schedule: linear or cosine")
        return self


class EngineConfig(Section):
    count: Positive = 1
    """Engines of this kind."""
    tensor_parallel: Positive = 1
    max_model_len: Positive | None = None
    """Prompt plus response; default: data.max_prompt_tokens + rollout.max_tokens."""
    max_num_seqs: Positive = 256
    """Sequences in one batch of the engine."""
    kv_cache_gb: PositiveFloat = 0.5
    """CPU engines: size of the KV cache in GiB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """GPU engines: share of the GPU's memory that the engine may use."""
    enforce_eager: bool = False
    """Skip compilation and graph capture: slower sampling, much faster start."""
    threads: Positive = 1
    """CPU threads of a CPU engine."""
    cpus: PositiveFloat = 0.5
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """What Ray reserves per engine."""


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
    """Ray address; default: RAY_ADDRESS (set by `ray job submit`), else a private Ray on this machine."""
    start_timeout_s: PositiveFloat = 300.0
    """Bound on placing and starting all actors."""
    step_timeout_s: PositiveFloat = 3600.0
    """Bound on each phase of a step."""
    swap_timeout_s: PositiveFloat = 120.0
    """Bound on a weight swap."""


class Config(Section):
    """A whole run."""

    name: str = "run"
    run_dir: str | None = None
    """Default: outputs/NAME."""
    resume: str = "auto"
    """auto: go on from the newest checkpoint of run_dir if there is one; never: refuse a run_dir with results;
    or the path of a checkpoint."""
    seed: int = 1
    models: ModelsConfig
    data: DataConfig
    verifier: VerifierConfig = VerifierConfig()
    rollout: RolloutConfig = RolloutConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    trainer: TrainerConfig = TrainerConfig()
    engines: EnginesConfig = EnginesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()

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
        return self

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir or Path("outputs") / self.name)

    def max_model_len(self, kind: Literal["explorer", "learner"]) -> int:
        return getattr(self.engines, kind).max_model_len or self.data.max_prompt_tokens + self.rollout.max_tokens

    def to_yaml(self) -> str:
        """The resolved configuration; `load_config` of it gives an equal Config."""
        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump(mode="json")))


def load_config(path: str | Path, overrides: list[str] | dict[str, Any] | None = None) -> Config:
    """Read a YAML configuration.

    Args:
        path: the file; its `extends:` (a path or a list of paths, relative to it) is read first.
        overrides: dotted `key=value` strings, or a (nested or dotted) dictionary.

    Raises:
        ConfigError: a file is missing or malformed, a key is unknown (the nearest valid one is named), a value has the
            wrong type or is impossible.
    """
    merged = _read(Path(path), ())
    try:
        if isinstance(overrides, dict):
            for key, value in overrides.items():
                OmegaConf.update(merged, key, value, merge=True)
        else:
            for item in overrides or []:
                if "=" not in item:
                    raise ConfigError(f"override {item!r}: write it as key=value")
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides or [])))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{path}: {error.full_key} must be given, as an override {error.full_key}=... or in a file"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate a plain dictionary; `where` names it in error messages."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def _read(path: Path, seen: tuple[Path, ...]) -> Any:
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist")
    if path in seen:
        raise ConfigError("extends goes in a circle: " + " -> ".join(str(p) for p in (*seen, path)))
    try:
        own = OmegaConf.load(path)
    except Exception as error:  # OmegaConf lets PyYAML's many error classes through
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not OmegaConf.is_dict(own):
        raise ConfigError(f"{path} must be a mapping of keys to values")
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else list(bases)
    return OmegaConf.merge(*[_read(path.parent / base, (*seen, path)) for base in bases], own)


def _explain(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        valid = _keys_of(error["loc"][:-1])
        nearest = difflib.get_close_matches(str(error["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys here: {', '.join(valid)}"
        return f"  {key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"  {key}: missing; give it a value"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    return f"  {key + ': ' if key else ''}{message}" + (
        "" if isinstance(given, (dict, BaseModel)) else f" (got {given!r})"
    )


def _keys_of(location: tuple[Any, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        model = model.model_fields[part].annotation
    return sorted(model.model_fields)
