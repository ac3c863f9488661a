"""vLLM inside the process of its caller, as a run's CPU engines have it.

vLLM takes torch.distributed's default group of its process, so these tests run in a pytest of their own: the tests of
engines that sit in processes of vLLM's once more, those below that need an engine in this process, and one that only
compares what an engine samples with a recording.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from s2l_ray.errors import EngineError
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import LearnerRequest
from tests.support.learner_engine import OWN_PROCESS, Learner, make_prompts
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.shared import DIRECTORY, shared_directory

here_only = pytest.mark.skipif(not OWN_PROCESS, reason="runs in the pytest that the first test starts")


@pytest.mark.skipif(OWN_PROCESS, reason="is the test that started this pytest")
@pytest.mark.long
def test_an_engine_in_this_process_passes_what_an_engine_in_others_passes(
    family, tmp_path_factory: pytest.TempPathFactory
):
    files = ["tests/engines/test_engine.py", "tests/engines/test_inflight.py", "tests/runs/test_in_process.py"]
    files += ["tests/runs/test_bank_run.py::test_what_is_read_is_what_an_engine_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", *files],
        cwd=ROOT,
        env=os.environ | {"S2L_TEST_OWN_PROCESS": "1", DIRECTORY: str(shared_directory(tmp_path_factory))},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    passed, skipped = (int(re.search(rf"(\d+) {word}", done.stdout)[1]) for word in ("passed", "skipped"))
    assert passed >= 22 and skipped == 1, done.stdout[-2000:]


@pytest.fixture
def learner(family) -> Learner:
    prompts = make_prompts(str(family.large))
    prompts["long"] = Prompt("long", "", "", np.full(200, 5, dtype=np.int32), "")
    learner = Learner(str(family.large), prompts, max_tokens=20, max_model_len=64)
    learner.weight_sync(0)
    yield learner
    learner.close()


def asked(learner: Learner, *prompt_ids: str) -> list:
    """Eight rollouts of each: results, or what was raised."""

    async def sample() -> list:
        calls = [learner.engine.sample(LearnerRequest(1, p, 8, 1, 0)) for p in prompt_ids]
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*calls, return_exceptions=True)

    return learner.call(sample())


@here_only
def test_a_request_that_is_refused_fails_alone(learner: Learner):
    first, *_ = make_prompts(str(learner.engine.settings.model))
    refused, sampled = asked(learner, "long", first)
    assert "maximum context length is 64 tokens" in str(refused)
    assert len(sampled.rollouts) == 8
    assert learner.engine._vllm.llm.get_num_unfinished_requests() == 0


@here_only
def test_when_a_step_fails_everybody_learns_it(learner: Learner, monkeypatch: pytest.MonkeyPatch):
    """Those whose requests were running, those who ask later, and a weight sync; and the dead engine can be closed."""
    core, steps = learner.engine._vllm.llm._core, 0
    step = core.step_fn

    def fail_at_third() -> tuple:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise RuntimeError("out of memory")
        return step()

    monkeypatch.setattr(core, "step_fn", fail_at_third)
    names = list(make_prompts(str(learner.engine.settings.model)))
    for failure in [*asked(learner, *names[:3]), *asked(learner, names[3])]:
        assert isinstance(failure, EngineError) and "RuntimeError: out of memory" in str(failure)
    with pytest.raises(EngineError, match="out of memory"):
        learner.call(learner.engine.begin_weight_sync())
    llm = learner.engine._vllm.llm
    llm.shutdown(timeout=PATIENCE_S)
    assert not llm._thread.is_alive()


@here_only
def test_closing_ends_what_runs_and_refuses_what_comes(learner: Learner):
    name = next(iter(make_prompts(str(learner.engine.settings.model))))
    llm = learner.engine._vllm.llm

    async def close_under_way() -> list:
        running = asyncio.create_task(learner.engine.sample(LearnerRequest(1, name, 8, 1, 0)))
        while not llm.get_num_unfinished_requests():
            await asyncio.sleep(0.001)
        llm.shutdown(timeout=PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(
                running, llm.collective_rpc("try_weight_transfer", args=([],)), return_exceptions=True
            )

    failures = learner.call(close_under_way())
    assert all(isinstance(failure, EngineError) and "closed" in str(failure) for failure in failures)
    assert not llm._thread.is_alive()
