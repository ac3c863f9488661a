"""Waiting for actors, with a bound and a message."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from s2l_ray.errors import ActorLostError, S2LError, StepTimeoutError

TOKENS_ASIDE = {"RAY_max_direct_call_object_size": "1024"}
"""Environment of actors that return rollouts: what is larger than 1 KiB goes to the object store.

Ray would send up to 100 kB to whoever asked, which is the scheduler, and Ray 2.60 does not give that memory back when
the result is returned by reference to a third process: 2.8 kB per rollout of 256 tokens (`make bench
ARGS=orchestration`), and 3.4 kB per set of eight rollouts of the embedded family, which 8 KiB let pass.
"""


LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)
"""What Ray raises where a process, its node, or a result that only it held is gone."""
OBJECT_GONE = (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError)
"""What Ray raises where a value is gone: the node that held it, or the process that had asked for it."""
GONE = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
"""What Ray raises in who called an actor whose process is gone."""
VALUE_GONE = "what it needs has gone with the process that had asked for it, or with the node that held it."
LONGEST_REPORT = 400
"""Characters of Ray's report of a full memory that are repeated: it goes on with a table of processes."""
ANSWER_S = 60.0
"""Seconds for an answer that was given already to arrive here."""
POLL_S = 1.0
"""Seconds between two reports of a wait's progress."""


class CallLostError(ActorLostError):
    """The connection to an actor broke during a call, and nobody knows whether it was done."""


class ObjectGoneError(ActorLostError):
    """A value in Ray's object store is gone, with its node or with the process that had asked for it."""


class RolloutsGoneError(ActorLostError):
    """Rollouts that trainer ranks were given are gone. No rank has begun the update."""


def watch(refs: Sequence[ray.ObjectRef], timeout_s: float, tell: Callable[[list[ray.ObjectRef]], None]) -> None:
    """Wait until all of `refs` are done or the time is up; every second `tell` receives those that are done."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        done, waiting = ray.wait(list(refs), num_returns=len(refs), timeout=min(POLL_S, left))
        if not waiting:
            return
        tell(done)


def _kind_of_loss(cause: BaseException) -> type[ActorLostError]:
    if isinstance(cause, OBJECT_GONE):
        return ObjectGoneError
    return CallLostError if isinstance(cause, ray.exceptions.ActorUnavailableError) else ActorLostError


def outcomes(
    calls: Mapping[int, ray.ObjectRef],
    timeout_s: float,
    key: str | None = None,
    tend: Callable[[], None] | None = None,
) -> tuple[dict[int, Any], dict[int, Exception]]:
    """Wait for one call on each of several actors: what they returned, and why others did not (in time, or at all).

    Args:
        key: that `timeout_s` is made of.
        tend: called every second of the wait.
    """
    if not calls:
        return {}, {}
    refs = list(calls.values())
    if tend is not None:
        watch(refs, timeout_s, lambda _: tend())
    done, _ = ray.wait(refs, num_returns=len(refs), timeout=timeout_s if tend is None else 0)
    returned: dict[int, Any] = {}
    failed: dict[int, Exception] = {}
    for number, ref in calls.items():
        if ref not in done:
            failed[number] = StepTimeoutError(f"not done within {timeout_s:.0f} s" + (f" ({key})" if key else ""))
            continue
        try:
            returned[number] = ray.get(ref)
        except ray.exceptions.RayError as error:
            failed[number] = error
    return returned, failed


def unwrapped(error: BaseException) -> BaseException:
    """What an actor raised, without the remote traceback around it."""
    while isinstance(error, ray.exceptions.RayTaskError):  # one layer per actor that it passed through
        error = error.cause
    return error


def fetch(refs: Any, timeout_s: float, what: str, tend: Callable[[], None] | None = None) -> Any:
    """`ray.get` with a bound. An error made for users comes out as itself, without the remote traceback around it.

    Args:
        refs: one reference, or a list.
        timeout_s: the bound.
        what: is waited for.
        tend: called every second of the wait.

    Raises:
        StepTimeoutError: `what` did not finish within `timeout_s` seconds.
        ActorLostError: an actor that it needs is gone, or was ended because its node had no memory left.
        Exception: whatever the actors raised.
    """
    if tend is not None:

        def tell(done: list[ray.ObjectRef]) -> None:
            tend()
            fetch(done, timeout_s, what)  # raises what one actor raised, which others may wait for

        waited = refs if isinstance(refs, list) else [refs]
        watch(waited, timeout_s, tell)
        if len(ray.wait(waited, num_returns=len(waited), timeout=0)[0]) < len(waited):
            raise StepTimeoutError(f"{what} did not finish within {timeout_s:.0f} s")
    try:
        return ray.get(refs, timeout=timeout_s if tend is None else ANSWER_S)
    except ray.exceptions.GetTimeoutError as error:
        raise StepTimeoutError(f"{what} did not finish within {timeout_s:.0f} s") from error
    except ray.exceptions.RayError as error:
        cause = unwrapped(error)
        if isinstance(cause, S2LError):
            raise cause from error
        if isinstance(cause, LOST):
            kind = _kind_of_loss(cause)
            # Ray's own words on a value are about debugging.
            said = f"{what} failed: an actor is gone. {' '.join(str(cause).split())}"
            said = f"{what} failed: {VALUE_GONE}" if kind is ObjectGoneError else said
            raise kind(f"{said} The same command resumes from the last checkpoint.") from error
        if isinstance(cause, ray.exceptions.OutOfMemoryError):
            raise ActorLostError(
                f"{what} failed: Ray ended one of its processes because the memory of its node was nearly full. Give "
                "the node more, run less beside it, or lower engines.*.kv_cache_gb and trainer.micro_batch_tokens; the "
                f"same command resumes from the last checkpoint. {' '.join(str(cause).split())[:LONGEST_REPORT]}"
            ) from error
        raise
