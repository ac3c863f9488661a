"""The engine's end of an nccl broadcast: vLLM 0.32's own engine, made bounded; and what both ends need for that.

NCCL itself waits for ever: for a member that died before it came, and in a broadcast whose peer died. So the members
first meet in a store, within a bound, and take the communicator's id from there (a new id for every group, so a stale
member cannot join); and a broadcast that takes too long is aborted from another thread.

Not run on this project's CPU machines: it needs two GPUs.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.distributed import PrefixStore, Store
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)

from s2l_ray.weights.messages import Invitation
from s2l_ray.weights.rendezvous import open_store
from s2l_ray.weights.sizes import GPU_BUFFERS, GPU_CHUNK_BYTES

T = TypeVar("T")


class BoundedNcclEngine(NCCLWeightTransferEngine):
    """vLLM's receiver in a group that forms, and receives, within a bound."""

    init_info_cls = Invitation

    def init_transfer_engine(self, init_info: Invitation) -> None:
        self.shutdown()
        self._timeout_s = init_info.timeout_s
        rank = init_info.rank_offset + self.parallel_config.rank
        store = open_store(init_info.host, init_info.port, init_info.timeout_s)
        unique_id = agree_on_id(store, init_info.group, rank, init_info.size)
        theirs = vllm_init_info(init_info, unique_id)
        join = super().init_transfer_engine

        def on_this_workers_gpu() -> None:
            with torch.accelerator.device_index(self.device.index):  # the current device is a thread's own
                join(theirs)

        in_time(on_this_workers_gpu, self._timeout_s)

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        with abort_after(self._timeout_s, self.shutdown):
            super().receive_weights(update_info)


def vllm_init_info(invitation: Invitation, unique_id: bytes) -> NCCLWeightTransferInitInfo:
    """VLLM's own init info, in its unique-id form, with the chunks that `NcclSender` cuts."""
    return NCCLWeightTransferInitInfo(
        rank_offset=invitation.rank_offset,
        world_size=invitation.size,
        nccl_unique_id_b64=base64.b64encode(unique_id).decode(),
        packed=True,
        packed_buffer_size_bytes=GPU_CHUNK_BYTES,
        packed_num_buffers=GPU_BUFFERS,
    )


def agree_on_id(store: Store, group: str, rank: int, size: int, mint: Callable[[], bytes] | None = None) -> bytes:
    """Wait until all `size` members of `group` are here; returns the id that member 0 minted.

    Raises:
        torch.distributed.DistStoreError: not all came within the store's timeout.
    """
    store = PrefixStore(group, store)
    if mint is not None:
        store.set("id", mint())
    store.set(f"here/{rank}", "")
    store.wait([f"here/{member}" for member in range(size)])
    return store.get("id")


def in_time(call: Callable[[], T], timeout_s: float) -> T:
    """`call()`, in a thread that is given up after `timeout_s` seconds.

    Raises:
        TimeoutError: it is still running; it cannot be stopped, only left.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="nccl-init", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if "error" in outcome:
        raise outcome["error"]
    if "result" not in outcome:
        raise TimeoutError(f"the communicator did not form within {timeout_s:.0f} s")
    return outcome["result"]


@contextmanager
def abort_after(timeout_s: float, abort: Callable[[], None]) -> Iterator[None]:
    """Call `abort` (which ends the communicator and every kernel that waits in it) if the body takes too long.

    Raises:
        TimeoutError: it did, whatever the body made of it: after an abort its buffers hold anything.
    """
    late = threading.Event()

    def run_out() -> None:
        late.set()
        abort()

    timer = threading.Timer(timeout_s, run_out)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"not all members took part within {timeout_s:.0f} s; the communicator was aborted")
