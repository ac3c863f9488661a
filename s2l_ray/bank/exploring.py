"""What there is to record ahead of runs: the explorer rollouts that they need and that the bank lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of, made_with
from s2l_ray.bank.needed import every_request, needed_requests
from s2l_ray.bank.preparing import settings_of
from s2l_ray.bank.recording import create
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest

if TYPE_CHECKING:
    from s2l_ray.config import Config


@dataclass(frozen=True)
class RecordingPlan:
    """What is to be recorded, and where."""

    config: Config
    """Its fingerprint is the recording's."""
    prompts: Sequence[Prompt]
    """Those that the requests name, and maybe others."""
    settings: BankSettings
    """They open the recording."""
    path: str
    """The recording's directory or URI."""
    requests: list[ExplorerRequest]
    """For the rollouts that the bank lacks."""
    recorded: int
    """Number of rollouts that were asked for and are recorded already."""

    @property
    def rollouts(self) -> int:
        """Number of rollouts to record."""
        return sum(request.count for request in self.requests)

    @property
    def sampled_prompts(self) -> int:
        """Number of prompts to sample."""
        return len({request.prompt_id for request in self.requests})

    def again(self) -> RecordingPlan:
        """What the bank still lacks of these requests.

        Raises:
            BankError: it cannot be read.
        """
        return plan_requests(self.config, self.prompts, self.requests)


def plan_recording(config: Config, train: Sequence[Prompt], rollouts: int | None = None) -> RecordingPlan:
    """Find out which rollouts there are to record for one configuration.

    Args:
        config: models.dtype is not `auto` any more.
        train: the training prompts of `config`, in file order.
        rollouts: record draws 0 to `rollouts` - 1 of every training prompt; default: all that a run with this
            configuration may use.

    Raises:
        ConfigError: bank.recording is given, or the schedule never lets the explorer sample.
        BankError, ModelError: see `plan_requests`.
    """
    ids = [prompt.id for prompt in train]
    wanted = every_request(config, ids, rollouts) if rollouts else needed_requests(config, ids)
    if not wanted:
        raise ConfigError("schedule: the explorer never samples with this configuration; --rollouts N records anyway")
    return plan_requests(config, train, wanted)


def plan_requests(config: Config, prompts: Sequence[Prompt], wanted: Sequence[ExplorerRequest]) -> RecordingPlan:
    """Find out which of these requests the bank lacks. The recording is created if it does not exist.

    Args:
        config: its fingerprint is the recording's; models.dtype is not `auto` any more.
        prompts: those that the requests name, and maybe others.
        wanted: no rollout is in two of them.

    Raises:
        ConfigError: bank.recording is given.
        BankError: the bank cannot be read or written, or one of the prompts was recorded with other tokens.
        ModelError: the explorer cannot be used.
    """
    if config.bank.recording is not None:
        raise ConfigError(
            "bank.recording: s2l explore records under the fingerprint of this configuration; leave bank.recording out"
        )
    storage, fingerprint = bank_storage(config.bank.path), fingerprint_of(config)
    recording = create(storage, fingerprint, made_with(config))
    settings = settings_of(storage, recording, reads=True)
    missing = RolloutBank(settings, {prompt.id: prompt for prompt in prompts}).missing(wanted)
    recorded = sum(request.count for request in wanted) - sum(request.count for request in missing)
    return RecordingPlan(config, prompts, settings, f"{storage.url}/{recording.name}", missing, recorded)
