"""The results of a study that is over, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration, with_short_paths
from s2l_ray.redaction import redact
from s2l_ray.tracking.mlflow_store import how_to_open
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome, study_files
from s2l_ray.tuning.ranking import SeedMean, best_of, over_seeds, overlapping, ranked
from s2l_ray.tuning.table import seeds_table, trial_table
from s2l_ray.tuning.wording import before_text, event_text, short_name, values_text


@dataclass(frozen=True)
class FinalTable:
    """The trials from best to worst, whether the best one's lead is more than chance, and where the files are.

    It takes the width of the console that it is printed on.
    """

    about: StudyAbout
    outcomes: Sequence[TrialOutcome]
    """Of all trials."""
    facts: StudyFacts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        about, facts = self.about, self.facts
        order = ranked(about, self.outcomes)
        yield Text("")
        yield Text(f"{about.name}: {len(order)} trials in {duration(facts.seconds)}, best first", style="bold")
        yield trial_table(about, order, options.max_width)
        yield Text("")
        if before := before_text(about, order):
            yield Text(before)
        if means := over_seeds(about, order):
            yield Text(f"means over seeds, with {about.confidence:.0%} intervals over seeds", style="bold")
            yield seeds_table(about, means, options.max_width)
            yield Text("")
        whole = [mean for mean in means if not mean.pruned]
        verdict = _over_seeds(whole, order) if len(whole) > 1 else _verdict(about, order)
        said = (*verdict, *_pruned_seeds(means), *_failures(about, order), *_exploits(order), *_bank(order, facts))
        yield from (Text(sentence) for sentence in said)
        yield Text("")
        yield _places(about, order, facts)


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
    elif finished[0] is not best:
        yield (
            f"{name} is the best of the only values that were done with several seeds, none of them pruned; "
            f"{short_name(about, finished[0].name)} has a better value of {about.metric}, to which it is not compared."
        )
    elif len(finished) == 1:
        yield f"{name} alone did all of its steps, so that it is compared with none."
    elif best.interval is None:
        yield f"There is no interval of {about.metric}: whether the lead of {name} is more than chance is not known."
    else:
        yield _lead(about, best, finished)
    yield "Each trial is one run with one seed, and the best of several is in part the luckiest."
    if any(outcome.status == "pruned" for outcome in order):
        yield "Pruned trials were measured after fewer steps; they stand below those that finished."


def _over_seeds(means: Sequence[SeedMean], order: Sequence[TrialOutcome]) -> Iterator[str]:
    """What may be concluded from means over seeds of which none was pruned, in whole sentences."""
    best, *others = means
    near = [one for one in others if one.gap_interval is None or one.gap_interval[0] <= 0 <= one.gap_interval[1]]
    name = values_text(best.values)
    if near:
        which = "the others" if len(near) == len(others) else f"{len(near)} of the {len(others)} others"
        yield f"The best mean is that of {name}; its lead over {which} may be chance."
    else:
        whole = " of which no seed was pruned" if any(outcome.status == "pruned" for outcome in order) else ""
        yield f"The best mean is that of {name}; its lead over all others{whole} is more than seeds explain."
    yield "Differences are paired by seed, and their intervals are not corrected for how many there are."


def _pruned_seeds(means: Sequence[SeedMean]) -> Iterator[str]:
    if any(mean.pruned for mean in means):
        yield (
            "Where some seeds were pruned (as in 2 of 3), it was for their low values: the mean of the others is too "
            "good, so that it has no interval and is compared with none. For that, repeat these values with "
            "scheduler.kind: none."
        )


def _lead(about: StudyAbout, best: TrialOutcome, finished: Sequence[TrialOutcome]) -> str:
    name, second = short_name(about, best.name), short_name(about, finished[1].name)
    level = f"{about.confidence:.0%} interval"
    others, rest = overlapping(best, finished), len(finished) - 1
    if others:
        some = f"all {rest}" if len(others) == rest else f"{len(others)} of the {rest}"
        which = f"that of {second}" if rest == 1 else f"those of {some} others that finished"
        return f"The {level} of {name} overlaps with {which}: its lead may be chance."
    return (
        f"The {level} of {name} is beyond that of {second} and of all others that finished: its lead is more than the "
        "choice of the held-out problems explains."
    )


def _failures(about: StudyAbout, order: Sequence[TrialOutcome]) -> Iterator[str]:
    for outcome in order:
        if outcome.status == "failed":
            yield f"{short_name(about, outcome.name)} {event_text(about, 'ended', outcome)}"


def _exploits(order: Sequence[TrialOutcome]) -> Iterator[str]:
    count = sum(len(outcome.exploits) for outcome in order)
    if count:
        yield f"Population based training made {count} exploit{'s' if count > 1 else ''}; tune.json has each of them."


def _bank(order: Sequence[TrialOutcome], facts: StudyFacts) -> Iterator[str]:
    """What the shared bank spared, by the steps that trials did: those that were pruned would not have sampled all.

    Before the trials ran, the study said it of all of their steps (`SharedBank.ratio`).
    """
    separate = facts.bank.get("separate", ())
    if len(separate) != len(order):
        return
    by_number = sorted(order, key=lambda outcome: outcome.name)
    alone = sum(sum(tokens[: outcome.step]) for tokens, outcome in zip(separate, by_number, strict=True))
    if alone:
        shared = facts.bank["tokens"]
        planned = sum(map(sum, separate))
        other = f" Of all steps of all trials, pruned or not, it would be {shared / planned:.2f}."
        yield (
            f"The bank has {shared} explorer tokens. Without it the trials would have sampled {alone} in the steps "
            f"that they did: it is {shared / alone:.2f} of that.{other if alone != planned else ''}"
        )


def _places(about: StudyAbout, order: Sequence[TrialOutcome], facts: StudyFacts) -> RenderableType:
    files, best = study_files(about.directory), best_of(about, order)
    rows = [("study", redact(about.place)), ("results", str(files["table"]))]
    if best is not None:
        rows += [("figure", str(files["figure"])), ("best trial", best.directory)]
        rows += [("its config", f"s2l train {files['best']}")]
    if facts.mlflow_uri:
        rows += [("MLflow", how_to_open(redact(facts.mlflow_uri))), ("", f"run {facts.mlflow_run_id}")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")  # paths and commands are copied: never cut
    for label, place in rows:
        table.add_row(label, Text(with_short_paths(place)))
    return Padding(table, (0, 0, 1, 0))
