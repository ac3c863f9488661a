"""Which samples a comparison draws and reads, with rollouts that are made up in place of those of engines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.benchmark.models import find_models
from s2l_ray.benchmark.problems import data_source, load_benchmark
from s2l_ray.benchmark.settings import Options
from s2l_ray.display import TaskDisplay
from s2l_ray.errors import ConfigError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import Rollout, RolloutSet, Verdict
from s2l_ray.run import diversity
from s2l_ray.run.benchmarking import Planned
from s2l_ray.run.diversity import Request, Samples, open_samples, right_share

SAMPLES, PROBLEMS = 20, 2
drawn: list[tuple[str, float, int]] = []
"""(model, temperature, rollouts) of each source that was sampled."""


def made_up(missing: Sequence[Planned], *_: object) -> None:
    """Records what is missing: the small model is right in 8 of 20, the large one at temperature T in 12 / T of 20."""
    for job, plan in missing:
        temperature = job.config.rollout.explorer.temperature
        small = Path(job.config.models.explorer).name == "small"
        right = 8 if small else round(12 / temperature)
        bank = RolloutBank(plan.settings, {prompt.id: prompt for prompt in job.prompts})
        for request in plan.requests:
            rollouts = [
                Rollout(
                    request.prompt_id, "explorer", "m", 0, i, np.array([request.first_draw + i], np.int32),
                    np.zeros(1, np.float32), "", "stop",
                    Verdict("right", 1.0) if request.first_draw + i < right else Verdict("wrong", 0.0),
                )
                for i in range(request.count)
            ]  # fmt: skip
            bank.record(request, RolloutSet(request.prompt_id, np.array([1], np.int32), rollouts))
        bank.close()
        drawn.append(("small" if small else "large", temperature, plan.rollouts))


def samples_of(directory: Path, *models: str, **options: object) -> Samples:
    words = [f"embedded:{model}" for model in models]
    request = Request(words, "embedded:heldout.jsonl", directory, Options(samples=SAMPLES), limit=PROBLEMS, **options)
    found = [model for word in words for model in find_models([word], directory)]
    benchmark = load_benchmark(data_source("embedded:heldout.jsonl"), PROBLEMS)
    display = TaskDisplay(Console(file=io.StringIO()))
    return Samples(request, found, benchmark, lambda: Inventory.of([{"gpus": 0, "cpus": 2}]), display)


@pytest.fixture(autouse=True)
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn.clear()
    monkeypatch.setattr(diversity, "sample", made_up)


def test_sources_are_sampled_once_and_two_of_one_model_apart(tmp_path: Path):
    found = samples_of(tmp_path, "large", "small", "large", "small", temperatures=(1.5,)).at_temperatures()
    assert [(s.name, s.kind, s.model, s.temperature) for s in found.sources] == [
        ("learner", "learner", "embedded:large", 1.0),
        ("learner T=1.5", "token_level", "embedded:large", 1.5),
        ("explorer small", "policy_level", "embedded:small", 1.0),
        ("explorer large", "policy_level", "embedded:large", 1.0),
        ("explorer small #2", "policy_level", "embedded:small", 1.0),
    ]
    assert [count for *_, count in drawn] == [SAMPLES * PROBLEMS] * 5
    assert len(list((tmp_path / "samples").iterdir())) == 5  # recordings: none is another's
    for source in found.sources:
        who = "explorer" if source.kind == "policy_level" else "learner"
        for problem in source.problems:
            assert [rollout.index for rollout in problem.rollouts] == list(range(SAMPLES))
            assert [int(rollout.token_ids[0]) for rollout in problem.rollouts] == list(range(SAMPLES))
            assert {rollout.source for rollout in problem.rollouts} == {who}
    assert set(found.answers) == {problem.prompt_id for problem in found.sources[0].problems}

    again = samples_of(tmp_path, "large", "small", temperatures=(1.5,)).at_temperatures()
    assert len(drawn) == 5
    assert [right_share(s) for s in again.sources] == [right_share(s) for s in found.sources[:3]] == [0.6, 0.4, 0.4]


def test_what_is_there_needs_no_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    request = Request(
        ["embedded:large", "embedded:small"],
        "embedded:heldout.jsonl",
        tmp_path,
        Options(samples=SAMPLES),
        limit=PROBLEMS,
    )
    display = TaskDisplay(Console(file=io.StringIO()))
    two = nullcontext(Inventory.of([{"gpus": 0, "cpus": 2}]))
    monkeypatch.setattr(diversity, "nodes", lambda *_: two)
    with open_samples(request, display) as samples:
        first = samples.at_temperatures()
    monkeypatch.setattr(diversity, "nodes", None)
    with open_samples(request, display) as samples:
        assert [s.name for s in samples.at_temperatures().sources] == [s.name for s in first.sources]


def test_explorers_may_have_a_temperature_of_their_own(tmp_path: Path):
    samples_of(tmp_path, "large", "small", explorer_temperature=0.7).at_temperatures()
    assert drawn == [("large", 1.0, 40), ("small", 0.7, 40)]


def test_the_learner_is_matched_where_it_is_right_as_often(tmp_path: Path):
    """12 / T of 20 are right, and 8 of the explorer's: T = 1.5, found between 1 and 2."""
    found = samples_of(tmp_path, "large", "small").at_matches(tolerance=0.001)
    match = found.matches["explorer small"]
    assert match.within and match.pass_at_1 == match.wanted == 0.4
    assert 12 / 8.5 < match.temperature < 12 / 7.5
    assert [s.name for s in found.sources] == ["learner", f"learner T={match.temperature:.3g}", "explorer small"]
    assert right_share(found.sources[1]) == 0.4


def test_too_few_samples_for_a_group_are_refused_before_anything_starts(tmp_path: Path):
    options = Options(samples=3, overrides=["rollout.group_size=4"])
    request = Request(["embedded:large"], "embedded:heldout.jsonl", tmp_path, options)
    with (
        pytest.raises(ConfigError, match=r"--samples 3 makes no group of 4 \(rollout.group_size\)"),
        open_samples(request, TaskDisplay(Console(file=io.StringIO()))),
    ):
        pass
