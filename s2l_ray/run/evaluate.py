"""`s2l evaluate` from the words of its command line to its results, step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.benchmark.contamination import Contamination, TrainingText
from s2l_ray.benchmark.directory import FIGURE, RESULTS, EvaluationDirectory, settings_of
from s2l_ray.benchmark.figure import pass_at_k_figure
from s2l_ray.benchmark.jobs import Job, make_jobs
from s2l_ray.benchmark.models import EvaluatedModel, find_models
from s2l_ray.benchmark.problems import Benchmark, data_source, load_benchmarks
from s2l_ray.benchmark.results import Report, results
from s2l_ray.benchmark.samples import read_outcomes
from s2l_ray.benchmark.settings import Options, common_configuration, ks_of
from s2l_ray.benchmark.tracking import track
from s2l_ray.config import Config
from s2l_ray.config.embedded import source_name
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.machine.disk import write_whole, writing
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.run.benchmarking import Planned, sample
from s2l_ray.run.checkpoint_models import ready
from s2l_ray.run.exploration import Recorded, nodes
from s2l_ray.run.lock import RunLock
from s2l_ray.style import save_png
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.sources import fetch_source

if TYPE_CHECKING:
    from s2l_ray.placement.inventory import Inventory

LOCK = ".lock"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    models: Sequence[str]
    benchmarks: Sequence[str]
    directory: Path
    """Absolute."""
    options: Options
    against: Sequence[str] = ()
    """Training files."""
    words: int = 13
    """n of the n-grams for `against`."""
    limit: int | None = None
    """Problems of each benchmark."""
    clip: bool = False


def evaluate(request: Request, display: TaskDisplay) -> dict[str, Any]:
    """Sample what is missing, and write the results.

    Returns:
        The content of evaluation.json.

    Raises:
        ConfigError: a key or value is wrong, or the directory has samples of other settings.
        DataError, ModelError, HubError: a file or model cannot be used.
        PlacementError, EngineError, ActorLostError, StepTimeoutError, BankError: see `benchmarking.sample`.
        DiskError: the directory cannot be written to.
    """
    common = common_configuration(request.options)
    models, benchmarks, training = _sources(request, common, display)
    contamination = {one.name: [text.check(one.problems) for text in training] for one in benchmarks}
    jobs = [
        job
        for model in models
        for job in make_jobs(model, benchmarks, request.options, request.directory, clip=request.clip)
    ]
    with writing(request.directory):
        request.directory.mkdir(parents=True, exist_ok=True)
    with closing(RunLock.acquire(request.directory / LOCK, common.cluster.start_timeout_s, display.say)):
        directory = EvaluationDirectory(request.directory)
        jobs = _sampled(jobs, common, directory, display)
        found = _results(jobs, benchmarks, common, request.directory, contamination)
        found["settings"] = directory.settings
        write_whole(request.directory / RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        save_png(lambda: pass_at_k_figure(found), request.directory / FIGURE)
        if problem := track(found, common.tracking, directory):
            display.say(f"note: {problem}")
    return found


def _sources(
    request: Request, common: Config, display: TaskDisplay
) -> tuple[list[EvaluatedModel], list[Benchmark], list[TrainingText]]:
    """What the command line names, fetched and read; files first, which are the quickest to be wrong."""
    watcher, timeout = FetchDisplay(display), common.cluster.fetch_timeout_s

    def fetched(key: str, value: str) -> str:
        return fetch_source(key, value, timeout, watcher)

    paths = [fetched("data.train", data_source(word)) for word in request.benchmarks]
    benchmarks = load_benchmarks(paths, request.limit, common.verifier.columns)
    against = [fetched("data.train", data_source(word)) for word in request.against]
    training = [TrainingText(source_name(path), load_problems(path).problems, request.words) for path in against]
    models = ready(find_models(request.models, request.directory), fetched, display.say)
    return models, benchmarks, training


def _sampled(jobs: Sequence[Job], common: Config, directory: EvaluationDirectory, display: TaskDisplay) -> list[Job]:
    """The jobs in the type that they compute in, with all of their samples in the directory."""
    known = [_as_before(job, directory) for job in jobs]
    if all(job.config.models.dtype != "auto" for job in known):
        planned = _planned(known, directory)
        if not any(plan.requests for _, plan in planned):
            display.say("all samples are there already")
            return known
    with nodes(common, display.say) as inventory:
        settled = [_settled(job, inventory) for job in known]
        planned = _planned(settled, directory)
        _draw_samples([one for one in planned if one.plan.requests], inventory, planned, display)
    return settled


def _as_before(job: Job, directory: EvaluationDirectory) -> Job:
    """The job in the type that its model computed in when the directory's samples were drawn."""
    dtype = directory.settings.get(f"{job.model.label}: models.dtype")
    return job if dtype is None else job.with_dtype(dtype)  # type: ignore[arg-type]  # it was one


def _settled(job: Job, inventory: Inventory) -> Job:
    dtype = choose_dtype(job.config, inventory).applied_to(job.config).models.compute_dtype
    return job.with_dtype(dtype)


def _planned(jobs: Sequence[Job], directory: EvaluationDirectory) -> list[Planned]:
    """What is missing of each job, once its settings are known to be those of the directory."""
    for job in jobs:
        directory.agree(settings_of(job.model.label, job.benchmarks, job.fingerprint))
    directory.add(evaluation for job in jobs for evaluation in job.evaluations())
    for benchmark in {one.name: one for job in jobs for one in job.benchmarks}.values():
        directory.write_problems(benchmark)
    return [Planned(job, job.plan()) for job in jobs]


def _draw_samples(
    missing: Sequence[Planned], inventory: Inventory, planned: Sequence[Planned], display: TaskDisplay
) -> None:
    done, begin = Recorded(sum(one.plan.rollouts for one in missing)), time.monotonic()
    there = sum(one.plan.recorded for one in planned)
    display.say(f"{done.of} samples to draw" + (f"; {there} are there already" if there else ""))
    try:
        if missing:
            sample(missing, inventory, done, display)
    except KeyboardInterrupt:
        display.say(f"stopped after {done.rollouts} of {done.of} samples; the same command goes on from there")
        raise
    seconds = time.monotonic() - begin
    display.say(f"drew {done.rollouts} samples of {done.tokens} tokens in {seconds:.0f} s")


def _results(
    jobs: Sequence[Job],
    benchmarks: Sequence[Benchmark],
    common: Config,
    directory: Path,
    contamination: dict[str, list[Contamination]],
) -> dict[str, Any]:
    settings = common.evaluation
    outcomes = []
    for job in jobs:
        for benchmark, evaluation in zip(job.benchmarks, job.evaluations(), strict=True):
            ids = [problem.id for problem in benchmark.problems]
            outcomes.append(read_outcomes(directory, evaluation, ids, settings.samples))
    report = Report(ks_of(common), settings.confidence, common.seed)
    return results(benchmarks, outcomes, report, contamination)
