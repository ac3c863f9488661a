"""Any integer is a seed, and a seed that always was one gives what it always gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from s2l_ray.config import parse_config
from s2l_ray.miniature.pretrain import Optimisation, _batches
from s2l_ray.rollouts.requests import rollout_seed
from s2l_ray.rollouts.step_planner import StepPlanner
from s2l_ray.schedule import Schedule
from s2l_ray.seeds import generator, word
from s2l_ray.statistics.pass_at_k import evaluate_counts
from tests.support.training_models import make_trainer, write_model

SEEDS = st.integers() | st.integers(min_value=-(2**200), max_value=2**200)


@given(SEEDS, st.integers(0, 2**40))
@example(-1, 0)
@example(-(2**63) - 1, 0)
@example(2**32, 1)
@example(2**63, 0)
@example(2**64, 0)
@example(2**200, 0)
def test_any_integer_seeds_every_generator(seed: int, stream: int):
    np.random.RandomState(word(seed) % 2**32)
    torch.Generator().manual_seed(word(seed))
    drawn = generator(seed, stream).integers(2**63, size=4)
    assert (drawn == generator(seed, stream).integers(2**63, size=4)).all()
    assert (drawn != generator(seed + 1, stream).integers(2**63, size=4)).any()
    assert (drawn != generator(seed, stream + 1).integers(2**63, size=4)).any()
    assert 0 <= rollout_seed(seed, "draws", "p", "explorer", 100_000) < 2**63  # what vLLM takes


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 1000))
def test_what_a_seed_gave_it_still_gives(seed: int, step: int, stream: int):
    assert word(seed) == seed
    for mine, numpys in (
        (generator(seed), np.random.default_rng(seed)),
        (generator(seed, step), np.random.default_rng((seed, step))),
        (generator(seed, step, stream), np.random.default_rng((seed, step, stream))),
    ):
        assert mine.bit_generator.state == numpys.bit_generator.state


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model("qwen3", tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**32, 2 - 2**63, 2**63 - 1])
def test_any_integer_of_64_bits_seeds_every_part_of_a_run(model_dir: str, seed: int):
    config = parse_config(
        {
            "seed": seed,
            "rollout": {"explorer_seed": seed - 1},
            "models": {"learner": "l", "explorer": "e"},
            "data": {"train": "t"},
        }
    )
    assert (config.seed, config.explorer_seed) == (seed, seed - 1)
    planner = StepPlanner([f"p{i}" for i in range(12)], Schedule("linear", 8, 4), 4, seed, explorer_seed=seed - 1)
    assert len(set(planner.prompts(1))) == 4 and len(planner.spare_prompts(1)) == 8
    prompts = planner.prompts(2)
    for request in [*planner.explorer_requests(2, prompts), *planner.learner_requests(2, prompts)]:
        assert 0 <= request.first_seed < 2**62
    pass_at, interval = evaluate_counts([0, 2, 4], 4, (1,), 0.95, seed)
    assert interval[1][0] <= pass_at[1] <= interval[1][1]
    how = Optimisation(epochs=1, batch_size=4, seed=seed)
    assert sorted(torch.cat(list(_batches(torch.arange(8), how))).tolist()) == list(range(8))
    trainer = make_trainer(model_dir, seed=seed)
    try:
        assert torch.initial_seed() == word(seed)
    finally:
        trainer.close()


def test_a_trainer_is_seeded_as_it_always_was(model_dir: str):
    trainer = make_trainer(model_dir, seed=7)
    try:
        assert torch.initial_seed() == 7
        assert (np.random.get_state()[1] == np.random.RandomState(7).get_state()[1]).all()
    finally:
        trainer.close()
