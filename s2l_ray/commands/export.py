"""`s2l export`: the learner of a checkpoint as a model directory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from s2l_ray.commands.arguments import add_command
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Dtype

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.config import Config

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
        help="of the weights (default: the type in which the run computed, for the weights that it sampled from to the "
        "last bit; float32 for --adapter)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the model.

    Raises:
        ConfigError: there is no such checkpoint in a run, `--to` exists, or there are no adapters.
        ModelError, DataError: the checkpoint, or the learner that the run began with, cannot be used.
        DiskError: the model cannot be written.
    """
    from s2l_ray.run.checkpoint_models import configuration_of, dtype_of, write_model
    from s2l_ray.run.checkpoints import named_checkpoint

    checkpoint = named_checkpoint(arguments.checkpoint, "CHECKPOINT")
    if os.path.lexists(arguments.to):
        raise ConfigError(f"--to: {arguments.to} exists already; name another directory")
    config = configuration_of(checkpoint)
    target = arguments.to.absolute()
    dtype: Dtype
    if arguments.adapter:
        dtype, what = arguments.dtype or "float32", "the adapters"
        _write_adapter(checkpoint, config, target, dtype)
    else:
        dtype, what = arguments.dtype or dtype_of(config), "the learner"
        write_model(checkpoint, config, target, dtype, _say)
    print(f"wrote {arguments.to}: {what} of {checkpoint.name}, in {dtype}")
    return 0


def _write_adapter(checkpoint: Path, config: Config, target: Path, dtype: Dtype) -> None:
    from s2l_ray.run.checkpoint_models import check_whole
    from s2l_ray.run.checkpoints import TRAINER

    check_whole(checkpoint, _say)
    from s2l_ray.training.checkpoint_model import write_adapter  # after what is quick: it imports torch

    write_adapter(checkpoint / TRAINER, config.models.learner, target, dtype, lora_alpha=config.trainer.lora_alpha)


def _say(text: str) -> None:
    print(text, flush=True)
