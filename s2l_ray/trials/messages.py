"""The errors of a trial, as Tune shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from s2l_ray.errors import S2LError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Any)


def plainly(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """A method of a trainable whose `S2LError`s come without a traceback if it is a trial.

    Tune prints the traceback of whatever a trial raises, in which the message, that says what to do, would be lost.
    """

    @functools.wraps(method)
    def plain(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except S2LError as error:
            if not self._storage:
                raise
            raise error.with_traceback(None) from None

    return plain
