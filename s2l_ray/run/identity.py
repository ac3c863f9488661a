"""What makes two starts of a run the same run: its settings, and the contents of the files that they name.

The paths of these files do not count: a run resumes after its project was moved, or mounted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.bank.contents import model_digest, tokenizer_digest
from s2l_ray.bank.fingerprint import prompt_digest
from s2l_ray.config import Config
from s2l_ray.config.dotted import flat
from s2l_ray.config.extension_points import sources
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.stragglers import read_stragglers
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.data import ProblemSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FREE_TO_CHANGE = (
    *("name", "run_dir", "resume", "cluster", "tracking", "checkpoint", "engines", "placement", "bank"),
    *("health", "recovery"),
    *("verifier.workers", "verifier.timeout_s"),
    *("rollout.prefetch_steps", "rollout.prefetch_gb", "rollout.keep_groups"),
    *("trainer.ranks", "trainer.replicas", "trainer.cpus", "trainer.threads"),
    *("trainer.micro_batch_tokens", "trainer.logprob_chunk_tokens"),
    *("trainer.gradient_checkpointing", "trainer.recomputed_layers", "trainer.reshard_after_forward"),
    *("trainer.compile", "trainer.flash_attention", "trainer.cpu_offload", "objective.reference_offload"),
)
"""Keys that may differ when a run is resumed. They say where and how fast it is computed, not what is computed."""

Contents = Mapping[str, str]
"""Key that names a file, or a description of what was read -> its contents in words and a digest."""


def contents_of(
    config: Config, problems: Mapping[str, ProblemSet], prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """What the files of a run hold now. Digests of large files are cached, see `bank.contents.file_digest`.

    Args:
        config: of the run.
        problems: by the key of `data` that names their file.
        prompts: the same problems, rendered.
        tokenizer: that the prompts were rendered with.

    Raises:
        ModelError: a model is not there.
        ConfigError: rollout.replay_stragglers is not there, or malformed.
    """
    models = {key: model_directory(f"models.{key}", getattr(config.models, key)) for key in ("learner", "explorer")}
    found = {f"models.{key}": f"digest {model_digest(directory)}" for key, directory in models.items()}
    for key, read in problems.items():
        found[f"data.{key}"] = f"{len(read.problems)} problems of digest {read.digest}"
    found["tokenizer"] = f"digest {tokenizer_digest(tokenizer)}"
    found["rendered prompts"] = f"digest {_digest(map(prompt_digest, prompts))}"
    for key, source in sources(config).items():
        name = "verifier" if key == "verifier.kind" else key  # the verifier's has this name in runs of earlier versions
        found[f"{name} source"] = f"digest {_digest([source])}"
    if replayed := config.rollout.replay_stragglers:
        chosen = [[step, sorted(prompt_ids)] for step, prompt_ids in sorted(read_stragglers(Path(replayed)).items())]
        found["rollout.replay_stragglers"] = f"digest {_digest([json.dumps(chosen)])}"
    return found


Settings = Mapping[str, Any]
"""Values by dotted key."""
Judge = Callable[[Settings, Settings], list[str]]
"""Given the values of some keys at two starts, it says of those that must not differ and do what is wrong, one line
each."""


def all_that_differ(before: Settings, now: Settings) -> list[str]:
    """The judge of a run that is no trial of Ray Tune: no key may differ. Lines such as "seed was 1, now 2"."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]


def differences(
    before: Config, now: Config, contents_before: Contents, contents_now: Contents, judge: Judge = all_that_differ
) -> list[str]:
    """The differences between two starts, one line each: "seed was 1, now 2". None: they are the same run.

    Args:
        before: configuration of the first start.
        now: configuration of the second start.
        contents_before: contents of its files at the first start, as far as they are known. A file whose contents are
            not known is compared by its path.
        contents_now: contents of its files at the second start.
        judge: of settings that are not free to change for every run.
    """
    old, new = flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json"))
    known, free = contents_before.keys() & contents_now.keys(), _free_to_change(before, now)
    compared = {key for key in old | new if key not in known and not _is_within(key, free)}
    of_settings = judge(
        {k: v for k, v in old.items() if k in compared}, {k: v for k, v in new.items() if k in compared}
    )
    # The source of another function than before, where that may be another one, differs as it should.
    changed = [key for key in sorted(known) if contents_before[key] != contents_now[key]]
    of_contents = [
        f"{_with_path(key, new.get(key))} was {contents_before[key]}, now {contents_now[key]}"
        for key in changed
        if not key.endswith(" source") or old.get(named := key.removesuffix(" source")) == new.get(named)
    ]
    return of_settings + of_contents


def is_same_run(before: Settings, now: Settings) -> bool:
    """Whether all settings are equal but those that are free to change."""
    keys = before.keys() | now.keys()
    return all(before.get(key) == now.get(key) or _is_within(key, FREE_TO_CHANGE) for key in keys)


def trained_with(config: Config) -> dict[str, Any]:
    """The settings of trainer and objective on which the weights depend, by dotted key."""
    values = flat(config.model_dump(mode="json", include={"trainer", "objective"}))
    return {key: value for key, value in values.items() if not _is_within(key, FREE_TO_CHANGE)}


def changed_settings(before: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Key -> (value before, value now) of what differs. A key that only one of them has is of another version."""
    common = sorted(before.keys() & now.keys())
    return {key: (before[key], now[key]) for key in common if before[key] != now[key]}


def learner_of(config: Config, contents: Contents) -> dict[str, Any]:
    """The learner that a trainer's state belongs to. Another learner cannot load it."""
    return {
        "models.learner": contents["models.learner"],
        "tokenizer": contents["tokenizer"],
        "trainer.lora_rank": config.trainer.lora_rank,
        "trainer.lora_targets": sorted(config.trainer.lora_targets),
    }


def measured_on(config: Config, contents: Contents) -> dict[str, Any]:
    """The problems and settings of an evaluation. Evaluations for which these are equal can be compared."""
    sampled = config.evaluation.model_dump(mode="json", include={"samples", "k", "sampling"})
    return {"data.eval": contents.get("data.eval"), **sampled}


def _free_to_change(before: Config, now: Config) -> tuple[str, ...]:
    """FREE_TO_CHANGE, and schedule.steps unless the learning rate is a function of it."""
    constant = {before.trainer.lr_schedule, now.trainer.lr_schedule} == {"constant"}
    return (*FREE_TO_CHANGE, "schedule.steps") if constant else FREE_TO_CHANGE


def _is_within(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


def _with_path(key: str, path: str | None) -> str:
    return key if path is None else f"{key} ({path})"


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
