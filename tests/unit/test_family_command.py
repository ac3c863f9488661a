"""`s2l family build`: the recipe that its words give."""

from __future__ import annotations

import re

import pytest

from s2l_ray.commands.family import RECIPE, recipe_of
from s2l_ray.errors import ConfigError
from s2l_ray.miniature.recipe import QUICK, Recipe, Shape


def test_words_take_the_place_of_the_recipe_s_values() -> None:
    assert recipe_of([]) == QUICK
    assert recipe_of(["seed=2", "small=[32,1,96]"]) == Recipe(problems=6000, epochs=18, small=Shape(32, 1, 96), seed=2)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "widht=3",
            "recipe: widht: unknown key; valid keys here: epochs, heldout_problems, large, ",
        ),
        ("number=3", "recipe: number: unknown key; did you mean 'numbers'?"),
        ("seed", "override seed: write it as key=value"),
        ("numbers=7", "recipe: numbers: must be less than or equal to 6"),
        ("problems=63", "recipe: problems: must be greater than or equal to 64"),
        ("small=[48,2,96]", "recipe: small: the width, 48, must be a multiple of 32, which an attention head has"),
        ("small=[32,0,96]", "recipe: small.1: must be greater than 0"),
        ("large=large", "recipe: large: must be a list of three numbers: width, layers and feed-forward width"),
        ("large=[64,2]", "recipe: large: must be a list of three numbers"),
        ("large=[1048576,1,1]", "recipe: large: 1048576 is too much for this recipe, which is for small models"),
        ("epochs=.nan", "recipe: epochs: must be a finite number"),
        ("seed=true", "recipe: seed: must be a number"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as raised:
        recipe_of([word])
    assert "\n" not in str(raised.value)


def test_the_help_has_every_key_with_its_default() -> None:
    for key, value in QUICK.model_dump(mode="json").items():
        assert f"{key}={str(value).replace(' ', '')}" in RECIPE
