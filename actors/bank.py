"""The run's bank of recorded explorer rollouts, in a process of its own: tokens go from it to the object store."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import TOKENS_ASIDE
from actors.liveness import Heartbeat
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.writer import Receipt
from s2l_ray.rollouts.records import Prompt, RolloutSet, SetReport
from s2l_ray.rollouts.requests import ExplorerRequest

THREADS = 8
"""Requests that are answered at one time: an object store answers slowly, but many at once."""


def bank_options(settings: BankSettings) -> dict[str, Any]:
    """Ray options of the actor: a local directory is on the driver's node."""
    if not settings.is_local:
        return {}
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


@ray.remote(
    num_cpus=0,
    max_restarts=0,
    max_concurrency=THREADS,
    concurrency_groups={"alive": 1},
    allow_out_of_order_execution=True,
    runtime_env={"env_vars": TOKENS_ASIDE},
)
class Bank:
    """A `RolloutBank` behind Ray calls. See there for what they raise."""

    def __init__(self, settings: BankSettings, prompts: dict[str, Prompt]) -> None:
        self._settings = settings
        self._prompts = prompts
        self._opened: RolloutBank | None = None

    def ready(self) -> None:
        """Open the recording."""
        self._opened = RolloutBank(self._settings, self._prompts)

    def reopen(self, settings: BankSettings) -> None:
        """Write what is still held, and open the recording of another run, with what others have added to it."""
        self.close()
        self._settings = settings
        self.ready()

    @property
    def _bank(self) -> RolloutBank:
        if self._opened is None:
            raise RuntimeError("the bank was used before `ready`")
        return self._opened

    def covers(self, requests: list[ExplorerRequest]) -> list[bool]:
        """Which of these requests `read` can answer. See `RolloutBank.covers`."""
        return self._bank.covers(requests)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray is not typed for us
    def read(self, request: ExplorerRequest) -> tuple[RolloutSet, SetReport]:
        """The set, for the trainer; and the numbers alone, for the scheduler."""
        return self._bank.read(request)

    def record(self, request: ExplorerRequest, scored: RolloutSet) -> Receipt:
        """Add the rollouts of a request. See `RolloutBank.record`."""
        return self._bank.record(request, scored)

    @ray.method(concurrency_group="alive")  # type: ignore[untyped-decorator]
    def alive(self) -> Heartbeat:
        """Answer, also while all threads wait for a store."""
        return Heartbeat.of_this_process()

    def close(self) -> None:
        """Write what is still held."""
        if self._opened is not None:
            self._opened.close()
