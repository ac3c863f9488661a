"""Which actors of a run the next one can have: those that it would launch in the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from actors.blueprint import Blueprint, RankProcess, RunNeeds
from s2l_ray.config import Config, load_config
from s2l_ray.errors import ActorLostError, ConfigError
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import run_actors
from s2l_ray.run.run_actors import RunActors
from s2l_ray.trials.changeable import CHANGEABLE
from tests.support.notes import Notes
from tests.support.plans import colocated_plan, separate_plan

CONTENTS = {"models.learner": "digest 11", "tokenizer": "digest 44"}


def needs(plan: Any = None, contents: dict[str, str] = CONTENTS, **overrides: Any) -> RunNeeds:
    plan = plan or separate_plan()
    config = load_config("quickstart", {"models.dtype": "float32", **overrides})
    return RunNeeds(config, plan.layout, [], [], contents, SilentReporter(), {}, None)


def blueprint(of: RunNeeds, step: int = 1) -> Blueprint:
    return Blueprint.of(of, of.layout.phase_at(step).engines)


BASE = blueprint(needs())


@pytest.mark.parametrize(
    "overrides",
    [
        {"trainer.learning_rate": 3e-5, "trainer.betas": [0.5, 0.5], "trainer.lr_schedule": "linear"},
        {"trainer.lora_rank": 4, "trainer.micro_batch_tokens": 77, "trainer.gradient_checkpointing": "on"},
        {"objective.loss": "gspo", "objective.kl": 0.1, "objective.explorer_negatives": 0.0},
        {"schedule.kind": "cosine", "schedule.steps": 9, "schedule.mix_steps": 2, "schedule.start": 0.5},
        {"rollout.group_size": 4, "rollout.prompts_per_step": 16, "rollout.straggler_groups": 1, "seed": 5},
        {"evaluation.every": 1, "evaluation.samples": 9, "checkpoint.every": 1, "tracking.enabled": False},
        {"run_dir": "elsewhere", "name": "another", "bank.mode": "readwrite", "cluster.lock_timeout_s": 1},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_what_no_actor_was_launched_with_makes_no_difference(overrides: dict[str, Any]):
    assert BASE.differences(blueprint(needs(**overrides))) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"evaluation.sampling.top_p": 0.9}, ["sampling"]),
        ({"rollout.max_tokens": 64}, ["max_model_len", "max_tokens"]),
        ({"rollout.max_staleness": 1}, ["max_staleness"]),
        ({"engines.learner.max_num_seqs": 9}, ["engine"]),
    ],
)
def test_settings_of_an_engine_are_named(overrides: dict[str, Any], named: list[str]):
    found = BASE.differences(blueprint(needs(**overrides)))
    assert [line for line in found if line.startswith("learner engine 0")] == [f"learner engine 0: {n}" for n in named]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"trainer.deterministic": True}, "trainer rank 7: deterministic"),
        ({"trainer.threads": 2}, "trainer rank 7: threads"),
        ({"cluster.step_timeout_s": 9}, "trainer rank 7: step_timeout_s"),
        ({"verifier.workers": 2}, "verifiers: workers"),
        ({"verifier.timeout_s": 2}, "verifiers: timeout_s"),
    ],
)
def test_what_a_process_keeps_is_named(overrides: dict[str, Any], named: str):
    assert BASE.differences(blueprint(needs(**overrides)))[-1] == named


def test_another_layout_or_another_phase_needs_other_engines():
    assert "bundles" in BASE.differences(blueprint(needs(colocated_plan())))
    later = BASE.differences(blueprint(needs(), step=5))  # explorers of steps 1 to 4 have become learner engines
    assert "explorer engine 0: slot" in later and "learner engine 2: slot" in later
    assert not [line for line in later if line.startswith("learner engine 0")]


def test_ranks_that_joined_in_other_groups_are_not_taken_over():
    plan = colocated_plan()
    other = needs(replace(plan, layout=replace(plan.layout, replicas=2)))
    assert blueprint(needs(plan)).differences(blueprint(other)) == ["trainer.replicas"]


def test_files_that_both_have_read_must_hold_the_same():
    replaced = needs(contents=CONTENTS | {"models.learner": "digest 12"})
    assert BASE.differences(blueprint(replaced)) == ["contents of models.learner"]
    more = needs(contents=CONTENTS | {"objective.loss source": "digest 9"})
    assert BASE.differences(blueprint(more)) == []


def test_no_changeable_key_is_one_of_a_process_or_an_engine():
    """Population-based training may change these without an engine start."""
    kept = {f"trainer.{name}" for name in RankProcess.__dataclass_fields__}
    assert not kept & set(CHANGEABLE)
    assert all(key.split(".")[0] in ("trainer", "objective") for key in CHANGEABLE)


# ---- who has the actors -------------------------------------------------------------------------------------------


class Graph:
    """Says what is done with it; `there` is what the actors that are there differ in."""

    made: ClassVar[list[Graph]] = []
    there: ClassVar[list[str]] = []
    fails: ClassVar[Exception | None] = None

    def __init__(self, needs: RunNeeds) -> None:
        self.calls: list[str] = []
        Graph.made.append(self)

    def start(self, first_step: int) -> None:
        self.calls.append(f"start {first_step}")

    def differences(self, needs: RunNeeds, first_step: int) -> list[str]:
        return Graph.there

    def reconfigure(self, needs: RunNeeds, first_step: int) -> None:
        self.calls.append(f"reconfigure {first_step}")
        if Graph.fails:
            raise Graph.fails

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ended: list[str] = []
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(Graph, "there", [])
    monkeypatch.setattr(Graph, "fails", None)
    monkeypatch.setattr(run_actors, "ActorGraph", Graph)
    monkeypatch.setattr(run_actors, "connect", lambda cluster, note: not ended)
    monkeypatch.setattr(run_actors, "end_private_ray", lambda: ended.append("Ray"))
    return ended


def run_needs() -> RunNeeds:
    return replace(needs(), reporter=Notes())


def test_actors_serve_the_next_run_and_are_ended_by_it(ended: list[str]):
    actors = RunActors()
    config: Config = run_needs().config
    actors.connect(config.cluster, print)
    actors.graph_for(run_needs(), 1)
    actors.keep()
    actors.stop()
    actors.end_ray()  # the first run's end
    assert ended == []
    actors.take()
    assert actors.graph_for(run_needs(), 3) is Graph.made[0]
    actors.stop()
    actors.end_ray()
    actors.stop()
    assert [graph.calls for graph in Graph.made] == [["start 1", "reconfigure 3", "close"]] and ended == ["Ray"]


@pytest.mark.parametrize(
    ("there", "fails", "calls", "why"),
    [
        (["a", "b", "c", "d"], None, [], "a, b, c and 1 more"),
        ([], ActorLostError("its node is gone"), ["reconfigure 4"], "its node is gone"),
    ],
)
def test_actors_that_do_not_fit_or_are_gone_are_started_anew(
    there: list[str], fails: Exception | None, calls: list[str], why: str, ended: list[str]
):
    actors, wanted = RunActors(), run_needs()
    actors.graph_for(wanted, 1)
    Graph.there, Graph.fails = there, fails
    assert actors.graph_for(wanted, 4) is Graph.made[1]
    assert [graph.calls for graph in Graph.made] == [["start 1", *calls, "close"], ["start 4"]]
    assert wanted.reporter.notes == [f"the actors are started anew, since those of the run before do not fit: {why}"]


def test_a_run_that_the_trainer_cannot_compute_is_an_error_and_not_a_new_start(ended: list[str]):
    actors = RunActors()
    actors.graph_for(run_needs(), 1)
    Graph.fails = ConfigError("lr_schedule needs total_steps")
    with pytest.raises(ConfigError, match="needs total_steps"):
        actors.graph_for(run_needs(), 1)
    assert len(Graph.made) == 1
