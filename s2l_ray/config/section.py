"""What every part of the configuration is built from."""

from __future__ import annotations

from typing import Annotated

try:
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
except ModuleNotFoundError:
    from s2l_ray.config.plain import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "Field",
    "Fractional",
    "NonNegative",
    "Positive",
    "PositiveFloat",
    "Section",
    "YamlWord",
    "model_validator",
]

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
# YAML reads a bare on or off as a boolean.
YamlWord = BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value)


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
