"""Atoms of an answer with what is attached to them: numbers, names, functions, roots, brackets, matrices, exponents."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from s2l_ray.tasks.grading.brackets import Brackets
from s2l_ray.tasks.grading.nodes import Node, UnreadableError, number
from s2l_ray.tasks.grading.tokens import Token
from s2l_ray.tasks.grading.units import canonical_unit

_STARTS = frozenset({"(", "[", "{", "{(", "<(", "floor(", "ceil("})
_MARKS = frozenset({"overline", "bar", "hat", "tilde", "widehat", "dot", "ddot"})
_ATOM_COMMANDS = _MARKS | {"frac", "sqrt", "binom", "sum", "prod"}
_MODULI = (("command", "pmod"), ("command", "bmod"), ("command", "mod"))
UNKNOWN_FUNCTIONS = frozenset("fg")
"""Letters that are applied to what stands in brackets after them; other letters are factors."""
_INVERTIBLE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_ALIASES = {"lg": "log", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MOST_DIGITS = 1000


class Atoms(Brackets):
    """A reader of tokens; `grading.parser` has what is between atoms."""

    def starts_factor(self) -> bool:
        """Whether the next token can stand after a factor without a sign between them."""
        token = self.peek()
        if token.kind == "number":
            return self.previous().kind != "number"
        if token.kind == "sign":
            if token.text == "[" and self.peek(1).text in ("", "cup", "cap", ")"):
                return False
            return token.text in _STARTS or (token.text == "|" and not self.in_bars and not self.in_builder)
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
            elif self.peek()[:2] in _MODULI:
                node = Node("call", (node, self._modulus()), "mod")
            elif self.take_sign("'"):
                node = self._primed(node)
            elif self.peek().kind == "unit" or self._is_unit_text(node):
                node = self._with_unit(node)
            else:
                return node

    def _modulus(self) -> Node:
        self.take()
        return self._argument()

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
        if name.name[0] in UNKNOWN_FUNCTIONS and self.peek() == Token("sign", "(", False):
            self.take()
            argument = self.closed(")")
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
            inner = self.closed(closing)
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
                index = self.closed("]")
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
        if token.text in ("sum", "prod"):
            return self._summation(token.text)
        if token.text in _MARKS:
            start = self.position
            inner = self._argument()
            marked = re.sub(r"[{}\s]", "", self.source(start))
            return inner if len(marked) > 1 and marked.isupper() else Node("symbol", name=f"{token.text} {marked}")
        raise UnreadableError(f"\\{token.text} is not known here")

    def _summation(self, op: str) -> Node:
        bounds = {}
        for _ in range(2):
            sign = self.take().text
            if sign not in ("_", "^") or sign in bounds:
                break
            bounds[sign] = self._argument()
        below = bounds.get("_")
        if len(bounds) < 2 or below is None or below.name != "=" or below.args[0].op != "symbol":
            raise UnreadableError("a sum without bounds")
        return Node(op, (below.args[1], bounds["^"], self.term()), below.args[0].name)

    def _between(self, start: int, end: int) -> str:
        return "".join(token.text for token in self.tokens[start:end])

    def _argument(self) -> Node:
        r"""What stands after a command or ^: a group, or one token. LaTeX takes one digit, as in \frac12."""
        token = self.peek()
        if token.kind == "sign" and token.text == "{":
            self.take()
            return self.group()
        if token.kind == "number" and self.previous().text != "^" and token.text.isdigit() and len(token.text) > 1:
            self.tokens[self.position : self.position + 1] = [
                Token("number", token.text[0]),
                Token("number", token.text[1:]),
            ]
        if token.kind == "sign" and token.text in ("-", "+"):
            return self.factor()
        return self._atom()


def _is_minus_one(node: Node) -> bool:
    return node.op == "neg" and node.args[0].op == "number" and node.args[0].number == 1


_READERS: dict[str, Callable[[Atoms, Token], Node]] = {
    "number": Atoms._number,
    "repeating": Atoms._repeating,
    "name": Atoms._name,
    "function": Atoms._function,
    "text": Atoms._text_atom,
    "command": Atoms._command,
    "sign": Atoms.bracket,
    "begin": Atoms.matrix,
}
