"""Configuration sections where pydantic is not installed, as on a GPU machine that holds torch and transformers only.

A section has the same fields, defaults and rules there, and refuses unknown names; the types and ranges of values are
not checked. The names are pydantic's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class BaseModel:
    """Every subclass is a frozen dataclass, and its rules are looked at when it is made."""

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

    def model_copy(self: T, *, update: dict[str, Any]) -> T:
        return replace(self, **update)


def model_validator(*, mode: str) -> Callable[[T], T]:
    """Mode "after": a method that raises ValueError. mode "before" reads what is no section yet, which nobody does."""

    def mark(method: T) -> T:
        if mode == "after":
            method.is_rule = True
        return method

    return mark


def Field(**_: Any) -> None:
    """A range."""


def BeforeValidator(_: Callable[[Any], Any]) -> None:
    """Another way to write a value."""


AfterValidator = BeforeValidator
"""A rule for one value."""


def field_validator(*_: str) -> Callable[[T], T]:
    """A rule for the values of some fields."""
    return lambda method: method


def ConfigDict(**_: Any) -> None:
    """What to do with unknown names."""
