"""Atoms of an answer with what is attached to them: numbers, names, functions, roots, brackets, matrices, exponents."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from s2l_ray.tasks.grading.nodes import Node, UnreadableError, number
from s2l_ray.tasks.grading.tokens import Token
from s2l_ray.tasks.grading.units import canonical_unit

_END = Token("ended", "")
_STARTS = frozenset({"(", "[", "{", "{(", "<(", "floor(", "ceil("})
_ATOM_COMMANDS = frozenset({"frac", "sqrt", "binom", "overline", "bar", "hat", "tilde", "widehat", "dot", "ddot"})
_UNKNOWN_FUNCTIONS = frozenset("fg")
_INVERTIBLE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_ALIASES = {"lg": "log", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MOST_DIGITS = 1000


class Atoms:
    """A reader of tokens; `grading.parser` has what is between atoms."""

    listed: Callable[[], Node]
    sum: Callable[[], Node]

    def __init__(self, tokens: Sequence[Token]):
        self._tokens = list(tokens)
        self.position = 0
        self.in_builder = False
        """In braces, where : and | may separate a condition."""
        self._in_bars = False

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one after it; behind the last there are empty ones."""
        place = self.position + ahead
        return self._tokens[place] if place < len(self._tokens) else _END

    def previous(self) -> Token:
        """The token that was taken last."""
        return self._tokens[self.position - 1]

    def take(self) -> Token:
        """The next token, which is read with it."""
        self.position += 1
        return self._tokens[self.position - 1]

    def take_sign(self, text: str) -> bool:
        """Read the next token if it is this sign, and say whether it was."""
        token = self.peek()
        if token.kind == "sign" and token.text == text:
            self.position += 1
            return True
        return False

    def ended(self) -> bool:
        """Whether all tokens are read."""
        return self.position >= len(self._tokens)

    def source(self, start: int) -> str:
        """The tokens that were read since `start`, without blanks."""
        return "".join(
            f"\\text{{{token.text}}}" if token.kind == "text" else token.text
            for token in self._tokens[start : self.position]
        )

    def starts_factor(self) -> bool:
        """Whether the next token can stand after a factor without a sign between them."""
        token = self.peek()
        if token.kind == "number":
            return self.previous().kind != "number"
        if token.kind == "sign":
            if token.text == "[" and self.peek(1).text in ("", "cup", "cap", ")"):
                return False
            return token.text in _STARTS or (token.text == "|" and not self._in_bars and not self.in_builder)
        return token.kind in ("name", "function", "text", "repeating", "begin") or (
            token.kind == "command" and token.text in _ATOM_COMMANDS
        )

    def factor(self) -> Node:
        """An atom with its exponents, signs and units."""
        if self.take_sign("-"):
            return Node("neg", (self.factor(),))
        if self.take_sign("+"):
            return self.factor()
        node = self._atom()
        while True:
            if self.take_sign("^"):
                node = self._raised(node)
            elif self.take_sign("!"):
                node = Node("call", (node,), "factorial2") if self.take_sign("!") else Node("factorial", (node,))
            elif self.take_sign("%"):
                node = Node("percent", (node,))
            elif self.take_sign("degree"):
                node = self._degrees(node)
            elif self.take_sign("_"):
                node = self._indexed(node)
            elif self.take_sign("'"):
                node = self._primed(node)
            elif self.peek().kind == "unit" or self._is_unit_text(node):
                node = self._with_unit(node)
            else:
                return node

    def _raised(self, base: Node) -> Node:
        if self.peek().kind == "sign" and self.peek().text in ("*", "'"):
            return self._primed(base, self.take().text)
        exponent = self._argument()
        if exponent.op == "symbol" and exponent.name in ("'", "''"):
            return Node("symbol", name=base.name + exponent.name)
        return Node("pow", (base, exponent))

    def _primed(self, base: Node, mark: str = "'") -> Node:
        if base.op != "symbol":
            raise UnreadableError("a prime after what is no name")
        return self._applied(Node("symbol", name=base.name + mark))

    def _degrees(self, node: Node) -> Node:
        scale = self.peek()
        if scale.kind in ("name", "text") and scale.text in ("C", "F", "K"):
            self.take()
            return Node("unit", (node,), f"deg{scale.text}")
        minutes = self.peek()
        if minutes.kind == "number" and self.peek(1).text == "'":
            raise UnreadableError("minutes of an angle")
        return Node("degrees", (node,))

    def _indexed(self, base: Node) -> Node:
        start = self.position
        depth = 0
        while not self.ended():
            token = self.take().text
            depth += {"{": 1, "}": -1}.get(token, 0)
            if depth <= 0:
                break
        index = re.sub(r"[{}\s]|\\text", "", self.source(start))
        if base.op == "symbol":
            return self._applied(Node("symbol", name=f"{base.name}_{index}"))
        if base.op == "number" and base.sources:
            return Node("based", name=f"{base.sources[0]}_{index}")
        raise UnreadableError("an index after what is no name")

    def _is_unit_text(self, node: Node) -> bool:
        token = self.peek()
        return token.kind == "text" and node.op != "text" and canonical_unit(token.text) is not None

    def _with_unit(self, node: Node) -> Node:
        token = self.take()
        unit = token.text if token.kind == "unit" else canonical_unit(token.text) or ""
        if self.take_sign("^"):
            exponent = self._argument()
            unit += f"^{exponent.number}" if exponent.op == "number" else "^?"
        if node.op == "unit":
            return Node("unit", node.args, node.name + unit)
        return Node("unit", (node,), unit)

    def _atom(self) -> Node:
        token = self.peek()
        reader = _READERS.get(token.kind)
        if reader is None:
            raise UnreadableError(f"{token.text or 'the end'!r} is not expected here")
        self.position += 1
        return reader(self, token)

    def _number(self, token: Token) -> Node:
        text = token.text.rstrip(".") if token.text.endswith(".") else token.text
        if len(text) > _MOST_DIGITS:
            raise UnreadableError("a number of too many digits")
        node = Node("number", number=Fraction(text), sources=(text.lower(),))
        if not text.isdigit():
            return node
        one, two, three = self.peek(), self.peek(1), self.peek(2)
        if one.kind == three.kind == "number" and two.text == "/" and one.spaced and int(three.text.strip(".") or 1):
            self.position += 3  # 1 1/2
            return number(node.number + Fraction(one.text) / Fraction(three.text))
        if one.kind == "command" and one.text == "frac":
            start = self.position
            self.position += 1
            above, below = self._argument(), self._argument()
            if above.op == below.op == "number" and below.number:
                return number(node.number + above.number / below.number)
            self.position = start
        return node

    def _repeating(self, token: Token) -> Node:
        digits, period = re.sub(r"[\s{}]", "", token.text).split("\\", 1)
        repeated = re.sub(r"\D", "", period)
        value = Fraction(digits + "0") + Fraction(int(repeated), 10 ** len(digits.partition(".")[2])) / (
            10 ** len(repeated) - 1
        )
        return number(value)

    def _name(self, token: Token) -> Node:
        if token.text == "oo":
            return Node("infinity")
        if token.text in ("empty", "reals"):
            return Node(token.text)
        return self._applied(Node("symbol", name=token.text))

    def _applied(self, name: Node) -> Node:
        """f(x), where f is a letter for functions."""
        if name.name[0] in _UNKNOWN_FUNCTIONS and self.peek() == Token("sign", "(", False):
            self.take()
            argument = self._closed(")")
            return Node("call", argument.args if argument.op == "list" else (argument,), name.name)
        return name

    def _text_atom(self, token: Token) -> Node:
        return Node("text", name=" ".join(token.text.casefold().split()))

    def _function(self, token: Token) -> Node:
        name = _ALIASES.get(token.text, token.text)
        exponent, base = None, number(10) if token.text == "lg" else None
        for _ in range(2):
            if self.take_sign("^"):
                exponent = self._argument()
            elif self.take_sign("_"):
                base = self._argument()
        if exponent is not None and _is_minus_one(exponent) and name in _INVERTIBLE:
            name, exponent = _INVERTIBLE[name], None
        arguments = self._function_arguments()
        if base is not None:
            arguments = (*arguments, base)
        node = Node("call", arguments, name)
        return node if exponent is None else Node("pow", (node, exponent))

    def _function_arguments(self) -> tuple[Node, ...]:
        if self.peek().kind == "sign" and self.peek().text in ("(", "{", "["):
            closing = {"(": ")", "{": "}", "[": "]"}[self.take().text]
            inner = self._closed(closing)
            return inner.args if inner.op == "list" else (inner,)
        negative = self.take_sign("-")
        argument = self.factor()
        while self.starts_factor() and self.peek().kind != "function" and self.peek().text not in ("(", "["):
            argument = Node("mul", (argument, self.factor()))
        return (Node("neg", (argument,)) if negative else argument,)

    def _command(self, token: Token) -> Node:
        if token.text == "sqrt":
            index = None
            if self.take_sign("["):
                index = self._closed("]")
            return Node("root", (number(2) if index is None else index, self._argument()))
        if token.text in ("frac", "binom"):
            start = self.position
            above = self._argument()
            middle = self.position
            below = self._argument()
            ends = [re.sub(r"[{}]|partial", "", self.source(start)[: len(self._between(start, middle))])]
            ends.append(re.sub(r"[{}]|partial", "", self.source(middle)))
            if all(re.fullmatch(r"d\\?\w+", end) for end in ends) and token.text == "frac":
                return Node("symbol", name="/".join(ends))
            return Node("div", (above, below)) if token.text == "frac" else Node("call", (above, below), "binomial")
        if token.text in _ATOM_COMMANDS:
            start = self.position
            inner = self._argument()
            marked = re.sub(r"[{}\s]", "", self.source(start))
            return inner if len(marked) > 1 and marked.isupper() else Node("symbol", name=f"{token.text} {marked}")
        raise UnreadableError(f"\\{token.text} is not known here")

    def _between(self, start: int, end: int) -> str:
        return "".join(token.text for token in self._tokens[start:end])

    def _argument(self) -> Node:
        r"""What stands after a command or ^: a group, or one token. LaTeX takes one digit, as in \frac12."""
        token = self.peek()
        if token.kind == "sign" and token.text == "{":
            self.take()
            return self._group()
        if token.kind == "number" and self.previous().text != "^" and token.text.isdigit() and len(token.text) > 1:
            self._tokens[self.position : self.position + 1] = [
                Token("number", token.text[0]),
                Token("number", token.text[1:]),
            ]
        if token.kind == "sign" and token.text in ("-", "+"):
            return self.factor()
        return self._atom()

    def _group(self) -> Node:
        if self.take_sign("}"):
            return number(1)
        inner = self._inside(self.listed, in_builder=False)
        if self.peek()[:2] == ("command", "choose"):
            self.take()
            inner = Node("call", (inner, self._inside(self.listed, in_builder=False)), "binomial")
        self._expect("}")
        return inner

    def _bracket(self, token: Token) -> Node:
        reader = {"{": self._braces, "{(": self._set, "|": self._bars, "]": self._reversed}.get(token.text)
        if reader is not None:
            return reader()
        if token.text == "'":
            return Node("symbol", name="''" if self.take_sign("'") else "'")
        if token.text in ("floor(", "ceil("):
            inner = self._closed({"floor(": ")floor", "ceil(": ")ceil"}[token.text])
            return Node("call", (inner,), token.text[:-1])
        if token.text not in ("(", "[", "<("):
            raise UnreadableError(f"{token.text!r} is not expected here")
        inner = self._inside(self.listed, in_builder=False)
        closing = self.take().text if not self.ended() else ""
        if closing not in (")", "]", ")>", "["):
            raise UnreadableError("a bracket is not closed")
        delimiters = ("(" if token.text == "<(" else token.text) + {")>": ")", "[": ")"}.get(closing, closing)
        if inner.op == "list":
            return Node("bracket", inner.args, delimiters)
        if delimiters in ("(]", "[)"):
            raise UnreadableError("an interval has two ends")
        return inner

    def _reversed(self) -> Node:
        """]a, b[ for an open interval."""
        inner = self._inside(self.listed, in_builder=False)
        closing = self.take().text if not self.ended() else ""
        if inner.op != "list" or closing not in ("[", "]"):
            raise UnreadableError("']' is not expected here")
        return Node("bracket", inner.args, "()" if closing == "[" else "(]")

    def _braces(self) -> Node:
        inner = self._group()
        return Node("set", inner.args) if inner.op == "list" else inner

    def _set(self) -> Node:
        if self.take_sign(")}"):
            return Node("empty")
        inner = self._inside(self.listed, in_builder=True)
        if self.take_sign("|") or self.take_sign(":"):
            condition = self._inside(self.listed, in_builder=False)
            self._expect(")}")
            return Node("builder", (inner, condition))
        self._expect(")}")
        return Node("set", inner.args if inner.op == "list" else (inner,))

    def _bars(self) -> Node:
        self.take_sign("|")  # ||v||
        before, self._in_bars = self._in_bars, True
        inner = self.sum()
        self._in_bars = before
        self._expect("|")
        self.take_sign("|")
        return Node("call", (inner,), "abs")

    def _matrix(self, token: Token) -> Node:
        if "matrix" not in token.text and token.text != "array":
            raise UnreadableError(f"the environment {token.text} is not known here")
        rows: list[list[Node]] = [[]]
        while self.peek().kind != "end":
            rows[-1].append(self._inside(self.sum, in_builder=False))
            if self.take_sign("\\\\"):
                rows.append([])
            elif not self.take_sign("&") and self.peek().kind != "end":
                raise UnreadableError("a matrix is not closed")
        self.take()
        lines = tuple(Node("list", tuple(row)) for row in rows if row)
        return Node("matrix", lines, "det" if token.text == "vmatrix" else "")

    def _closed(self, closing: str) -> Node:
        inner = self._inside(self.listed, in_builder=False)
        self._expect(closing)
        return inner

    def _inside(self, reader: Callable[[], Node], *, in_builder: bool) -> Node:
        """Read what is in brackets, where bars and colons have their own meaning."""
        before = self._in_bars, self.in_builder
        self._in_bars, self.in_builder = False, in_builder
        node = reader()
        self._in_bars, self.in_builder = before
        return node

    def _expect(self, sign: str) -> None:
        if not self.take_sign(sign):
            raise UnreadableError(f"{sign!r} is missing")


def _is_minus_one(node: Node) -> bool:
    return node.op == "neg" and node.args[0].op == "number" and node.args[0].number == 1


_READERS: dict[str, Callable[[Atoms, Token], Node]] = {
    "number": Atoms._number,
    "repeating": Atoms._repeating,
    "name": Atoms._name,
    "function": Atoms._function,
    "text": Atoms._text_atom,
    "command": Atoms._command,
    "sign": Atoms._bracket,
    "begin": Atoms._matrix,
}
