"""What is to be sampled: prompts, requests for the samples that are missing, and the recording that gets them.

A sample is a function of the model's files, the settings, the problem, its number and the seed, so that it does not
matter when, in which batch or on how many engines it is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of, model_digest
from s2l_ray.bank.date import dated
from s2l_ray.bank.exploring import RecordingPlan, plan_requests
from s2l_ray.bank.fingerprint import Fingerprint
from s2l_ray.benchmark.directory import SAMPLES, Evaluation
from s2l_ray.benchmark.models import EvaluatedModel
from s2l_ray.benchmark.problems import Benchmark
from s2l_ray.benchmark.settings import THINKING, Options, configuration
from s2l_ray.config import Config, DataConfig
from s2l_ray.config.embedded import source_name
from s2l_ray.errors import ModelError
from s2l_ray.kinds import Dtype
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tasks.compat import check_models, context_of, model_directory
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts, template_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "models.explorer"
PER_REQUEST = 16
"""Most samples of a problem in one request: what is lost if an engine dies, and still one prompt to read for many."""
ANY_LENGTH = 10**6
"""Tokens; prompts are measured before the limit is known."""


@dataclass(frozen=True)
class Job:
    """What one model samples with one configuration."""

    model: EvaluatedModel
    benchmarks: tuple[Benchmark, ...]
    config: Config
    prompts: tuple[Prompt, ...]
    """Of all of the benchmarks."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What determines the samples; models.dtype has to be settled."""
        return fingerprint_of(self.config)

    def with_dtype(self, dtype: Dtype) -> Job:
        """The job of a model that computes in this type, unless the user has named one."""
        if self.config.models.dtype != "auto":
            return self
        models = self.config.models.model_copy(update={"dtype": dtype})
        return replace(self, config=self.config.model_copy(update={"models": models}))

    def plan(self) -> RecordingPlan:
        """What is missing of the samples; the recording is created if it does not exist.

        Raises:
            BankError: it cannot be read or written.
        """
        return plan_requests(self.config, self.prompts, self._requests())

    def evaluations(self) -> list[Evaluation]:
        """The job's evaluations, as the directory notes them."""
        recording = self.fingerprint.digest
        return [
            Evaluation(self.model.label, source_name(self.model.source), one.name, one.path, one.kind, recording)
            for one in self.benchmarks
        ]

    def _requests(self) -> list[ExplorerRequest]:
        """Every sample of every problem: first some of each problem, so that what is there early is of all."""
        n = self.config.evaluation.samples
        seed = _seed(self.config)
        return [
            ExplorerRequest(first // PER_REQUEST, prompt.id, min(PER_REQUEST, n - first), seed, first)
            for first in range(0, n, PER_REQUEST)
            for prompt in self.prompts
        ]


def make_jobs(
    model: EvaluatedModel, benchmarks: Sequence[Benchmark], options: Options, directory: Path, *, clip: bool
) -> list[Job]:
    """The jobs of a model: one for each kind of benchmark, or a single one with the configuration of a file.

    Args:
        model: has been fetched.
        benchmarks: read.
        options: what the user asks for.
        directory: of the evaluation.
        clip: shorten rollout.max_tokens to what the model has positions for.

    Raises:
        ConfigError: a key or value is wrong, or a verifier cannot be imported.
        DataError: a prompt is empty.
        ModelError: the model cannot be used, or has fewer positions than prompt and response may take.
    """
    kinds = dict.fromkeys("" if options.file else benchmark.kind for benchmark in benchmarks)
    return [
        _job(model, tuple(one for one in benchmarks if kind in ("", one.kind)), options, directory, clip)
        for kind in kinds
    ]


def _job(
    model: EvaluatedModel, benchmarks: tuple[Benchmark, ...], options: Options, directory: Path, clip: bool
) -> Job:
    config = configuration(model.source, benchmarks[0], options)
    config.verifier.check()
    source, trusted = config.models.explorer, config.models.trust_remote_code
    place = model_directory("MODEL", source)
    check_models(source, source, trusted)
    tokenizer = load_tokenizer(place, trusted)
    data = _settled(config.data, tokenizer)
    if options.preset and data.chat and THINKING in template_arguments(tokenizer, data):
        config = configuration(model.source, benchmarks[0], options, has_thinking=True)
        data = _settled(config.data, tokenizer)
    bank = config.bank.model_copy(update={"path": str(directory / SAMPLES), "recording": None})
    config = dated(config.model_copy(update={"data": data, "bank": bank}), bank=True)
    problems = [problem for benchmark in benchmarks for problem in benchmark.problems]
    prompts = tuple(render_prompts(problems, tokenizer, config.data))
    config = _with_lengths(config, max(len(prompt.token_ids) for prompt in prompts), model.label, clip)
    models = config.models.model_copy(update={"learner": str(place), "explorer": str(place)})
    return Job(model, benchmarks, config.model_copy(update={"models": models}), prompts)


def _settled(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> DataConfig:
    """The settings of prompts, with what the user has left open."""
    given, settled = data.model_fields_set, data
    asked_for = "chat" in given or data.system or data.chat_template or data.chat_template_kwargs
    if not (tokenizer.chat_template or asked_for):
        settled = settled.model_copy(update={"chat": False})
    if "max_prompt_tokens" not in given:
        settled = settled.model_copy(update={"max_prompt_tokens": ANY_LENGTH})
    return settled


def _with_lengths(config: Config, longest: int, label: str, clip: bool) -> Config:
    """The configuration with the prompts' length in it, and with a response length that the model can take."""
    most, limit = config.rollout.max_tokens, context_of(KEY, config.models.explorer)
    if limit is not None and longest + most > limit:
        if longest >= limit:
            raise ModelError(
                f"{label} has {limit} positions, but a prompt takes {longest} tokens; leave the benchmark or the model "
                "out"
            )
        if not clip:
            raise ModelError(
                f"{label} has {limit} positions, but prompt (up to {longest} tokens) and response (rollout.max_tokens: "
                f"{most}) may take {longest + most}; set rollout.max_tokens={limit - longest} or less for all models, "
                "or give --clip to cut each model's responses off where its positions end"
            )
        most = limit - longest
    data = config.data.model_copy(update={"max_prompt_tokens": longest})
    return config.model_copy(update={"data": data, "rollout": config.rollout.model_copy(update={"max_tokens": most})})


def _seed(config: Config) -> int:
    """The seed of a model's samples: two models of one configured seed do not share random numbers."""
    key = f"{config.seed}/{model_digest(model_directory(KEY, config.models.explorer))}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
