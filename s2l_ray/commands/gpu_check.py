"""`s2l gpu-check`: check training on this machine's GPU, and measure it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.gpu_check import command

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command, whose arguments it shares with `python -m s2l_ray.gpu_check`."""
    parser = add_command(
        commands,
        "gpu-check",
        command.run,
        help="check and measure training on this machine's GPU",
        description=command.DESCRIPTION,
    )
    command.add_arguments(parser)
