"""What a MODEL on the command line is.

DIRECTORY          a model in Hugging Face layout
embedded:small     a model of the embedded family
ORG/NAME[@REV]     a model on the Hub
RUN                the trained model of a run directory
RUN:learner        the learner that the run began with
RUN:explorer       the run's explorer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from s2l_ray.config import load_config
from s2l_ray.config.embedded import PREFIX, ModelSource
from s2l_ray.errors import ModelError
from s2l_ray.machine.places import existing_output

PARTS = ("learner", "explorer")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is evaluated."""

    label: str
    """What tables and figures call it; unique among the models of an evaluation."""
    source: str
    """Directory, or name on the Hub."""


def find_models(words: Sequence[str]) -> list[EvaluatedModel]:
    """The models that the command line names, each with a label of its own.

    Raises:
        ModelError: a run has no trained model yet, or a model is named twice. Whether other models exist is seen later.
        ConfigError: a run's configuration cannot be read.
    """
    found = [_find(word) for word in words]
    labels = [model.label for model in found]
    models = [
        replace(model, label=word.rstrip("/")) if labels.count(model.label) > 1 else model
        for model, word in zip(found, words, strict=True)
    ]
    for number, model in enumerate(models):
        if any(model.source == other.source for other in models[:number]):
            raise ModelError(f"{words[number]} is given twice; leave one of them out")
    return models


def _find(word: str) -> EvaluatedModel:
    if word.startswith(PREFIX):
        return EvaluatedModel(word.removeprefix(PREFIX), _expanded(word))
    name, _, part = word.rpartition(":")
    if name and part in PARTS and (run := _run(name)):
        config = load_config(run / "config.yaml")
        return EvaluatedModel(f"{run.name}:{part}", getattr(config.models, part))
    if run := _run(word):
        model = run / "model"
        if not (model / "config.json").is_file():
            raise ModelError(
                f"{word} is a run without a trained model (model/), which it writes at its end; resume it with `s2l "
                f"train {run / 'config.yaml'}`, or evaluate {word}:learner or {word}:explorer"
            )
        return EvaluatedModel(run.name, str(model))
    return EvaluatedModel(Path(word).name or word, word)


def _expanded(word: str) -> str:
    try:
        return TypeAdapter(ModelSource).validate_python(word)
    except ValidationError as error:
        raise ModelError(f"{word}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _run(text: str) -> Path | None:
    """The run directory of this path, if it is one."""
    path = existing_output(text)
    return path if (path / "config.yaml").is_file() and not (path / "config.json").is_file() else None
