"""Predicting CPU runs: constants from one real run of the embedded family, step times of other real runs.

    python -m tests.benchmarks.simulate_cpu_runs [--runs DIR] [--steps N]

The run that is calibrated on has G = 8, an evaluation with one sample per problem, and a schedule that sweeps G_w from
8 to 0. The others differ in G, T_mix, prompts per step or engines; one has the same settings again, which shows how
much of an error is the machine's own noise. Compared are medians and means of a step's rollout, update and weight sync,
the first two steps left out. Needs a quiet machine: the load average is printed with every run. About ten minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from s2l_ray.miniature.build import EMBEDDED, Family
from s2l_ray.planner.simulate.calibration import calibrate
from s2l_ray.planner.simulate.constants import Constants
from s2l_ray.planner.simulate.measured_run import WARM_UP, MeasuredRun, own_seconds, read_run
from s2l_ray.planner.simulate.simulation import simulate
from tests.benchmarks.protocol import Result

ROOT = Path(__file__).parents[2]
AIM = 0.15
STEPS, CALIBRATION_STEPS = 24, 48
CALIBRATION = {
    "data.eval_limit": 256,
    "evaluation.samples": 1,
    "evaluation.k": [1],
    "evaluation.every": 5,
}
TARGETS: dict[str, dict[str, Any]] = {
    "the same settings again": {},
    "G = 4": {"rollout.group_size": 4},
    "G = 16": {"rollout.group_size": 16},
    "T_mix = 6": {"schedule.mix_steps": 6},
    "GRPO (no explorer)": {"schedule.kind": "off"},
    "2 learner engines": {"engines.learner.count": 2, "engines.learner.cpus": 0.25},
    "2 explorer engines": {"engines.explorer.count": 2, "engines.explorer.cpus": 0.25},
    "16 prompts per step": {"rollout.prompts_per_step": 16},
    "64 prompts per step": {"rollout.prompts_per_step": 64},
    "nothing explored ahead": {"rollout.prefetch_steps": 0},
}


@dataclass(frozen=True)
class Row:
    """Seconds of a step: of a real run, and predicted."""

    name: str
    measured: dict[str, float]
    predicted: dict[str, float]
    load: float
    """Load average at the end of the run, over cores."""

    def error(self, what: str) -> float:
        return self.predicted[what] / self.measured[what] - 1


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), STEPS)
    print(table(rows))
    others = rows[1:]
    errors = [abs(row.error("median")) for row in others]
    return [
        Result("simulated_step_error_worst", max(errors), AIM, "ratio"),
        Result("simulated_step_error_median", median(errors), AIM, "ratio"),
        Result("simulated_steps_within_15_percent", sum(e <= AIM for e in errors), len(errors), "runs"),
    ]


def compare(folder: Path, steps: int) -> list[Row]:
    """The run that is calibrated on, and every other; runs that are in the folder already are not made again."""
    family = EMBEDDED
    first = folder / "calibration"
    overrides = {"schedule.steps": CALIBRATION_STEPS, "schedule.mix_steps": 32, **CALIBRATION}
    loads = {"calibration": make_run(family, first, overrides, evaluate=True)}
    for name, changes in TARGETS.items():
        short = {"schedule.steps": steps, "schedule.mix_steps": steps * 7 // 12}
        loads[name] = make_run(family, folder / slug(name), short | changes)
    found = calibrate(first)
    print(f"constants: {replace(found.constants, lengths={})}")
    print("its own splits:", ", ".join(f"G_w {split} {error:+.0%}" for split, error in found.errors.items()))
    rows = [row("calibrated on", found.measured, found.constants, loads["calibration"])]
    return rows + [row(name, read_run(folder / slug(name)), found.constants, loads[name]) for name in TARGETS]


def make_run(family: Family, target: Path, overrides: dict[str, Any], *, evaluate: bool = False) -> float:
    """Train; returns the load average per core at the end."""
    from s2l_ray import S2LPO, load_config

    if (target / "load").exists():
        return float((target / "load").read_text())
    shutil.rmtree(target, ignore_errors=True)
    config = load_config(
        ROOT / "configs" / "quickstart.yaml",
        {
            "models.learner": str(family.large),
            "models.explorer": str(family.small),
            "data.train": str(family.train),
            "data.eval": str(family.heldout) if evaluate else None,
            "checkpoint.every": 1000,
            "tracking.enabled": False,
            "placement.hand_over": "off",
            "engines.learner.count": 1,
            "engines.learner.cpus": 0.5,
            "run_dir": str(target),
            **overrides,
        },
    )
    algo = S2LPO(config)
    try:
        while not algo.train()["done"]:
            pass
    finally:
        load = os.getloadavg()[0] / os.cpu_count()
        algo.stop()
    (target / "load").write_text(f"{load:.2f}")
    print(f"{target.name}: ran, load average {load:.1f} per core", flush=True)
    return load


def row(name: str, measured: MeasuredRun, constants: Constants, load: float) -> Row:
    """Predict a run from its configuration alone."""
    found = simulate(measured.config, measured.layout, constants)
    real = [{**r.seconds, "step": own_seconds(r)} for r in measured.records]
    simulated = [{**s.seconds, "step": s.seconds["total"]} for s in found.steps if s.step > WARM_UP]
    return Row(name, summary(real), summary(simulated), load)


def summary(steps: list[dict[str, float]]) -> dict[str, float]:
    totals = [step["step"] for step in steps]
    parts = {part: median(step[part] for step in steps) for part in ("rollout", "update", "weight_sync")}
    return {"median": median(totals), "mean": float(np.mean(totals)), **parts}


def table(rows: list[Row]) -> str:
    """Markdown: measured and predicted median seconds, and the error; and the error of the mean."""
    lines = [
        "| run | step, measured | simulated | error | error of the mean | rollout | update | weight sync | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        parts = " | ".join(f"{r.measured[p]:.2f} / {r.predicted[p]:.2f}" for p in ("rollout", "update", "weight_sync"))
        lines.append(
            f"| {r.name} | {r.measured['median']:.2f} s | {r.predicted['median']:.2f} s | {r.error('median'):+.0%} "
            f"| {r.error('mean'):+.0%} | {parts} | {r.load:.1f} |"
        )
    return "\n".join(lines)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="keep the runs here, and use those that are here already")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run that is predicted")
    options = parser.parse_args()
    if options.runs:
        print(table(compare(options.runs, options.steps)))
    else:
        run()


if __name__ == "__main__":
    main()
