"""The results of a study that is over, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration
from s2l_ray.redaction import redact
from s2l_ray.tracking.mlflow_store import how_to_open
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome, best_of, overlapping, ranked, study_files
from s2l_ray.tuning.table import trial_table
from s2l_ray.tuning.wording import event_text, short_name


def final_study_table(
    about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts, width: int = 80
) -> RenderableType:
    """The trials from best to worst, whether the best one's lead is more than chance, and where the files are.

    Args:
        about: the study.
        outcomes: of all of its trials.
        facts: what it cost.
        width: of the terminal, in characters.
    """
    order = ranked(about, outcomes)
    said = [*_verdict(about, order), *_failures(about, order), *_exploits(about, order)]
    return Group(
        Text(""),
        Text(f"{about.name}: {len(order)} trials in {duration(facts.seconds)}, best first", style="bold"),
        trial_table(about, order, width),
        Text(""),
        *(Text(line) for line in said),
        Text(""),
        _places(about, order, facts),
    )


def _verdict(about: StudyAbout, order: Sequence[TrialOutcome]) -> Iterator[str]:
    """What may be concluded from the order, in whole sentences."""
    best = best_of(about, order)
    if best is None:
        yield f"No trial has a value of {about.metric}, so none is the best."
        return
    name = short_name(about, best.name)
    finished = [outcome for outcome in order if outcome.status == "finished" and outcome.metric is not None]
    if best.status != "finished":
        yield f"No trial did all of its steps: {name} is the best of those that were measured, after different steps."
    elif len(finished) == 1:
        yield f"{name} alone did all of its steps, so that it is compared with none."
    elif best.interval is None:
        yield f"There is no interval of {about.metric}: whether the lead of {name} is more than chance is not known."
    else:
        yield _lead(about, best, finished)
    yield "Each trial is one run with one seed, and the best of several is in part the luckiest."
    if any(outcome.status == "pruned" for outcome in order):
        yield "Pruned trials were measured after fewer steps; they stand below those that finished."


def _lead(about: StudyAbout, best: TrialOutcome, finished: Sequence[TrialOutcome]) -> str:
    name, second = short_name(about, best.name), short_name(about, finished[1].name)
    level = f"{about.confidence:.0%} interval"
    others, rest = overlapping(best, finished), len(finished) - 1
    if others:
        which = second if rest == 1 else f"{len(others)} of the {rest} others that finished"
        return f"The {level} of {name} overlaps with that of {which}: its lead may be chance."
    return (
        f"The {level} of {name} is beyond that of {second} and of all others that finished: its lead is more than the "
        "choice of the held-out problems explains."
    )


def _failures(about: StudyAbout, order: Sequence[TrialOutcome]) -> Iterator[str]:
    for outcome in order:
        if outcome.status == "failed":
            yield f"{short_name(about, outcome.name)} {event_text(about, 'ended', outcome)}"


def _exploits(about: StudyAbout, order: Sequence[TrialOutcome]) -> Iterator[str]:
    count = sum(len(outcome.exploits) for outcome in order)
    if count:
        yield f"Population based training made {count} exploit{'s' if count > 1 else ''}; tune.json has each of them."


def _places(about: StudyAbout, order: Sequence[TrialOutcome], facts: StudyFacts) -> RenderableType:
    files, best = study_files(about.directory), best_of(about, order)
    rows = [("study", about.place), ("results", str(files["table"]))]
    if best is not None:
        rows += [("figure", str(files["figure"])), ("best trial", best.directory)]
        rows += [("its config", f"s2l train {files['best']}")]
    if facts.mlflow_uri:
        rows += [("MLflow", how_to_open(redact(facts.mlflow_uri))), ("", f"run {facts.mlflow_run_id}")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")  # paths and commands are copied: never cut
    for label, place in rows:
        table.add_row(label, Text(place.replace(f"{Path.cwd()}/", "")))
    return Padding(table, (0, 0, 1, 0))
