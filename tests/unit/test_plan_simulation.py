"""A plan simulated with its own costs, its timeline and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from s2l_ray.config import Config, parse_config
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show.simulation_timeline import draw_timeline, simulation_figure
from s2l_ray.planner.simulate.plan_constants import constants_of_plan
from s2l_ray.planner.simulate.simulated_run import Simulation
from s2l_ray.planner.simulate.simulation import sample_steps, simulate

NODE = Inventory.of([{"count": 1, "gpus": 8, "gpu": "H100"}])


def config(mode: str) -> Config:
    return parse_config(
        {
            "models": {"learner": "Qwen/Qwen3-8B", "explorer": "Qwen/Qwen3-1.7B"},
            "data": {"train": "train.jsonl"},
            "rollout": {"group_size": 8, "prompts_per_step": 96, "max_tokens": 512},
            "schedule": {"steps": 12, "mix_steps": 6},
            "objective": {"mini_batch_prompts": 48},
            "placement": {"mode": mode, "hand_over": "off"},
        }
    )


def simulated(mode: str, mean: float | None = None) -> tuple[dict[str, float], Simulation]:
    """Step seconds of each phase as planned, and the simulation."""
    settings = config(mode)
    plan = make_plan(settings, NODE, mean_response_tokens=mean)
    assert plan.fits and plan.mode == mode
    constants = constants_of_plan(settings, plan, NODE, mean_response_tokens=mean)
    return {p.name: p.step_seconds for p in plan.phases}, simulate(settings, plan.layout, constants)


@pytest.mark.parametrize("mode", ["colocated", "separate", "mixed"])
def test_simulation_and_cost_model_agree_where_all_responses_are_equally_long(mode: str):
    # Then the closed form has no tail to guess. What only the simulation sees is that prompts go to engines whole and
    # that the last batch may be half full and yet takes as many decode steps.
    planned, found = simulated(mode, mean=512)
    for phase, seconds in found.phase_seconds().items():
        assert seconds == pytest.approx(planned[phase], rel=0.1), phase


def test_simulation_and_cost_model_are_near_each_other_with_responses_of_all_lengths():
    planned, found = simulated("separate")
    for phase, seconds in found.phase_seconds().items():
        assert seconds == pytest.approx(planned[phase], rel=0.25), phase


def test_what_is_simulated_of_a_long_schedule():
    # G = 8, T_mix = 6: G_w = 8, 7, 5, 4, 2, 0. explore is step 1, mix 2 to 5, on-policy 6 to 12.
    assert sample_steps(config("separate"), per_phase=3) == [1, 2, 4, 5, 6, 9, 12]


def test_the_timeline_shows_each_phase_with_its_actors(tmp_path: Path):
    _, found = simulated("mixed")
    figure = simulation_figure(found, "a plan")
    titles = [axes.get_title(loc="left").split(":")[0] for axes in figure.axes]
    assert titles == ["explore", "mix", "on-policy"]
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert all(labels[0].startswith("trainer") for labels in rows)
    assert any(label.startswith("explorer") for label in rows[1])
    assert not any(label.startswith("explorer") for label in rows[2])
    picture = imread(draw_timeline(found, "a plan", tmp_path / "timeline.png"))
    assert picture.shape[1] > 1000 and picture.std() > 0.05
