"""Open the bank of a run before anything starts: find its recording, and refuse one that cannot serve the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of, made_with
from s2l_ray.bank.needed import missing_message, needed_requests
from s2l_ray.bank.recording import Recording, create, matching
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.errors import BankError
from s2l_ray.machine.storage import Storage
from s2l_ray.rollouts.records import Prompt
from s2l_ray.tasks.compat import check_context, check_models, model_directory
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts

if TYPE_CHECKING:
    from s2l_ray.config import Config


def prepare(config: Config, train: Sequence[Prompt]) -> BankSettings | None:
    """The settings with which a run opens its recording; None if it has no bank, or never explores.

    Args:
        config: the run's.
        train: its training prompts, in file order.

    Raises:
        BankError: bank.mode is read, and no recording matches (the message names the differences) or the matching one
            lacks rollouts that the run may request (the message counts them and names the first); a prompt was recorded
            with other tokens; or bank.path cannot be read or written.
        ModelError, ConfigError: see `fingerprint_of`.
    """
    mode = config.bank.mode
    requests = [] if mode == "off" else needed_requests(config, [prompt.id for prompt in train])
    if not requests:
        return None
    storage, fingerprint = bank_storage(config.bank.path), fingerprint_of(config)
    if mode == "read":
        recording = matching(storage, fingerprint, config.bank.recording)
    else:
        recording = create(storage, fingerprint, made_with(config))
    settings = settings_of(storage, recording, reads=mode != "write")
    bank = RolloutBank(settings, {prompt.id: prompt for prompt in train})
    problem = missing_message(requests, bank.covers(requests), f"{storage.url}/{recording.name}")
    if mode == "read" and problem:
        raise BankError(problem)
    return settings


def settings_of(storage: Storage, recording: Recording, *, reads: bool) -> BankSettings:
    """The settings that open this recording."""
    return BankSettings(storage.url, recording.shards, reads, storage.is_local)


def training_prompts(config: Config) -> list[Prompt]:
    """The training prompts as a run renders them, with the explorer's tokenizer, which equals the learner's.

    Raises:
        ModelError: the explorer cannot be used.
        DataError: a problem is malformed.
        ConfigError: the verifier cannot be imported.
    """
    config.verifier.check()
    check_models(config.models.explorer, config.models.explorer, config.models.trust_remote_code)
    check_context("models.explorer", config.models.explorer, config.max_model_len("explorer"))
    problems = load_problems(config.data.train, config.data.train_limit, config.verifier.columns).problems
    directory = model_directory("models.explorer", config.models.explorer)
    tokenizer = load_tokenizer(directory, config.models.trust_remote_code)
    return render_prompts(problems, tokenizer, config.data)
