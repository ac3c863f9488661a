"""What a user's function may return and take, and when a verifier is taken for broken."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from s2l_ray.config import VerifierConfig
from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.verifiers import TRIED, Probation, VerifierError, as_verdict, resolve_verifier


@pytest.mark.parametrize(
    ("returned", "reward"),
    [
        (True, 1.0),
        (0, 0.0),
        (0.25, 0.25),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (np.bool_(True), 1.0),
        (np.int8(1), 1.0),
        (np.float32(0.25), 0.25),
        (np.longdouble(0.25), 0.25),
        (np.array(0.25), 0.25),
        (np.array([3]) == np.array([3]), 1.0),
        (np.array([[0.25]]), 0.25),
        (torch.tensor(True), 1.0),
        (torch.tensor([3]) == torch.tensor([4]), 0.0),
        (torch.tensor(0.25, dtype=torch.bfloat16, requires_grad=True), 0.25),
    ],
)
def test_a_number_is_a_number(returned, reward):
    assert as_verdict(returned, "m:f") == Verdict("right" if reward == 1 else "wrong", reward)
    assert type(as_verdict(returned, "m:f").reward) is float
    assert as_verdict(Verdict("unparsable", returned, "x"), "m:f") == Verdict("unparsable", reward, "x")


@pytest.mark.parametrize(
    "returned",
    [
        None,
        "1",
        b"1",
        (1.0, "fine"),
        [1],
        {"reward": 1},
        1j,
        -1,
        1.5,
        10**400,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        np.float32("nan"),
        np.array([1, 1]),
        np.array([]),
        np.array("1"),
        np.array(None),
        np.complex64(1),
        torch.tensor([0.5, 0.5]),
        torch.tensor(float("inf")),
        Verdict("right", 2.0),
        Verdict("right", None),
        Verdict("good", 1.0),
    ],
)
def test_what_is_no_reward_is_named(returned):
    with pytest.raises(VerifierError) as caught:
        as_verdict(returned, "m:f")
    assert str(caught.value).startswith("verifier m:f returned ")
    assert f"of type {type(returned).__name__}; return a bool, a reward in [0, 1] or a Verdict" in str(caught.value)
    assert len(str(caught.value)) < 300


FUNCTIONS = """
from functools import partial

def fits(response, answer, question): return True
def takes_more(answer, response, question="", *, strict=False): return True
def takes_all(**fields): return True
class Called:
    def __call__(self, response, answer, **others): return True
called = Called()
bound = partial(takes_more, strict=True)

def too_few(response, answer): return True
def too_many(response, answer, question, model): return True
def others(prediction, gold): return True
async def later(response, answer, question): return True
def several(response, answer, question): yield True
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "functions_to_call.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["fits", "takes_more", "takes_all", "called", "bound"])
def test_functions_that_can_be_called(functions, name):
    assert resolve_verifier(f"functions_to_call:{name}")("r", "a", "q") == Verdict("right", 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "too_few",
            r"its parameters \(response, answer\) do not allow \(got an unexpected keyword argument 'question'\)",
        ),
        ("too_many", r"do not allow \(missing a required argument: 'model'\)"),
        ("others", r"is called as function\(response=..., answer=..., question=...\)"),
        ("later", "must return its result; it is asynchronous or a generator"),
        ("several", "must return its result; it is asynchronous or a generator"),
    ],
)
def test_functions_that_cannot_be_called_are_refused_before_anything_starts(functions, name, message):
    with pytest.raises(ConfigError, match=rf"verifier.kind: functions_to_call:{name} .*{message}"):
        resolve_verifier(f"functions_to_call:{name}")


def test_columns_are_keywords_of_the_function(functions):
    verifier = resolve_verifier("functions_to_call:too_many", columns=["model"])
    assert verifier("r", "a", "q", '{"model": "m"}') == Verdict("right", 1.0)


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("functions_to_call:too_many", ["level"], r"question=..., level=...\).*; verifier.columns names what else"),
        ("functions_to_call:fits", ["level"], "unexpected keyword argument 'level'"),
        ("functions_to_call:too_many", [], r"missing a required argument: 'model'\); verifier.columns names what else"),
    ],
)
def test_a_function_and_the_columns_must_fit(functions, kind, columns, message):
    with pytest.raises(ConfigError, match=message):
        VerifierConfig(kind=kind, columns=columns).check()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"columns": ["level"]}, "columns are for a function of your own; math takes none"),
        ({"kind": "m:f", "columns": ["level", "level"]}, "a name is given twice"),
        ({"kind": "m:f", "columns": ["answer"]}, "is given to every verifier"),
        ({"kind": "m:f", "columns": ["a b"]}, "cannot be the name of an argument"),
        ({"kind": "m:f", "columns": ["class"]}, "cannot be the name of an argument"),
    ],
)
def test_columns_that_no_function_can_be_called_with_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        VerifierConfig(**values)


@pytest.mark.parametrize(("returned", "verdict"), [(True, Verdict("right", 1.0)), (0.25, Verdict("wrong", 0.25))])
def test_a_built_in_verifier_is_called_and_read_like_a_users(monkeypatch, returned, verdict):
    def in_another_order(question, answer, response):
        assert (response, answer, question) == ("r", "a", "q")
        return returned

    monkeypatch.setitem(VERIFIERS._built_in, "new", in_another_order)
    assert resolve_verifier("new")("r", "a", "q") == verdict


def test_countdown_is_exact():
    verifier = resolve_verifier("countdown")
    assert verifier("3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 18 .", "3 7 5 2 : 18", "").status == "right"
    assert verifier("3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 19 .", "3 7 5 2 : 19", "").status == "wrong"


def test_a_built_in_verifier_ends_no_run_whatever_models_write():
    killed = Verdict("failed", 0.0, "its check killed two workers: SIGKILL")
    for kind in ("math", "countdown"):
        Probation(kind).judge([killed] * 2 * TRIED)


def test_a_verifier_that_never_worked_ends_a_run_and_one_that_did_never_does():
    failed, wrong = Verdict("failed", 0.0, "the verifier raised NameError"), Verdict("wrong", 0.0)
    broken = Probation("m:f")
    for _ in range(TRIED // 8 - 1):
        broken.judge([failed] * 8)
    broken.judge([])
    with pytest.raises(VerifierError, match=f"m:f failed on each of its first {TRIED} answers, .*raised NameError"):
        broken.judge([failed] * 8)
    works = Probation("m:f")
    works.judge([*[failed] * 63, wrong])
    for _ in range(100):
        works.judge([failed] * 8)
