"""The `s2l` command: its parser, how it ends, and the list of its sub-commands, each a module of `s2l_ray.commands`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import select
import signal
import sys

from s2l_ray import __version__
from s2l_ray.commands import (
    bank,
    compare,
    config,
    diversity,
    doctor,
    evaluate,
    experiment,
    explore,
    export,
    family,
    gpu_check,
    plan,
    report,
    trace,
    track,
    train,
    tune,
    verify,
)
from s2l_ray.commands.arguments import HelpFormatter
from s2l_ray.errors import S2LError
from s2l_ray.machine.ending import Ended, ends_when_told, leave

COMMANDS = (
    train,
    tune,
    experiment,
    evaluate,
    diversity,
    plan,
    explore,
    bank,
    family,
    report,
    compare,
    trace,
    track,
    export,
    verify,
    config,
    doctor,
    gpu_check,
)
"""In the order in which `s2l --help` lists them."""


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Returns:
        The exit status: 0 done, 1 an error that the user can correct, 141 nobody reads what it prints (`| head`);
        128 + N stopped by signal N (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP), with which the process ends here.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack any character of ours
    try:
        with ends_when_told():
            arguments = _parse(argv)
            status: int = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        _drop_what_is_printed()
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
            raise
        _drop_what_is_printed()  # standard output, most likely: errors of files are said where they are written
        print(f"error: output cannot be written: {error.strerror}; make room, or send it elsewhere", file=sys.stderr)
        return 1
    except S2LError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Ended as told:
        print("interrupted" if told.signal == signal.SIGINT else f"ended by {told.signal.name}", file=sys.stderr)
        with contextlib.suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
        leave(told.status)


def _nobody_reads() -> bool:
    """Whether it is standard output's pipe that broke."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_what_is_printed() -> None:
    """Or the interpreter complains when it flushes standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Overrides may also follow options, where argparse by itself does not look for them."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if late != rest or (late and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        arguments.overrides += late
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2l",
        description="Train large language models with small, frozen explorers (S2L-PO) on Ray.",
        epilog="`s2l COMMAND --help` says more about each command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"s2l-ray {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
