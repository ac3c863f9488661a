"""Studies whose outcomes are made up, for what shows, tracks and reports them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from s2l_ray.tuning.about import StudyAbout, asha_rungs
from s2l_ray.tuning.outcomes import Exploit, TrialOutcome

KEYS = (
    "schedule.kind",
    "schedule.mix_steps",
    "objective.explorer_negatives",
    "rollout.group_size",
    "trainer.learning_rate",
)


def study(directory: Path = Path("outputs/tune_schedule"), trials: int = 8, **changes) -> StudyAbout:
    about = StudyAbout(
        name="tune_schedule",
        keys=KEYS,
        trials=trials,
        steps=120,
        directory=directory,
        place=str(directory),
        at_once=2,
        scheduler="asha",
        rungs=asha_rungs(30, 2, 120),
        reduction=2,
        seed=7,
        config="quickstart",
        study={"name": "tune_schedule", "trials": trials},
    )
    return replace(about, **changes)


def trial(about: StudyAbout, number: int, **fields) -> TrialOutcome:
    return TrialOutcome(name=f"{about.name}_{number:05d}", values=fields.pop("values", {}), steps=about.steps, **fields)


def made_up(about: StudyAbout, seed: int = 1, done: bool = True) -> list[TrialOutcome]:
    """Every trial of a study: learning curves that saturate, a third of them pruned, one failed."""
    draw = random.Random(seed)
    outcomes = []
    for number in range(about.trials):
        values = {
            "schedule.kind": draw.choice(["linear", "cosine", "constant", "off"]),
            "schedule.mix_steps": draw.choice([10, 20, 40, 80]),
            "objective.explorer_negatives": draw.choice([0.0, 0.5, 1.0]),
            "rollout.group_size": draw.choice([4, 8, 16]),
            "trainer.learning_rate": 10 ** draw.uniform(-4.3, -3.3),
        }
        values = {key: values[key] for key in about.keys}
        kind = "failed" if number == 5 else "pruned" if number % 3 == 1 else "finished"
        step = {"failed": 12, "pruned": draw.choice(about.rungs or (30,)), "finished": 120}[kind]
        if not done and number >= about.trials // 2:
            kind, step = ("running", 10 * draw.randint(1, 9)) if number < about.trials // 2 + 2 else ("waiting", 0)
        top = draw.uniform(0.18, 0.3)
        history = tuple(
            (at, 0.05 + top * (1 - 2 ** (-at / 30)) + draw.gauss(0, 0.008)) for at in range(0, step + 1, 10)
        )
        measured = dict(history[1:] and {
            "metric": history[-1][1], "metric_step": history[-1][0], "history": history,
            "interval": (history[-1][1] - 0.03, history[-1][1] + 0.031),
        })  # fmt: skip
        outcomes.append(
            trial(
                about,
                number,
                values=values,
                status=kind,
                step=step,
                seconds=step * draw.uniform(1.5, 3.0),
                directory=str(about.directory / f"{about.name}_{number:05d}"),
                mlflow_run_id=f"{number:032x}",
                error="placement.cpus: no node has 64 CPUs; the largest has 2" if kind == "failed" else None,
                failures=int(kind == "failed"),
                **measured,
            )
        )
    return outcomes


def with_exploits(about: StudyAbout, outcomes: list[TrialOutcome]) -> list[TrialOutcome]:
    """The first trial gave itself twice to the last one, as PBT does."""
    donor, taker = outcomes[0], outcomes[-1]
    changed = {"trainer.learning_rate": (1e-4, 2.4e-4)}
    exploits = tuple(Exploit(step=at, own_step=at, donor=donor.name, changed=changed) for at in (30, 60))
    return [*outcomes[:-1], replace(taker, exploits=exploits)]
