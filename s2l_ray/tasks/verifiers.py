"""Verifiers: functions of (response, answer, question) that return a Verdict, by the name that `verifier.kind` gives.

The built-in ones are in the registry `s2l_ray.extensions.VERIFIERS`. Every function, built-in or the user's own, is
called with the keywords response, answer and question, all str, and returns a bool, a reward in [0, 1] (right: exactly
1) or a Verdict. The user's own may be called with further columns of the data file (`verifier.columns`).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, Protocol, cast, get_args

from s2l_ray.errors import S2LError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.kinds import VerdictStatus
from s2l_ray.rollouts.records import NO_COLUMNS, Verdict


class Verifier(Protocol):
    """A verifier as the pool calls it."""

    def __call__(self, response: str, answer: str, question: str, columns: str = NO_COLUMNS) -> Verdict:
        """Judge one response; `columns` is a JSON object, see `Prompt.columns`."""


Options = Mapping[str, str]
"""What a verifier is called with for every response alike, see `VerifierConfig.options`."""
NO_OPTIONS: Options = {}
TRIED = 64
"""A verifier that fails on all of its first answers, this many, does not work."""
_SHOWN = reprlib.Repr()  # bounded, and does not raise
_SHOWN.maxstring = _SHOWN.maxother = 80


class VerifierError(S2LError):
    """A verifier has a bug or cannot run."""


class BrokenVerifierError(VerifierError):
    """A verifier failed on all of its first answers."""


class Probation:
    """Watches whether a user's verifier works at all: a run whose checks all fail would train on nothing, unnoticed.

    The built-in ones are known to work: a check of theirs fails because of a model's text, which must not end a run.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._failed: int | None = None if VERIFIERS.is_built_in(kind) else 0

    def judge(self, verdicts: Sequence[Verdict]) -> None:
        """Look at the next verdicts. After the first that is not `failed`, nothing is an error any more.

        Raises:
            BrokenVerifierError: the checks of the first TRIED answers, or more, all failed.
        """
        if self._failed is None or not verdicts:
            return
        if any(verdict.status != "failed" for verdict in verdicts):
            self._failed = None
            return
        self._failed += len(verdicts)
        if self._failed >= TRIED:
            raise BrokenVerifierError(
                f"verifier {self._kind} failed on each of its first {self._failed} answers, on the last one so: "
                f"{verdicts[-1].detail}; correct it, and give 0 for a response that it cannot read"
            )


def resolve_verifier(kind: str, options: Options = NO_OPTIONS, columns: Sequence[str] = ()) -> Verifier:
    """The verifier that `verifier.kind` names: math, choice, countdown, or a user's `module:function`.

    Args:
        kind: the name.
        options: further keywords that the function is called with; only `math` has any.
        columns: names of those of the data file that it is called with, too.

    Raises:
        ConfigError: there is no such function, its module cannot be imported, or it cannot be called like this.
    """
    function = VERIFIERS.resolve(kind, further=columns)

    def verifier(response: str, answer: str, question: str, columns: str = NO_COLUMNS) -> Verdict:
        row = {} if columns == NO_COLUMNS else json.loads(columns)
        return as_verdict(function(response=response, answer=answer, question=question, **row, **options), kind)

    return verifier


def as_verdict(result: Any, kind: str) -> Verdict:
    """Convert what a verifier's function returned to a Verdict. A number may be Python's, NumPy's or torch's.

    Raises:
        VerifierError: it is not a bool, a number in [0, 1] or a proper Verdict.
    """
    status, given, detail = (
        (result.status, result.reward, result.detail) if isinstance(result, Verdict) else (None, result, "")
    )
    number = _number(given)
    if number is not None and 0 <= number <= 1 and (status is None or status in get_args(VerdictStatus)):
        reward = float(number)
        return Verdict(status or ("right" if reward == 1 else "wrong"), reward, detail)
    raise VerifierError(
        f"verifier {kind} returned {_SHOWN.repr(result)}, of type {type(result).__name__}; return a bool, a reward in "
        "[0, 1] or a Verdict"
    )


def _number(value: Any) -> float | Decimal | None:
    """A number that can be compared, also out of an array or tensor of one element."""
    if not isinstance(value, bool | int | float) and callable(item := getattr(value, "item", None)):
        try:
            value = item()
        except (TypeError, ValueError, RuntimeError):  # of several elements, or something else that has items
            return None
    if isinstance(value, Decimal) and not value.is_finite():
        return None  # comparing a NaN of this type raises
    # Every Real can be compared with a number, which its type does not say.
    return cast("float | Decimal", value) if isinstance(value, Real | Decimal) else None
