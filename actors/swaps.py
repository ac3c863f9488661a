"""The driver's end of weight swaps: who takes part, and how a swap goes on when an engine dies in the middle of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray

from actors.calls import fetch
from s2l_ray.errors import ActorLostError, BroadcastError, StepTimeoutError
from s2l_ray.placement.plan import Transfer
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.messages import Invitation, merge_chunks, update_info

SETTLE_S = 10.0
"""For actors to notice that their group broke, and for answers to arrive."""


@dataclass(frozen=True)
class LearnerMember:
    """A learner engine that takes part in weight swaps."""

    number: int
    actor: Any
    tensor_parallel: int
    """Its workers, each a member of the broadcast group."""
    transfer: Transfer


@dataclass(frozen=True)
class SwapReport:
    """One version of the weights, delivered."""

    version: int
    bytes: int
    """Of the weights, once."""
    seconds: float
    lost: tuple[LearnerMember, ...]
    """Members left out since the swap before: dead, or not answering within the bound. They hold no valid weights."""


class WeightSwaps:
    """Delivers versions of the trainer's weights to the learner engines, whoever dies.

    Engines over gloo form one broadcast group with trainer rank 0, those over nccl another; engines over ipc form none.
    A group that broke, or whose members changed, is formed anew under a name that was never used. Every wait is
    bounded by a small multiple of `timeout_s`.

    Args:
        ranks: `TrainerRank` actors, in rank order.
        specs: what a swap carries.
        timeout_s: cluster.swap_timeout_s.
    """

    def __init__(self, ranks: list[Any], specs: list[WeightSpec], timeout_s: float) -> None:
        self._ranks = ranks
        self._specs = specs
        self._timeout_s = timeout_s
        self._members: list[LearnerMember] = []
        self._lost: list[LearnerMember] = []
        self._standing: set[Transfer] = set()
        self._groups_named = 0

    def connect(self, members: list[LearnerMember]) -> None:
        """From here on, swaps go to these. Members that do not join are left out and named in the next report."""
        self._members = list(members)
        self._standing.clear()
        for transfer in self._transfers():
            self._regroup(transfer)

    def swap(self, version: int) -> SwapReport:
        """Deliver the trainer's present weights to every member, as `version`.

        Raises:
            ActorLostError: no member is left, or a trainer rank is gone.
            BroadcastError: it fails although every member answers.
        """
        begin = time.perf_counter()
        for transfer in self._transfers():
            if transfer == "ipc":
                self._show(version)
            else:
                self._broadcast_until_held(transfer, version)
        if not self._members:
            raise ActorLostError(
                f"the swap to weight version {version} failed: no learner engine is left. "
                "The same command goes on from the last checkpoint."
            )
        lost, self._lost = tuple(self._lost), []
        size = sum(spec.nbytes for spec in self._specs)
        return SwapReport(version, size, time.perf_counter() - begin, lost)

    # ---- broadcasts ----

    def _broadcast_until_held(self, transfer: Transfer, version: int) -> None:
        """Broadcast, and after a failure again to those that answer, until all of them hold the version."""
        failures = 0
        while self._of(transfer):
            if transfer not in self._standing:
                self._regroup(transfer)
            before = len(self._of(transfer))
            missed = self._broadcast(transfer, version)
            if not missed:
                return
            self._standing.discard(transfer)
            self._drop_absent(transfer)
            if not any(member.number in missed for member in self._of(transfer)):
                return  # the others have it already; they regroup at the next swap
            failures += len(self._of(transfer)) == before
            if failures > 1:
                number, error = next(iter(missed.items()))
                raise BroadcastError(
                    f"the swap to weight version {version} failed twice although all engines answer; "
                    f"learner engine {number}: {error}"
                )

    def _broadcast(self, transfer: Transfer, version: int) -> dict[int, Exception]:
        """One attempt. Returns what went wrong, by the number of the member that did not get the version."""
        members = self._of(transfer)
        update = update_info(self._specs)
        swaps = [member.actor.swap.remote(version, update) for member in members]
        sends = [rank.send_weights.remote(transfer) for rank in self._ranks]
        patience = self._timeout_s + SETTLE_S
        try:
            # Twice: the whole is bounded, and so is each wait in it, the last one of which may begin late.
            fetch(sends, 2 * self._timeout_s + SETTLE_S, "sending weights")
        except BroadcastError:
            patience = SETTLE_S
        return _failures(dict(zip([m.number for m in members], swaps, strict=True)), patience)

    def _regroup(self, transfer: Transfer) -> None:
        """Form a new group of rank 0 and every member that answers; after a failure again, without who is gone."""
        attempts = len(self._of(transfer)) + 1
        for _ in range(attempts):
            self._drop_absent(transfer)
            if not self._of(transfer) or transfer == "ipc":
                break
            if self._form(transfer):
                break
        else:
            raise BroadcastError(f"no {transfer} group formed in {attempts} attempts although all engines answer")
        self._standing.add(transfer)

    def _form(self, transfer: Transfer) -> bool:
        members = self._of(transfer)
        name = f"weights-{self._groups_named}"
        self._groups_named += 1
        size = 1 + sum(member.tensor_parallel for member in members)
        patience = self._timeout_s + SETTLE_S
        host, port = fetch(self._ranks[0].listen_for_receivers.remote(transfer), patience, "opening a broadcast group")
        forming = self._ranks[0].form_group.remote(transfer, name, size)
        joins, offset = {}, 1
        for member in members:
            invitation = Invitation(host, port, name, offset, size, self._timeout_s)
            joins[member.number] = member.actor.join.remote(invitation)
            offset += member.tensor_parallel
        try:
            fetch(forming, 2 * self._timeout_s + SETTLE_S, "forming a broadcast group")
        except BroadcastError:
            _failures(joins, SETTLE_S)
            return False
        return not _failures(joins, patience)

    # ---- ipc ----

    def _show(self, version: int) -> None:
        """Chunk by chunk: every rank shows it, every member takes it. Who fails is left out; the others go on."""
        patience = self._timeout_s + SETTLE_S
        fetch([rank.begin_chunks.remote() for rank in self._ranks], patience, "opening the weights")
        self._call_ipc("begin_swap")
        while True:
            parts = fetch([rank.next_chunk.remote() for rank in self._ranks], patience, "gathering a chunk of weights")
            if parts[0] is None:
                break
            self._call_ipc("receive", merge_chunks(parts))
        self._call_ipc("finish_swap", version)
        fetch([rank.end_chunks.remote() for rank in self._ranks], patience, "giving the transfer's buffer back")

    def _call_ipc(self, method: str, *args: Any) -> None:
        self._call("ipc", method, *args)

    # ---- members ----

    def _transfers(self) -> list[Transfer]:
        return sorted({member.transfer for member in self._members})

    def _of(self, transfer: Transfer) -> list[LearnerMember]:
        return [member for member in self._members if member.transfer == transfer]

    def _drop_absent(self, transfer: Transfer) -> None:
        """Ask every member, through all of its workers; who does not answer is left out."""
        self._call(transfer, "check_in")

    def _call(self, transfer: Transfer, method: str, *args: Any) -> None:
        calls = {m.number: getattr(m.actor, method).remote(*args) for m in self._of(transfer)}
        failed = _failures(calls, self._timeout_s + SETTLE_S)  # it may still be inside a wait that is itself bounded
        gone = [member for member in self._of(transfer) if member.number in failed]
        self._lost += gone
        self._members = [member for member in self._members if member not in gone]


def _failures(calls: dict[int, ray.ObjectRef], timeout_s: float) -> dict[int, Exception]:
    """Wait for one call on each of several actors. Returns those that raised, died or were not done in time."""
    done, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    failed: dict[int, Exception] = {}
    for number, ref in calls.items():
        if ref not in done:
            failed[number] = StepTimeoutError(f"not done within {timeout_s:.0f} s (cluster.swap_timeout_s)")
            continue
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            failed[number] = error
    return failed
