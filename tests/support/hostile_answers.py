"""Answers that a model may come to write, and against which the verifiers have bounds on time and memory.

They are not right: `GOLD` is an answer that none of them gives, but for those that say so. What a kind is made of grows
with a size in characters, so that time can be held against length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.latex_fuzz import pairs

GOLD = "41"
COUNTDOWN = "3 7 12 5 : 27"
"""What none of them solves."""
QUESTION = "How many eggs are there? Compute $2^{10} - 7$."
IN_AN_ANSWER, LONG = 900, 200_000
"""Characters of an answer that is still compared (`extraction.LONGEST_ANSWER` is 1000), and of a response."""


class HostileAnswer(NamedTuple):
    """One answer to check."""

    kind: str
    response: str
    gold: str = GOLD
    right: bool = False


PLACES = {
    "box": r"\boxed{%s}",
    "sentence": "The answer is %s",
    "tag": "<answer>%s</answer>",
    "mark": "#### %s",
    "last line": "We compute.\n%s",
    "equation": r"So $x = %s = 5$.",
}
"""Where an answer stands."""

# Repeated, each of these is bait: for a regular expression that tries again from every place, for a parser that looks
# ahead or nests, and for a comparison of each with each.
_PIECES = """
" { } \\ \\{ \\} ( (( [ $ $$ a A 1 1, 1. 1/ 1+ 1- - + ^ ^{ {^ _ _{ x^ 2^ ! 9! |x | || ' " % \\% ~ ? ; , = 1= x= =1 <
1< & \\\\ 1& 1\\\\ * ** : 1: 12: \\frac{1}{ \\sqrt{ \\left( \\text{ \\text{a} \\boxed{ \\boxed{1} \\\\boxed{ <think>
</think> <answer> </answer> <answer>1</answer> #### \\( \\(x\\) \\[ \\[x\\] $1$ $x$ \\begin{a} \\begin{cases}
\\end{cases} \\begin{pmatrix}1& (1,2), (1,2)\\cup \\cup x<1, \\le \\pm 1\\pm sin \\sin \\int \\sum_{k=1}^{9} \\sum
lambda x.y 1e9 10^{10^{ 9^9^ 9^ \\infty \\cdot \\overline 0.\\overline{3} \\binom{9}{ \\log_{ x_1 f( f(x) \\mathbb{
\\phantom{ \\quad \\, \\! \\; {,} 1{,} 1\\,000 1,000 \\operatorname{ \\color{ d/dx dx/dy 答案
答案是 选 选A 。 ½ √ √2 ² ₂ ١ （ e A) (A) C) \\def\\x{\\x\\x}\\x \\newcommand{\\a}{\\a\\a}\\a \\csname \\expandafter
"""
_SPACED = (
    *(
        "a ",
        "A ",
        "1 ",
        "$ ",
        " ",
        "\t",
        "\n",
        "1, ",
        ", ",
        "= 1 ",
        "1 + 1 = 2 ",
        "48 + ",
        "cm ",
        "1 cm ",
        "eggs ",
        "1 eggs ",
    ),
    *(
        "per ",
        "million ",
        "1 million ",
        "1 000 ",
        "and ",
        "or ",
        "A or B ",
        "(C). ",
        "C) x ",
        "Option ",
        "is ",
        "not ",
        "so ",
    ),
    *("because ", "answer is ", "answer: ", "the answer to ", "Answer\n", "is the answer ", "your answer ", "#### 1\n"),
    *(". ", ".\n", "sin ", r"\boxed 1 ", r"\fbox{1} ", "the ", "0123456789 ", "x = 1 or ", "1/2 ", "x_{1} "),
)
_CHARACTERS = (
    *map(chr, (*range(0x20), *range(0x7F, 0xA1))),
    *(
        "\u00ad",
        "\u200b",
        "\u200d",
        "\u200e",
        "\u202a",
        "\u202e",
        "\u2066",
        "\u2069",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u0301",
    ),
    *("\ud800", "\udfff", "\ue000", "\uf8ff", "\u2028", "\U0001f600", "\U000e0041", "\U0010ffff", "ﷺ", "ß", "İ"),
)


def pieces() -> list[str]:
    """What is repeated."""
    return [*_PIECES.split(), *_SPACED, *_CHARACTERS]


def repeated(piece: str, size: int) -> str:
    """A text of about this many characters."""
    return piece * max(1, size // len(piece))


def _bait() -> Iterator[HostileAnswer]:
    for number, piece in enumerate(pieces()):
        for place, frame in PLACES.items():
            for ending in ("", ("!", "x", " =", "1", "}")[number % 5]):
                answer = repeated(piece, IN_AN_ANSWER) + ending
                yield HostileAnswer(f"repeated in a {place}", frame.replace("%s", answer))
        for before in ("", "The answer is ", "The answer:"):
            yield HostileAnswer("repeated for long", before + repeated(piece, LONG) + " 42.")


def _towers() -> Iterator[HostileAnswer]:
    answers = [
        *("9^9^9^9", "10^{10^{10}}", "10^{10^{10^{10}}}", "-10^{10^{10}}", "0.5^{10^{10^{10}}}", "1/10^{10^{10}}"),
        *(
            "e^{e^{e^{e^{e}}}}",
            "i^{i^{i^{10^{99}}}}",
            r"\sqrt{10^{10^{10}}}",
            r"\sin(10^{10^{10}})",
            "x^{10^{10^{10}}}",
        ),
        *(
            "10^{10^{10}} - 10^{10^{10}}",
            r"\log(10^{10^{10}})",
            "2^{-2^{-2^{99}}}",
            "1e999999999",
            "1e-9999",
            "9" * 900,
        ),
        *(
            "0." + "3" * 890,
            "(10^9)!",
            "99999999!",
            "((9!)!)!",
            "(10^{10^{10}})!",
            r"\binom{10^9}{10^8}",
            "9!!!!!!!!!!!!",
        ),
        *(r"\binom{10^{99}}{2}", r"\gcd((10^9)!, 3^{10^9})", r"\sum_{k=1}^{10^{10}} k", r"\prod_{k=1}^{10^{10}} k"),
        *(
            r"\sum_{k=1}^{4000} \sum_{j=1}^{4000} kj",
            r"\lfloor 10^{10^{10}} \rfloor",
            r"0.\overline{" + "7" * 800 + "}",
        ),
        *(str(7**1000), "\\frac{1}{" + "9" * 400 + "} + \\frac{1}{" + "7" * 400 + "}"),
        *("^".join("9" * depth) for depth in (30, 300)),
        *("9^{" * depth + "9" + "}" * depth for depth in (10, 50, 100, 200)),
        *("(" * depth + "9" + ")!" * depth for depth in (3, 50, 300)),
    ]
    for answer in answers:
        yield HostileAnswer("towers of powers and factorials", rf"\boxed{{{answer}}}")
    for answer in ("10^{10^{10}}", "2^{2^{100}} - 1", "9^{9^{9^{9}}}", "10^{10^{10}} + 1"):
        yield HostileAnswer("towers of powers and factorials", rf"\boxed{{{answer}}}", answer, right=True)


def _nested() -> Iterator[HostileAnswer]:
    openings = (
        "({)}",
        r"\sqrt{|}",
        r"\frac{1}{|}",
        r"\left(|\right)",
        r"\{|\}",
        "[|]",
        "||",
        "f(|)",
        r"\text{|}",
        "-(|)",
    )
    openings += (
        r"\begin{pmatrix}|\end{pmatrix}",
        "x_{|}",
        "x^{|}",
        r"\overline{|}",
        r"\lfloor|\rfloor",
        "1/(|)",
        "2(|+1)",
    )
    for opening in openings:
        before, _, after = opening.partition("|")
        for depth in (20, 60, 200, 400):
            answer = (before * depth + "1" + after * depth)[:IN_AN_ANSWER]
            yield HostileAnswer("deep nesting", rf"\boxed{{{answer}}}")
            yield HostileAnswer("deep nesting", f"The answer is ${answer}$.")
        yield HostileAnswer("deep nesting", before * (LONG // len(before or "|")) + "1" + after * 100)


def _megabytes() -> Iterator[HostileAnswer]:
    for piece in (
        "{",
        "}",
        "\\",
        "{}",
        r"\{",
        "$",
        "(",
        "[",
        "^{",
        "\0",
        "\ud800",
        "\n",
        " ",
        "9",
        r"\boxed{",
        r"\boxed{1}",
        "<answer>",
    ):
        text = repeated(piece, 1_000_000)
        yield HostileAnswer("megabytes", text)
        yield HostileAnswer("megabytes", rf"\boxed{{{text}")
        if piece not in ("\\", r"\boxed{", r"\boxed{1}", "<answer>"):  # an escape; boxes that differ or stay open
            yield HostileAnswer("megabytes", text + r" So it is \boxed{42}.", "42", right=True)
    for count in (30, 1000, 100_000):
        yield HostileAnswer("many boxes", "".join(rf"\boxed{{{number}}} " for number in range(count)))
        yield HostileAnswer("many boxes", r"\boxed{42} " * count, "42", right=True)
        yield HostileAnswer("many boxes", r"\boxed{" * count + "1" + "}" * count)
        yield HostileAnswer("many boxes", "<answer>1</answer>" * count + r"\boxed{")


def _collections() -> Iterator[HostileAnswer]:
    roots = [rf"\sqrt{{{number}}}" for number in range(2, 66)]
    gold = ", ".join(roots)
    yield HostileAnswer("large collections", rf"\boxed{{{', '.join(reversed(roots))}}}", gold, right=True)
    slow = [rf"\sin({number}x)^{{{number}}}" for number in range(60)]
    answers = [
        ", ".join(slow),
        ", ".join([r"e^{\pi x}"] * 90),
        ",".join(map(str, range(240))),
        r"\{" + ",".join(f"{number}^9" for number in range(200)) + r"\}",
        r" \cup ".join(f"({number},{number + 1})" for number in range(60)),
        r" \cup ".join(rf"[\sqrt{{{number}}},\infty)" for number in range(40)),
        " or ".join(f"x<{number}" for number in range(120)),
        "=".join(["1+1"] * 200),
        "<".join(map(str, range(240))),
        ":".join(map(str, range(1, 240))),
        r"1 \pm 2" + r" \pm 3" * 120,
        ", ".join([r"1 \pm \sqrt2"] * 60),
        r"\begin{pmatrix}" + r"\\".join(["&".join("1" * 20)] * 20) + r"\end{pmatrix}",
        r"\begin{vmatrix}" + r"\\".join(["&".join("2" * 12)] * 12) + r"\end{vmatrix}",
        r"\begin{cases}" + r"\\".join(["1 & x<1"] * 60) + r"\end{cases}",
        "+".join(f"x_{number}" for number in range(180)),
        "".join(f"(x+{number})" for number in range(140)),
        "".join(rf"\sqrt[{number}]{{x}}" for number in range(2, 80)),
    ]
    for answer in answers:
        for gold in (
            "41",
            "1, 2",
            "x + 5",
            r"\{1, 2, 3\}",
            "(1, 2)",
            r"[1, 2) \cup (3, 4)",
            "y = 2x + 3",
            "x < 5",
            "1:2:3",
        ):
            yield HostileAnswer("large collections", rf"\boxed{{{answer}}}", gold)


def code(canary: str) -> list[str]:
    """Texts that would write a file of this name, if anything evaluated them."""
    write = f"open('{canary}','w')"
    shell = f"touch {canary}"
    return [
        *(write, f"__import__('os').system('{shell}')", f'exec("{write}")', f'eval("{write}")', f"(lambda: {write})()"),
        *(
            f"[{write} for x in (1,)]",
            f"{{{{{write}}}}}",
            f"${{{write}}}",
            f"f'{{{write}}}'",
            f"%({write})s",
            f"`{shell}`",
        ),
        *(f"$({shell})", f"; {shell};", f"| {shell}", f"!!python/object/apply:os.system ['{shell}']", f"@{write}"),
        f"().__class__.__base__.__subclasses__()[0].__init__.__globals__['__builtins__']['open']('{canary}','w')",
        *(
            f'sympify("{write}")',
            f"Symbol('x').func.__globals__['__builtins__']['open']('{canary}', 'w')",
            f"N({write})",
        ),
        *(
            rf"\write18{{{shell}}}",
            rf"\immediate\write18{{{shell}}}",
            rf"\input{{|{shell}}}",
            rf"\directlua{{os.execute('{shell}')}}",
        ),
        *(
            rf"\newwrite\f\openout\f={canary}\write\f{{x}}\closeout\f",
            f"cos\nsystem\n(S'{shell}'\ntR.",
            f"import os; os.system('{shell}')",
        ),
        *(
            f"x.__class__.__mro__[1].__subclasses__(); {write}",
            f"1 if {write} else 2",
            f"mpf('{write}')",
            f"Fraction({write})",
        ),
    ]


def _injections(canary: str) -> Iterator[HostileAnswer]:
    for text in code(canary):
        for frame in PLACES.values():
            yield HostileAnswer("code", frame.replace("%s", text))
        yield HostileAnswer("code", r"\boxed{1}", text)  # data from elsewhere is no safer
        yield HostileAnswer("code", text, text.replace(canary, "another"))


def hand_made(canary: str = "canary") -> list[HostileAnswer]:
    """The corpus by hand. Code in it would write the file `canary`."""
    return [*_towers(), *_nested(), *_megabytes(), *_collections(), *_injections(canary), *_bait()]


def random_ones(count: int, seed: int) -> Iterator[HostileAnswer]:
    """Random and mutated answers (`latex_fuzz`), some of which are right; and pieces of bait mixed at random."""
    rng = random.Random(f"hostile/{seed}")
    known = pieces()
    for response, gold in pairs(count // 2, seed):
        yield HostileAnswer("random", response, gold)
    for _ in range(count - count // 2):
        mixed = "".join(rng.choice(known) * rng.choice((1, 1, 2, 8, 40)) for _ in range(rng.randint(2, 30)))
        yield HostileAnswer("mixed", rng.choice(list(PLACES.values())).replace("%s", mixed[:IN_AN_ANSWER]))
