r"""Answers as language models give them to problems like those of GSM8K and MATH-500, made up; and which are right.

What is right is right by construction: every family of answers below writes one value in several ways, and other values
of the same kind. Texts have the shapes that models use: working with numbers and formulas in it, then `#### X`, "The
answer is X" or `\boxed{X}`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    response: str
    gold: str
    right: bool


class Value(NamedTuple):
    """One answer: as the data set has it, in other ways that mean the same, and what is something else."""

    gold: str
    same: Sequence[str]
    others: Sequence[str]


Wording = Callable[[str], str]
RESPONSES = 8
"""Per problem: a group of rollouts, in each of which about half of the answers are right."""


def gsm8k_style(count: int, seed: int) -> list[Answer]:
    """Amounts: integers, some with thousands, currency, units or cents."""
    rng = random.Random(f"gsm8k/{seed}")
    wordings: list[Wording] = [
        lambda x: f"#### {x}",
        lambda x: f"The answer is {x}.",
        lambda x: rf"So the total is \boxed{{{x}}}.",
        lambda x: f"**Answer: {x}**",
    ]
    return _answers(count, rng, lambda: _amount(rng), wordings, _arithmetic)


def math500_style(count: int, seed: int) -> list[Answer]:
    """LaTeX: a third integers, the rest fractions, roots, polynomials, intervals, points, sets, matrices, ..."""
    rng = random.Random(f"math500/{seed}")
    wordings: list[Wording] = [
        lambda x: rf"Therefore, the answer is $\boxed{{{x}}}$.",
        lambda x: rf"Thus \[\boxed{{{x}}}\]",
        lambda x: f"The final answer is ${x}$.",
    ]
    families = [*[_integer] * 7, *FAMILIES]
    return _answers(count, rng, lambda: rng.choice(families)(rng), wordings, _algebra)


def golds_style(golds: Sequence[str], count: int, seed: int) -> list[Answer]:
    """Gold answers of a data file; other rows' stand in for wrong ones, where they are not the same text."""
    rng = random.Random(f"file/{seed}")

    def value() -> Value:
        gold = rng.choice(golds)
        return Value(gold, [gold], [other for other in rng.sample(golds, 4) if other != gold] or [gold + "+1"])

    wordings: list[Wording] = [lambda x: rf"So it is $\boxed{{{x}}}$.", lambda x: f"The answer is ${x}$."]
    return _answers(count, rng, value, wordings, _algebra)


def degenerate(seed: int) -> list[Answer]:
    """Answers that SymPy works on for long: about a second each, and one for as long as it may."""
    rng = random.Random(f"degenerate/{seed}")
    slow = [
        Answer(r"So it is $\boxed{\int_0^1 x^x dx}$.", rf"\frac{{{rng.randint(2, 9)}}}{{7}}", False),
        Answer(rf"So it is $\boxed{{\sin^6 x+\cos^6 x+{rng.randint(4, 9)}\sin^2 x\cos^2 x}}$.", r"\tan^2 x + 1", False),
        Answer(r"So it is $\boxed{\cos^{12} x}$.", r"\left(\frac{1+\cos 2x}{2}\right)^6", True),
    ]
    endless = Answer(r"So it is $\boxed{\int_0^{\infty} \frac{\sin x}{x} dx}$.", rf"\frac{{\pi}}{{{seed + 3}}}", False)
    return [*slow, endless]


def _answers(
    count: int, rng: random.Random, value: Callable[[], Value], wordings: list[Wording], working: Callable[..., str]
) -> list[Answer]:
    def draw() -> Iterator[Answer]:
        while True:
            gold, same, others = value()
            for _ in range(RESPONSES):
                right = rng.random() < 0.5
                stated = rng.choice(wordings)(rng.choice(same if right else others))
                yield Answer(f"{working(rng)}\n{stated}", gold, right)

    answers = draw()
    return [next(answers) for _ in range(count)]


def _arithmetic(rng: random.Random) -> str:
    steps = [(rng.randint(2, 90), rng.randint(2, 40)) for _ in range(rng.randint(2, 6))]
    return "\n".join(f"They need {a} of them for each of {b} days, which is {a} * {b} = {a * b}." for a, b in steps)


def _algebra(rng: random.Random) -> str:
    steps = [(rng.randint(2, 9), rng.randint(2, 9)) for _ in range(rng.randint(4, 16))]
    return "\n\n".join(
        rf"We have $x^2 - {a + b}x + {a * b} = (x - {a})(x - {b})$, so that $\frac{{x - {a}}}{{x - {b}}}$ is defined "
        rf"unless $x = {b}$, and then \[\sqrt{{{a}^2 + {b}^2}} < {a + b}.\]"
        for a, b in steps
    )


def _amount(rng: random.Random) -> Value:
    n = rng.choice([rng.randint(2, 99), rng.randint(100, 999), rng.randint(1000, 250_000)])
    unit = rng.choice(["dollars", "apples", "miles", "hours"])
    same = [f"{n}", f"${n:,}", f"{n:,}", f"{n}.00", f"{n} {unit}", f"${n:,}.00"]
    others = [f"{n + d}" for d in (1, -1, 10, n)] + [f"${n + 2:,}", f"{n}.50", f"{n + 3} {unit}"]
    return Value(f"{n:,}", same, others)


def _integer(rng: random.Random) -> Value:
    n = rng.choice([1, -1]) * rng.randint(1, 2000)
    return Value(f"{n}", [f"{n}", f"x = {n}", f"{n}.0"], [f"{n + 1}", f"{-n}", rf"{n}\pi", rf"\frac{{{n}}}{{7}}"])


def _fraction(rng: random.Random) -> Value:
    a, b = rng.choice([1, 3, 7, 9, 11, 13]), rng.choice([2, 4, 5, 8, 16, 20])
    same = [rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}", f"{a / b}", rf"\frac{{{3 * a}}}{{{3 * b}}}"]
    return Value(
        rf"\frac{{{a}}}{{{b}}}", same, [rf"\frac{{{a + 2}}}{{{b}}}", f"{a / b + 0.1:.4f}", rf"-\frac{{{a}}}{{{b}}}"]
    )


def _root(rng: random.Random) -> Value:
    k, m = rng.randint(2, 19), rng.choice([2, 3, 5, 6, 7, 10])
    same = [rf"{k}\sqrt{{{m}}}", rf"\sqrt{{{k * k * m}}}", rf"\frac{{{k * m}}}{{\sqrt{{{m}}}}}"]
    return Value(rf"{k}\sqrt{{{m}}}", same, [rf"{k + 1}\sqrt{{{m}}}", rf"\sqrt{{{k * m}}}", rf"{k}\sqrt{{{m}}} + 1"])


def _polynomial(rng: random.Random) -> Value:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    same = [f"x^2 + {a + b}x + {a * b}", f"(x + {a})(x + {b})", f"{a * b} + {a + b}x + x^2"]
    others = [f"x^2 + {a + b}x - {a * b}", f"(x - {a})(x + {b + 1})", f"x^3 + {a * b}"]
    return Value(f"x^2 + {a + b}x + {a * b}", same, others)


def _interval(rng: random.Random) -> Value:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 9)
    same = [f"[{a},{b})", rf"\left[{a}, {b}\right)", rf"x \in [{a},{b})"]
    return Value(f"[{a},{b})", same, [f"({a},{b})", f"[{a},{b}]", f"[{a},{b + 1})", rf"[{a},\infty)"])


def _union(rng: random.Random) -> Value:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 9)
    gold = rf"(-\infty,{a}) \cup ({b},\infty)"
    same = [gold, rf"({b}, \infty) \cup (-\infty, {a})", rf"\left(-\infty, {a}\right) \cup \left({b}, \infty\right)"]
    return Value(gold, same, [rf"(-\infty,{a}] \cup ({b},\infty)", rf"({a},{b})", rf"(-\infty,{a})"])


def _point(rng: random.Random) -> Value:
    r, k = rng.randint(2, 9), rng.choice([2, 3, 4, 6])
    gold = rf"\left({r}, \frac{{\pi}}{{{k}}}\right)"
    same = [gold, rf"({r}, \frac{{\pi}}{{{k}}})", rf"({r},\pi/{k})"]
    return Value(
        gold, same, [rf"\left({r}, \frac{{\pi}}{{{k + 1}}}\right)", rf"({r + 1}, \frac{{\pi}}{{{k}}})", f"({r}, {k})"]
    )


def _list(rng: random.Random) -> Value:
    a, b, c = rng.sample(range(-9, 10), 3)
    return Value(f"{a}, {b}, {c}", [f"{c}, {a}, {b}", f"{a},{b},{c}"], [f"{a}, {b}", f"{a}, {b}, {c + 20}"])


def _matrix(rng: random.Random) -> Value:
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))

    def matrix(*cells: object) -> str:
        return r"\begin{{pmatrix}} {} & {} \\ {} & {} \end{{pmatrix}}".format(*cells)

    return Value(
        matrix(a, b, c, d),
        [matrix(a, b, c, d), matrix(a, b, c, f"{d}.0")],
        [matrix(b, a, d + 30, c), matrix(a, b, c, d + 1)],
    )


def _complex(rng: random.Random) -> Value:
    a, b = rng.randint(1, 19), rng.randint(2, 19)
    return Value(f"{a} - {b}i", [f"{a}-{b}i", f"-{b}i + {a}"], [f"{a} + {b}i", f"{a + 1} - {b}i", f"{a - b}"])


def _multiple_of_pi(rng: random.Random) -> Value:
    a, b = rng.choice([1, 5, 7, 11]), rng.choice([2, 3, 4, 6, 12])
    same = [rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}\pi"]
    return Value(
        rf"\frac{{{a}\pi}}{{{b}}}",
        same,
        [rf"\frac{{{a + 1}\pi}}{{{b}}}", f"{a * 3.14 / b:.2f}", rf"\frac{{{a}}}{{{b}}}"],
    )


def _formula(rng: random.Random) -> Value:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    same = [rf"\frac{{n^2 + {a}n}}{{{b}}}", rf"\frac{{n(n + {a})}}{{{b}}}", rf"\frac{{1}}{{{b}}} n (n + {a})"]
    return Value(
        same[0], same, [rf"\frac{{n(n - {a})}}{{{b}}}", rf"\frac{{n + {a}}}{{{b}}}", rf"\frac{{n^2}}{{{b}}} + {a}n"]
    )


def _choice(rng: random.Random) -> Value:
    right, wrong = rng.sample("ABCDE", 2)
    return Value(rf"\text{{({right})}}", [rf"\text{{({right})}}", f"({right})", f"{right}"], [f"({wrong})", f"{wrong}"])


def _angle(rng: random.Random) -> Value:
    n = rng.randint(10, 170)
    return Value(rf"{n}^\circ", [rf"{n}^\circ", f"{n}", rf"{n}^{{\circ}}"], [rf"{n + 1}^\circ", f"{180 - n + 200}"])


FAMILIES = [
    _fraction, _root, _polynomial, _interval, _union, _point, _list, _matrix, _complex, _multiple_of_pi, _formula,
    _choice, _angle,
]  # fmt: skip
