"""Configuration sections where pydantic is not installed, as on a GPU machine that holds torch and transformers only.

A section has the same fields, defaults and rules there, and refuses unknown names; the types and ranges of values are
not checked. The names are pydantic's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, dataclass_transform

Section = TypeVar("Section", bound="BaseModel")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Base of sections: every subclass is a frozen dataclass, whose rules are checked when it is made."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, BaseModel) and isinstance(value, dict):
                object.__setattr__(self, field.name, type(field.default)(**value))
        for name in dir(type(self)):
            if getattr(getattr(type(self), name), "is_rule", False):
                getattr(self, name)()

    def model_copy(self: Section, *, update: dict[str, Any]) -> Section:
        """The section with other values for some of its fields."""
        return replace(self, **update)


def model_validator(*, mode: str) -> Callable[[Method], Method]:
    """Mark a rule of a section: a method that raises ValueError, with mode "after".

    Methods with mode "before" read another way to write a section, which only files and overrides use.
    """

    def mark(method: Method) -> Method:
        vars(method)["is_rule"] = mode == "after"
        return method

    return mark


def Field(*, default_factory: Callable[[], Any] | None = None, **_: Any) -> Any:
    """What makes a default; or else the range of a number, which is not checked."""
    return None if default_factory is None else dataclasses.field(default_factory=default_factory)


def BeforeValidator(_: Callable[[Any], Any]) -> None:
    """Another way to write a value, which is not read."""


AfterValidator = BeforeValidator
"""A rule for one value, which is not checked."""


ValidationInfo = Any


def field_validator(*_: str, mode: str = "after") -> Callable[[Method], Method]:
    """A rule for the values of some fields, which is not checked."""
    return lambda method: method


def ConfigDict(**_: Any) -> None:
    """What pydantic does with unknown names and docstrings."""
