"""What an engine holds of the trainer's weights, put together from its workers, and compared with the trainer's.

A worker holds a tensor whole, or a part of it (tensor parallelism), or the same part as others (replicated KV heads,
norms), and in more than one place (an output head that is tied to the embedding, a packed copy). Digests of disjoint
parts add up. Which elements a worker holds where is described once, and that the parts of all workers make up the whole
tensor in every one of its places, each element once, is checked then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2l_ray.errors import WeightMismatchError
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.digest import TensorDigest, combined_digest

MOST_PROBLEMS = 3
"""Problems that a message names."""


@dataclass(frozen=True)
class HeldPart:
    """Elements of one tensor in one place of one worker."""

    tensor: int
    """Its number in the stream of weights."""
    place: str
    """The engine's name for where it is."""
    packed: bool
    """It is read back from a packed copy, which loses what `TensorDigest.values` leaves out."""
    elements: int
    positions: int
    """`digest.positions_sum` of which elements these are."""


@dataclass(frozen=True)
class WorkerHoldings:
    """All that one worker holds, as it describes it."""

    problems: list[str]
    """Why its weights cannot be compared; empty: they can."""
    parts: list[HeldPart]
    wholes: list[int]
    """`digest.positions_sum` of every tensor, whole."""


@dataclass(frozen=True)
class HeldDigest:
    """The digest of one tensor in one place of an engine, all of its workers taken together."""

    tensor: int
    place: str
    packed: bool
    digest: int


class EngineHoldings:
    """What all workers of an engine hold.

    Args:
        specs: the trainer's tensors, in the order of the stream.
        workers: in the order of their ranks.
    """

    def __init__(self, specs: Sequence[WeightSpec], workers: Sequence[WorkerHoldings]) -> None:
        self._places: dict[tuple[int, str, bool], list[tuple[int, int, HeldPart]]] = {}
        """The parts in each place of a tensor, each with its worker and its number there."""
        for worker, holdings in enumerate(workers):
            for number, part in enumerate(holdings.parts):
                self._places.setdefault((part.tensor, part.place, part.packed), []).append((worker, number, part))
        self.problems = list(dict.fromkeys(problem for worker in workers for problem in worker.problems))
        """Why the engine's weights cannot be compared with the trainer's, one line each; empty: they can."""
        if not self.problems:
            self.problems = self._uncovered(specs, workers[0].wholes)

    def digests(self, of_workers: Sequence[Sequence[int]]) -> list[HeldDigest]:
        """The digest of every tensor in each of its places. One whose replicas differ has several, one for each.

        Args:
            of_workers: for each worker, the digest of each of its parts.
        """
        found: list[HeldDigest] = []
        for place, parts in self._places.items():
            replicas: dict[int, list[int]] = {}
            for worker, number, part in parts:
                replicas.setdefault(part.positions, []).append(of_workers[worker][number])
            first = sum(of_part[0] for of_part in replicas.values())
            others = {first - of_part[0] + other for of_part in replicas.values() for other in of_part[1:]} - {first}
            found += [HeldDigest(*place, total % 2**64) for total in (first, *sorted(others))]
        return found

    def _uncovered(self, specs: Sequence[WeightSpec], wholes: Sequence[int]) -> list[str]:
        held = {tensor for tensor, _, _ in self._places}
        missing = [spec.name for number, spec in enumerate(specs) if number not in held and spec.numel]
        problems = [f"{name}: is held nowhere that can be read" for name in missing]
        for (tensor, place, _), parts in self._places.items():
            disjoint = {part.positions: part.elements for _, _, part in parts}
            if (sum(disjoint.values()), sum(disjoint) % 2**64) != (specs[tensor].numel, wholes[tensor]):
                problems.append(f"{specs[tensor].name}: the parts in {place} do not make up the whole tensor")
        return problems


def refusal(problems: Sequence[str]) -> str:
    """What keeps an engine's weights from being compared, in one line."""
    more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return "; ".join(problems[:MOST_PROBLEMS]) + more


def difference(
    specs: Sequence[WeightSpec], trainer: Sequence[TensorDigest], engine: Sequence[HeldDigest]
) -> str | None:
    """How an engine's weights differ from the trainer's, in one line that begins with the first tensor; None: not."""
    wrong: dict[int, tuple[HeldDigest, int]] = {}
    for held in engine:
        expected = trainer[held.tensor].values if held.packed else trainer[held.tensor].bits
        if held.digest != expected:
            wrong.setdefault(held.tensor, (held, expected))
    if not wrong:
        return None
    first = min(wrong)
    held, expected = wrong[first]
    return (
        f"{specs[first].name} has digest {expected:016x} in the trainer and {held.digest:016x} in the engine's "
        f"{held.place}; {len(wrong)} of {len(specs)} tensors differ"
    )


def checked_digest(
    version: int,
    specs: Sequence[WeightSpec],
    trainer: Sequence[TensorDigest],
    engines: Mapping[int, Sequence[HeldDigest]],
) -> str:
    """The combined digest of the trainer's weights, which all engines hold.

    Args:
        version: of the weights.
        engines: what each learner engine holds, by its number.

    Raises:
        WeightMismatchError: an engine holds others.
    """
    for number, held in sorted(engines.items()):
        if found := difference(specs, trainer, held):
            raise WeightMismatchError(
                f"after the weight sync of version {version}, learner engine {number} holds other weights than the "
                f"trainer: {found}. It would sample from another policy. The same command resumes from the last "
                "checkpoint; cluster.verify_weights=false goes on without looking"
            )
    return combined_digest((spec, digest.bits) for spec, digest in zip(specs, trainer, strict=True))
