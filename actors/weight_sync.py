"""The driver's end of weight syncs: which engines take part, and what happens when one dies in the middle."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.calls import fetch, outcomes, unwrapped
from s2l_ray.errors import ActorLostError, BroadcastError, ConfigError
from s2l_ray.generation.learner import WeightSyncTimes
from s2l_ray.kinds import Transfer
from s2l_ray.recovery.causes import short_cause
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.held import checked_digest, refusal
from s2l_ray.weights.messages import Invitation, merge_chunks, update_info
from s2l_ray.weights.sender import SendTimes
from s2l_ray.weights.transfers import TRANSFERS

SETTLE_S = 10.0
"""Seconds in which actors notice that their group broke, and answers arrive."""
IDLE_S = 0.2
"""Seconds in which engines that have nothing to finish say so."""
TIMES = 2
"""How often something is tried with members that all answer."""
RANK_0 = -1
"""Where failures go by the numbers of members: trainer rank 0."""
CONSEQUENCE = re.compile(
    r"time.?out|timed out|within [0-9.]+ s|not all members|by peer|connection|broken pipe|remote process|network error",
    re.IGNORECASE,
)
"""What is said where somebody waited for a member, or was connected to one, that failed."""


@dataclass(frozen=True)
class LearnerMember:
    """A learner engine that takes part in weight syncs."""

    number: int
    actor: Any
    tensor_parallel: int
    """Its workers, each a member of the broadcast group."""
    transfer: Transfer
    why: str = ""
    """Why it was dropped; empty while it takes part."""


@dataclass(frozen=True)
class WeightSyncReport:
    """One version of the weights, delivered. Times that engines report are those of the slowest."""

    version: int
    bytes: int
    """Size of the weights, counted once."""
    seconds: float
    """From the driver's call to the moment when the last engine holds the version."""
    gather_s: float
    """Seconds in which trainer rank 0 gathered, cast and packed; see `SendTimes`. Over ipc, those the driver waited."""
    broadcast_s: float
    """Seconds from the first byte to the last, loading into the engines included as far as it held up the next bytes.
    0 if the broadcast broke after every member that is left had everything."""
    broadcast_gb_per_s: float
    """Bytes of the weights (10**9) per second of `broadcast_s`; every member receives at this rate. 0 if that is 0."""
    drain_s: float
    """Longest wait of an engine for its running requests: nothing new starts, what runs continues."""
    receive_s: float
    """Longest time in which weights arrived at an engine and were loaded."""
    stall_s: float
    """Longest time for which an engine that was awake sampled nothing."""
    lost: tuple[LearnerMember, ...]
    """Members dropped since the previous weight sync: dead, or not answering within the bound. Their weights are not
    valid."""
    digest: str | None = None
    """The `digest.combined_digest` of the weights, which every engine was found to hold; None: it was not looked at."""
    verify_s: float = 0.0
    """Seconds that this took."""


class NoMemberLeftError(ActorLostError):
    """No learner engine is left that could take part in a weight sync.

    Args:
        version: of the weights.
        lost: members dropped since the weight sync before.
    """

    def __init__(self, version: int, lost: tuple[LearnerMember, ...]) -> None:
        super().__init__(f"the weight sync of version {version} failed: no learner engine is left")
        self.lost = lost


@dataclass(frozen=True)
class _Attempt:
    """A broadcast under way."""

    transfer: Transfer
    sends: list[ray.ObjectRef]
    weight_syncs: dict[int, ray.ObjectRef]
    """The members' calls, by number."""


class WeightSync:
    """Delivers versions of the trainer's weights to the learner engines, also when some of them die.

    Engines over gloo form one broadcast group with trainer rank 0, those over nccl another; engines over ipc form none
    (see `weights.transfers`).
    A group that broke, or whose members changed, is formed anew under a name that was never used. Engines finish their
    requests, or stop them, before anything is sent: that wait is bounded by `drain_timeout_s`, every other one by a
    small multiple of `timeout_s`.

    `begin_weight_sync` and `finish_weight_sync` are `weight_sync` in two parts, for a driver that does other work
    between them.

    Args:
        ranks: `TrainerRank` actors, in rank order.
        specs: what a weight sync carries.
        timeout_s: cluster.weight_sync_timeout_s.
        drain_timeout_s: cluster.step_timeout_s, which bounds the requests too.
        verify: cluster.verify_weights.
        groups_named: names that broadcast groups of these engines have had, with trainer ranks that are gone now.
        tend: called every second of a wait.
    """

    def __init__(
        self,
        ranks: list[Any],
        specs: list[WeightSpec],
        timeout_s: float,
        drain_timeout_s: float,
        verify: bool = False,
        groups_named: int = 0,
        tend: Callable[[], None] | None = None,
    ) -> None:
        self.verify = verify
        self._tend = tend
        self._ranks = ranks
        self._specs = specs
        self._timeout_s = timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._members: list[LearnerMember] = []
        self._lost: list[LearnerMember] = []
        self._standing: set[Transfer] = set()
        self.groups_named = groups_named
        """How many names broadcast groups have had."""
        self._version = -1
        self._begun = 0.0
        self._attempt: _Attempt | None = None
        self._draining: dict[int, ray.ObjectRef] = {}
        self._sent: list[SendTimes] = []
        self._received: list[WeightSyncTimes] = []
        self._described: set[int] = set()
        """Numbers of the members that know what they will be asked for by `_verified`."""

    def connect(self, members: list[LearnerMember]) -> None:
        """From here on, weight syncs go to these members. Those that do not join are named in the next report.

        Raises:
            ConfigError: the weights of one cannot be compared with the trainer's, as cluster.verify_weights demands.
        """
        self._members = list(members)
        self._standing.clear()
        self._described.clear()
        for transfer in self._transfers():
            self._regroup(transfer)
        if self.verify:
            self._describe()

    def weight_sync(self, version: int) -> WeightSyncReport:
        """Deliver the trainer's present weights to every member, as `version`.

        Raises:
            NoMemberLeftError: no member is left.
            ActorLostError: a trainer rank is gone.
            BroadcastError: it fails although every member answers.
            WeightMismatchError: a member holds other weights than the trainer (cluster.verify_weights).
        """
        self.begin_weight_sync(version)
        return self.finish_weight_sync()

    def begin_weight_sync(self, version: int) -> None:
        """Start to deliver the trainer's present weights as `version`, and wait for nothing that takes time.

        With all members in one group that stands, and none with requests to finish, nothing is left for
        `finish_weight_sync` but to wait. The rest (a long drain, a group to form anew, engines of a second kind, ipc)
        comes there. The members are those of the last `connect`: call no other method in between.
        """
        self._version, self._begun = version, time.perf_counter()
        self._sent, self._received, self._attempt = [], [], None
        grouped = [member for member in self._members if TRANSFERS[member.transfer].grouped]
        self._draining = {member.number: member.actor.drain.remote() for member in grouped}
        first = next(iter(self._transfers()), None)
        if first in self._standing and TRANSFERS[first].grouped and not outcomes(self._draining, IDLE_S)[1]:
            self._attempt = self._start(first)

    def finish_weight_sync(self) -> WeightSyncReport:
        """Wait until every member holds the version of `begin_weight_sync`. Raises as `weight_sync` does."""
        for transfer in self._transfers():
            if TRANSFERS[transfer].grouped:
                self._broadcast_until_held(transfer)
            else:
                self._show_chunks(transfer)
        held = time.perf_counter()
        digest = self._verified() if self.verify else None
        if not self._members:
            lost, self._lost = tuple(self._lost), []
            raise NoMemberLeftError(self._version, lost)
        return self._report(digest, time.perf_counter() - held)

    def _report(self, digest: str | None, verify_s: float) -> WeightSyncReport:
        lost, self._lost = tuple(self._lost), []
        size = sum(spec.nbytes for spec in self._specs)
        broadcast_s = sum(times.broadcast_s for times in self._sent)
        return WeightSyncReport(
            version=self._version,
            bytes=size,
            seconds=time.perf_counter() - self._begun,
            gather_s=sum(times.gather_s for times in self._sent),
            broadcast_s=broadcast_s,
            broadcast_gb_per_s=len(self._sent) * size / broadcast_s / 1e9 if broadcast_s else 0.0,
            drain_s=max(times.drain_s for times in self._received),
            receive_s=max(times.receive_s for times in self._received),
            stall_s=max(times.stall_s for times in self._received),
            lost=lost,
            digest=digest,
            verify_s=verify_s if self.verify else 0.0,
        )

    # ---- verification ----

    def _describe(self) -> None:
        """Let the members that are new find out where they hold the trainer's tensors."""
        new = [member for member in self._members if member.actor not in self._described]
        actors = {member.number: member.actor for member in new}
        for number, problems in self._ask(new, "describe_weights", self._specs).items():
            if problems:
                raise ConfigError(
                    f"cluster.verify_weights cannot compare the weights of learner engine {number} with the trainer's; "
                    f"set it to false: {refusal(problems)}"
                )
            self._described.add(actors[number])

    def _verified(self) -> str:
        """Compare what every member holds now with what the trainer has; returns the digest of it."""
        self._describe()
        computing = [rank.weight_digests.remote() for rank in self._ranks]
        held = self._ask(self._members, "weight_digests")
        trainer = self._fetch(computing, self._timeout_s + SETTLE_S, "taking the digests of the trainer's weights")[0]
        return checked_digest(self._version, self._specs, trainer, held)

    # ---- broadcasts ----

    def _broadcast_until_held(self, transfer: Transfer) -> None:
        """Broadcast, and after a failure again to those that answer, until all of them hold the version."""
        failures = 0
        self._wait_for_drains(transfer)
        while self._of(transfer):
            if transfer not in self._standing:
                self._regroup(transfer)
            before = len(self._of(transfer))
            missed = self._broadcast(transfer)
            if not missed:
                return
            self._standing.discard(transfer)
            self._drop_absent(transfer)
            members = self._of(transfer)
            if not any(member.number in missed for member in members):
                return  # the others have it already; they regroup at the next weight sync
            failures += len(members) == before
            if failures >= TIMES:
                if self._drop(_of_their_own(missed, members)):
                    failures = 0
                    continue
                raise BroadcastError(
                    f"the weight sync of version {self._version} failed twice although all engines answer; "
                    f"{_most_telling(missed)}"
                )

    def _wait_for_drains(self, transfer: Transfer) -> None:
        """Wait until the members stand still. One that does not, or is gone, is dropped."""
        waiting = {m.number: self._draining[m.number] for m in self._of(transfer) if m.number in self._draining}
        if self._drop(self._outcomes(waiting, self._drain_timeout_s, "cluster.step_timeout_s")[1]):
            self._attempt = None
            self._standing.discard(transfer)

    def _start(self, transfer: Transfer) -> _Attempt:
        update = update_info(self._specs)
        weight_syncs = {m.number: m.actor.weight_sync.remote(self._version, update) for m in self._of(transfer)}
        return _Attempt(transfer, [rank.send_weights.remote(transfer) for rank in self._ranks], weight_syncs)

    def _broadcast(self, transfer: Transfer) -> dict[int, Exception]:
        """Finish the attempt that `begin_weight_sync` started, or make a new one.

        Returns:
            What went wrong, by the number of each member that did not get the version; that of rank 0 as RANK_0's.
        """
        attempt, self._attempt = self._attempt or self._start(transfer), None
        patience = self._timeout_s + SETTLE_S
        sent: list[SendTimes] = []
        of_rank_0: dict[int, Exception] = {}
        try:
            # Twice: the whole is bounded, and so is each wait in it, the last one of which may begin late.
            bound_s = 2 * self._timeout_s + SETTLE_S
            sent = self._fetch(attempt.sends, bound_s, "sending weights")[:1]
        except BroadcastError as error:
            patience, of_rank_0 = SETTLE_S, {RANK_0: error}
        received, failed = self._outcomes(attempt.weight_syncs, patience)
        self._received += received.values()
        self._sent += sent
        return of_rank_0 | failed if failed else {}

    def _regroup(self, transfer: Transfer) -> None:
        """Form a new group of rank 0 and every member that answers; after a failure, again without those gone.

        With the same members twice: something may have been in the way for a moment only.
        """
        tried: list[LearnerMember] = []
        failed: dict[int, Exception] = {}
        times = 0
        while True:
            self._drop_absent(transfer)
            members = self._of(transfer)
            if not members or not TRANSFERS[transfer].grouped:
                break
            times = times + 1 if members == tried else 1
            if times > TIMES:
                if self._drop(_of_their_own(failed, members)):
                    continue
                raise BroadcastError(
                    f"no {transfer} group of trainer rank 0 and the learner engines forms although all of them answer; "
                    f"{_most_telling(failed)}"
                )
            if not (failed := self._form(transfer)):
                break
            tried = members
        self._standing.add(transfer)

    def _form(self, transfer: Transfer) -> dict[int, Exception]:
        """Try it once. Returns what went wrong, by the number of the member; that of rank 0 as RANK_0's."""
        members = self._of(transfer)
        name = f"weights-{self.groups_named}"
        self.groups_named += 1
        size = 1 + sum(member.tensor_parallel for member in members)
        patience = self._timeout_s + SETTLE_S
        meeting = self._fetch(
            self._ranks[0].listen_for_receivers.remote(transfer), patience, "opening a broadcast group"
        )
        forming = self._ranks[0].form_group.remote(transfer, name, size)
        joins, offset = {}, 1
        for member in members:
            invitation = Invitation.to(meeting, name, offset, size, self._timeout_s)
            joins[member.number] = member.actor.join.remote(invitation)
            offset += member.tensor_parallel
        try:
            self._fetch(forming, 2 * self._timeout_s + SETTLE_S, "forming a broadcast group")
        except BroadcastError as error:
            return {RANK_0: error} | self._outcomes(joins, SETTLE_S)[1]
        return self._outcomes(joins, patience)[1]

    # ---- chunks ----

    def _show_chunks(self, transfer: Transfer) -> None:
        """Every rank shows a chunk, every member takes it, and so on. A member that fails is dropped."""
        patience = self._timeout_s + SETTLE_S
        opening = [rank.begin_chunks.remote(transfer) for rank in self._ranks]  # while the engines come to a halt
        self._call(transfer, "begin_weight_sync")
        self._fetch(opening, patience, "opening the weights")
        begin, gather_s = time.perf_counter(), 0.0
        while True:
            asked = time.perf_counter()
            showing = [rank.next_chunk.remote(transfer) for rank in self._ranks]
            parts = self._fetch(showing, patience, "gathering a chunk of weights")
            gather_s += time.perf_counter() - asked
            if parts[0] is None:
                break
            self._call(transfer, "receive", merge_chunks(parts))
        self._sent.append(SendTimes(gather_s, time.perf_counter() - begin))
        self._received += self._call(transfer, "finish_weight_sync", self._version)
        self._fetch(
            [rank.end_chunks.remote(transfer) for rank in self._ranks], patience, "giving the transfer's buffer back"
        )

    # ---- members ----

    def _transfers(self) -> list[Transfer]:
        return sorted({member.transfer for member in self._members})

    def _of(self, transfer: Transfer) -> list[LearnerMember]:
        return [member for member in self._members if member.transfer == transfer]

    def _drop_absent(self, transfer: Transfer) -> None:
        """Ask every member for an answer from all of its workers; drop those that give none."""
        self._call(transfer, "check_in")

    def _call(self, transfer: Transfer, method: str, *args: Any) -> list[Any]:
        """Call a method of every member of a transfer; returns their answers. A member that fails is dropped."""
        return list(self._ask(self._of(transfer), method, *args).values())

    def _ask(self, members: list[LearnerMember], method: str, *args: Any) -> dict[int, Any]:
        """Call a method of some members; returns their answers by number. A member that fails is dropped."""
        calls = {m.number: getattr(m.actor, method).remote(*args) for m in members}
        returned, failed = self._outcomes(
            calls, self._timeout_s + SETTLE_S
        )  # it may be in a wait that is itself bounded
        self._drop(failed)
        return returned

    def _fetch(self, refs: Any, timeout_s: float, what: str) -> Any:
        return fetch(refs, timeout_s, what, self._tend)

    def _outcomes(
        self, calls: dict[int, ray.ObjectRef], timeout_s: float, key: str = "cluster.weight_sync_timeout_s"
    ) -> tuple[dict[int, Any], dict[int, Exception]]:
        return outcomes(calls, timeout_s, key, self._tend)

    def _drop(self, failed: dict[int, Exception]) -> bool:
        """Continue without the members that failed; whether there are any."""
        gone = [member for member in self._members if member.number in failed]
        self._lost += [replace(member, why=_words(failed[member.number])) for member in gone]
        self._members = [member for member in self._members if member not in gone]
        return bool(gone)


def _words(error: BaseException) -> str:
    return short_cause(unwrapped(error)).rstrip(".")


def _is_consequence(error: BaseException) -> bool:
    """Whether it only says that another member failed. An engine says "; " between what its workers say."""
    return all(CONSEQUENCE.search(part) for part in str(unwrapped(error)).split("; "))


def _of_their_own(failed: Mapping[int, Exception], members: list[LearnerMember]) -> dict[int, Exception]:
    """The failures of members that did not just wait for another one; none if rank 0 or all of them have such.

    A member that answers but cannot take part, for want of memory say, is lost like one that is gone.
    """
    found = {number: error for number, error in failed.items() if not _is_consequence(error)}
    return {} if RANK_0 in found or len(found) == len(members) else found


def _most_telling(failed: Mapping[int, Exception]) -> str:
    """What is said of one that did not just wait for another one, if there is one."""
    of_their_own = [number for number, error in failed.items() if not _is_consequence(error)]
    number = (of_their_own or list(failed))[0]
    return f"{'trainer rank 0' if number == RANK_0 else f'learner engine {number}'}: {_words(failed[number])}"
