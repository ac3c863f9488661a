"""What a step costs in the explorer-heavy phase, against its two parts alone: exploring, and training.

Two runs of the quickstart take turns whose groups are all the explorer's (G_w = G at every step). In one nothing is
explored ahead, so that a step is exploring and then training, each with the machine to itself: the trainer finds its
batch ready, the engine samples while the trainer waits. In the other the explorer works ahead. Same models, prompts and
rollouts in both: their groups are equal to the token, which is checked. A third run reads its rollouts from a bank that
the first one wrote.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.protocol import Result

ROOT = Path(__file__).parents[2]
STEPS = 24
WARM_UP = 3
"""First steps that are left out; the last is too, since it also ends the run."""
GENERATION = ("explore", "bank", "verify", "assemble")
"""Parts of a step that train nothing, as `s2l_ray.timing` names them."""


def run() -> list[Result]:
    from s2l_ray.miniature.build import EMBEDDED

    family = EMBEDDED
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bank = {"bank.path": str(directory / "bank")}
        apart = [steps_of(family, directory / "apart", {"rollout.prefetch_steps": 0, "bank.mode": "write"} | bank)]
        ahead = [steps_of(family, directory / f"ahead-{turn}", {}) for turn in (1, 2)]
        apart += [steps_of(family, directory / "apart-2", {"rollout.prefetch_steps": 0})]
        read = steps_of(family, directory / "read", {"bank.mode": "read"} | bank)
    for other in (*ahead, *apart, read):
        assert [row["digest"] for row in other] == [row["digest"] for row in apart[0]], "the runs differ"
    explore = median([generation(row) for rows in apart for row in counted(rows)])
    train = median([total(row) - generation(row) for rows in apart for row in counted(rows)])
    step = median([total(row) for rows in ahead for row in counted(rows)])
    banked = median([total(row) for row in counted(read)])
    print(f"   alone: exploring {explore:.3f} s, training {train:.3f} s; overlapped {step:.3f} s", flush=True)
    print(f"   from the bank: {banked:.3f} s; groups of all five runs equal to the token", flush=True)
    return [
        Result("step_explore_alone_seconds", explore, None, "s"),
        Result("step_train_alone_seconds", train, None, "s"),
        Result("step_overlapped_seconds", step, None, "s"),
        Result("step_overlapped_over_larger_part", step / max(explore, train), 1.1, "ratio"),
        Result("step_overlapped_over_sum", step / (explore + train), None, "ratio"),
        Result("step_from_bank_over_exploring_live", banked / step, None, "ratio"),
        Result("step_from_bank_over_training_alone", banked / train, None, "ratio"),
    ]


def steps_of(family: Any, run_dir: Path, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of a run whose groups are all the explorer's."""
    from s2l_ray import S2LPO, load_config

    config = load_config(
        ROOT / "configs" / "quickstart.yaml",
        {
            "models.learner": str(family.large),
            "models.explorer": str(family.small),
            "data.train": str(family.train),
            "data.eval": None,
            "run_dir": str(run_dir),
            "schedule.kind": "constant",
            "schedule.steps": STEPS,
            "schedule.mix_steps": STEPS,
            "objective.explorer_negatives": 1.0,
            "engines.learner.count": 1,  # it samples nothing here: a second one would only take weight syncs
            "checkpoint.every": STEPS,
            "tracking.enabled": False,
        }
        | changes,
    )
    begin = time.perf_counter()
    algorithm = S2LPO(config)
    try:
        while not algorithm.train()["done"]:
            pass
    finally:
        algorithm.stop()
    rows = [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]
    spent = time.perf_counter() - begin
    print(f"   {run_dir.name}: {median([total(r) for r in counted(rows)]):.3f} s a step ({spent:.0f} s)", flush=True)
    return rows


def counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[WARM_UP:-1]


def total(row: dict[str, Any]) -> float:
    return row["seconds"]["total"]


def generation(row: dict[str, Any]) -> float:
    return sum(row["parts"].get(part, 0.0) for part in GENERATION)


def median(values: list[float]) -> float:
    return statistics.median(values)
