"""`s2l bank import`: a file of offline rollouts in, a recording out."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from s2l_ray.bank.authors import AuthorsFile, Imported, import_rows
from s2l_ray.bank.contents import file_digest, fingerprint_of, made_with
from s2l_ray.bank.date import dated
from s2l_ray.bank.preparing import settings_of, training_prompts
from s2l_ray.bank.recording import create
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.bank.storage import Storage
from s2l_ray.config import load_config
from s2l_ray.errors import DataError
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.prompts import load_tokenizer


def import_command(arguments: Namespace) -> int:
    """Check every row, then import them, and say how a run reads them.

    Raises:
        DataError: a row is bad, or none is of a prompt of data.train; nothing is recorded then.
        S2LError: configuration, model, verifier or bank cannot be used.
    """
    from s2l_ray.display import TaskDisplay

    config = dated(load_config(arguments.config, arguments.overrides), bank=False)
    path: Path = arguments.file
    train = training_prompts(config)
    directory = model_directory("models.explorer", config.models.explorer)
    tokenizer = load_tokenizer(directory, config.models.trust_remote_code)
    file = AuthorsFile(
        path,
        train,
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        eos=tokenizer.eos_token_id,
        max_tokens=config.rollout.max_tokens,
    )
    total = _check(file)
    storage = Storage(config.bank.path)
    origin = f"imported from {path.name} ({file_digest(path)[:16]})"
    recording = create(storage, fingerprint_of(config, origin), made_with())
    bank = RolloutBank(settings_of(storage, recording, reads=True), {prompt.id: prompt for prompt in train})
    before = len(bank)
    with TaskDisplay() as display:
        done = import_rows(file, config, bank, lambda rows, of: display.update("imported", rows, of), total)
    print(_summary(done, len(bank) - before, f"{storage.url}/{recording.name}"))
    print(f"a run reads them with bank.mode=read bank.recording={recording.name}")
    return 0


def _check(file: AuthorsFile) -> int:
    """Number of rows, all of them good."""
    total = known = 0
    for row in file.rows():
        total += 1
        known += row.prompt is not None
    if not known:
        raise DataError(
            f"{file.path}: none of its {total} rows is of a prompt of data.train, by prompt_id or by prompt; name the "
            "problems that it was sampled for"
        )
    return total


def _summary(done: Imported, new: int, where: str) -> str:
    fewest, most = min(done.draws.values()), max(done.draws.values())
    each = f"{most} each" if fewest == most else f"{fewest} to {most} each"
    parts = [f"imported {done.rollouts} rollouts of {len(done.draws)} prompts, {each}, into {where}"]
    if new < done.rollouts:
        parts.append(f"{done.rollouts - new} were there already")
    if done.other_rewards:
        parts.append(f"{done.other_rewards} rewards by verifier.kind differ from the file's")
    if done.strangers:
        parts.append(f"{done.strangers} rows of prompts that data.train does not have were left out")
    return "; ".join(parts)
