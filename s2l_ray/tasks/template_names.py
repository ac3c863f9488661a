"""Which names a chat template takes from whoever renders it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2.nodes import Name, Node


def names_read(template: str) -> set[str]:
    """The names that a chat template reads and has not set before, `messages` among them.

    Jinja alone also finds those that every branch of an `if` sets, such as `content` in Qwen3's template: they are
    mentioned for the first time where they are set. An argument is read first, if only to see whether it is defined.

    Raises:
        jinja2.TemplateSyntaxError: the template is malformed.
    """
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template as compiled  # with tags of its own

    tree = compiled(template).environment.parse(template)
    first = {name.name: name.ctx for name in reversed([*_mentions(tree)])}
    return {name for name in meta.find_undeclared_variables(tree) if first.get(name) == "load"}


def _mentions(node: Node) -> Iterator[Name]:
    """The names in a part of a template, but for a macro's own, in the order in which they are read and set."""
    from jinja2.nodes import Assign, Macro, Name

    if isinstance(node, Name):
        yield node
    own = {parameter.name for parameter in node.args} if isinstance(node, Macro) else set()
    children = list(node.iter_child_nodes())
    for child in reversed(children) if isinstance(node, Assign) else children:  # `set x = x | default(1)` reads x first
        yield from (name for name in _mentions(child) if name.name not in own)
