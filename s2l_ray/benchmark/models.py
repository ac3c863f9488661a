"""What a MODEL on the command line is.

DIRECTORY          a model in Hugging Face layout
embedded:small     a model of the embedded family
ORG/NAME[@REV]     a model on the Hub
RUN                the trained model of a run directory
RUN:learner        the learner that the run began with
RUN:explorer       the run's explorer
RUN:step-20        the learner of a checkpoint of the run
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from s2l_ray.config import Config, load_config
from s2l_ray.config.embedded import PREFIX, ModelSource
from s2l_ray.config.problems import problem_of_value
from s2l_ray.errors import ModelError
from s2l_ray.machine.places import existing_output
from s2l_ray.tasks.model_files import instead_of_model

PARTS = ("learner", "explorer")
STATE = "state.json"
"""What a checkpoint gets last, so that a directory without it is none."""
MODELS = "models"
_STEP = re.compile(r"step-0*(\d+)")
_CHECKPOINT = re.compile(rf"{_STEP.pattern}(?:-branch-([1-9]\d*))?")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is evaluated."""

    label: str
    """What tables and figures call it; unique among the models of an evaluation."""
    source: str
    """Directory, or name on the Hub. Of a checkpoint: where its model is to be written."""
    checkpoint: Path | None = None
    """Directory of the checkpoint, if it is one."""
    config: Config | None = field(default=None, compare=False)
    """Of the checkpoint's run."""


def find_models(words: Sequence[str], directory: Path) -> list[EvaluatedModel]:
    """The models that the command line names, each with a label of its own.

    Args:
        words: of the command line.
        directory: of the evaluation, which gets the models of checkpoints.

    Raises:
        ModelError: a run has no trained model yet, a directory is known to be no model, or a model is named twice.
            Whether other models exist is seen later.
        ConfigError: a run's configuration cannot be read.
    """
    found = [_find(word, directory) for word in words]
    labels = [model.label for model in found]
    models = [
        replace(model, label=word.rstrip("/")) if labels.count(model.label) > 1 else model
        for model, word in zip(found, words, strict=True)
    ]
    for number, model in enumerate(models):
        if any(model.source == other.source for other in models[:number]):
            raise ModelError(f"{words[number]} is given twice; leave one of them out")
    return models


def _find(word: str, directory: Path) -> EvaluatedModel:
    if word.startswith(PREFIX):
        return EvaluatedModel(word.removeprefix(PREFIX), _expanded(word))
    name, _, part = word.rpartition(":")
    if name and part in PARTS and (run := _run(name)):
        config = load_config(run / "config.yaml")
        return EvaluatedModel(f"{run.name}:{part}", getattr(config.models, part))
    if name and (step := _STEP.fullmatch(part)) and (run := _run(name)):
        return _checkpoint(run, int(step[1]), directory)
    if run := _run(word):
        model = run / "model"
        if not (model / "config.json").is_file():
            raise ModelError(
                f"{word} is a run without a trained model (model/), which it writes at its end; resume it with `s2l "
                f"train {run / 'config.yaml'}`, or evaluate {word}:learner or {word}:explorer"
            )
        return EvaluatedModel(run.name, str(model))
    if what := instead_of_model(word):
        raise ModelError(what)
    return EvaluatedModel(Path(word).name or word, word)


def _checkpoint(run: Path, step: int, directory: Path) -> EvaluatedModel:
    directories = [path.parent for path in (run / "checkpoints").glob(f"step-*/{STATE}")]
    named = [(match, path) for path in directories if (match := _CHECKPOINT.fullmatch(path.name))]
    # Of several of a step, as in a trial's history, the one of the newest branch.
    found = {int(match[1]): path for match, path in sorted(named, key=lambda one: int(one[0][2] or 0))}
    if step not in found:
        has = ", ".join(f"{run}:step-{number}" for number in sorted(found)) or "none"
        raise ModelError(f"{run} has no checkpoint of step {step}; it has {has}")
    label = f"{run.name}:step-{step}"
    return EvaluatedModel(label, str(directory / MODELS / label), found[step], load_config(run / "config.yaml"))


def _expanded(word: str) -> str:
    try:
        return TypeAdapter(ModelSource).validate_python(word)
    except ValidationError as error:
        raise ModelError(f"{word}: {problem_of_value(error)}") from None


def _run(text: str) -> Path | None:
    """The run directory of this path, if it is one."""
    path = existing_output(text)
    return path if (path / "config.yaml").is_file() and not (path / "config.json").is_file() else None
