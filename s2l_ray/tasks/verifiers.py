"""What a verifier is: a function of (response, answer, question) that gives a Verdict, found by its configured name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, get_args

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.rollout import Verdict, VerdictStatus

Verifier = Callable[[str, str, str], Verdict]
"""verifier(response, answer, question)"""
BUILT_IN = {"math": "s2l_ray.tasks.math_answers:check_math", "countdown": "s2l_ray.miniature.countdown:check"}


class VerifierError(S2LError):
    """A verifier has a bug or cannot run. `index` is the position of the answer in the list that was being checked."""

    def __init__(self, message: str, index: int | None = None):
        super().__init__(message)
        self.index = index


def resolve_verifier(kind: str) -> Verifier:
    """The verifier that `verifier.kind` names: math, countdown, or a user's `module:function`.

    A user's function is called with the keywords response, answer and question, and returns a bool, a reward in [0, 1]
    (right: exactly 1) or a Verdict. Modules are also looked for in the working directory.

    Raises:
        ConfigError: there is no such function, or its module cannot be imported.
    """
    function = _import(kind)
    if kind in BUILT_IN:
        return function

    def verifier(response: str, answer: str, question: str) -> Verdict:
        return as_verdict(function(response=response, answer=answer, question=question), kind)

    return verifier


def check_importable(kind: str) -> None:
    """Fail now, before anything else runs, if `verifier.kind` cannot be used.

    Raises:
        ConfigError: see `resolve_verifier`.
    """
    resolve_verifier(kind)


def as_verdict(result: Any, kind: str) -> Verdict:
    """What a user's function returned, as a Verdict.

    Raises:
        VerifierError: it is not a bool, a number in [0, 1] or a proper Verdict.
    """
    if isinstance(result, Verdict):
        if (
            result.status in get_args(VerdictStatus)
            and isinstance(result.reward, int | float)
            and 0 <= result.reward <= 1
        ):
            return result
    elif isinstance(result, int | float) and 0 <= result <= 1:  # a bool is an int; NaN fails the comparison
        return Verdict("right" if result == 1 else "wrong", float(result))
    raise VerifierError(f"verifier {kind} returned {result!r}; return a bool, a reward in [0, 1] or a Verdict")


def _import(kind: str) -> Callable[..., Any]:
    target = BUILT_IN.get(kind, kind)
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"verifier.kind: {kind!r} is not {', '.join(BUILT_IN)} or module:function")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"verifier.kind: cannot import {target} ({error}); check its spelling, and run where {module_name} can be "
            "imported (the working directory and PYTHONPATH are searched)"
        ) from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise ConfigError(
            f"verifier.kind: importing {module_name} fails with {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ConfigError(f"verifier.kind: {target} is {function!r}, not a function")
    return function
