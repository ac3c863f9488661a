"""Simulated runs against schedules worked out by hand: simple constants, times exact to float rounding."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from s2l_ray.config import Config, parse_config
from s2l_ray.errors import ConfigError
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle, Slot, TrainerSlot
from s2l_ray.planner.simulate.constants import Constants, EngineConstants, lengths_of
from s2l_ray.planner.simulate.simulation import evaluation_seconds, simulate
from s2l_ray.planner.simulate.solved import Solved
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

EXPLORER = EngineConstants(decode=((1, 1.0),))
"""1 s per decode step, whatever the batch."""
LEARNER = EngineConstants(decode=((1, 2.0),))
CONSTANTS = Constants(
    engines={"explorer": EXPLORER, "learner": LEARNER},
    pass_token_s=0.01,
    optimizer_s=5.0,
    weight_sync_s=3.0,
    lengths={"explorer": (10,), "learner": (10,)},
)


def config(**overrides) -> Config:
    """G = 4, 2 prompts, 6 steps, T_mix = 3: G_w = 4, 2, 0, 0, 0, 0. One optimizer step of 3 passes per step."""
    values = {
        "models": {"learner": "large", "explorer": "small"},
        "data": {"train": "train.jsonl"},
        "verifier": {"kind": "countdown"},
        "rollout": {"group_size": 4, "prompts_per_step": 2, "max_tokens": 10},
        "schedule": {"steps": 6, "mix_steps": 3},
        "trainer": {"gradient_checkpointing": "off"},
    }
    for key, value in overrides.items():
        section, name = key.split("__")
        values[section] = {**values.get(section, {}), name: value}
    return parse_config(values)


def layout(*phases: tuple[str, int, int, int, int], beside: bool = False, ranks: int = 1) -> Layout:
    """Phases as (name, first step, last step, explorer engines, learner engines), on one node.

    beside: all engines share the first device with the trainer.
    """

    def slots(explorers: int, learners: int) -> tuple[Slot, ...]:
        trainers = [TrainerSlot(n, n, (0,), 0.3) for n in range(ranks)]
        engines = [("learner", n) for n in range(learners)] + [("explorer", n) for n in range(explorers)]
        places = [0 if beside else ranks + n for n in range(len(engines))]
        return (
            *trainers,
            *(EngineSlot(role, n, at, (0,), 0.3, 0) for (role, n), at in zip(engines, places, strict=True)),
        )

    count = ranks if beside else ranks + max(explorers + learners for *_, explorers, learners in phases)
    bundles = tuple(PlannedBundle(0, (n,), {"GPU": 1}) for n in range(count))
    found = tuple(PhaseSlots(name, first, last, slots(e, n)) for name, first, last, e, n in phases)
    return Layout("colocated" if beside else "separate", "gpu", bundles, found, sleep=beside)


THREE = (("explore", 1, 1, 1, 1), ("mix", 2, 2, 1, 1), ("on-policy", 3, 6, 1, 1))
UPDATE = 5 + 3 * 80 * 0.01
"""One optimizer step; three passes over 2 prompts x 4 rollouts x 10 tokens: 7.4 s."""


def test_separate_engines_hide_exploring_behind_the_trainer():
    found = simulate(config(), layout(*THREE), CONSTANTS)
    seconds = [step.seconds for step in found.steps]
    # Step 1 waits for its own explorers: 10 decode steps of 1 s.
    assert seconds[0] == pytest.approx({"rollout": 10, "update": UPDATE, "weight_sync": 3, "total": 20.4})
    # Step 2's explorer rollouts were sampled from 10 s to 20 s, while the trainer worked; its learner takes 10 x 2 s.
    assert seconds[1] == pytest.approx({"rollout": 20, "update": UPDATE, "weight_sync": 3, "total": 30.4})
    assert found.steps[1].spans == pytest.approx({"explore": 10, "learner_generate": 20})
    assert seconds[2]["total"] == pytest.approx(30.4) and found.steps[2].spans == pytest.approx(
        {"learner_generate": 20}
    )
    assert found.run_seconds == pytest.approx(20.4 + 5 * 30.4)
    assert found.phase_seconds() == pytest.approx({"explore": 20.4, "mix": 30.4, "on-policy": 30.4})


def test_without_exploring_ahead_each_source_starts_with_its_step():
    found = simulate(config(rollout__prefetch_steps=0), layout(*THREE), CONSTANTS)
    assert [s.seconds["rollout"] for s in found.steps] == pytest.approx([10, 20, 20, 20, 20, 20])
    slow = replace(CONSTANTS, engines={"explorer": replace(EXPLORER, decode=((1, 4.0),)), "learner": LEARNER})
    ahead = simulate(config(), layout(*THREE), slow).steps[1]
    now = simulate(config(rollout__prefetch_steps=0), layout(*THREE), slow).steps[1]
    # Exploring takes 40 s. Ahead it begins 10.4 s before the step does; else with it.
    assert (ahead.seconds["rollout"], now.seconds["rollout"]) == pytest.approx((40 - UPDATE - 3, 40))


def test_colocated_engines_and_trainer_take_turns():
    constants = replace(CONSTANTS, sleep_wake_s=4.0)
    found = simulate(config(), layout(*THREE, beside=True), constants)
    # Explorer first, then learner, then 4 s of sleep and wake, the update and the weight sync; nothing is sampled
    # ahead.
    assert [s.seconds["rollout"] for s in found.steps] == pytest.approx([10, 30, 20, 20, 20, 20])
    assert found.steps[1].seconds["total"] == pytest.approx(30 + 4 + UPDATE + 3)
    assert found.steps[0].seconds["sleep_wake"] == 4


def test_two_engines_share_the_prompts():
    per_sequence = replace(LEARNER, decode=((0, 1.0), (8, 9.0)))  # 1 s and 1 s for each sequence
    constants = replace(CONSTANTS, engines={"learner": per_sequence, "explorer": EXPLORER})
    one = simulate(config(schedule__kind="off"), layout(("on-policy", 1, 6, 0, 1)), constants)
    two = simulate(config(schedule__kind="off"), layout(("on-policy", 1, 6, 0, 2)), constants)
    assert one.steps[0].seconds["rollout"] == pytest.approx(10 * 9)
    assert two.steps[0].seconds["rollout"] == pytest.approx(10 * 5)


def test_a_batch_is_bounded_and_filled_as_soon_as_there_is_room():
    # 8 responses, 4 at a time; lengths in the order of the draw below.
    bounded = replace(LEARNER, decode=((1, 1.0),), sequences=4, request_s=0.5)
    constants = replace(CONSTANTS, engines={"learner": bounded}, lengths={"learner": (2,), "explorer": (1,)})
    found = simulate(config(schedule__kind="off"), layout(("on-policy", 1, 6, 0, 1)), constants)
    # The first prompt's four take 2 steps and then the second's: 0.5 + 2 + 0.5 + 2.
    assert found.steps[0].seconds["rollout"] == pytest.approx(5)


def test_late_requests_join_a_running_batch_at_its_next_decode_step():
    # Two steps ahead: step 3's explorer requests go out with step 2's, at 10 s; both decode in one batch of 1 s steps.
    late = replace(CONSTANTS, engines={"explorer": replace(EXPLORER, decode=((0, 0.0), (8, 8.0))), "learner": LEARNER})
    settings = config(schedule__kind="constant", rollout__prefetch_steps=2)
    found = simulate(settings, layout(("explore", 1, 6, 1, 1)), late)
    # Step 1: 10 decode steps of 8 s. Then 16 sequences: steps 2 and 3 both end 10 x 16 s later, at 240 s.
    assert found.steps[0].seconds["rollout"] == pytest.approx(80)
    assert found.steps[1].start + found.steps[1].seconds["rollout"] == pytest.approx(240)
    assert found.steps[2].seconds["rollout"] == pytest.approx(0)
    # Step 4 was sent at 240 s and runs with step 5, which is sent once step 3's part is done: 10.4 s later. Of the
    # decode steps of 8 s the second ends at 256 s; then 16 sequences for 8 decode steps of 16 s.
    assert found.steps[3].start + found.steps[3].seconds["rollout"] == pytest.approx(256 + 8 * 16)


def test_verifiers_work_through_sets_one_after_the_other():
    constants = replace(CONSTANTS, verify_request_s=1.0, verify_rollout_s=0.25)
    one = simulate(config(), layout(*THREE), constants)
    two = simulate(config(verifier__workers=2), layout(*THREE), constants)
    # Both sets of 4 are sampled at 10 s; each takes 1 + 4 x 0.25 s.
    assert one.steps[0].seconds["rollout"] == pytest.approx(14)
    assert two.steps[0].seconds["rollout"] == pytest.approx(12)


def test_processes_that_want_more_cores_than_there_are_slow_down_alike():
    constants = replace(CONSTANTS, cores=1.0)
    found = simulate(config(schedule__kind="constant"), layout(("explore", 1, 6, 1, 1)), constants)
    # From 10 s the trainer's 7.4 s and the explorer's next 10 s share the core: the update takes 14.8 s. Then 2.6 s of
    # exploring are left beside the weight sync's 3 s, which so takes 5.6 s; then the next rollouts are all there.
    assert found.steps[0].seconds == pytest.approx({"rollout": 10, "update": 14.8, "weight_sync": 5.6, "total": 30.4})
    assert found.steps[1].seconds["rollout"] == pytest.approx(0)
    wide = replace(constants, cores=2.0, engines={"explorer": replace(EXPLORER, width=3.0), "learner": LEARNER})
    found = simulate(config(schedule__kind="constant"), layout(("explore", 1, 6, 1, 1)), wide)
    # Alone, three threads on two cores take 3/2 as long; beside the trainer there are four: twice as long, both.
    assert found.steps[0].seconds["rollout"] == pytest.approx(15)
    assert found.steps[0].seconds["update"] == pytest.approx(14.8)


def test_a_hand_over_makes_steps_faster_once_the_engine_has_started():
    per_sequence = replace(LEARNER, decode=((0, 0.0), (8, 8.0)))
    constants = replace(CONSTANTS, engines={"explorer": EXPLORER, "learner": per_sequence}, engine_start_s=100.0)
    phases = (("explore", 1, 1, 1, 1), ("mix", 2, 2, 1, 1), ("on-policy", 3, 6, 0, 2))
    found = simulate(config(), layout(*phases), constants)
    # Learner rollouts of 8 take 80 s on one engine, 40 s on two. The hand-over begins with step 3, whose 90.4 s are
    # not enough for the new engine to start; it joins at step 5, after 180.8 s.
    assert [s.seconds["rollout"] for s in found.steps] == pytest.approx([10, 40, 80, 80, 40, 40])
    start = [a for a in found.activities if a.kind == "start"]
    assert [(a.actor, a.step, round(a.end - a.start, 6)) for a in start] == [("learner 1", 3, 100)]


def test_a_source_without_an_engine_waits_for_the_one_that_is_handed_over():
    constants = replace(CONSTANTS, engine_start_s=100.0)
    found = simulate(
        config(), layout(("explore", 1, 1, 1, 0), ("mix", 2, 2, 1, 1), ("on-policy", 3, 6, 0, 1)), constants
    )
    assert found.steps[1].start == pytest.approx(20.4 + 100)


def test_every_optimizer_step_waits_for_its_busiest_rank():
    settings = config(rollout__prompts_per_step=3, schedule__kind="off")
    found = simulate(settings, layout(("on-policy", 1, 6, 0, 1), ranks=2), CONSTANTS)
    # Three groups of 40 tokens on two ranks: one has two of them.
    assert found.steps[0].seconds["update"] == pytest.approx(5 + 3 * 80 * 0.01)
    settings = config(rollout__prompts_per_step=4, schedule__kind="off", objective__mini_batch_prompts=2)
    found = simulate(settings, layout(("on-policy", 1, 6, 0, 1), ranks=2), CONSTANTS)
    # Two optimizer steps with a group per rank each; old log-probs of the second: 3.5 passes on average.
    assert found.steps[0].seconds["update"] == pytest.approx(2 * 5 + 3.5 * 80 * 0.01)


def test_groups_that_are_all_right_or_all_wrong_are_not_trained_on():
    # Every rollout is right: no group has an advantage, only the optimizer's own time is left.
    constants = replace(CONSTANTS, solved=Solved({"explorer": 50.0, "learner": 50.0}, 0.0))
    assert simulate(config(), layout(*THREE), constants).steps[0].seconds["update"] == pytest.approx(5)
    # The explorer is always wrong, the learner always right: in the mix step all are trained on, unless the explorer's
    # negative advantages are dropped; then half.
    constants = replace(CONSTANTS, solved=Solved({"explorer": -50.0, "learner": 50.0}, 0.0))
    assert simulate(config(), layout(*THREE), constants).steps[1].seconds["update"] == pytest.approx(UPDATE)
    dropped = simulate(config(objective__explorer_negatives=0.0), layout(*THREE), constants)
    assert dropped.steps[1].seconds["update"] == pytest.approx(5 + 1.2)


def test_equal_arguments_give_equal_runs_and_lengths_do_not_depend_on_the_layout():
    constants = replace(CONSTANTS, lengths={"explorer": lengths_of(5, 10), "learner": lengths_of(5, 10)})
    one, again = (simulate(config(), layout(*THREE), constants) for _ in range(2))
    assert one == again
    other = simulate(config(), layout(("explore", 1, 1, 2, 1), ("mix", 2, 6, 1, 2)), constants)
    assert [s.seconds["update"] for s in other.steps] == [s.seconds["update"] for s in one.steps]
    assert simulate(config(), layout(*THREE), constants, steps=[1, 2]).steps == one.steps[:2]


def test_response_lengths_have_the_mean_and_the_limit():
    lengths = lengths_of(500, 2000)
    assert min(lengths) >= 1 and max(lengths) <= 2000
    assert sum(lengths) / len(lengths) == pytest.approx(500, rel=0.01)
    assert lengths_of(20, 20) == (20,)


def test_an_evaluation_is_the_learner_alone():
    constants = replace(CONSTANTS, engines={"learner": replace(LEARNER, request_s=0.5), "explorer": EXPLORER})
    # 3 requests of 2 rollouts: 3 x 0.5 s of requests, 10 decode steps of 2 s.
    assert evaluation_seconds(config(), layout(*THREE), constants, 3, 2) == pytest.approx(1.5 + 20)


@pytest.mark.parametrize("name", ["max_staleness", "straggler_groups", "refill_rounds"])
def test_what_is_not_simulated_is_refused(name: str) -> None:
    settings = config(**{f"rollout__{name}": 1})
    with pytest.raises(ConfigError, match=rf"not simulated: rollout.{name}=1 "):
        simulate(settings, layout(("explore", 1, 6, 1, 1)), CONSTANTS)


def test_an_adaptive_schedule_is_simulated_as_planned_and_says_so() -> None:
    adaptive = {"kind": "adaptive", "steps": 6, "mix_steps": 3, "adapt_every": 1, "adapt_below": 0.1}
    settings = config().model_copy(update={"schedule": config().schedule.model_validate(adaptive)})
    phases = [("explore", 1, 1, 1, 1), ("mix", 2, 2, 1, 1), ("on-policy", 3, 6, 1, 1)]
    found, nominal = (simulate(c, layout(*phases), CONSTANTS) for c in (settings, config()))
    assert found.steps == nominal.steps
    assert "adaptive" in found.left_out[0] and not any("adaptive" in text for text in nominal.left_out)


BLOCKED = """
import importlib, pkgutil, sys
sys.modules["simpy"] = None  # as if it were not installed
import s2l_ray.commands, s2l_ray.planner.search, s2l_ray.planner.show
for package in (s2l_ray.commands, s2l_ray.planner.search, s2l_ray.planner.show):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from s2l_ray.cli import main
plan = ["plan", "configs/quickstart.yaml", "--inventory", "cluster/inventories/8xH100.yaml", "--json"]
print(main(plan), main([*plan, "--simulate"]))
"""


def test_only_the_simulator_needs_its_package() -> None:
    command = [sys.executable, "-c", BLOCKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT)
    assert done.stdout.endswith("\n0 1\n"), done.stderr[-3000:]
    assert "needs simpy, which is not installed: pip install '.[simulate]' in a checkout" in done.stderr
