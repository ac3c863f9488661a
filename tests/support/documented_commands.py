"""Commands that documents and help texts show, read by the real parser and the real configuration."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

from s2l_ray.cli import _parse, _parser
from s2l_ray.config import Config, load_config
from s2l_ray.config.reference import keys
from s2l_ray.config.text import section_of
from s2l_ray.placement.inventory import load_inventory
from s2l_ray.tuning.reading import load_study, split_overrides
from tests.support.paths import ROOT

SECTIONS = {name for name, field in Config.model_fields.items() if section_of(field.annotation)}
KEY = re.compile(rf"(?<![\w/.])(?:{'|'.join(sorted(SECTIONS))})\.[a-z_]+(?:\.[a-z_]+)*(?![\w(/])")
"""A key of the configuration in running text, such as `rollout.group_size`."""
READERS_OWN = re.compile(r"[A-Z]{2,}|[\w-]+\.yaml")
"""FILE, DIR, CONFIG, my.yaml: a file of the reader's."""
DOTS = re.compile(r"\s(?:\.\.\.|…)$")
"""The end of a command whose further overrides are not shown."""


def parse(words: list[str]) -> argparse.Namespace:
    """The arguments of an `s2l` command, by the real parser; its overrides, by the real configuration.

    A configuration of the reader's is taken to be the quickstart, so that the overrides beside it are still checked.
    """
    arguments = _parse(words)
    config = getattr(arguments, "config", None)
    if config is not None:
        if READERS_OWN.fullmatch(config):
            config = "quickstart"
        of_config, of_study = split_overrides(arguments.overrides)
        load_config(ROOT / config if config.endswith(".yaml") else config, of_config)
        study = getattr(arguments, "study", None)
        if study is not None and not READERS_OWN.fullmatch(study):
            load_study(study, of_study)
    inventory = getattr(arguments, "inventory", None)
    if inventory is not None and not READERS_OWN.fullmatch(inventory):
        load_inventory(ROOT / inventory if inventory.endswith(".yaml") else inventory)
    if prefix := getattr(arguments, "prefix", None):
        assert list(keys(prefix)), f"no key begins with {prefix}"
    return arguments


def check_part(words: list[str]) -> None:
    """Of a part of a command, such as `plan --json`, the command and its options exist."""
    parser = _parser()
    for word in words:
        if (action := commands_of(parser)) is not None:
            assert word in action.choices, f"{parser.prog} has no command {word}"
            parser = action.choices[word]
        elif word.startswith("-"):
            assert word in parser._option_string_actions, f"{parser.prog} has no option {word}"


def check_command(text: str) -> None:
    """`s2l ...` with all of its arguments, or a part of it; of one that ends in `...`, the keys that it names exist."""
    words = shlex.split(DOTS.sub("", text))[1:]
    if len(words) < 2 or words[0] not in ("train", "plan", "explore") or not re.match(r"\w", words[1]):
        check_part(words)
    elif DOTS.search(text):  # what is not shown may be what makes the values fit each other
        overrides = [word.partition("=")[0] for word in words if "=" in word and not word.startswith("-")]
        parse([word for word in words if word.partition("=")[0] not in overrides])
        unknown = [name for name in overrides if name not in known_names()]
        assert not unknown, f"unknown key {unknown}"
    else:
        parse(words)


def commands_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    """The sub-commands of a parser."""
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def help_texts() -> Iterator[tuple[str, str]]:
    """Description, epilog and help of the arguments of every command, after the command's name."""
    parsers = [_parser()]
    while parsers:
        parser = parsers.pop()
        helps = [action.help for action in parser._actions]
        yield parser.prog, "\n".join(filter(None, (parser.description, parser.epilog, *helps)))
        if (action := commands_of(parser)) is not None:
            parsers += action.choices.values()


def shown_commands(text: str, begins: str) -> list[str]:
    """Indented lines of a text that begin with a word, without a comment after `#` or two spaces, or a pipe's rest."""
    lines = re.findall(rf"^ +({begins} .*)$", text, flags=re.MULTILINE)
    return [re.split(r"  +| #| \| ", line)[0].strip() for line in lines]


def known_names() -> set[str]:
    """Every key and every section of the configuration."""
    return {name for key in keys() for name in (key.name, key.section)}


def unknown_keys(text: str) -> list[str]:
    """What looks like a key of the configuration in a text, and is none."""
    known = known_names()
    return [name for name in KEY.findall(text) if name not in known]
