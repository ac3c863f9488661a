"""One bank for all trials of a study: what they need of the explorer is recorded once, before the first one starts.

The explorer is frozen, so what it samples depends on neither the schedule nor what a trial learns. Trials whose
explorer rollouts have the same fingerprint share a recording; others have recordings side by side in one bank.

    shared = share(configs, display)       records what the bank lacks
    config = with_bank(config, "read")     of each trial: it starts no explorer engine
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2l_ray.bank.storage import bank_storage
from s2l_ray.bank.tokens import RecordedTokens
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.display.text import with_short_paths
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import BankMode
from s2l_ray.machine.places import output_path, refuse_session_directory
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.slicing import slice_of
from s2l_ray.run.exploration import Recorded, nodes, record
from s2l_ray.tuning.needs import Need, needs_of
from s2l_ray.tuning.recordings import TrialsRecording, by_engines, recordings_of


@dataclass(frozen=True)
class SharedBank:
    """The bank of a study, and what it spares."""

    path: str
    """bank.path: an absolute path or a URI."""
    recordings: tuple[str, ...]
    """Names of the recordings that trials read; none if no trial lets the explorer sample."""
    rollouts: int
    """Number of distinct rollouts that trials may read."""
    tokens: int
    """Number of tokens in them."""
    sampled: int
    """Number of those rollouts that were recorded by this call; the bank had the others."""
    sampled_tokens: int
    """Number of tokens in those that were recorded by this call."""
    separate: tuple[tuple[int, ...], ...]
    """Per trial, the explorer tokens that it would have sampled without a bank at each of its steps. With an adaptive
    schedule or rollout.refill_rounds: the most that it could have sampled. Empty if the trials are not known yet."""

    @property
    def separate_tokens(self) -> int:
        """The explorer tokens that as many separate runs would have sampled."""
        return sum(map(sum, self.separate))

    @property
    def ratio(self) -> float | None:
        """Tokens of the bank per token that separate runs would have sampled, to their last steps; None: unknown."""
        return self.tokens / self.separate_tokens if self.separate_tokens else None

    def describe(self) -> str:
        """One line for people."""
        if not self.recordings:
            return "the explorer samples in no trial: there is nothing to share"
        count = len(self.recordings)
        text = (
            f"trials share {count} recording{'s' if count > 1 else ''} in {with_short_paths(self.path)}: "
            f"{self.rollouts} explorer rollouts, {self.tokens} tokens; {self.sampled} of them were recorded now"
        )
        if self.ratio is None:
            return text
        return (
            f"{text}. {len(self.separate)} separate runs, each to its last step, would sample {self.separate_tokens} "
            f"tokens: the bank has {self.ratio:.2f} of that"
        )


def with_bank(config: Config, mode: BankMode | None) -> Config:
    """A trial's configuration with the study's bank; as it is where `mode` is None.

    Args:
        mode: `read` after `share`: no explorer engine; `readwrite` where it is not known before what trials need.
    """
    if mode is None:
        return config
    return config.model_copy(update={"bank": config.bank.model_copy(update={"mode": mode})})


@dataclass(frozen=True)
class Held:
    """What a bank has of the rollouts that trials may read."""

    rollouts: int
    tokens: int


def share(
    configs: Sequence[Config],
    display: TaskDisplay,
    *,
    of_trials: bool = True,
    begins: Callable[[Held], None] = lambda held: None,
) -> SharedBank:
    """Record what the trials of a study need of their explorers and the bank lacks; the engines are gone afterwards.

    It connects to Ray unless that has been done. When it is interrupted, what has been recorded stays, and the next
    call records the rest.

    Args:
        configs: of the trials, with the placement that they will have; bank.mode does not matter.
        display: shows the progress, with an ETA.
        of_trials: whether `configs` are those of the trials, one each; otherwise they need together at least what the
            trials will need (see `upper_bound`).
        begins: told what the bank has, before anything is recorded.

    Raises:
        ConfigError: bank.recording is given, or bank.path differs.
        BankError: the bank cannot be read or written, or prompts with equal ids differ between trials.
        S2LError: models, data or Ray cannot be used, or recording failed.
    """
    _refuse_what_is_not_one_bank(configs)
    with nodes(_without_slice(configs[0]), display.say) as cluster:
        of_trial = slice_of(cluster, configs[0].placement)
        groups = recordings_of(needs := needs_of(configs, of_trial, display))
        recorders = cluster if _compute_alike(configs[0], cluster, of_trial) else of_trial
        done = Recorded(sum(group.plan.rollouts for group in groups))
        begins(_held(configs[0].bank.path, groups))
        _say_what_is_needed(groups, done.of, display)
        try:
            for plans in by_engines(groups):
                record(plans, recorders, done, display)
        except KeyboardInterrupt:
            display.say(f"stopped after {done.rollouts} of {done.of} explorer rollouts, which the bank keeps")
            raise
    return _shared(configs[0].bank.path, groups, needs if of_trials else [], done)


def _without_slice(config: Config) -> Config:
    """Recording has the whole cluster: no trial runs beside it."""
    placement = config.placement.model_copy(update={"nodes": None, "cpus": None})
    return config.model_copy(update={"placement": placement})


def _compute_alike(config: Config, cluster: Inventory, of_trial: Inventory) -> bool:
    """Whether the whole cluster can record in the type in which trials compute on their part of it."""
    return choose_dtype(config, cluster).dtype == choose_dtype(config, of_trial).dtype


def _refuse_what_is_not_one_bank(configs: Sequence[Config]) -> None:
    paths = list(dict.fromkeys(config.bank.path for config in configs))
    if len(paths) > 1:
        raise ConfigError(
            f"bank.path: the trials of a study share one bank; these are {len(paths)}: {', '.join(paths)}"
        )
    if any(config.bank.recording is not None for config in configs):
        raise ConfigError(
            "bank.recording: the trials of a study read what is recorded for it; leave bank.recording out, or set "
            "share_bank: false in the study's file and bank.mode=read"
        )
    if "://" not in paths[0]:
        refuse_session_directory("bank.path", output_path(paths[0]))


def _say_what_is_needed(groups: Sequence[TrialsRecording], rollouts: int, display: TaskDisplay) -> None:
    there = sum(group.plan.recorded for group in groups)
    if not groups:
        display.say("the explorer samples in no trial")
    elif not rollouts:
        display.say(f"all {there} explorer rollouts that the trials need are in the bank")
    else:
        beside = f"; {there} are in the bank already" if there else ""
        display.say(f"recording {rollouts} explorer rollouts for all trials{beside}")


def _held(path: str, groups: Sequence[TrialsRecording]) -> Held:
    there = [group for group in groups if group.plan.recorded]
    tokens = (RecordedTokens(bank_storage(path), group.plan.settings.shards).of(group.requests) for group in there)
    return Held(sum(group.plan.recorded for group in there), sum(tokens))


def _shared(path: str, groups: Sequence[TrialsRecording], needs: Sequence[Need], done: Recorded) -> SharedBank:
    storage = bank_storage(path)
    tokens = {group.name: RecordedTokens(storage, group.plan.settings.shards) for group in groups}
    return SharedBank(
        path=storage.url,
        recordings=tuple(tokens),
        rollouts=sum(request.count for group in groups for request in group.requests),
        tokens=sum(tokens[group.name].of(group.requests) for group in groups),
        sampled=done.rollouts,
        sampled_tokens=done.tokens,
        separate=tuple(_by_step(need, tokens) for need in needs),
    )


def _by_step(need: Need, recordings: dict[str, RecordedTokens]) -> tuple[int, ...]:
    """The explorer tokens that a trial reads at each of its steps."""
    found = [0] * need.steps
    for request in need.requests:
        found[request.step - 1] += recordings[need.explored.fingerprint.digest].of([request])
    return tuple(found)
