"""The samples of a comparison of sources, drawn as `s2l evaluate` draws its own: what was drawn once is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.benchmark.directory import SAMPLES
from s2l_ray.benchmark.jobs import Job, make_jobs
from s2l_ray.benchmark.models import EvaluatedModel, find_models
from s2l_ray.benchmark.problems import Benchmark, data_source, load_benchmark
from s2l_ray.benchmark.settings import Options, common_configuration
from s2l_ray.config import Config
from s2l_ray.config.embedded import source_name
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.diversity.matching import Match, match_temperature
from s2l_ray.diversity.sources import Sampled, SampledSource, SourceKind
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Dtype, Source
from s2l_ray.machine.disk import writing
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import Prompt, RolloutSet
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.run.benchmarking import Planned, sample
from s2l_ray.run.checkpoint_models import ready
from s2l_ray.run.diversity_settings import DiversitySettings
from s2l_ray.run.exploration import Recorded, nodes
from s2l_ray.run.lock import RunLock
from s2l_ray.tasks.compat import check_models
from s2l_ray.tasks.sources import fetch_source

LOCK = ".lock"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    models: Sequence[str]
    """The learner, then explorers."""
    benchmark: str
    directory: Path
    """Absolute."""
    options: Options
    temperatures: Sequence[float] = ()
    """Of the learner, for token-level sources."""
    explorer_temperature: float | None = None
    """None: the learner's."""
    limit: int | None = None
    """Problems."""


OF_TEMPERATURES = 10**6
"""Streams from here on are those of the learner's temperatures, in millionths; below are those of the models."""


@dataclass(frozen=True)
class Wanted:
    """A source that is to be sampled."""

    name: str
    kind: SourceKind
    model: EvaluatedModel
    temperature: float | None
    """None: evaluation.sampling.temperature."""
    stream: int
    """Added to the seed: sources are sampled independently of each other, also two of one model."""


def temperature_stream(temperature: float) -> int:
    """The stream of the learner at a temperature other than that of training (`Wanted.stream`)."""
    return OF_TEMPERATURES + round(OF_TEMPERATURES * temperature)


class Samples:
    """Draws the samples of sources, or reads what was drawn before. Use it within `open_samples`.

    Args:
        request: what is to be compared.
        models: those of the request, fetched.
        benchmark: that of the request, read.
        inventory: gives the nodes that engines are placed on; not called where all samples are there.
        display: shows how far sampling is.
    """

    def __init__(
        self,
        request: Request,
        models: list[EvaluatedModel],
        benchmark: Benchmark,
        inventory: Callable[[], Inventory],
        display: TaskDisplay,
    ) -> None:
        self._request, self._models, self._benchmark = request, models, benchmark
        self._inventory, self._display = inventory, display
        self.config: Config = self._job(self._learner).config
        """With which the learner is sampled, and measured."""

    def at_temperatures(self) -> Sampled:
        """The learner, the learner at each temperature of the request, and the explorers.

        Raises:
            S2LError: as `s2l evaluate`.
        """
        hot = [self._learner_at(temperature) for temperature in self._request.temperatures]
        return self._sampled(self._of([self._learner, *hot, *self._explorers]))

    def at_matches(self, tolerance: float) -> Sampled:
        """The learner, and each explorer beside the learner at the temperature where it is right as often.

        Raises:
            S2LError: as `s2l evaluate`.
            DataError: there is no such temperature.
        """
        learner, *explorers = self._of([self._learner, *self._explorers])
        sources, matches = [learner], {}
        for explorer in explorers:
            hot, matches[explorer.name] = self._matched(explorer, tolerance)
            if hot.name not in [source.name for source in sources]:
                sources.append(hot)
            sources.append(explorer)
        return self._sampled(sources, matches)

    @property
    def _learner(self) -> Wanted:
        return Wanted("learner", "learner", self._models[0], None, 0)

    @property
    def _explorers(self) -> list[Wanted]:
        """What is sampled of each explorer; a model that is given twice is sampled twice."""
        labels = [model.label for model in self._models[1:]]
        numbers = [labels[: i + 1].count(label) for i, label in enumerate(labels)]
        names = [f"explorer {label}" + (f" #{n}" if n > 1 else "") for label, n in zip(labels, numbers, strict=True)]
        temperature = self._request.explorer_temperature
        return [
            Wanted(name, "policy_level", model, temperature, 2 + i)
            for i, (name, model) in enumerate(zip(names, self._models[1:], strict=True))
        ]

    def _learner_at(self, temperature: float) -> Wanted:
        name = f"learner T={temperature:.3g}"
        return Wanted(name, "token_level", self._models[0], temperature, temperature_stream(temperature))

    def _sampled(self, sources: list[SampledSource], matches: dict[str, Match] | None = None) -> Sampled:
        answers = {problem.id: problem.answer for problem in self._benchmark.problems}
        return Sampled(self._benchmark.name, sources, answers, matches or {})

    def _of(self, wanted: Sequence[Wanted]) -> list[SampledSource]:
        """The samples of these sources; what is missing is drawn first, with the engines of several side by side."""
        planned = [Planned(job, job.plan()) for job in map(self._job, wanted)]
        missing = [one for one in planned if one.plan.requests]
        if missing:
            done = Recorded(sum(one.plan.rollouts for one in missing))
            sample(missing, self._inventory(), done, self._display)
        return [_read(*pair) for pair in zip(wanted, planned, strict=True)]

    def _job(self, wanted: Wanted) -> Job:
        options = self._request.options
        seed = common_configuration(options).seed + wanted.stream
        changed = [f"seed={seed}"]
        if wanted.temperature is not None:
            changed.append(f"evaluation.sampling.temperature={wanted.temperature!r}")
        options = replace(options, overrides=[*options.overrides, *changed])
        model = replace(wanted.model, label=wanted.name)
        (job,) = make_jobs(model, [self._benchmark], options, self._request.directory, clip=False)
        return job.with_dtype(self._dtype(job.config))

    def _dtype(self, config: Config) -> Dtype:
        """The type that engines compute in: that of the first samples in the directory, so that others go with them."""
        settings = DiversitySettings.read(self._request.directory)
        if settings.dtype is None:
            settings.dtype = choose_dtype(config, self._inventory()).dtype
            settings.write(self._request.directory)
        return settings.dtype

    def _matched(self, source: SampledSource, tolerance: float) -> tuple[SampledSource, Match]:
        """The learner at the temperature at which it is right as often as `source`, and how it was found."""
        wanted, start = right_share(source), self.config.evaluation.sampling.temperature
        tried: dict[float, SampledSource] = {}

        def pass_at_1(temperature: float) -> float:
            (tried[temperature],) = self._of([self._learner_at(temperature)])
            found = right_share(tried[temperature])
            self._display.say(f"learner T={temperature:.3g}: pass@1 {found:.1%}; {source.name}: {wanted:.1%}")
            return found

        match = match_temperature(pass_at_1, wanted, start=start, tolerance=tolerance)
        return tried[match.temperature], match


@contextmanager
def open_samples(request: Request, display: TaskDisplay) -> Iterator[Samples]:
    """Read the benchmark, check the models, and have nodes for as long as samples are drawn, if any are missing.

    Raises:
        ConfigError: a key or value is wrong.
        DataError, ModelError, HubError: a file or model cannot be used, or an explorer and the learner cannot share
            rollouts.
        PlacementError: see `exploration.nodes`.
        DiskError: the directory cannot be written to.
    """
    common = common_configuration(request.options)
    watcher, timeout = FetchDisplay(display), common.cluster.fetch_timeout_s

    def fetched(key: str, value: str) -> str:
        return fetch_source(key, value, timeout, watcher)

    source = fetched("data.train", data_source(request.benchmark))
    benchmark = load_benchmark(source, request.limit, common.verifier.columns)
    found = [model for word in request.models for model in find_models([word], request.directory)]
    models = ready(found, fetched, display.say)
    for explorer in models[1:]:
        check_models(models[0].source, explorer.source, common.models.trust_remote_code)
    if request.options.samples < common.rollout.group_size:
        raise ConfigError(
            f"--samples {request.options.samples} makes no group of {common.rollout.group_size} "
            "(rollout.group_size): draw more, or make groups smaller"
        )
    with writing(request.directory):
        (request.directory / SAMPLES).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = RunLock.acquire(request.directory / LOCK, common.cluster.start_timeout_s, display.say)
        stack.enter_context(closing(lock))
        inventory = cache(lambda: stack.enter_context(nodes(common, display.say)))
        yield Samples(request, models, benchmark, inventory, display)


def right_share(source: SampledSource) -> float:
    """pass@1 over all samples."""
    return sum(rollout.judged.status == "right" for rollout in source.rollouts) / len(source.rollouts)


def _read(wanted: Wanted, planned: Planned) -> SampledSource:
    """A source whose samples are all recorded."""
    job, plan = planned.job, planned.plan
    bank = RolloutBank(plan.settings, {prompt.id: prompt for prompt in job.prompts})
    source: Source = "explorer" if wanted.kind == "policy_level" else "learner"
    temperature = job.config.evaluation.sampling.temperature
    problems = [_set_of(bank, prompt, job.config.evaluation.samples, source) for prompt in job.prompts]
    return SampledSource(wanted.name, wanted.kind, source_name(wanted.model.source), temperature, problems)


def _set_of(bank: RolloutBank, prompt: Prompt, samples: int, source: Source) -> RolloutSet:
    """A problem's samples in the order of their numbers, as rollouts of `source`; recorded ones are an explorer's."""
    found, _ = bank.read(ExplorerRequest(0, prompt.id, samples, 0, 0))
    return replace(found, rollouts=[replace(rollout, source=source) for rollout in found.rollouts])
