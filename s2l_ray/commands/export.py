"""`s2l export`: the learner of a checkpoint as a model directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Dtype

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Write the learner as a checkpoint has it, as a directory that transformers and
vLLM load (Hugging Face layout). Adapters (trainer.lora_rank) are merged, unless
--adapter asks for them alone. A run that has finished has its trained model in
RUN_DIR/model. The whole model is in host memory meanwhile."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "export", run, help="write a checkpoint's model in Hugging Face layout", description=DESCRIPTION
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="RUN:step-N, the directory of a checkpoint, or RUN: its newest checkpoint",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="directory to write; must not exist")
    parser.add_argument(
        "--adapter", action="store_true", help="write the adapters by themselves, as peft does (adapter_config.json)"
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        help="of the weights (default: the type in which the run computed; float32 for --adapter)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the model.

    Raises:
        ConfigError: there is no such checkpoint, `--to` exists, or there are no adapters.
        ModelError, DataError: the checkpoint, or the learner that the run began with, cannot be used.
        DiskError: the model cannot be written.
    """
    from s2l_ray.config import load_config
    from s2l_ray.run.checkpoints import TRAINER, named_checkpoint
    from s2l_ray.tasks.compat import model_directory
    from s2l_ray.training.checkpoint_model import write_adapter, write_checkpoint_model

    checkpoint = named_checkpoint(arguments.checkpoint, "CHECKPOINT")
    if arguments.to.exists():
        raise ConfigError(f"--to: {arguments.to} exists already; name another directory")
    config = load_config(checkpoint.parent.parent / "config.yaml")
    models, lora_alpha = config.models, config.trainer.lora_alpha
    target = arguments.to.absolute()
    dtype: Dtype
    if arguments.adapter:
        dtype = arguments.dtype or "float32"
        write_adapter(checkpoint / TRAINER, models.learner, target, dtype, lora_alpha=lora_alpha)
        what = "the adapters"
    else:
        dtype = arguments.dtype or ("float32" if models.dtype == "auto" else models.dtype)
        began_as = model_directory("models.learner", models.learner)
        write_checkpoint_model(checkpoint / TRAINER, began_as, target, dtype, lora_alpha=lora_alpha)
        what = "the learner"
    print(f"wrote {arguments.to}: {what} of {checkpoint.name}, in {dtype}")
    return 0
