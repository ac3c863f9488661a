"""`make chaos`: runs with many faults, each compared with the same run without any; prints a table and keeps the rows.

    python -m tests.chaos [--faults 240] [--out chaos.jsonl] [--only STORY]

Every story is one configuration. Its undisturbed run comes first; then runs with a fault in each step, with seeds
1, 2, ..., until the story has had its share of the faults. A run whose groups, losses or weights differ, or that
does not end, is an error at the end, and its directory is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from s2l_ray.miniature.build import EMBEDDED
from tests.chaos.run import Told, run
from tests.chaos.saboteur import POINTS, Fault, Kind, Outcome, plan_faults
from tests.support.logical_cluster import logical_cluster
from tests.support.patience import PATIENCE_S

EVALUATE_EVERY = 5
KINDS: tuple[Kind, ...] = ("SIGKILL", "SIGSTOP", "exit", "disconnect", "stall")


@dataclass(frozen=True)
class Story:
    """One configuration, and whom its faults hit."""

    name: str
    roles: tuple[str, ...]
    share: float
    """Of all faults."""
    overrides: dict[str, Any] = field(default_factory=dict)
    steps: int = 20
    mix_steps: int = 14
    checkpoint_every: int = 2
    gpus: tuple[int, ...] = ()
    """Logical GPUs of each node; the engines are handed over after the mix. None: as on CPUs."""

    def points_of(self, step: int) -> list[str]:
        """Where a fault can fall within a step."""
        if self.gpus and step == self.mix_steps:  # from here on G_w = 0
            return ["hand_over"]
        found = [*POINTS]
        if step % EVALUATE_EVERY == 0 and step < self.steps:
            found.append("evaluate")
        if step % self.checkpoint_every == 0:
            found.append("checkpoint")
        return found


STORIES = (
    Story("everybody", ("explorer", "learner", "verifier", "scheduler", "trainer"), 1 / 2),
    Story(
        "bank",
        ("bank", "explorer", "verifier", "scheduler"),
        1 / 6,
        {"bank.mode": "readwrite", "bank.path": "{run}/bank", "rollout.prefetch_steps": 2},
    ),
    Story(
        "checkpoints",
        ("trainer", "learner", "scheduler"),
        1 / 6,
        {"recovery.snapshots": "checkpoint", "cluster.verify_weights": True},
        checkpoint_every=4,
    ),
    Story(
        "hand-over",
        ("explorer", "learner", "verifier", "scheduler", "trainer"),
        1 / 6,
        {
            "placement.mode": "mixed",
            "placement.hand_over": "on",
            "placement.hand_over_wait_s": PATIENCE_S,
            "trainer.ranks": 1,
            "engines.learner.count": 1,
        },
        steps=8,
        mix_steps=3,
        gpus=(1, 1),
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Run the stories. Returns the exit status: 1 if any run was not as the one without faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=240, help="how many, over all stories")
    parser.add_argument("--out", type=Path, default=Path("chaos.jsonl"), help="a line for each fault")
    parser.add_argument("--only", choices=[story.name for story in STORIES], help="one story")
    parser.add_argument("--first-seed", type=int, default=1)
    options = parser.parse_args(arguments)
    wrong: list[str] = []
    done: list[dict[str, Any]] = []
    for story in STORIES:
        if options.only in (None, story.name):
            share = options.faults if options.only else round(options.faults * story.share)
            done += _tell_story(story, share, options.first_seed, options.out, wrong)
    print(table(done))
    for problem in wrong:
        print(f"WRONG: {problem}")
    return bool(wrong)


def _tell_story(story: Story, faults: int, seed: int, out: Path, wrong: list[str]) -> list[dict[str, Any]]:
    scratch = Path(tempfile.mkdtemp(prefix=f"s2l-chaos-{story.name}-"))
    plain = _run(story, scratch / "plain", ())
    print(f"{story.name}: {story.steps} steps without faults took {plain.seconds:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    while (left := faults - sum(row["done"] for row in rows)) > 0:
        planned = plan_faults(seed, range(1, min(story.steps, left) + 1), story.roles, KINDS, story.points_of)
        directory = scratch / f"seed-{seed}"
        try:
            told = _run(story, directory, planned)
        except Exception as error:  # whatever it is, the other seeds are told too
            wrong.append(f"{story.name}, seed {seed} did not end: {type(error).__name__}: {error} ({directory})")
            print(wrong[-1], flush=True)
            seed += 1
            continue
        problems = differences(plain, told)
        wrong += [f"{story.name}, seed {seed}: {problem} ({directory})" for problem in problems]
        new = [{"story": story.name, "seed": seed, "same": not problems, **_row(o)} for o in told.outcomes]
        with out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        rows += new
        count = sum(row["done"] for row in rows)
        print(
            f"{story.name}, seed {seed}: {told.seconds:.0f} s, {told.restarts} restarts, {told.redone} redone, "
            f"{'the same' if not problems else 'DIFFERENT'}; {count} of {faults} faults, "
            f"{max(0, faults - count) * told.seconds / max(1, len(new)) / 60:.0f} min to go",
            flush=True,
        )
        if not problems:
            shutil.rmtree(directory)
        seed += 1
    return rows


def _run(story: Story, directory: Path, faults: Sequence[Fault]) -> Told:
    overrides = {
        key: value.format(run=directory.parent / f"{directory.name}-files") if isinstance(value, str) else value
        for key, value in story.overrides.items()
    }
    settings = {
        "schedule.steps": story.steps,
        "schedule.mix_steps": story.mix_steps,
        "checkpoint.every": story.checkpoint_every,
        "evaluation.every": EVALUATE_EVERY,
        "verifier.workers": 2,
    }
    with logical_cluster(story.gpus) if story.gpus else nullcontext():
        return run(EMBEDDED, directory, faults, **settings, **overrides)


def differences(plain: Told, told: Told) -> list[str]:
    """What is not as in the run without faults."""
    found = []
    for name in ("digests", "losses"):
        steps = [
            i + 1 for i, (a, b) in enumerate(zip(getattr(plain, name), getattr(told, name), strict=True)) if a != b
        ]
        if steps:
            found.append(f"{'groups' if name == 'digests' else name} of steps {steps} differ")
    if plain.weights != told.weights:
        found.append("the final weights differ")
    return found


def _row(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome.fault), "done": outcome.done, "note": outcome.note, "seconds": outcome.seconds}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Faults by role and kind: how many, in runs that were the same, and seconds of the steps that they fell into."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["done"]:
            groups[row["role"], row["kind"]].append(row)
    lines = [
        "| role | fault | count | same groups, losses and weights | step's seconds, median | longest |",
        "|---|---|---|---|---|---|",
    ]
    for (role, kind), found in sorted(groups.items()):
        seconds = [row["seconds"] for row in found]
        same = sum(row["same"] for row in found)
        lines.append(f"| {role} | {kind} | {len(found)} | {same} | {median(seconds):.1f} | {max(seconds):.1f} |")
    total = sum(len(found) for found in groups.values())
    return "\n".join([*lines, f"{total} faults, {len(rows) - total} that met nobody; {time.strftime('%Y-%m-%d')}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
