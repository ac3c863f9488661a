"""Random and mutated LaTeX answers, to see that nothing that a model may write breaks the verifier."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.support.grading import corpus

_LEAVES = (
    *("0", "1", "-1", "2", "7", "12", "1.5", "1e6", "10^{100}", "0.1", "x", "y", "n", "k", "i", "e", r"\pi", r"\infty"),
    *(
        r"\alpha",
        r"\text{cm}",
        "%",
        r"\$",
        r"\theta",
        "f(x)",
        "a_1",
        r"\emptyset",
        "½",
        "√2",
        "١",
        "（",
        "∞",
        r"\mathbb{R}",
    ),
)
_UNARY = (
    *(r"\sqrt{%s}", r"\sin %s", r"\log_{2}{%s}", r"\ln(%s)", r"|%s|", r"(%s)!", r"-%s", r"\overline{%s}", r"\{%s\}"),
    *(
        r"\lfloor %s \rfloor",
        r"\left(%s\right)",
        r"[%s)",
        r"\text{%s}",
        r"\mathbf{%s}",
        r"\sqrt[3]{%s}",
        r"e^{%s}",
        "%s'",
    ),
    *(
        r"\int_0^1 %s dx",
        r"\sum_{k=1}^{n} %s",
        r"\lim_{x \to 0} %s",
        r"\begin{pmatrix} %s \\ 1 \end{pmatrix}",
        r"%s^\circ",
    ),
)
_BINARY = (
    *(
        "%s+%s",
        "%s-%s",
        r"%s \cdot %s",
        r"\frac{%s}{%s}",
        "{%s}^{%s}",
        "%s,%s",
        "%s=%s",
        r"%s \le %s",
        "(%s,%s)",
        "%s:%s",
    ),
    *(r"\binom{%s}{%s}", r"%s \cup %s", r"%s \pm %s", "%s/%s", r"%s \text{ or } %s", "%s %s", r"%s \in %s", "%s_{%s}"),
)
_PIECES = (
    *(
        "{",
        "}",
        "\\",
        "$",
        "^",
        "_",
        "&",
        "\\\\",
        "\\frac",
        "\\left",
        "\\right",
        "\\begin{cases}",
        "\\end{cases}",
        "\0",
    ),
    *(
        "\ud800",
        "\u202e",
        "\ue000",
        "<think>",
        "</think>",
        "<answer>",
        "####",
        "\\boxed{",
        "\n",
        ",",
        "=",
        "!!",
        "9" * 40,
        "^{9^{9}}",
    ),
    *(
        "(((((",
        "\\text{",
        "%",
        "~",
        "'",
        '"',
        "__import__('os')",
        "1/0",
        "0^0",
        "\\infty-\\infty",
        "\\sqrt{-1}",
        "lambda",
        "…",
    ),
)


def expression(rng: random.Random, depth: int) -> str:
    """A random expression, mostly well-formed LaTeX."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(_LEAVES)
    if rng.random() < 0.4:
        return rng.choice(_UNARY).replace("%s", expression(rng, depth - 1))
    left, right = expression(rng, depth - 1), expression(rng, depth - 1)
    before, between, after = rng.choice(_BINARY).split("%s")
    return before + left + between + right + after


def mutated(rng: random.Random, text: str) -> str:
    """The text with pieces lost, repeated, exchanged or put in."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, 8))
        middle = rng.choice(["", text[start:end] * 2, rng.choice(_PIECES), rng.choice(_LEAVES), text[start:end][::-1]])
        text = text[:start] + middle + text[end:]
    return text


def pairs(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(response, gold): random expressions and rows of the corpus, most of them mutated, each against another.

    Deep nesting and long repetitions, which exhaust parsers, are among them.
    """
    rng = random.Random(f"fuzz/{seed}")
    rows = corpus()
    for number in range(count):
        answer = expression(rng, rng.randint(0, 4)) if rng.random() < 0.7 else rng.choice(rows).gold
        if number % 50 == 0:
            answer = (
                rng.choice(("{", "(", r"\sqrt{", r"\frac{1}{", "-", "x+", r"\left(")) * rng.randint(50, 300) + answer
            )
        response = rf"So it is \boxed{{{answer}}}." if rng.random() < 0.8 else rng.choice(rows).response
        gold = rng.choice((answer, expression(rng, 2), rng.choice(rows).gold))
        yield (mutated(rng, response) if rng.random() < 0.6 else response), gold
