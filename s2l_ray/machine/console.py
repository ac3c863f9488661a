"""The terminal, or the file or pipe, that commands print to."""

from __future__ import annotations

from rich.console import Console


class CommandConsole(Console):
    """A console of rich. When nobody reads its pipe any more, it leaves that to the command (`s2l_ray/cli.py`)."""

    def on_broken_pipe(self) -> None:
        """Let the command end; rich would end the process with status 1."""
        raise BrokenPipeError
