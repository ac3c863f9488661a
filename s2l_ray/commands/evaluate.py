"""`s2l evaluate`: pass@k of models on benchmarks, with intervals, comparisons and a record of every sample."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, positive
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

DESCRIPTION = """\
Sample models on benchmarks, grade the answers, and report pass@k for every k up
to n without bias, maj@k, lengths, paired comparisons of the models and the k at
which one overtakes another. Every sample is recorded; what is there is not
sampled again, so the same command goes on after an interruption, and a larger
--samples adds to it.

MODEL is a directory, a name on the Hub, embedded:small or embedded:large, or a
run directory: RUN is its trained model, RUN:learner the one it began with,
RUN:explorer its explorer, RUN:step-20 a checkpoint. Any key=value is of a run's
configuration, such as evaluation.sampling.temperature=0.6."""
EPILOG = """\
examples:
  s2l evaluate embedded:small embedded:large --benchmark embedded:heldout.jsonl
  s2l evaluate outputs/gsm8k outputs/gsm8k:learner --benchmark gsm8k_test.jsonl
      --against gsm8k_train.jsonl rollout.max_tokens=512
  s2l evaluate Qwen/Qwen3-4B-Base Qwen/Qwen3-8B-Base --settings nothink
      --benchmark aime24.jsonl aime25.jsonl --samples 32"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        help="pass@k of models on benchmarks, with intervals and comparisons",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.set_defaults(overrides=[])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="what to evaluate, and key=value")
    parser.add_argument(
        "--benchmark",
        nargs="+",
        required=True,
        metavar="FILE",
        help="JSONL or Parquet files, hf://datasets/ORG/NAME, or embedded:heldout.jsonl",
    )
    parser.add_argument(
        "--settings",
        choices=("nothink", "think"),
        help="sampling of the paper: nothink (temperature 0.7, top-p 0.8, top-k 20, presence penalty 1.5) or think "
        "(0.6, 0.95, 20), with 38912 new tokens, and enable_thinking where the chat template takes it; default: "
        "temperature 1, no limit but the benchmark's",
    )
    parser.add_argument("--samples", type=positive, default=16, metavar="N", help="n of each problem (default: 16)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N problems of each benchmark")
    parser.add_argument("--config", metavar="CONFIG", help="take prompts, verifier and engines from a configuration")
    parser.add_argument(
        "--clip", action="store_true", help="cut responses off where a model's positions end, rather than refuse it"
    )
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="FILE", help="training files that benchmark problems may be in"
    )
    parser.add_argument(
        "--ngram", type=positive, default=13, metavar="N", help="words of the n-grams for --against (default: 13)"
    )
    parser.add_argument(
        "--to",
        default="outputs/evaluation",
        metavar="DIR",
        help="directory of samples and results (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Sample what is missing, then print and write the results."""
    from s2l_ray.benchmark.directory import FIGURE, RESULTS
    from s2l_ray.benchmark.settings import Options
    from s2l_ray.benchmark.table import tables
    from s2l_ray.display import TaskDisplay
    from s2l_ray.display.text import with_short_paths
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.machine.places import output_path, refuse_session_directory
    from s2l_ray.run.evaluate import Request, evaluate

    words: list[str] = []
    models, benchmarks, against = (
        _without_overrides(given, words) for given in (arguments.models, arguments.benchmark, arguments.against)
    )
    if not models or not benchmarks:
        raise ConfigError(f"give at least one {'--benchmark FILE' if models else 'MODEL'} beside {', '.join(words)}")
    directory = output_path(arguments.to)
    refuse_session_directory("--to", directory)
    options = Options(
        samples=arguments.samples,
        preset=arguments.settings,
        file=arguments.config,
        overrides=(*words, *arguments.overrides),
    )
    request = Request(
        models=models,
        benchmarks=benchmarks,
        against=against,
        words=arguments.ngram,
        limit=arguments.limit,
        clip=arguments.clip,
        directory=directory,
        options=options,
    )
    with TaskDisplay() as display:
        results = evaluate(request, display)
    console = CommandConsole()
    for part in tables(results):
        console.print("")
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    console.print("")
    for name in (RESULTS, FIGURE):
        print(with_short_paths(str(directory / name)))
    return 0


def _without_overrides(given: list[str], overrides: list[str]) -> list[str]:
    """The words that are no `key=value`; those that are join `overrides`: an option of many words takes them too."""
    overrides += [word for word in given if _is_override(word)]
    return [word for word in given if not _is_override(word)]


def _is_override(word: str) -> bool:
    return "=" in word and "://" not in word.partition("=")[0] and not Path(word).exists()
