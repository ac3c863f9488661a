"""The recordings that the trials of a study read, one for each fingerprint, and what they need of each together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_ray.bank.exploring import RecordingPlan, plan_requests
from s2l_ray.bank.fingerprint import Fingerprint, prompt_digest
from s2l_ray.bank.union import union_of
from s2l_ray.errors import BankError
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tuning.needs import Need


@dataclass(frozen=True)
class TrialsRecording:
    """A recording, and what trials read of it together."""

    fingerprint: Fingerprint
    requests: list[ExplorerRequest]
    """What they need together."""
    plan: RecordingPlan
    """What the bank lacks of that: with the configuration of one of them, and the prompts of all."""

    @property
    def name(self) -> str:
        """The recording's name."""
        return self.fingerprint.digest


def recordings_of(needs: Sequence[Need]) -> list[TrialsRecording]:
    """The recordings that trials with these needs read. One that does not exist is created.

    Raises:
        BankError: the bank cannot be read or written, or prompts with equal ids differ between trials or from what was
            recorded.
    """
    return [_recording(members) for members in _by_fingerprint(needs)]


def by_engines(groups: Sequence[TrialsRecording]) -> list[list[RecordingPlan]]:
    """What the bank lacks, by what the same engines can record one after the other.

    Those are recordings that differ in rollout.explorer_seed alone, as those of an experiment's seeds do: the seed is
    in the requests. Engines for each of them would spend more time on starting than on sampling.
    """
    found: list[list[TrialsRecording]] = []
    for group in groups:
        if not group.plan.requests:
            continue
        for others in found:
            if all(_have_equal_engines(group, other) for other in others):
                others.append(group)
                break
        else:
            found.append([group])
    return [[group.plan for group in others] for others in found]


def _have_equal_engines(one: TrialsRecording, other: TrialsRecording) -> bool:
    if one.fingerprint.differences(other.fingerprint, but=["rollout.explorer_seed"]):
        return False
    known = {prompt.id: prompt for prompt in one.plan.prompts}
    shared = [(known[prompt.id], prompt) for prompt in other.plan.prompts if prompt.id in known]
    return all(a is b or prompt_digest(a) == prompt_digest(b) for a, b in shared)


def rollouts_of(needs: Sequence[Need]) -> int:
    """How many rollouts trials with these needs read together, each counted once, whatever the bank has of them."""
    return sum(request.count for members in _by_fingerprint(needs) for request in _together(members))


def _by_fingerprint(needs: Sequence[Need]) -> list[list[Need]]:
    """Those that share a recording."""
    found: dict[str, list[Need]] = {}
    for need in needs:
        if need.requests:
            found.setdefault(need.explored.fingerprint.digest, []).append(need)
    return list(found.values())


def _together(members: Sequence[Need]) -> list[ExplorerRequest]:
    return union_of({id(need.requests): need.requests for need in members}.values())


def _recording(members: Sequence[Need]) -> TrialsRecording:
    config = members[0].explored.config
    prompts: dict[str, Prompt] = {}
    for explored in {id(need.explored): need.explored for need in members}.values():
        for prompt in explored.prompts:
            known = prompts.setdefault(prompt.id, prompt)
            if known is not prompt and prompt_digest(known) != prompt_digest(prompt):
                raise BankError(
                    f"data.train: prompt {prompt.id} has other tokens, another question, answer or column for the "
                    "verifier in one trial than in another, so they cannot share a recording; give the prompts of the "
                    "two files different ids"
                )
    requests = _together(members)
    everything = list(prompts.values())
    return TrialsRecording(members[0].explored.fingerprint, requests, plan_requests(config, everything, requests))
