"""`s2l bank`: show what a bank holds, and import a file of offline rollouts as a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, add_configuration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from s2l_ray.bank.authors import AuthorsFile
    from s2l_ray.bank.recording import Recording
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import Config
    from s2l_ray.machine.storage import Storage
    from s2l_ray.rollouts.records import Prompt

IMPORT_DESCRIPTION = """\
Import a JSONL file of offline rollouts in the format of the S2L-PO authors
(prompt_id, prompt, prompt_ids, response, response_ids, small_model_log_probs,
reward, ...) into bank.path of CONFIG. The rollouts are graded anew, by the
verifier of CONFIG: all rollouts of a group must have the same grader."""
IMPORT_EPILOG = "A run reads the recording by name: bank.mode=read bank.recording=FINGERPRINT"


def add_to(commands: Commands) -> None:
    """Add the command and its two actions."""
    help = "look at recorded explorer rollouts, or import some"
    bank = add_command(commands, "bank", help=help, description=f"{help.capitalize()}.")
    actions = bank.add_subparsers(title="actions", required=True, metavar="ACTION")
    show = add_command(
        actions,
        "show",
        run_show,
        help="list the recordings of a bank",
        description="List the recordings of a bank: how much each holds, and its settings.",
    )
    show.add_argument(
        "path", nargs="?", default="outputs/bank", metavar="BANK", help="bank.path (default: %(default)s)"
    )
    source = add_command(
        actions,
        "import",
        run_import,
        help="import rollouts in the S2L-PO authors' format",
        description=IMPORT_DESCRIPTION,
        epilog=IMPORT_EPILOG,
    )
    source.add_argument("file", type=Path, metavar="FILE", help="JSONL file, one rollout a row")
    add_configuration(source)


def run_show(arguments: argparse.Namespace) -> int:
    """Print every recording of the bank.

    Raises:
        BankError: there is no bank, or it cannot be read.
    """
    from s2l_ray.bank.recording import recordings
    from s2l_ray.bank.storage import bank_storage
    from s2l_ray.errors import BankError
    from s2l_ray.machine.console import CommandConsole

    storage = bank_storage(arguments.path)
    found = recordings(storage)
    if not found:
        raise BankError(f"{storage.url} holds no recordings; s2l explore CONFIG makes one (bank.path says where)")
    for recording in found:
        CommandConsole().print(_recording_table(storage, recording), "")
    return 0


def _recording_table(storage: Storage, recording: Recording) -> RenderableType:
    from rich.table import Table

    from s2l_ray.bank.holding import holding

    has = holding(storage, recording)
    table = Table(title=f"recording {recording.name}", title_justify="left", title_style="bold", box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    table.add_row("rollouts", f"{has.rollouts} of {has.prompts} prompts, mean reward {has.mean_reward:.3f}")
    table.add_row("tokens", f"{has.tokens} in responses")
    table.add_row("stored", f"{has.nbytes / 1e6:.2f} MB in {has.shards} shards")
    for name, value in recording.fingerprint.fields.items():
        table.add_row(name, "null" if value is None else str(value))
    table.add_row("made with", ", ".join(f"{name} {version}" for name, version in recording.made_with.items()))
    return table


def run_import(arguments: argparse.Namespace) -> int:
    """Check every row, then import them, and print how a run reads them.

    Raises:
        DataError: a row is bad, or none is of a prompt of data.train; nothing is recorded then.
        S2LError: configuration, model, verifier or bank cannot be used.
    """
    from s2l_ray.bank.authors import import_rows
    from s2l_ray.bank.contents import file_digest, fingerprint_of, made_with
    from s2l_ray.bank.date import dated
    from s2l_ray.bank.preparing import settings_of, training_prompts
    from s2l_ray.bank.recording import create
    from s2l_ray.bank.rollout_bank import RolloutBank
    from s2l_ray.bank.storage import bank_storage
    from s2l_ray.config import load_config
    from s2l_ray.display import FetchDisplay, TaskDisplay
    from s2l_ray.tasks.sources import fetch_sources

    config = load_config(arguments.config, arguments.overrides)
    with TaskDisplay() as display:
        config, _ = fetch_sources(config, FetchDisplay(display))
    config = dated(config, bank=False)
    train = training_prompts(config)
    file = _authors_file(arguments.file, config, train)
    total = file.check()
    storage = bank_storage(config.bank.path)
    origin = f"imported from {file.path.name} ({file_digest(file.path)[:16]})"
    recording = create(storage, fingerprint_of(config, origin), made_with(config))
    bank = RolloutBank(settings_of(storage, recording, reads=True), {prompt.id: prompt for prompt in train})
    before = len(bank)
    with TaskDisplay() as display:
        done = import_rows(file, config, bank, lambda rows, of: display.update("imported", rows, of), total)
    print(done.summary(len(bank) - before, f"{storage.url}/{recording.name}"))
    print(f"a run reads them with bank.mode=read bank.recording={recording.name}")
    return 0


def _authors_file(path: Path, config: Config, train: list[Prompt]) -> AuthorsFile:
    from s2l_ray.bank.authors import AuthorsFile
    from s2l_ray.tasks.compat import model_directory
    from s2l_ray.tasks.prompts import load_tokenizer

    directory = model_directory("models.explorer", config.models.explorer)
    tokenizer = load_tokenizer(directory, config.models.trust_remote_code)
    return AuthorsFile(
        path,
        train,
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        eos=tokenizer.eos_token_id,
        max_tokens=config.rollout.max_tokens,
    )
