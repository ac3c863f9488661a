"""The explorer rollouts that several runs need, each requested once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from s2l_ray.bank.index import DrawRange
from s2l_ray.bank.needed import draws_of
from s2l_ray.rollouts.requests import ExplorerRequest


def union_of(needs: Iterable[Sequence[ExplorerRequest]]) -> list[ExplorerRequest]:
    """Requests for every rollout that one of several runs may request; no rollout is in two of them.

    A rollout is requested for the first step at which a run needs it, so that a shard has rollouts in the order in
    which runs read them. Consecutive draws of a prompt for one step are one request.

    Args:
        needs: what each run may request (`needed_requests`), with the same explorer seed.

    Returns:
        By step, then prompt and draw.
    """
    ranges: dict[DrawRange, ExplorerRequest] = {}
    for request in (request for need in needs for request in need):
        known = ranges.setdefault(draws_of(request), request)
        if request.step < known.step:
            ranges[draws_of(request)] = request
    steps: dict[str, dict[int, int]] = defaultdict(dict)
    for part, request in ranges.items():
        of_prompt = steps[part.prompt_id]
        for draw in range(part.first, part.first + part.count):
            of_prompt[draw] = min(request.step, of_prompt.get(draw, request.step))
    seed = next(iter(ranges.values())).seed if ranges else 0
    found = [
        ExplorerRequest(step, prompt_id, last - first + 1, seed, first)
        for prompt_id, of_prompt in steps.items()
        for step, first, last in _runs(of_prompt)
    ]
    return sorted(found, key=lambda request: (request.step, request.prompt_id, request.first_draw))


def _runs(steps: dict[int, int]) -> Iterable[tuple[int, int, int]]:
    """(step, first draw, last draw) of every longest run of consecutive draws that are for one step."""
    draws = sorted(steps)
    first = draws[0]
    for draw, following in zip(draws, [*draws[1:], None], strict=True):
        if following != draw + 1 or steps[following] != steps[draw]:
            yield steps[draw], first, draw
            first = following if following is not None else draw
