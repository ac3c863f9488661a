"""Recording with real engines on Ray, and training from it: the same rollouts as live, to the token."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from s2l_ray import S2LPO, load_config
from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.preparing import prepare, training_prompts
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.cli import main
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.miniature.build import Family
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import RolloutSet
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.run.exploration import nodes
from s2l_ray.tuning.sharing import share, with_bank
from tests.support.learner_engine import OWN_PROCESS
from tests.support.run_settings import run_config
from tests.support.shared import built_once, shared_directory
from tests.support.undisturbed import QUICKSTART, Undisturbed


@pytest.fixture(scope="module")
def explored(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """`s2l explore` of the run that `run` is, and a configuration that reads it."""
    return built_once(shared_directory(tmp_path_factory) / "explored", lambda fresh: explore(family, fresh))


def explore(family: Family, folder: Path) -> Config:
    settings = run_config(family, folder / "run") | {"bank.path": str(folder / "bank")}
    (folder / "config.yaml").write_text(load_config(QUICKSTART, settings).to_yaml())
    assert main(["explore", str(folder / "config.yaml")]) == 0
    reads = load_config(QUICKSTART, settings | {"bank.mode": "read", "data.eval": None})
    return choose_dtype(reads, Inventory.of([{"gpus": 0, "cpus": 2}])).applied_to(reads)


@pytest.mark.skipif(
    not OWN_PROCESS, reason="runs in the pytest that test_in_process.py starts: it has an engine inside"
)
def test_what_is_read_is_what_an_engine_samples(explored: Config) -> None:
    """Asked for in other portions than it was recorded in: draws 1 to 3, where 0 to 3 were sampled together."""
    train = training_prompts(explored)
    prompts = {prompt.id: prompt for prompt in train}
    bank = RolloutBank(prepare(explored, train), prompts)
    seed = explored.explorer_seed
    asked = [ExplorerRequest(9, p.id, 3, seed, 1) for p in train]
    asked = [one for one, there in zip(asked, bank.covers(asked), strict=True) if there]
    assert len(asked) >= 8
    live = sample(explored, prompts, asked)
    for one, sampled in zip(asked, live, strict=True):
        read, report = bank.read(one)
        assert report.sampled is None and report.verified is None
        for ours, theirs in zip(read.rollouts, sampled.rollouts, strict=True):
            assert np.array_equal(ours.token_ids, theirs.token_ids)
            # Their batch was another one, so the last bits of a log-prob may differ.
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=0.02)
            assert (ours.text, ours.finish_reason, ours.index) == (theirs.text, theirs.finish_reason, theirs.index)
            assert (ours.source, ours.model, ours.weight_version) == (theirs.source, theirs.model, 0)


def sample(config: Config, prompts: dict, requests: list[ExplorerRequest]) -> list[RolloutSet]:
    settings = EngineSettings(
        model=config.models.explorer,
        source="explorer",
        engine=config.engines.explorer,
        sampling={"train": config.rollout.explorer},
        max_tokens=config.rollout.max_tokens,
        max_model_len=config.max_model_len("explorer"),
        dtype=config.models.dtype,
        trust_remote_code=False,
        kv_cache_bytes=10**8,
        own_process=True,
    )
    with asyncio.Runner() as runner:
        engine = runner.run(_started(settings, prompts))
        try:
            return runner.run(_all(engine, requests))
        finally:
            runner.run(engine.close())


async def _started(settings: EngineSettings, prompts: dict) -> SamplingEngine:
    return SamplingEngine(settings, prompts)


async def _all(engine: SamplingEngine, requests: list[ExplorerRequest]) -> list[RolloutSet]:
    return await asyncio.gather(*(engine.sample(request) for request in requests))


def test_training_from_the_bank_has_the_same_groups_and_no_explorer_engine(explored: Config, run: Undisturbed) -> None:
    live = {record["step"]: record for record in run.records}
    algo = S2LPO(explored)
    try:
        assert {slot.role for phase in algo.plan.layout.phases for slot in phase.slots} == {"trainer", "learner"}
        for step, banked in enumerate((32, 24, 16, 0, 0, 0), 1):
            result = algo.train()
            assert result["pipeline/banked_rollouts"] == banked
            assert (result["engines/explorer"], result["engines/learner"]) == (0, 1)
            assert algo.run.records[-1].digest == live[step]["digest"], f"step {step}"
    finally:
        algo.stop()


def test_exploring_again_finds_nothing_to_do(explored: Config, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.yaml").write_text(explored.to_yaml())
    assert main(["explore", str(tmp_path / "config.yaml")]) == 0
    assert "nothing to record" in capsys.readouterr().out


@pytest.mark.long
def test_half_a_bank_is_read_and_the_other_half_recorded(
    family: Family, explored: Config, run: Undisturbed, tmp_path: Path
) -> None:
    """The bank has what steps 1 and 2 ask for; a run with readwrite records only what is missing."""
    train = training_prompts(explored)
    prompts = {prompt.id: prompt for prompt in train}
    bank = {"bank.path": str(tmp_path / "bank"), "bank.mode": "readwrite", "data.eval": None}
    config = load_config(QUICKSTART, run_config(family, tmp_path / "run") | bank)
    config = choose_dtype(config, Inventory.of([{"gpus": 0, "cpus": 2}])).applied_to(config)
    needed = needed_requests(config, list(prompts))
    whole, half = RolloutBank(prepare(explored, train), prompts), RolloutBank(prepare(config, train), prompts)
    for request in needed:
        if request.step <= 2:
            half.record(request, whole.read(request)[0])
    half.close()
    assert 0 < sum(half.covers(needed)) < len(needed)
    algo = S2LPO(config)
    try:
        results = [algo.train() for _ in range(config.schedule.steps)]
    finally:
        algo.stop()
    assert [record.digest for record in algo.run.records] == [record["digest"] for record in run.records]
    assert [result["pipeline/banked_rollouts"] for result in results] == [32, 24, 0, 0, 0, 0]
    reads = config.model_copy(update={"bank": config.bank.model_copy(update={"mode": "read"})})
    now = RolloutBank(prepare(reads, train), prompts)  # which refuses a bank that lacks something
    assert len(now) == len(whole)
    for request in needed:
        for ours, theirs in zip(now.read(request)[0].rollouts, whole.read(request)[0].rollouts, strict=True):
            assert np.array_equal(ours.token_ids, theirs.token_ids) and ours.verdict == theirs.verdict


class DisturbedDisplay(TaskDisplay):
    """SIGKILL of the explorer engine once 48 rollouts are recorded, and Ctrl-C once 70 are."""

    killed = False

    def update(self, stage: str, done: int, total: int, detail: str = "") -> None:
        super().update(stage, done, total, detail)
        if stage == "recorded" and done >= 70:
            raise KeyboardInterrupt
        if stage == "recorded" and done >= 48 and not self.killed:
            self.killed = True
            (engine,) = (p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Explorer"))
            engine.kill()


@pytest.mark.long
def test_trials_share_what_was_recorded_and_a_recording_that_was_disturbed_goes_on(
    explored: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 prompts a step: G = 4 has 32, 24, 16 rollouts, which the bank has; G = 6, abrupt over two steps, 48 and 48.

    One with another explorer seed needs 72 of its own. The engine that records the 40 others records them too.
    """
    shutil.copytree(explored.bank.path, tmp_path / "bank")
    # Two at a time, so that there is something left when the engine is killed.
    few = explored.engines.explorer.model_copy(update={"max_num_seqs": 2})
    own = explored.model_copy(
        update={
            "bank": explored.bank.model_copy(update={"path": str(tmp_path / "bank")}),
            "engines": explored.engines.model_copy(update={"explorer": few}),
        }
    )
    longer = own.model_copy(
        update={
            "rollout": own.rollout.model_copy(update={"group_size": 6}),
            "schedule": own.schedule.model_copy(update={"kind": "abrupt", "mix_steps": 2}),
        }
    )
    seeded = own.model_copy(update={"rollout": own.rollout.model_copy(update={"explorer_seed": 5})})
    off = own.model_copy(update={"schedule": own.schedule.model_copy(update={"kind": "off"})})
    trials = [own, longer, off, seeded]
    with nodes(own, print):  # one Ray for both
        with pytest.raises(KeyboardInterrupt):
            share(trials, DisturbedDisplay())
        shared = share(trials, TaskDisplay())
    said = capsys.readouterr().out
    assert "note: all actors are started again: it was killed" in said
    assert "recording 112 explorer rollouts for all trials; 72 are in the bank already" in said
    stopped = int(re.search(r"stopped after (\d+) of 112 explorer rollouts, which the bank keeps", said)[1])
    assert shared.rollouts == 184 and shared.sampled <= 112 - stopped <= 42
    assert said.count("starting engines, verifiers and bank") == 3  # at first, after the loss, and when called again
    for trial in trials:
        prepare(with_bank(trial, "read"), training_prompts(trial))
    alone = [sum(tokens) for tokens in shared.separate]
    train = training_prompts(seeded)
    prompts = {prompt.id: prompt for prompt in train}
    recorded = RolloutBank(prepare(with_bank(seeded, "read"), train), prompts)
    some = needed_requests(seeded, list(prompts))[::8]
    for request, drawn in zip(some, sample(seeded, prompts, some), strict=True):
        for ours, theirs in zip(recorded.read(request)[0].rollouts, drawn.rollouts, strict=True):
            assert np.array_equal(ours.token_ids, theirs.token_ids)
    assert alone[2] == 0 and max(alone) < shared.tokens < sum(alone) == shared.separate_tokens
    assert shared.separate[0][3:] == (0, 0, 0) and shared.separate[1][2:] == (0, 0, 0, 0)
    assert shared.ratio == shared.tokens / sum(alone)
