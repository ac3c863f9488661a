"""What every section of the configuration is built from: its base class, and the types of its values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationInfo,
        field_validator,
        model_validator,
    )
else:
    try:
        from pydantic import (
            AfterValidator,
            BaseModel,
            BeforeValidator,
            ConfigDict,
            Field,
            ValidationInfo,
            field_validator,
            model_validator,
        )
    except ModuleNotFoundError:
        from s2l_ray.config.plain import (
            AfterValidator,
            BaseModel,
            BeforeValidator,
            ConfigDict,
            Field,
            ValidationInfo,
            field_validator,
            model_validator,
        )

__all__ = [
    "FINGERPRINT_PATTERN",
    "NAME_PATTERN",
    "AfterValidator",
    "BeforeValidator",
    "Field",
    "Fractional",
    "LocalPath",
    "Name",
    "NonNegative",
    "Place",
    "Positive",
    "PositiveFloat",
    "Section",
    "YamlWord",
    "field_validator",
    "model_validator",
]

LONGEST_PATH = 4095
"""In bytes; Linux's limit."""
LONGEST_FILE_NAME = 255
"""In bytes; the limit of common file systems."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"
FINGERPRINT_PATTERN = "^[0-9a-f]{4,16}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Of a study or an experiment, and of what is in one."""
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
YamlWord = BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value)
"""For values that may be `on` or `off`, which YAML reads as booleans where they are not quoted."""


def _possible(path: str) -> str:
    """The path, if the operating system can take it; refused here, where the key can be named."""
    if not path:
        raise ValueError("is empty; give a path")
    if "\0" in path:
        raise ValueError("a path cannot have a NUL character")
    try:
        Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no home directory of such a user; give the whole path") from None
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


def _without_credentials(url: str) -> str:
    """The URI, if it has no password: it would be in logs, config.yaml and MLflow."""
    if re.match(r"[^/]+://[^/@]*:[^/@]*@|[^?]*://[^?]*\?.*(secret|password|token)", url, re.IGNORECASE):
        raise ValueError(
            "has credentials in it; give them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "GOOGLE_APPLICATION_CREDENTIALS)"
        )
    return url


Place = Annotated[LocalPath, AfterValidator(_without_credentials)]
"""A directory or a URI of an object store."""


def _kinds(annotation: Any) -> list[Any]:
    """The types that a key's values may have."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for one in get_args(annotation) for kind in _kinds(one)]
    return [annotation]


def no_number(value: Any, annotation: Any) -> str | None:
    """What is wrong with a value in the place of a number, which pydantic would take; None: nothing.

    It takes true and false for 1 and 0, and integers that nothing else here can hold.
    """
    kinds = _kinds(annotation)
    if isinstance(value, bool):
        return "must be a number" if bool not in kinds and (int in kinds or float in kinds) else None
    if isinstance(value, int) and abs(value) >= 2**63:
        return "must be a number below 2**63"
    if isinstance(value, list | tuple):
        items = [item for kind in kinds if get_origin(kind) in (list, tuple) for item in get_args(kind)]
        said = (no_number(one, Union[tuple(items)]) for one in value if items)  # noqa: UP007  (made of values)
        return next((f"has an entry that {words}" for words in said if words), None)
    return None


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors, and values cannot change after validation.

    The docstring below a key is its text in `s2l config` and in the documentation: Markdown, with "- " for items.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # for Python callers and interpolations; files and overrides keep what was typed
    )

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what is no number where one belongs, see `no_number`."""
        if said := no_number(value, cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(said)
        return value

    @field_validator("*")
    @classmethod
    def _unicode(cls, value: Any) -> Any:
        """Refuse lone surrogates, which Python reads from other bytes on a command line and no file can hold."""
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise ValueError("is not Unicode text (UTF-8)")
        return value
