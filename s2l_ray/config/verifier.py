"""The verifier of a run."""

from __future__ import annotations

from typing import Annotated

from s2l_ray.config.section import AfterValidator, Positive, PositiveFloat, Section
from s2l_ray.extensions import VERIFIERS


class VerifierConfig(Section):
    """How responses are judged."""

    kind: Annotated[str, AfterValidator(VERIFIERS.checked)] = "math"
    """What judges a response: `math` (math-verify), `countdown` (exact, for the embedded task), or your own
    `module:function`, which is called as function(response=..., answer=..., question=...) and returns a bool, a
    reward in [0, 1] or a Verdict (examples/verifier.py is one)."""
    timeout_s: PositiveFloat = 5.0
    """Longest time for one check; a check that takes longer is killed and counted as a timeout."""
    workers: Positive = 1
    """Number of verifier actors, each with one worker process."""
