"""What a run trains and evaluates on: checked models, problems and rendered prompts. Starts no process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from s2l_ray.config import Config
from s2l_ray.config.extension_points import check_extensions
from s2l_ray.errors import DataError
from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import Prompt
from s2l_ray.run.identity import contents_of
from s2l_ray.tasks.compat import check_context, check_models, check_window, model_directory
from s2l_ray.tasks.data import ProblemSet, load_problems
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts


@dataclass(frozen=True)
class Inputs:
    """The problems of a run as they were read, and as prompts."""

    problems: dict[str, ProblemSet]
    """By use: "train", and "eval" if data.eval is given."""
    train: list[Prompt]
    """In file order."""
    held_out: list[Prompt]
    """In file order; empty without data.eval. Their ids differ from those of `train`."""
    contents: dict[str, str]
    """What the files hold that these were read from, see `identity.contents_of`."""

    @property
    def files(self) -> dict[str, list[str]]:
        """Ids of the held-out prompts by the file of data.eval that they are from, where that is a directory."""
        found: dict[str, list[str]] = {}
        if "eval" in self.problems:
            for problem, prompt in zip(self.problems["eval"].problems, self.held_out, strict=True):
                for file in problem.files:
                    found.setdefault(file, []).append(prompt.id)
        return found


def load_inputs(config: Config) -> Inputs:
    """Check the models, the data and the functions that the configuration names, and render the prompts.

    Raises:
        S2LError: the models do not go together, a row of the data is malformed, a function cannot be imported, or
            rollout.replay_stragglers cannot be read.
    """
    models, data = config.models, config.data
    check_extensions(config)
    check_models(models.learner, models.explorer, models.trust_remote_code)
    kinds: tuple[Source, ...] = ("learner", "explorer")
    for kind in kinds:
        check_context(f"models.{kind}", getattr(models, kind), config.max_model_len(kind))
    longest = data.max_prompt_tokens + config.rollout.max_tokens
    check_window("models.learner", models.learner, longest, models.trust_remote_code)
    problems = {"train": load_problems(data.train, data.train_limit, config.verifier.columns)}
    if data.eval:
        problems["eval"] = load_problems(data.eval, data.eval_limit, config.verifier.columns)
    directory = model_directory("models.learner", models.learner)
    tokenizer = load_tokenizer(directory, models.trust_remote_code)
    prompts = {use: render_prompts(found.problems, tokenizer, data) for use, found in problems.items()}
    # Ids are unique within a file; the two files' must not meet.
    held_out = [replace(prompt, id=f"eval/{prompt.id}") for prompt in prompts.get("eval", [])]
    _check_ids(prompts["train"], held_out, data.train)
    contents = contents_of(config, problems, [*prompts["train"], *held_out], tokenizer)
    return Inputs(problems, prompts["train"], held_out, contents)


def _check_ids(train: list[Prompt], held_out: list[Prompt], path: str) -> None:
    """Refuse a training problem with a held-out one's id; only those of a directory can have one."""
    if both := {prompt.id for prompt in train} & {prompt.id for prompt in held_out}:
        raise DataError(
            f"data.train: problem {min(both)} of {path} has the id of a held-out one; rename the file eval in it"
        )


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute local paths: actors need not share the driver's working directory."""
    models = {
        key: str(Path(getattr(config.models, key)).resolve())
        for key in ("learner", "explorer")
        if Path(getattr(config.models, key)).exists()
    }
    update = {"models": config.models.model_copy(update=models), "run_dir": str(config.run_path.resolve())}
    return config.model_copy(update=update)
