"""A place among the tokens of an answer, and the steps that every part of the parser takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s2l_ray.tasks.grading.nodes import Node, UnreadableError
from s2l_ray.tasks.grading.tokens import Token

_END = Token("ended", "")


class Cursor:
    """Reads tokens one by one. What is listed here belongs to the parts of the parser that build on it."""

    listed: Callable[[], Node]
    sum: Callable[[], Node]
    term: Callable[[], Node]

    def __init__(self, tokens: Sequence[Token]):
        self.tokens = list(tokens)
        self.position = 0
        self.in_builder = False
        """In braces, where : and | may separate a condition."""
        self.in_bars = False

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one after it; behind the last there are empty ones."""
        place = self.position + ahead
        return self.tokens[place] if place < len(self.tokens) else _END

    def previous(self) -> Token:
        """The token that was taken last."""
        return self.tokens[self.position - 1]

    def take(self) -> Token:
        """The next token, which is read with it."""
        if self.ended():
            raise UnreadableError("it ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def take_sign(self, text: str) -> bool:
        """Read the next token if it is this sign, and say whether it was."""
        token = self.peek()
        if token.kind == "sign" and token.text == text:
            self.position += 1
            return True
        return False

    def ended(self) -> bool:
        """Whether all tokens are read."""
        return self.position >= len(self.tokens)

    def source(self, start: int) -> str:
        """The tokens that were read since `start`, without blanks."""
        return "".join(
            f"\\text{{{token.text}}}" if token.kind == "text" else token.text
            for token in self.tokens[start : self.position]
        )

    def closed(self, closing: str) -> Node:
        """What stands before a closing bracket, which is read with it."""
        inner = self.inside(self.listed, in_builder=False)
        self.expect(closing)
        return inner

    def inside(self, reader: Callable[[], Node], *, in_builder: bool) -> Node:
        """Read what is in brackets, where bars and colons have their own meaning."""
        before = self.in_bars, self.in_builder
        self.in_bars, self.in_builder = False, in_builder
        node = reader()
        self.in_bars, self.in_builder = before
        return node

    def expect(self, sign: str) -> None:
        """Read a sign that has to stand here."""
        if not self.take_sign(sign):
            raise UnreadableError(f"{sign!r} is missing")
