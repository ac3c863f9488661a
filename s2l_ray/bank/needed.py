"""Which explorer rollouts a run may request. They are all known before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from s2l_ray.bank.index import DrawRange
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.rollouts.step_planner import step_planner
from s2l_ray.schedule import AdaptiveSchedule, Schedule

if TYPE_CHECKING:
    from s2l_ray.config import Config


def draws_of(request: ExplorerRequest) -> DrawRange:
    """The draws that a request is for."""
    return DrawRange(request.prompt_id, request.first_draw, request.count)


def describe(request: ExplorerRequest) -> str:
    """The request for people, such as "step 4, prompt train-000017, draws 8..11"."""
    last = request.first_draw + request.count - 1
    return f"step {request.step}, prompt {request.prompt_id}, draws {request.first_draw}..{last}"


def needed_requests(config: Config, prompt_ids: Sequence[str]) -> list[ExplorerRequest]:
    """Every explorer request that a run may make, in the order of its steps; no rollout is in two of them.

    With dynamic sampling (rollout.refill_rounds) or an adaptive schedule the run will make fewer: which prompts are
    replaced, and when the explorer's share falls, depends on rewards.

    Args:
        prompt_ids: ids of the training prompts, in file order.
    """
    planner = step_planner(config, prompt_ids)
    planner = replace(planner, schedule=_largest(planner.schedule))
    refills = config.rollout.refill_rounds * config.rollout.prompts_per_step
    found: dict[tuple[str, int], ExplorerRequest] = {}
    for step in range(1, config.schedule.steps + 1):
        if not planner.schedule.split(step).explorer:
            continue
        prompts = planner.sampled_prompts(step) + (planner.spare_prompts(step)[:refills] if refills else [])
        for request in planner.explorer_requests(step, prompts):
            key = request.prompt_id, request.first_draw
            if key not in found or found[key].count < request.count:
                found[key] = request if key not in found else replace(found[key], count=request.count)
    return list(found.values())


def every_request(config: Config, prompt_ids: Sequence[str], rollouts: int) -> list[ExplorerRequest]:
    """Requests for draws 0 to `rollouts` - 1 of every prompt, of group_size each, those that one epoch uses first."""
    size, seed = config.rollout.group_size, config.explorer_seed
    return [
        ExplorerRequest(first // size, prompt_id, min(size, rollouts - first), seed, first)
        for first in range(0, rollouts, size)
        for prompt_id in prompt_ids
    ]


def missing_message(requests: Iterable[ExplorerRequest], covered: Iterable[bool], path: str) -> str | None:
    """One line that says which requests of a run a bank lacks; None if it lacks none.

    Args:
        covered: for each request, whether the bank has all of its rollouts.
        path: the recording, for the message.
    """
    pairs = list(zip(requests, covered, strict=True))
    missing = [request for request, there in pairs if not there]
    if not missing:
        return None
    return (
        f"the bank {path} lacks {len(missing)} of the {len(pairs)} explorer requests that this run may make, the "
        f"first: {describe(missing[0])}; s2l explore CONFIG records them"
    )


def _largest(schedule: Schedule | AdaptiveSchedule) -> Schedule:
    """A schedule known beforehand whose explorer's share is at every step at least that of `schedule`."""
    if isinstance(schedule, Schedule):
        return schedule
    # An adaptive share starts at ceil(start * G), never rises, and is 0 from T_mix on.
    kind = "off" if schedule.mix_steps == 1 else "abrupt"
    return Schedule(kind, schedule.group_size, max(1, schedule.mix_steps - 1), schedule.start)
