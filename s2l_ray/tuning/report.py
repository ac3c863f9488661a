"""The results of a study as files: `tune.json`, `best.yaml` and the figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2l_ray.config import Config
from s2l_ray.config.embedded import source_name
from s2l_ray.config.reference import as_yaml
from s2l_ray.config.run import yaml_of
from s2l_ray.evaluation.summary import describe_machine, versions
from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.results import finite
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.figure import draw_study
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome, study_files
from s2l_ray.tuning.ranking import SeedMean, best_of, over_seeds, overlapping, ranked
from s2l_ray.tuning.wording import metric_label, metric_text

FORMAT = 1
"""Version of tune.json."""


def write_report(about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts, config: Config) -> list[Path]:
    """Write tune.json, best.yaml (if a trial has a value) and figures/study.png into the study's directory.

    Args:
        about: the study.
        outcomes: of all of its trials.
        facts: what it cost.
        config: that of the best trial, without what only the study sets: placement of a slice, run directory, parent
            run, mode and absolute path of the bank. It is not looked at where no trial has a value.

    Returns:
        The files that were written.

    Raises:
        DiskError: they cannot be written.
    """
    files = study_files(about.directory)
    write_whole(files["table"], json.dumps(report(about, outcomes, facts), indent=2, allow_nan=False) + "\n")
    written: list[Path] = [files["table"]]
    best = best_of(about, outcomes)
    if best is not None:
        write_whole(files["best"], best_yaml(about, best, config))
        written.append(files["best"])
    if draw_study(about, outcomes, files["figure"]) is not None:
        written.append(files["figure"])
    return written


def report(about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts) -> dict[str, Any]:
    """The content of tune.json, as docs/reference/tune-json.md documents it."""
    best = best_of(about, outcomes)
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": about.name,
        "config": about.config,
        "study": _redacted(about.study),
        "seed": about.seed,
        "metric": about.metric,
        "mode": about.mode,
        "confidence": about.confidence if about.is_pass_at_k else None,
        "keys": list(about.keys),
        "search": about.search,
        "scheduler": about.scheduler,
        "rungs": list(about.rungs),
        "at_once": about.at_once,
        "directory": redact(about.place),
        "seconds": facts.seconds,
        "bank": dict(facts.bank),
        "mlflow_run_id": facts.mlflow_run_id,
        "mlflow_uri": redact(facts.mlflow_uri) if facts.mlflow_uri else None,
        "best": None
        if best is None
        else {"name": best.name, "overlapping": [other.name for other in overlapping(best, outcomes)]},
        "over_seeds": [_row(mean) for mean in over_seeds(about, outcomes)],
        "trials": [outcome.to_json() for outcome in ranked(about, outcomes)],
        "versions": versions(),
        "machine": describe_machine(),
    }
    checked: dict[str, Any] = finite(content)
    return checked


def _row(mean: SeedMean) -> dict[str, Any]:
    return {
        "values": dict(mean.values),
        "trials": [trial.name for trial in mean.trials],
        "pruned": mean.pruned,
        "mean": mean.mean,
        "interval": mean.interval,
        "gap": mean.gap,
        "gap_interval": mean.gap_interval,
    }


def best_yaml(about: StudyAbout, best: TrialOutcome, config: Config) -> str:
    """The best trial's configuration as a file for `s2l train`, with a name and a run directory of its own."""
    config = config.model_copy(update={"name": f"{about.name}-best", "run_dir": None})
    measured = f"{metric_label(about)} {metric_text(about, best.metric, best.interval)} after step {best.metric_step}"
    lines = [f"# Trial {best.name} of the study {about.name}, its best by {about.metric}: {measured}."]
    lines += ["# Its values of what the study varied:", *(f"#   {key}: {as_yaml(v)}" for key, v in best.values.items())]
    if best.exploits:
        steps = ", ".join(str(exploit.step) for exploit in best.exploits)
        lines.append(
            f"# Population based training changed its values after step {steps}: these are the last ones. A run "
            "that has them from its first step is another run."
        )
    return "\n".join(lines) + "\n" + yaml_of(_portable(config.model_dump(mode="json")))


def _portable(values: dict[str, Any]) -> dict[str, Any]:
    """The values with parts of the embedded family by name: another machine has them in another place."""
    for section, keys in (("models", ("learner", "explorer")), ("data", ("train", "eval"))):
        values[section] |= {key: source_name(values[section][key]) for key in keys if values[section][key]}
    return values


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value
