"""Runs benchmarks one after the other and writes their figures."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import pkgutil
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tests.benchmarks
from tests.benchmarks.protocol import Result, Skipped


def names() -> list[str]:
    """Modules of this package with a function `run`."""
    found = [m.name for m in pkgutil.iter_modules(tests.benchmarks.__path__) if not m.name.startswith("_")]
    return [name for name in found if hasattr(importlib.import_module(f"tests.benchmarks.{name}"), "run")]


def run_one(name: str, paths: list[Path]) -> list[Result]:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    return module.run(paths) if hasattr(module, "TAKES_PATHS") else module.run()


def run_all(chosen: list[str], paths: list[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Figures as benchmarks.json has them, and the names of the modules that failed."""
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in chosen:
        print(f"== {name}", flush=True)
        command = f'make bench ARGS="{name}"'  # where someone keeps what they brought is of no interest
        try:
            with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as process:
                results = process.submit(run_one, name, paths).result()
        except Skipped as reason:
            print(f"   skipped: {reason}", flush=True)
            continue
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        for result in results:
            aim = "" if result.aim is None else f" (aim: {result.aim:g})"
            print(f"   {result.name}: {result.value:.4g} {result.unit}{aim}", flush=True)
        rows += [asdict(result) | {"command": command} for result in results]
    return rows, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=tests.benchmarks.__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(names())}; default: all. A path is for those that read what you bring (verifier_suites)",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    options = parser.parse_args()
    paths = [Path(name) for name in options.names if name not in names() and Path(name).exists()]
    chosen = [name for name in options.names if name in names()]
    if unknown := sorted(set(options.names) - set(chosen) - {name for name in options.names if Path(name).exists()}):
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(names())}")
    rows, failed = run_all(chosen or names(), paths)
    options.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{len(rows)} figures in {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0
