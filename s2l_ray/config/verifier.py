"""The verifier of a run."""

from __future__ import annotations

import keyword
from typing import Annotated

from s2l_ray.config.section import AfterValidator, Positive, PositiveFloat, Section, model_validator
from s2l_ray.extensions import VERIFIERS
from s2l_ray.kinds import ExtractionLevel

GIVEN = ("response", "answer", "question")
"""What every verifier is called with."""


def _column(name: str) -> str:
    """The name of a column that can be the name of an argument."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError("cannot be the name of an argument; rename the column, with letters, digits and _ alone")
    if name in GIVEN:
        raise ValueError("is given to every verifier; leave it out")
    return name


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    """In one order, since it makes no difference."""
    return tuple(sorted(names))


class VerifierConfig(Section):
    """How responses are judged."""

    kind: Annotated[str, AfterValidator(VERIFIERS.checked)] = "math"
    """What judges a response: `math` (its final answer, by what it means), `choice` (the letter that it chooses, of a
    multiple-choice question), `countdown` (exact, for the embedded task), or your own `module:function`, which is
    called as function(response=..., answer=..., question=...) and returns a bool, a reward in [0, 1] or a Verdict
    (examples/verifier.py is one)."""
    extract: ExtractionLevel = "strict"
    """What `math` takes for a response's final answer. `strict`: what the response names as its answer, which is a box,
    `<answer>`, a sentence such as "The answer is 42." or its last sentence, after any `<think>...</think>`. `lenient`:
    if there is nothing of the kind, also the last formula or number, a box that was cut off, the last of several
    different boxes, and the thinking. See docs/concepts/verification.md. Other verifiers read responses themselves."""
    columns: Annotated[tuple[Annotated[str, AfterValidator(_column)], ...], AfterValidator(_sorted)] = ()
    """Columns of the data files that your own function is called with, too, each as the keyword of its name, such as
    `[data_source, extra_info]` of verl's layout. Every row must have them. They are given as JSON has them: texts,
    numbers, true or false, null, lists and records."""
    timeout_s: PositiveFloat = 5.0
    """Longest time for one check; a check that takes longer is killed and counted as a timeout. For the built-in kinds
    it is processor time, so that no reward depends on the machine's load; for your own function, which may wait for
    others, it is the clock's."""
    workers: Positive = 1
    """Number of verifier actors, each with one worker process. The kernel lets a worker have 4 GiB of memory for the
    built-in kinds, and half of its machine's for your own function; a check that asks for more is `failed`, or
    `unparsable`, and the next goes on."""

    @model_validator(mode="after")
    def _only_math_extracts(self) -> VerifierConfig:
        if self.kind != "math" and self.extract != "strict":
            raise ValueError(f"extract is for kind: math alone; {self.kind} reads responses itself")
        return self

    @model_validator(mode="after")
    def _only_own_functions_have_columns(self) -> VerifierConfig:
        if self.columns and VERIFIERS.is_built_in(self.kind):
            raise ValueError(f"columns are for a function of your own; {self.kind} takes none")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: a name is given twice; give it once")
        return self

    def check(self) -> None:
        """Import the verifier.

        Raises:
            ConfigError: it cannot be imported, or cannot be called with these columns.
        """
        VERIFIERS.resolve(self.kind, further=self.columns)

    @property
    def options(self) -> dict[str, str]:
        """What the verifier is called with for every response alike."""
        return {"extract": self.extract} if self.kind == "math" else {}
