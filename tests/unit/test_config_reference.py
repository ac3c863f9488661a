"""`s2l_ray.config.reference`: the keys, as the models have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.config import load_config
from s2l_ray.config.extension_points import REGISTRIES
from s2l_ray.config.reference import Key, keys
from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.objective import CORRECTIONS

KEYS = {key.name: key for key in keys()}


@pytest.mark.parametrize(
    ("name", "type_", "default"),
    [
        ("name", "text", "run"),
        ("seed", "integer", "1"),
        ("models.learner", "path", None),
        ("data.train_limit", "integer > 0 | null", "null"),
        ("data.date", "date | null", "null"),
        ("data.prompt", "text", '"{question}"'),
        ("run_dir", "path | null", "null"),
        ("rollout.explorer.top_p", "number in (0, 1]", "1.0"),
        ("evaluation.sampling.top_k", "integer >= 0", "0"),
        ("evaluation.k", "list of integer > 0", "[1, 8]"),
        ("trainer.betas", "list of 2 x number in [0, 1]", "[0.9, 0.999]"),
        ("trainer.learning_rate", "number > 0", "1e-6"),
        ("trainer.compile", "true | false", "false"),
        ("models.dtype", "auto | bfloat16 | float32", "auto"),
        ("verifier.kind", " | ".join((*VERIFIERS.names, "module:function")), "math"),
        ("objective.correction.learner", " | ".join((*CORRECTIONS.names, "module:function")), "none"),
    ],
)
def test_type_and_default_are_those_of_the_model(name: str, type_: str, default: str | None):
    assert (KEYS[name].type, KEYS[name].default) == (type_, default)


def test_every_default_given_as_an_override_is_the_default(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("models: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n")
    given = [f"{key.name}={key.default}" for key in keys() if key.default is not None and key.name != "data.prompt"]
    assert len(given) > 100
    assert load_config(file, given) == load_config(file)


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_users_own_function_is_an_item_of_its_own_where_there_are_items(name: str):
    lines = KEYS[name].text.splitlines()
    if any(line.startswith("- ") for line in lines):
        own = [line for line in lines if "module:function" in line]
        assert len(own) == 1 and own[0].startswith(("- `module:function`: your own", "- your own `module:function`"))


def test_every_key_has_a_text():
    assert [key.name for key in KEYS.values() if not key.text.rstrip("`").endswith((".", ")"))] == []


def test_a_text_keeps_paragraphs_and_items_and_loses_line_breaks():
    lines = KEYS["schedule.kind"].text.splitlines()
    assert lines[0].startswith("How the explorer's share") and lines[0].endswith("(mix_steps - 1):")
    assert lines[1] == "" and lines[-2] == ""
    assert [line.split(":")[0] for line in lines[2:4]] == ["- `linear` (the paper's)", "- `cosine`"]


@pytest.mark.parametrize(
    ("prefix", "count"), [("rollout.max_tokens", 1), ("rollout.explorer", 4), ("checkpoint", 5), ("", len(KEYS))]
)
def test_a_prefix_is_a_key_or_a_section(prefix: str, count: int):
    found = keys(prefix)
    assert len(found) == count
    assert all(isinstance(key, Key) and key.name.startswith(prefix) for key in found)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("max_tokens", r"^max_tokens: unknown key; did you mean rollout.max_tokens\?$"),
        ("rolout", r"^rolout: unknown key; did you mean rollout\?$"),
        ("rollout.max", r"^rollout.max: unknown key; did you mean rollout.max_tokens or rollout.max_staleness\?$"),
        ("zzz", "^zzz: unknown key; `s2l config` lists all keys$"),
    ],
)
def test_an_unknown_prefix_names_the_nearest(prefix: str, message: str):
    with pytest.raises(ConfigError, match=message):
        keys(prefix)
