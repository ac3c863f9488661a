"""The configuration with which a model samples a benchmark.

It is the configuration of a run (`s2l config`), of which these keys count:

    evaluation.sampling.*, evaluation.samples, rollout.max_tokens, seed    how samples are drawn
    data.*, verifier.*                                                     prompts, and who grades the answers
    engines.explorer.*, models.dtype, cluster.*, placement.*               where and how engines run
    evaluation.k, evaluation.confidence, tracking.*                        what is reported
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from s2l_ray.benchmark.problems import Benchmark, Kind
from s2l_ray.config import Config, load_config
from s2l_ray.config.loading import config_of
from s2l_ray.errors import ConfigError

Preset = Literal["nothink", "think"]
MOST_SAMPLES = 4096
"""Of a problem: intervals for every k up to n take memory in proportion to n."""
LONGEST = 38_912
"""Most new tokens of a response in the paper's evaluation."""
PRESETS: dict[Preset, dict[str, Any]] = {
    "nothink": {
        "evaluation.sampling.temperature": 0.7,
        "evaluation.sampling.top_p": 0.8,
        "evaluation.sampling.top_k": 20,
        "evaluation.sampling.presence_penalty": 1.5,
        "rollout.max_tokens": LONGEST,
    },
    "think": {
        "evaluation.sampling.temperature": 0.6,
        "evaluation.sampling.top_p": 0.95,
        "evaluation.sampling.top_k": 20,
        "rollout.max_tokens": LONGEST,
    },
}
"""The settings of the paper's two evaluations (arXiv 2605.30789)."""
THINKING = "enable_thinking"
"""The argument by which a chat template, such as Qwen3's, is told whether the model thinks before it answers."""
KINDS: dict[Kind, dict[str, Any]] = {
    "math": {
        "data.prompt": "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "verifier.kind": "math",
        "rollout.max_tokens": 4096,
    },
    "choice": {
        "data.prompt": "{question}\n\nPlease answer with the letter of one choice, within \\boxed{}.",
        "verifier.kind": "choice",
        "rollout.max_tokens": 1024,
    },
    "countdown": {
        "data.prompt": "{question} >",
        "data.chat": False,
        "verifier.kind": "countdown",
        "rollout.max_tokens": 20,
        "engines.explorer.enforce_eager": True,
        "engines.explorer.kv_cache_gb": 0.25,
    },
}
"""What a benchmark is sampled with unless the user says otherwise."""


@dataclass(frozen=True)
class Options:
    """What the user asks for."""

    samples: int
    """n of each problem."""
    preset: Preset | None = None
    file: str | None = None
    """A run's configuration, in place of KINDS."""
    overrides: Sequence[str] = ()
    """`key=value`, which have precedence over all else."""


def configuration(model: str, benchmark: Benchmark, options: Options, *, has_thinking: bool = False) -> Config:
    """The configuration of one model on one benchmark; data.chat and data.max_prompt_tokens may be settled later.

    Args:
        model: its directory.
        benchmark: whose kind says what it is sampled with.
        options: what the user asks for.
        has_thinking: the model's chat template takes THINKING, which a preset then sets.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    named = {"models.learner": model, "models.explorer": model, "data.train": benchmark.source}
    preset = PRESETS[options.preset] if options.preset else {}
    if options.preset and has_thinking:
        preset = preset | {f"data.chat_template_kwargs.{THINKING}": options.preset == "think"}
    needed: dict[str, Any] = {"evaluation.samples": options.samples, "evaluation.k": [1]}
    given: list[list[str] | dict[str, Any]] = [needed, preset, list(options.overrides)]
    if options.file is not None:
        return _sampling(load_config(options.file, named, {"data.eval": None}, *given))
    base: dict[str, Any] = {"name": "evaluation", "models": {}, "data": {}}
    return _sampling(config_of(base, "s2l evaluate", named, KINDS[benchmark.kind], *given))


def common_configuration(options: Options) -> Config:
    """What the user says that is of no model and no benchmark: cluster, tracking, k, confidence and seed.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    nothing = Benchmark("any", "any.jsonl", "math", (), "", 0)
    config = configuration("any", nothing, options)
    if config.evaluation.samples > MOST_SAMPLES:
        raise ConfigError(f"--samples {config.evaluation.samples}: at most {MOST_SAMPLES} of a problem can be compared")
    return config


def _sampling(config: Config) -> Config:
    """The settings of the evaluation in the place from which an engine that explores takes its own."""
    rollout = config.rollout.model_copy(update={"explorer": config.evaluation.sampling, "explorer_seed": None})
    return config.model_copy(update={"rollout": rollout})


def ks_of(config: Config) -> list[int]:
    """The k's that a table shows: 1, those of evaluation.k, and n."""
    return sorted({1, *config.evaluation.k, config.evaluation.samples})
