"""What every part of the configuration is built from."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

try:
    from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
except ModuleNotFoundError:
    from s2l_ray.config.plain import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        field_validator,
        model_validator,
    )

__all__ = [
    "AfterValidator",
    "Field",
    "Fractional",
    "LocalPath",
    "NonNegative",
    "Positive",
    "PositiveFloat",
    "Section",
    "YamlWord",
    "model_validator",
]

LONGEST_PATH = 4095
"""Bytes that Linux takes."""
LONGEST_FILE_NAME = 255
"""Bytes that file systems take."""

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
# YAML reads a bare on or off as a boolean.
YamlWord = BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value)


def _possible(path: str) -> str:
    """The path, unless the operating system would refuse it itself, wherever it is used first."""
    if not path:
        raise ValueError("is empty; give a path")
    if "\0" in path:
        raise ValueError("a path cannot have a NUL character")
    encoded = path.encode(errors="surrogatepass")
    if len(encoded) > LONGEST_PATH or any(len(part) > LONGEST_FILE_NAME for part in encoded.split(b"/")):
        raise ValueError(f"is too long for a path ({LONGEST_PATH} bytes, {LONGEST_FILE_NAME} between two slashes)")
    return path


LocalPath = Annotated[
    str,
    BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value),
    AfterValidator(_possible),
    Field(json_schema_extra={"format": "path"}),  # for reference.py, which says what a value may be
]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,  # for Python callers and interpolations; files and overrides keep what was typed
    )

    @field_validator("*")
    @classmethod
    def _unicode(cls, value: Any) -> Any:
        """Other bytes on a command line become lone surrogates, which no file that a run writes can hold."""
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise ValueError("is not Unicode text (UTF-8)")
        return value
