"""Text in a configuration: which keys hold text, and how a text is kept from being read as anything else.

YAML reads `007` as a number, `no` as a boolean and `{question} >` as a syntax error; OmegaConf reads `${...}` as an
interpolation and `???` as a value that is still to come. Whether a value is text is said by the type of its key alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from omegaconf._yaml import get_yaml_loader  # numbers, dates and duplicate keys as OmegaConf.load reads them
from pydantic import BaseModel

from s2l_ray.machine.reading import read_bounded

TEXT_TAG = "tag:yaml.org,2002:str"
NULL_TAG = "tag:yaml.org,2002:null"
MERGE_TAG = "tag:yaml.org,2002:merge"
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What `read_yaml` and `read_documents` raise for content that is not YAML."""
MOST_BYTES = 2**24
"""Of a file that people write."""
DEEPEST = 100
"""Levels of lists and mappings."""
MOST_PROBLEMS = 20
LONGEST_PROBLEM = 1000
"""Characters of each."""


def is_text(key_type: Any) -> bool:
    """Whether a key of this type holds text; words that the type lists (Literal) are not text.

    Nor is what may be a boolean or a number as well: YAML says which it is.
    """
    kinds = _alternatives(key_type)
    return str in kinds and not any(kind in kinds for kind in (bool, int, float))


def can_be_none(key_type: Any) -> bool:
    """Whether a key of this type may be null."""
    return NoneType in _alternatives(key_type)


def section_of(key_type: Any) -> type[BaseModel] | None:
    """The model of a key that is a section of further keys; None for any other."""
    models = [kind for kind in _alternatives(key_type) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if models else None


def entry_type_of(key_type: Any) -> Any:
    """What the entries of a mapping hold, whose names are the user's; None for a key that is no mapping."""
    entries = [get_args(kind)[1] for kind in _alternatives(key_type) if get_origin(kind) is dict]
    return entries[0] if entries else None


def type_of(section: type[BaseModel], key: Any) -> Any:
    """What a key of a section holds; None when there is no such key."""
    field = section.model_fields.get(key)
    return None if field is None else field.annotation


def literal(value: Any) -> Any:
    """A text, or every text in dictionaries and lists, so written that OmegaConf resolves it to what was given."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\\*\?\?\?", value):
        return "\\" + value
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)


def from_python(value: Any, key_type: Any) -> Any:
    """A value given in Python, its texts literal."""
    section = section_of(key_type)
    if section and isinstance(value, dict):
        return {key: from_python(item, type_of(section, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [from_python(item, _item_type(key_type)) for item in value]
    if is_text(key_type):
        return literal(str(value) if isinstance(value, Path) else value)
    return value


def read_documents(path: Path) -> list[Any]:
    """The values of a file's YAML documents, of plain types.

    Raises:
        OSError: it cannot be read, is no file, or too large.
        yaml.YAMLError, ValueError, RecursionError: see `read_yaml`.
    """
    content = read_bounded(path, MOST_BYTES)
    _check_depth(content)
    loader = get_yaml_loader()(content)
    try:
        documents = []
        while loader.check_node():
            documents.append(loader.construct_document(loader.get_node()))
        return documents
    finally:
        loader.dispose()


def listed(problems: Sequence[str], separator: str = "\n  ") -> str:
    """What is wrong with a file, in a message: its first problems, none of them longer than a few lines."""
    short = [text if len(text) <= LONGEST_PROBLEM else text[: LONGEST_PROBLEM - 3] + "..." for text in problems]
    more = [f"and {len(short) - MOST_PROBLEMS} more"] if len(short) > MOST_PROBLEMS else []
    return separator.join(short[:MOST_PROBLEMS] + more)


def yaml_problem(error: Exception) -> str:
    """What a YAML error says and where it is, in a line, without the excerpt."""
    place = _place(getattr(error, "problem_mark", None))
    problem = getattr(error, "problem", None)
    return f"{problem}{place}" if place and problem else " ".join(str(error).split())


def _place(mark: Any) -> str:
    return "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"


def _check_depth(content: str | bytes) -> None:
    """Refuse what is nested so deeply that reading it would exhaust the stack; it is read only as far as that."""
    depth = 0
    for event in yaml.parse(content, Loader=get_yaml_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep{_place(event.start_mark)}")


def read_yaml(content: str | bytes, key_type: Any) -> Any:
    """The value of a YAML document for a key of this type. A plain scalar for a text key is the text as it is written.

    For a text key that can be none, YAML's null is none; for any text key, so is a value that is left out.

    Raises:
        yaml.YAMLError: it is not YAML, or a key is there twice.
        ValueError: a scalar is not what its tag says.
        RecursionError: a merge key names what it is a part of.
    """
    _check_depth(content)
    loader = get_yaml_loader()(content)
    try:
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(_typed(node, key_type))
    finally:
        loader.dispose()


def _typed(node: yaml.Node, key_type: Any) -> yaml.Node:
    """The same tree with the scalars of text keys tagged as text. Aliases share nodes, so nodes are not changed."""
    marks = node.start_mark, node.end_mark
    if isinstance(node, yaml.SequenceNode) and (item_type := _item_type(key_type)):
        return yaml.SequenceNode(node.tag, [_typed(item, item_type) for item in node.value], *marks)
    section = section_of(key_type)
    if isinstance(node, yaml.MappingNode) and section:
        return yaml.MappingNode(node.tag, [_typed_entry(key, value, section) for key, value in node.value], *marks)
    if isinstance(node, yaml.ScalarNode) and is_text(key_type):
        none = node.tag == NULL_TAG and (not node.value or can_be_none(key_type))
        return node if none else yaml.ScalarNode(TEXT_TAG, node.value, *marks)
    return node


def _typed_entry(key: yaml.Node, value: yaml.Node, section: type[BaseModel]) -> tuple[yaml.Node, yaml.Node]:
    if key.tag == MERGE_TAG:
        return key, _typed(value, section)
    if isinstance(key, yaml.ScalarNode):  # `on: 1` is an unknown key named "on"
        key = yaml.ScalarNode(TEXT_TAG, key.value, key.start_mark, key.end_mark)
    return key, _typed(value, type_of(section, key.value) if isinstance(key, yaml.ScalarNode) else None)


def _item_type(key_type: Any) -> Any:
    """The type of the items of a list; a section's own type for the list of mappings that a merge key may have."""
    if section_of(key_type):
        return key_type
    items = [get_args(kind) for kind in _alternatives(key_type) if get_origin(kind) in (tuple, list)]
    return items[0][0] if items else None


def _alternatives(key_type: Any) -> tuple[Any, ...]:
    """The types of a union, without their annotations; any other type alone."""
    origin = get_origin(key_type)
    if origin is Annotated:
        return _alternatives(get_args(key_type)[0])
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(key_type) for kind in _alternatives(part))
    return (key_type,)
