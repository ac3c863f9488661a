"""What `diversity.json` holds: every measure of every source with its interval, and paired differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from s2l_ray.config.problems import problem_of_record
from s2l_ray.diversity.measures import Measured
from s2l_ray.diversity.sources import SourceKind
from s2l_ray.statistics import Estimate

RECORD = "diversity.json"
"""In the directory of a comparison."""
FORMAT = 1

Estimates = dict[str, Estimate | None]
"""By the name of the measure (docs/concepts/diversity.md); None where it does not exist."""


@dataclass(frozen=True)
class SourceRecord:
    """What was measured of one source."""

    name: str
    kind: SourceKind
    model: str
    temperature: float
    noise_temperature: float
    parts: int
    measures: Estimates


@dataclass(frozen=True)
class DifferenceRecord:
    """Paired differences of two sources: measures of `of` less those of `less`."""

    of: str
    less: str
    measures: Estimates


@dataclass(frozen=True)
class DiversityRecord:
    """A comparison of sources on the same problems."""

    name: str
    match: str
    """samples, or pass_at_1 with what the search for temperatures ended at in `matches`."""
    matches: list[dict[str, Any]]
    problems: int
    samples: int
    group_size: int
    confidence: float
    settings: dict[str, Any]
    sources: list[SourceRecord]
    differences: list[DifferenceRecord]

    def to_json(self) -> dict[str, Any]:
        """As in `diversity.json`; intervals are {"value", "low", "high"}, or null."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> DiversityRecord:
        """The record that `to_json` made `found` of.

        Raises:
            ValueError: it is of another version, or is none.
        """
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
        try:
            return TypeAdapter(cls).validate_python({key: value for key, value in found.items() if key != "format"})
        except ValidationError as error:
            raise ValueError(problem_of_record(error)) from None


def source_records(found: list[Measured], confidence: float) -> list[SourceRecord]:
    """The sources, in their order."""
    return [
        SourceRecord(
            name=one.source.name,
            kind=one.source.kind,
            model=one.source.model,
            temperature=one.source.temperature,
            noise_temperature=one.noise_temperature,
            parts=one.parts,
            measures={name: value.estimate(confidence) for name, value in one.measures.items()},
        )
        for one in found
    ]


def difference_records(found: list[Measured], confidence: float) -> list[DifferenceRecord]:
    """Each policy-level source less each token-level one, and both less the learner."""

    def of(kind: SourceKind) -> list[Measured]:
        return [one for one in found if one.source.kind == kind]

    policies, tokens, learners = of("policy_level"), of("token_level"), of("learner")
    pairs = [(a, b) for a in policies for b in tokens] + [(a, b) for a in policies + tokens for b in learners]
    return [DifferenceRecord(a.source.name, b.source.name, _differences(a, b, confidence)) for a, b in pairs]


def _differences(a: Measured, b: Measured, confidence: float) -> Estimates:
    """The differences of the measures that both have. Profiles with other numbers of parts are not compared."""
    shared = [
        name
        for name in a.measures
        if name in b.measures and not (name.startswith("logprob_part/") and a.parts != b.parts)
    ]
    return {name: (a.measures[name] - b.measures[name]).estimate(confidence) for name in shared}
