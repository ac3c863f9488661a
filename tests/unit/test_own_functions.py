"""A user's functions that fail or return what cannot be used: one message, which names the key and the function."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.cli import main
from s2l_ray.config import ObjectiveConfig, ScheduleConfig, load_config
from s2l_ray.config.own_code import own_functions
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.objective import LossTokens, PolicyLoss, correction, policy_loss
from tests.support.objective_inputs import advantages_of, estimate_of, loss_tokens, rewards_of
from tests.support.paths import ROOT
from tests.support.training_models import make_trainer, objective, random_groups, write_model

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
FAILING = """
import sys
from s2l_ray.errors import DataError

def raises(*arguments):
    return 1 / 0

def ends(*arguments):
    sys.exit(3)

def says_more(*arguments):
    raise ValueError("first line\\nsecond line")

def says_nothing(*arguments):
    raise KeyError

class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no message")

def cannot_say(*arguments):
    raise Silent

def has_a_message(*arguments):
    raise DataError("row 3: no answer")
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the module `own_failing`."""
    (tmp_path / "own_failing.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_failing", "own_exits", "own_module", "own_defines"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def returning(own: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make own_module:function one that calls the given function."""
    (own / "own_module.py").write_text("make = None\n\ndef function(*arguments):\n    return make(*arguments)\n")
    monkeypatch.syspath_prepend(own)
    import own_module  # type: ignore[import-not-found]

    return lambda make: setattr(own_module, "make", make)


def tokens_with_gradient() -> LossTokens:
    return loss_tokens(torch.zeros(3, requires_grad=True), torch.zeros(3), torch.ones(3))


def called(key: str, name: str) -> None:
    """Call the function that a key names, as the package does."""
    if key == "schedule.kind":
        ScheduleConfig(kind=name, steps=4, mix_steps=4).build(8)
    elif key == "objective.advantage":
        estimate_of([1, 0, 0, 0], advantage=name)
    elif key == "objective.loss":
        policy_loss(tokens_with_gradient(), ObjectiveConfig(loss=name))
    else:
        correct(name)


def correct(level: str, log_ratio: Sequence[float] = (0.0, 1.0)) -> torch.Tensor:
    found = correction(
        torch.tensor(log_ratio), torch.tensor([2]), source="learner", level=level, mode="truncate", cap=9.0
    )
    return found.weights


KEYS = ["schedule.kind", "objective.advantage", "objective.loss", "objective.correction.learner"]


# ---- exceptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raises", r"ZeroDivisionError: division by zero \(.*own_failing\.py, line 6\)"),
        ("ends", r"SystemExit: 3 \(.*own_failing\.py, line 9\)"),
        ("says_more", r"ValueError: first line \(.*own_failing\.py, line 12\)"),
        ("says_nothing", r"KeyError \(.*own_failing\.py, line 15\)"),
        ("cannot_say", r"Silent \(.*own_failing\.py, line 22\)"),
    ],
)
def test_an_exception_names_the_key_the_function_and_the_line(key: str, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: own_failing:{name} raised {what}$"):
        called(key, f"own_failing:{name}")


def test_an_error_that_has_a_message_for_users_passes_through() -> None:
    with pytest.raises(DataError, match=r"^row 3: no answer$"):
        called("objective.loss", "own_failing:has_a_message")


def test_a_function_without_lines_is_named_without_a_place() -> None:
    with pytest.raises(ConfigError, match=r"^objective.loss: operator:add raised TypeError: .*tuple$"):
        called("objective.loss", "operator:add")


def test_a_schedule_that_the_number_of_optimizer_steps_depends_on_is_named_when_it_is_read() -> None:
    overrides = ["objective.grouping=separate", "trainer.lr_schedule=cosine", "schedule.kind=own_failing:says_more"]
    with pytest.raises(ConfigError, match=r"^schedule.kind: own_failing:says_more raised ValueError: first line \("):
        load_config(QUICKSTART, overrides)


def test_the_plan_of_a_run_names_a_schedule_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(QUICKSTART), "schedule.kind=own_failing:raises", "--inventory", "8xH100"]) == 1
    assert "schedule.kind: own_failing:raises raised ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("code", ["0", "'not here'"])
def test_a_module_that_ends_the_process_is_refused(code: str, own: Path) -> None:
    (own / "own_exits.py").write_text(f"import sys\nsys.exit({code})\n")
    with pytest.raises(ConfigError, match=r"verifier.kind: importing own_exits fails with SystemExit: "):
        VERIFIERS.resolve("own_exits:function")


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        [1.0, float("nan"), 0.0, 0.0],
        [1.0, float("inf"), 0.0, 0.0],
        ["1", "2", "3", "4"],
        [[1.0], [1.0, 2.0], [3.0], [4.0]],
        [1.0, None, 0.0, 0.0],
        None,
        torch.ones(4, requires_grad=True),
        np.ones(4) * 1j,
    ],
    ids=str,
)
def test_advantages_are_finite_numbers(result: Any, returning: Any) -> None:
    returning(lambda group, objective: result)
    with pytest.raises(ConfigError) as error:
        estimate_of([1, 0, 0, 0], advantage="own_module:function")
    message = str(error.value)
    assert message.startswith("objective.advantage: own_module:function returned ")
    assert "for rewards [1.0, 0.0, 0.0, 0.0]; return 4 finite numbers, one for each rollout" in message


@pytest.mark.parametrize("result", [[1, 0, 0, 0], np.array([1, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0])], ids=str)
def test_advantages_may_be_numbers_of_any_kind(result: Any, returning: Any) -> None:
    returning(lambda group, objective: result)
    got = estimate_of([1, 0, 0, 0], advantage="own_module:function")
    assert got.dtype == np.float64
    assert got.tolist() == [1, 0, 0, 0]


def test_an_advantage_cannot_change_the_rewards(returning: Any) -> None:
    def in_place(group: Any, objective: Any) -> Any:
        group.rewards[:] = 0
        return group.rewards

    returning(in_place)
    with pytest.raises(ConfigError, match=r"own_module:function raised ValueError: .*read-only"):
        advantages_of([1, 0, 0, 0], [False] * 4, advantage="own_module:function")
    group = rewards_of([1, 0])
    group.rewards[0] = 2  # of the package it stays writable


def own_policy(**changes: Any) -> Any:
    return lambda tokens, objective: PolicyLoss(
        **({"loss": -tokens.logprobs, "ratio": tokens.logprobs, "clipped": tokens.logprobs > 0} | changes)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, o: t.logprobs.detach().numpy(), "a value of type ndarray; return the loss"),
        (
            lambda t, o: 3,
            "a value of type int; return the loss of each token, a tensor of shape \\[3\\] on cpu, or a PolicyLoss",
        ),
        (lambda t, o: None, "None; return the loss of each token"),
        (lambda t, o: -t.logprobs.detach(), "a loss without a gradient; compute it from tokens.logprobs"),
        (lambda t, o: t.logprobs / 0, "a loss that is NaN or infinite for 3 of 3 tokens"),
        (lambda t, o: t.logprobs - torch.tensor([0, torch.inf, 0]), "a loss that is NaN or infinite for 1 of 3 tokens"),
        (own_policy(loss=None), "None; return the loss"),
        (own_policy(ratio=None), "a PolicyLoss whose ratio is None; give a tensor of shape \\[3\\]"),
        (own_policy(clipped=None), "a PolicyLoss whose clipped is None; give"),
        (own_policy(ratio=torch.ones(2)), "a PolicyLoss whose ratio is a tensor of shape \\[2\\] on cpu; give"),
        (own_policy(clipped=0.5), "a PolicyLoss whose clipped is a value of type float; give"),
    ],
)
def test_losses_are_finite_tensors_with_a_gradient(make: Any, message: str, returning: Any) -> None:
    returning(make)
    with pytest.raises(ConfigError, match=rf"^objective.loss: own_module:function returned (?:{message})"):
        policy_loss(tokens_with_gradient(), ObjectiveConfig(loss="own_module:function"))


def test_a_policy_loss_of_ones_own_is_taken_without_the_gradient_of_its_metrics(returning: Any) -> None:
    returning(own_policy())
    got = policy_loss(tokens_with_gradient(), ObjectiveConfig(loss="own_module:function"))
    assert (got.loss.requires_grad, got.ratio.requires_grad, got.clipped.requires_grad) == (True, False, False)


def test_an_update_whose_gradient_is_not_finite_has_no_norm(tmp_path: Path, returning: Any) -> None:
    """The notice of a step that changed no weights goes by this."""
    returning(lambda tokens, objective: -(tokens.logprobs * 0).sqrt())
    trainer = make_trainer(write_model("llama", tmp_path / "model"), goal=objective(loss="own_module:function"))
    metrics = trainer.update([random_groups(2), random_groups(2, seed=1)])
    trainer.close()
    assert metrics["skipped_updates"] == 2
    assert "grad_norm" not in metrics


def test_a_model_that_has_diverged_is_not_the_losses_fault(returning: Any) -> None:
    returning(lambda tokens, objective: -tokens.logprobs)
    logprobs = torch.tensor([0.0, torch.nan, 0.0], requires_grad=True)
    tokens = loss_tokens(logprobs, torch.zeros(3), torch.ones(3))
    assert policy_loss(tokens, ObjectiveConfig(loss="own_module:function")).loss.isnan().sum() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda log_ratio, lengths: log_ratio / 0, "a log-ratio that is NaN or infinite for 2 of 2 tokens"),
        (lambda log_ratio, lengths: log_ratio.sum(), "a tensor of shape \\[\\] on cpu; return the log-ratio of each"),
        (
            lambda log_ratio, lengths: log_ratio.numpy(),
            "a value of type ndarray; return the log-ratio of each token, a tensor of",
        ),
        (lambda log_ratio, lengths: 1, "a value of type int; return the log-ratio"),
    ],
)
def test_corrections_are_finite_tensors(make: Any, message: str, returning: Any) -> None:
    returning(make)
    with pytest.raises(ConfigError, match=rf"^objective.correction.learner: own_module:function returned {message}"):
        correct("own_module:function")


def test_a_correction_of_what_is_not_finite_passes(returning: Any) -> None:
    returning(lambda log_ratio, lengths: log_ratio)
    assert correct("own_module:function", (0.0, float("nan"))).isnan().tolist() == [False, True]


def test_own_functions_are_recorded_with_the_files_that_they_come_from(own: Path) -> None:
    (own / "own_defines.py").write_text("def check(response, answer, question):\n    return True\n")
    (own / "own_module.py").write_text("from own_defines import check\n")
    config = load_config(QUICKSTART, {"verifier.kind": "own_module:check", "data.train": "x"})
    (found,) = own_functions(config)
    digests = {
        str(own / name): sha256((own / name).read_bytes()).hexdigest() for name in ("own_module.py", "own_defines.py")
    }
    assert (found.key, found.name, found.files) == ("verifier.kind", "own_module:check", digests)
    assert found.describe().startswith(f"verifier.kind=own_module:check from {own}/own_module.py (sha256 ")
    assert own_functions(load_config(QUICKSTART)) == []
