"""What is wrong with the values of a file: what Pydantic found, in the words of who wrote the file, a line a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from s2l_ray.config.nearest import nearest
from s2l_ray.config.section import FINGERPRINT_PATTERN, NAME_PATTERN
from s2l_ray.config.text import section_of, type_of
from s2l_ray.redaction import redact

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LONGEST_SHOWN = 80
"""Characters of a refused value that a message repeats."""
PATTERNS = {
    NAME_PATTERN: "must have at most 60 letters, digits, '.', '_' and '-', of which the first is a letter or a digit",
    FINGERPRINT_PATTERN: "must be 4 to 16 of the digits 0 to 9 and a to f",
}
"""What is said of a text that does not match a pattern."""
REASONS = {
    "too_short": "is empty",
    "too_long": "has too many entries",
    "tuple_type": "must be a list of values",
    **dict.fromkeys(("date_type", "date_from_datetime_parsing"), "must be a date, such as 2026-01-31"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
}
"""What is said of a value, by Pydantic's name of what is wrong with it."""
IN_A_KEY = "[key]"
"""Last part of a location that is the name of an entry, not its value."""
ALTERNATIVE = re.compile(r"(constrained-)?(int|float|str|bool)|\w+\[.*\]|none")
"""How Pydantic calls an alternative of a key that may have values of several types."""

Location = Sequence[int | str]
Unknown = Callable[[Location], str | None]


def problems_of(error: ValidationError, model: type[BaseModel], unknown: Unknown | None = None) -> list[str]:
    """What is wrong, in the order of the keys.

    Args:
        error: of the values of a file.
        model: that they are to be.
        unknown: what to say of certain keys that the model does not have.
    """
    return [_line(problem, model, unknown) for problem in _one_for_each_key(error.errors())]


def problem_of_value(error: ValidationError) -> str:
    """What is wrong with a single value, without the value."""
    return _words(next(iter(_one_for_each_key(error.errors()))))


def problem_of_record(error: ValidationError) -> str:
    """The first thing that is wrong with what a program wrote, without the value."""
    first = next(iter(_one_for_each_key(error.errors())))
    if first["type"] == "extra_forbidden":
        return f"{_dotted(first['loc'])}: unknown key"
    words = _words(first).partition(";")[0]  # without advice, which is for somebody who writes a file
    return f"{_dotted(first['loc'])}: {words}" if first["loc"] else f"it {words}"


def unknown_key(location: Location, section: type[BaseModel]) -> str:
    """What is said of a key that a section does not have: the nearest one that it has."""
    valid = sorted(section.model_fields)
    near = nearest(str(location[-1]), valid)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid keys here: {', '.join(valid)}"
    return f"{_dotted(location)}: unknown key; {hint}"


def shown(value: Any) -> str:
    """A value as a message repeats it: without credentials, and not at length."""
    try:
        text = redact(repr(value))
    except ValueError:  # Python does not write integers of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _line(error: ErrorDetails, model: type[BaseModel], unknown: Unknown | None) -> str:
    location, given = error["loc"], error["input"]
    if error["type"] == "missing" and isinstance(location[-1], int):  # of so many entries that a list must have
        return f"{_dotted(location[:-1])}: has too few entries (got {shown(given)})"
    if error["type"] == "extra_forbidden":
        said = unknown(location) if unknown else None
        return said or unknown_key(location, _section_at(location[:-1], model))
    if location[-1:] == (IN_A_KEY,):
        if error["type"] == "value_error":  # our own words, which repeat the name
            return f"{_dotted(location[:-1])}: {_words(error)}"
        return f"{_dotted(location[:-2])}: the name {shown(given)} {_words(error)}"
    of_what = f"{_dotted(location)}: " if location else ""
    is_repeated = error["type"] != "missing" and given is not None and not isinstance(given, dict | BaseModel)
    return of_what + _words(error) + (f" (got {shown(given)})" if is_repeated else "")


def _words(error: ErrorDetails) -> str:
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "missing; give it a value"
    if kind in ("model_type", "dict_type", "dataclass_type"):
        return "is empty; give it keys or leave it out" if given is None else "must be a mapping of keys to values"
    if kind == "string_type":
        return _no_text(given, in_a_key=error["loc"][-1:] == (IN_A_KEY,))
    if kind == "string_pattern_mismatch" and (said := PATTERNS.get(error["ctx"]["pattern"])):
        return said
    return REASONS.get(kind) or error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _no_text(given: Any, *, in_a_key: bool) -> str:
    if in_a_key:
        return "must be text; put it in quotes, without which YAML reads on, off, yes and no as true or false"
    if isinstance(given, list | tuple):
        return "must be one text, not a list; put it in quotes if it is text"
    return "must be text; put it in quotes" if isinstance(given, dict) else "must be text"


def _one_for_each_key(errors: Iterable[ErrorDetails]) -> list[ErrorDetails]:
    """Pydantic names every alternative of a key that may have values of several types: these as one."""
    found: dict[Location, list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_key_of(error["loc"]), []).append(error)
    for key, several in list(found.items()):  # a list all of whose entries are wrong is not empty
        if several[0]["type"] == "too_short" and any(other[: len(key)] == key for other in found if other != key):
            del found[key]
    return [one for key, several in found.items() for one in _together(key, several)]


def _key_of(location: Location) -> Location:
    """The location up to where it names an alternative."""
    ends = (at for at, part in enumerate(location) if isinstance(part, str) and ALTERNATIVE.fullmatch(part))
    return tuple(location[: next(ends, len(location))])


def _together(key: Location, errors: list[ErrorDetails]) -> list[ErrorDetails]:
    if len(errors) == 1 or any(len(error["loc"]) == len(key) for error in errors):
        return errors
    inner = [error for error in errors if len(error["loc"]) > len(key) + 1]
    if inner:  # it is of this type, but for something in it
        return [{**error, "loc": (*key, *error["loc"][len(key) + 1 :])} for error in inner]
    said = ("text" if error["type"] == "string_type" else _words(error).removeprefix("must be ") for error in errors)
    words = list(dict.fromkeys(said))
    if all(error["type"] == "literal_error" for error in errors):
        *others, last = re.findall("'[^']*'", " ".join(words))
        words = [f"{', '.join(others)} or {last}"]
    return [{**errors[0], "loc": tuple(key), "type": "alternatives", "msg": f"must be {', or '.join(words)}"}]


def _section_at(location: Location, model: type[BaseModel]) -> type[BaseModel]:
    """The section that the keys of this location lead to, by way of mappings and lists of sections."""
    kind: Any = model
    for part in location:
        section = section_of(kind)
        kind = type_of(section, part) if section else next((arg for arg in get_args(kind) if section_of(arg)), None)
    return section_of(kind) or model
