"""Functions that a configuration key names: a built-in one by its name, the user's own as `module:function`.

There is one `Registry` for each such key. A built-in function joins it with a decorator where it is written:

    LOSSES: Registry[PolicyLossFunction] = Registry("objective.loss", "tokens, objective")

    @LOSSES.register("ppo")
    def ppo(tokens, objective): ...

so that a new one is one function in one file. The configuration imports these files to know the names. They must
therefore not import torch at their top; annotations may name its types under `TYPE_CHECKING`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from s2l_ray.errors import ConfigError, S2LError

Function = TypeVar("Function", bound=Callable[..., Any])
LONGEST_MESSAGE = 200
"""Characters of the message of a user's exception that are repeated."""


class Registry(Generic[Function]):
    """The functions that one key can name.

    Args:
        key: the configuration key, for messages.
        parameters: names of what a function is called with, by position: "tokens, objective".
        keywords: call by these names instead, so that a function may declare them in any order.
        further: the key that names further keywords, for messages; see `resolve`.
        imported: built-in functions that are imported when they are used, as name -> "module:function".
        beside: further names that the key may have and that its owner treats itself.
    """

    def __init__(
        self,
        key: str,
        parameters: str,
        *,
        keywords: bool = False,
        further: str = "",
        imported: Mapping[str, str] | None = None,
        beside: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self._parameters = parameters.split(", ")
        self._keywords = keywords
        self._further = further
        self._built_in: dict[str, Function | str] = dict(imported or {})
        self._beside = beside

    @property
    def names(self) -> tuple[str, ...]:
        """Every known name, in the order of registration."""
        return (*self._built_in, *self._beside)

    def register(self, name: str) -> Callable[[Function], Function]:
        """Make the decorated function the one that `name` stands for.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.names:
            raise ValueError(f"{self.key}: the name {name!r} is taken; choose another")

        def add(function: Function) -> Function:
            self._built_in[name] = function
            return function

        return add

    def checked(self, name: str) -> str:
        """`name` itself, if it can be a value of the key; whether a user's function exists is not looked at.

        Raises:
            ValueError: it is neither a known name nor of the form module:function. The message lists the known names
                and the nearest one.
        """
        module, _, function = name.partition(":")
        if name in self.names or (module and function):
            return name
        nearest = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"must be one of {', '.join(self.names)}, or your own module:function{hint}")

    def is_built_in(self, name: str) -> bool:
        """Whether the name stands for a function of this package."""
        return name in self.names

    def resolve(self, name: str, key: str | None = None, further: Sequence[str] | None = None) -> Function:
        """The function that `name` stands for. A user's module is also looked for in the working directory.

        Args:
            name: a known name, or module:function.
            key: the configuration key for messages, where several share this registry.
            further: names of what the function is called with beside the parameters; None: not known here, so that a
                function may need more than these.

        Raises:
            ConfigError: the name is not known, the module cannot be imported, has no such function, or the function
                cannot be called with the parameters of this registry. The message names the key.
        """
        found, key = self._built_in.get(name), key or self.key
        if found is not None and not isinstance(found, str):
            return found
        try:
            target = found or self.checked(name)
        except ValueError as error:
            raise ConfigError(f"{key}: {name!r} {error}") from None
        function = self._import(target, key)
        if found is None:
            self._check_call(function, name, key, further)
        return cast(Function, function)

    def call(self, name: str, *arguments: Any, key: str | None = None) -> Any:
        """Call the function that `name` stands for.

        Args:
            name: a known name, or module:function.
            arguments: as the parameters of this registry.
            key: the configuration key for messages, where several share this registry.

        Raises:
            ConfigError: see `resolve`; or a user's function raised something, or tried to end the process. What a
                built-in function raises, and any S2LError, passes through.
        """
        function = self.resolve(name, key)
        if self.is_built_in(name):
            return function(*arguments)
        try:
            return function(*arguments)
        except S2LError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{key or self.key}: {name} {_raised(error)}") from error

    def source_of(self, name: str) -> str | None:
        """The source of the module that a user's function is named in; None for a built-in function.

        The source of the module that defines the function follows, if it is another one and can be read.

        Raises:
            OSError: there is no source to read: the module is compiled, or built into the interpreter.
            ConfigError: the module cannot be imported.
        """
        if self.is_built_in(name):
            return None
        function = self.resolve(name)
        named = sys.modules[name.partition(":")[0]]
        try:
            source = inspect.getsource(named)
        except TypeError as error:
            raise OSError(str(error)) from error
        defining = defining_module(function)
        if defining is None or defining is named:
            return source
        try:
            return source + "\0" + inspect.getsource(defining)
        except (OSError, TypeError):  # compiled, or built into the interpreter
            return source

    def _import(self, target: str, key: str) -> Callable[..., Any]:
        module_name, _, function_name = target.partition(":")
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{key}: cannot import {target} ({error}); check its spelling, and run where {module_name} can be "
                "imported (the working directory and PYTHONPATH are searched)"
            ) from error
        except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
            raise ConfigError(f"{key}: importing {module_name} fails with {type(error).__name__}: {error}") from error
        if not callable(function):
            raise ConfigError(f"{key}: {target} is {function!r}, not a function")
        return cast(Callable[..., Any], function)

    def _check_call(self, function: Callable[..., Any], name: str, key: str, further: Sequence[str] | None) -> None:
        """Refuse a function that cannot be called as this registry's functions are."""
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigError(f"{key}: {name} must return its result; it is asynchronous or a generator")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of some functions written in C
            return
        named = [*self._parameters, *(further or ())]
        try:
            if not self._keywords:
                signature.bind(*named)
            elif further is None:
                signature.bind_partial(**dict.fromkeys(named))
            else:
                signature.bind(**dict.fromkeys(named))
        except TypeError as error:
            how = ", ".join(f"{p}=..." if self._keywords else p for p in named)
            hint = f"; {self._further} names what else it is called with" if self._further else ""
            raise ConfigError(
                f"{key}: {name} is called as function({how}), which its parameters {signature} do not allow "
                f"({error}){hint}"
            ) from None


def _raised(error: BaseException) -> str:
    """What a user's function raised, and where, in one line."""
    try:
        message = str(error).strip()
    except Exception:  # the message is made by the user's code, too
        message = ""
    what = type(error).__name__ + (f": {message.splitlines()[0][:LONGEST_MESSAGE]}" if message else "")
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = frame.f_code.co_filename
    # Only the frame of the call itself: the function is compiled, and there is no line of it.
    return f"raised {what}" + ("" if place == __file__ else f" ({place}, line {line})")


def defining_module(function: Callable[..., Any]) -> ModuleType | None:
    """The module that defines a function, beneath its decorators and partial applications."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    return inspect.getmodule(function)


VERIFIERS: Registry[Callable[..., Any]] = Registry(
    "verifier.kind",
    "response, answer, question",
    keywords=True,
    further="verifier.columns",
    imported={
        "math": "s2l_ray.tasks.math_answers:check_math",
        "choice": "s2l_ray.tasks.choice:check_choice",
        "countdown": "s2l_ray.miniature.countdown:check",
    },
)
"""Verifiers (`s2l_ray.tasks.verifiers` calls them). They stand here, since they need mpmath and the like when used."""
