"""Functions that the configuration names: the registries, a user's own `module:function`, and the examples."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.advantage import learner_baseline
from examples.correction import geometric_mean
from examples.loss import dual_clip
from examples.schedule import stairs
from s2l_ray.config import ObjectiveConfig, ScheduleConfig, load_config
from s2l_ray.config.extension_points import REGISTRIES as KEYS
from s2l_ray.config.extension_points import check_extensions
from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS, Registry
from s2l_ray.objective import correction, policy_loss
from s2l_ray.schedule import ADAPTIVE, SCHEDULES, Schedule
from s2l_ray.training.metrics import SOURCES
from s2l_ray.training.update import mini_batch_moments, prepare_share
from tests.support.objective_inputs import advantages_of, estimate_of, loss_tokens, rewards_of
from tests.support.paths import ROOT
from tests.support.training_models import make_trainer, objective, random_groups, weights_of, write_model

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
OWN = """
from fractions import Fraction
from s2l_ray.objective import WholeBatch
from s2l_ray.objective.losses import ppo

not_callable = 5

def same_as_ppo(tokens, objective):
    return ppo(tokens, objective)

def one_number(tokens, objective):
    return tokens.logprobs.sum()

def too_few(tokens):
    return tokens

@WholeBatch
def rewards(group, objective):
    return group.rewards

def ranks(group, objective):
    return list(range(len(group.rewards)))

def a_pair(group, objective):
    return [1.0, -1.0]

def thirds(step, mix_steps, start):
    return 1 - 0.1 * (step - 1)

def rises(step, mix_steps, start):
    return Fraction(min(step, 4), 8)

def beyond(step, mix_steps, start):
    return 1.5

def mean_of_response(log_ratio, lengths):
    return log_ratio.mean().expand(log_ratio.shape)

def one_ratio(log_ratio, lengths):
    return log_ratio.sum()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `own_functions` in the working directory."""
    (tmp_path / "own_functions.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_functions", raising=False)


# ---- names ----------------------------------------------------------------------------------------------------------


def test_the_configuration_knows_every_name_without_torch() -> None:
    code = (
        "import sys; from s2l_ray.config.extension_points import REGISTRIES\n"
        "print(*(f'{key}={name}' for key in REGISTRIES for name in REGISTRIES[key].names))\n"
        "print([name for name in ('torch', 'ray', 'vllm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    names, imported = done.stdout.splitlines()
    # Everything is imported here, so that a name that is registered elsewhere is missing there.
    assert names.split() == [f"{key}={name}" for key, registry in KEYS.items() for name in registry.names], done.stderr
    assert {"objective.loss=ppo", "objective.advantage=grpo", "schedule.kind=linear"} < set(names.split())
    assert imported == "[]"


@pytest.mark.parametrize("key", KEYS)
def test_every_built_in_function_can_be_called_as_its_registry_says(key: str) -> None:
    registry = KEYS[key]
    for name in registry.names:
        if name != ADAPTIVE:
            registry._check_call(registry.resolve(name), name, key, ())


def test_a_name_is_registered_once() -> None:
    registry: Registry[Any] = Registry("a.key", "x", beside=("treated_elsewhere",))
    first = registry.register("taken")(lambda x: x)
    for name in ("taken", "treated_elsewhere"):
        with pytest.raises(ValueError, match=f"a.key: the name '{name}' is taken"):
            registry.register(name)
    assert registry.resolve("taken") is first


@pytest.mark.parametrize("key", KEYS)
def test_a_message_names_the_key_that_has_the_function(key: str) -> None:
    config = load_config(QUICKSTART, [f"{key}=no_such_module:function"])
    with pytest.raises(ConfigError, match=rf"^{key}: cannot import no_such_module:function"):
        check_extensions(config)


@pytest.mark.parametrize("key", KEYS)
def test_a_name_that_is_not_known_is_refused_when_it_is_read(key: str) -> None:
    for name in KEYS[key].names:
        extra = ["objective.pass_k=2"] if name == "pass_at_k" else []
        load_config(QUICKSTART, [f"{key}={name}", *extra])
    nearly = KEYS[key].names[1][:-1] + "x"
    with pytest.raises(ConfigError, match=rf"{key}: must be one of .*, or your own module:function; did you mean '"):
        load_config(QUICKSTART, [f"{key}={nearly}"])
    for half in (":function", "module:"):
        with pytest.raises(ConfigError, match=rf"{key}: must be one of"):
            load_config(QUICKSTART, [f"{key}={half}"])


@pytest.mark.parametrize("key", KEYS)
def test_a_users_function_is_imported_when_it_is_used_and_not_when_it_is_read(key: str) -> None:
    load_config(QUICKSTART, [f"{key}=no_such_module:function"])
    with pytest.raises(ConfigError, match=rf"{KEYS[key].key}: cannot import no_such_module:function"):
        KEYS[key].resolve("no_such_module:function")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_functions:missing", "cannot import own_functions:missing"),
        ("own_functions:not_callable", "own_functions:not_callable is 5, not a function"),
        (
            "own_functions:too_few",
            r"is called as function\(tokens, objective\), which its parameters \(tokens\) do not",
        ),
        ("own_functions", "'own_functions' must be one of ppo"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_a_model_is_loaded(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"objective.loss: .*{message}"):
        make_trainer("no such model", goal=ObjectiveConfig.model_construct(loss=name))


# ---- losses, advantages, corrections --------------------------------------------------------------------------------


@pytest.mark.usefixtures("own")
def test_an_update_with_a_users_function_is_that_with_the_same_built_in_one(tmp_path: Path) -> None:
    model_dir = write_model("llama", tmp_path / "model")
    (tmp_path / "own_functions.py").write_text(OWN)
    weights = []
    for changes in (
        {"loss": "ppo", "advantage": "reinforce++"},
        {"loss": "own_functions:same_as_ppo", "advantage": "own_functions:rewards"},
    ):
        trainer = make_trainer(model_dir, goal=objective(**changes))
        groups = random_groups(4)
        trainer.update([groups[:2], groups[2:]])
        weights.append(weights_of(trainer))
        trainer.close()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


@pytest.mark.usefixtures("own")
def test_what_a_users_function_returns_is_checked() -> None:
    tokens = loss_tokens(torch.zeros(3), torch.zeros(3), torch.ones(3))
    with pytest.raises(ConfigError, match=r"objective.loss: own_functions:one_number returned a tensor of shape \[\]"):
        policy_loss(tokens, ObjectiveConfig(loss="own_functions:one_number"))
    with pytest.raises(ConfigError, match=r"own_functions:a_pair returned \[1.0, -1.0\] .*return 4 finite numbers"):
        advantages_of([1, 0, 0, 0], [False] * 4, advantage="own_functions:a_pair")
    assert advantages_of([1, 0, 0, 0], [False] * 4, advantage="own_functions:ranks").values.tolist() == [0, 1, 2, 3]
    got = correction(
        torch.tensor([0.0, 1.0]),
        torch.tensor([2]),
        source="learner",
        level="own_functions:mean_of_response",
        mode="truncate",
        cap=9.0,
    )
    np.testing.assert_allclose(got.weights, np.exp([0.5, 0.5]), rtol=1e-6)
    for source in SOURCES:
        with pytest.raises(ConfigError, match=rf"objective.correction.{source}: own_functions:one_ratio returned a"):
            correction(
                torch.zeros(2), torch.tensor([2]), source=source, level="own_functions:one_ratio", mode="mask", cap=2.0
            )


@pytest.mark.usefixtures("own")
def test_a_users_whole_batch_estimator_is_normalised() -> None:
    goal, groups = ObjectiveConfig(advantage="own_functions:rewards"), random_groups(3)
    moments = mini_batch_moments(groups, goal, lambda sums: sums)
    share = prepare_share(groups, goal, total_tokens=99, total_sequences=12, moments=moments)
    expected = prepare_share(
        groups, ObjectiveConfig(advantage="reinforce++"), total_tokens=99, total_sequences=12, moments=moments
    )
    assert [s.advantage for s in share.sequences] == [s.advantage for s in expected.sequences]
    with pytest.raises(ValueError, match="moments of the mini-batch"):
        prepare_share(groups, goal, total_tokens=99, total_sequences=12)


# ---- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own")
def test_a_users_schedule() -> None:
    # 1, 0.9, 0.8, 0.7000000000000001 (a float), ...; times 10 and up, without the float's error
    built = ScheduleConfig(kind="own_functions:thirds", steps=8, mix_steps=8).build(10)
    assert [built.split(step).explorer for step in range(1, 9)] == [10, 9, 8, 7, 6, 5, 4, 3]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rises", r"rises from 0.125 to 0.25 at step 2; the explorer's share must never rise"),
        ("beyond", r"returned 1.5 at step 1; return a Fraction, int or float in \[0, 1\]"),
    ],
)
def test_an_impossible_schedule_is_refused_when_it_is_built(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule.kind: own_functions:{name} {message}"):
        ScheduleConfig(kind=f"own_functions:{name}", steps=8, mix_steps=8).build(8)


@pytest.mark.parametrize("kind", [name for name in SCHEDULES.names if name != "adaptive"])
def test_no_built_in_schedule_rises(kind: str) -> None:
    schedule = Schedule(kind, 8, 5, Fraction(1, 3))
    counts = [schedule.split(step).explorer for step in range(1, 13)]
    assert counts == sorted(counts, reverse=True)
    schedule.check(12)


# ---- examples -------------------------------------------------------------------------------------------------------


def test_the_example_verifier() -> None:
    verifier = VERIFIERS.resolve("examples.verifier:partial_credit")
    texts = ["3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 18 .", "3 * 7 = 22 ; 22 - 5 = 17 ; 17 + 2 = 19 .", "no idea"]
    assert [verifier(response=text, answer="3 7 5 2 : 18", question="") for text in texts] == [1.0, 0.1, 0.0]


def test_the_example_verifier_of_several_tasks() -> None:
    verifier = VERIFIERS.resolve("examples.verifier:by_data_source", further=["data_source"])
    steps, answer = "3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 18 .", "3 7 5 2 : 18"
    assert verifier(response=steps, answer=answer, question="", data_source="countdown") == 1.0
    assert verifier(response=steps, answer="18", question="", data_source="gsm8k").status != "right"
    assert verifier(response=r"\boxed{18}", answer="18", question="", data_source="gsm8k").reward == 1.0


def test_the_example_loss_bounds_what_a_negative_advantage_costs() -> None:
    # r = 5, 5, 2 and A = -1, 1, -1: 3 instead of 5; the clip at 1.2 holds; 2 is below 3
    logprobs = torch.tensor([5.0, 5.0, 2.0]).log().requires_grad_()
    tokens = loss_tokens(logprobs, torch.zeros(3), torch.tensor([-1.0, 1.0, -1.0]))
    loss = dual_clip(tokens, ObjectiveConfig())
    torch.testing.assert_close(loss.detach(), torch.tensor([3.0, -1.2, 2.0]))
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 0.0, 2.0]))
    assert policy_loss(tokens, ObjectiveConfig(loss="examples.loss:dual_clip")).ratio.tolist() == [5, 5, 2]


def test_the_example_correction() -> None:
    # The tokens of a response have its geometric mean: of 4 and 1/16 that is 1/2, of 3 it is 3, held at 2 by the cap.
    ratios, lengths = torch.tensor([4.0, 0.0625, 3.0]), torch.tensor([2, 1])
    torch.testing.assert_close(geometric_mean(ratios.log(), lengths).exp(), torch.tensor([0.5, 0.5, 3.0]))
    level = load_config(QUICKSTART, ["objective.correction.explorer=examples.correction:geometric_mean"])
    got = correction(
        ratios.log(),
        lengths,
        source="explorer",
        level=level.objective.correction.explorer,
        mode="truncate",
        cap=2.0,
    )
    torch.testing.assert_close(got.weights, torch.tensor([0.5, 0.5, 2.0]))


def test_the_example_advantage() -> None:
    # the learner's two rewards are 1 and 0
    group = rewards_of([1, 1, 1, 0], [True, True, False, False])
    assert learner_baseline(group, ObjectiveConfig()).tolist() == [0.5, 0.5, 0.5, -0.5]
    assert estimate_of([1, 0, 0, 0], advantage="examples.advantage:learner_baseline").tolist() == [0.75, *[-0.25] * 3]
    assert learner_baseline(rewards_of([1, 0], [True, True]), ObjectiveConfig()).tolist() == [0.5, -0.5]


def test_the_example_schedule() -> None:
    assert [stairs(step, 8, Fraction(1)) for step in range(1, 10)] == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0]
    schedule = load_config(QUICKSTART, ["schedule.kind=examples.schedule:stairs"]).schedule.build(8)
    assert [schedule.split(step).explorer for step in (1, 10, 11, 21, 31, 41)] == [8, 8, 6, 4, 2, 0]
