"""Models out of the checkpoints of runs, as `s2l export`, evaluations and comparisons need them.

A checkpoint's files are compared with its manifest first, as when a run resumes: damage would be in the model, unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from s2l_ray.benchmark.models import EvaluatedModel
from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.kinds import Dtype
from s2l_ray.run.checkpoints import CHECKPOINTS, TRAINER, read_state
from s2l_ray.run.manifest import check_files

KEY = "models.learner"


def configuration_of(checkpoint: Path) -> Config:
    """The configuration of the run that a checkpoint is in.

    Raises:
        ConfigError: it is in none, or the configuration cannot be read.
    """
    path = checkpoint.parent.parent / "config.yaml"
    if checkpoint.parent.name != CHECKPOINTS or not path.is_file():
        raise ConfigError(
            f"{checkpoint} is not inside a run directory, whose config.yaml says which learner it was trained from; "
            f"name the checkpoint where its run has it: RUN:step-N, or RUN/{CHECKPOINTS}/{checkpoint.name}"
        )
    return load_config(path)


def dtype_of(config: Config) -> Dtype:
    """The type in which a run computed, and so handed out its weights."""
    return "float32" if config.models.dtype == "auto" else config.models.dtype


def write_model(checkpoint: Path, config: Config, target: Path, dtype: Dtype, say: Callable[[str], None]) -> None:
    """Write the learner as a checkpoint has it, adapters merged.

    Args:
        checkpoint: its directory.
        config: of its run; the learner, if it is of the Hub, is in the local cache.
        target: directory to write; must not exist.
        dtype: of the weights.
        say: told what is under way, which takes minutes for a large model.

    Raises:
        ConfigError: it is no whole checkpoint, or one of another version.
        ModelError, DataError: the checkpoint, or the learner that the run began with, cannot be used.
        DiskError: the directory cannot be written.
    """
    learner = _learner(config)
    check_whole(checkpoint, say)
    say(f"writing the learner of {checkpoint.name} in {dtype}")
    from s2l_ray.training.checkpoint_model import write_checkpoint_model

    write_checkpoint_model(checkpoint / TRAINER, learner, target, dtype, lora_alpha=config.trainer.lora_alpha)


def check_whole(checkpoint: Path, say: Callable[[str], None]) -> None:
    """Check that the files of a checkpoint hold what was written.

    Raises:
        ConfigError: it is no whole checkpoint, or one of another version.
        DataError: one of them does not; it is named.
    """
    say(f"checking {checkpoint.name}")
    try:
        read_state(checkpoint)
        check_files(checkpoint)
    except DataError as error:
        reason = str(error).partition("; ")[0]
        raise DataError(
            f"{reason}; no model is made of a damaged checkpoint: name another one, or restore the file"
        ) from None


def ready(
    models: Sequence[EvaluatedModel], fetched: Callable[[str, str], str], say: Callable[[str], None]
) -> list[EvaluatedModel]:
    """The models, with what they need of the Hub in the local cache. Those of checkpoints are written, if need be.

    Args:
        models: that a command line names.
        fetched: fetches the model that is the value of a key, and returns its name.
        say: told what is under way.

    Raises:
        HubError: a model cannot be fetched.
        ConfigError, ModelError, DataError, DiskError: see `write_model`.
    """
    found = [_fetched(model, fetched) for model in models]
    for model in found:
        if model.checkpoint is not None and model.config is not None and not Path(model.source).exists():
            # In the run's own type: then it is what the run's engines held, and what the run leaves at its end.
            write_model(model.checkpoint, model.config, Path(model.source), dtype_of(model.config), say)
    return found


def _fetched(model: EvaluatedModel, fetched: Callable[[str, str], str]) -> EvaluatedModel:
    if model.config is None:
        return replace(model, source=fetched("models.explorer", model.source))
    models = model.config.models.model_copy(update={"learner": fetched(KEY, model.config.models.learner)})
    return replace(model, config=model.config.model_copy(update={"models": models}))


def _learner(config: Config) -> Path:
    """The directory of the learner that a run began with. What is read and copied of it is there, and whole.

    Raises:
        ModelError: it is not.
    """
    from s2l_ray.tasks.compat import check_beside_weights, model_directory
    from s2l_ray.tasks.model_files import weight_shapes

    directory = model_directory(KEY, config.models.learner)
    check_beside_weights(KEY, directory, config.models.trust_remote_code)
    if config.trainer.lora_rank:
        weight_shapes(KEY, directory)
    return directory
