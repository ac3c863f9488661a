"""Which files of a data set's repository a split consists of.

As the Hub's documentation ("Data files Configuration") has it: the `configs` in the front matter of README.md name the
files of each split; without them the names of files and directories do.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml
from fsspec.utils import glob_translate  # the rules of the Hub's own readers: * stays within a directory, ** does not

from s2l_ray.errors import HubError
from s2l_ray.hub.names import DatasetSplit

README = "README.md"
ENDINGS = (".jsonl", ".parquet")
"""Types of files that can be read as problems."""
LONGEST_FRONT_MATTER = 2**20
"""Characters; of real ones a few thousand."""
_WORD = r"(?:^|[-_./]){}(?:[-_./]|$)"


def files_of(split: DatasetSplit, names: Sequence[str], readme: str | None) -> list[str]:
    """The files of a split, in the order in which they are read.

    Args:
        split: what the configuration asks for.
        names: all files of the repository.
        readme: the text of its README.md, if it has one.

    Raises:
        HubError: there is no such split, or its files are of another type; the message names what there is.
    """
    if split.path in names:
        return _readable(split, [split.path])
    configurations = _configurations(readme or "")
    if split.path in configurations or (not split.path and configurations):
        return _readable(split, _configured(split, configurations, names))
    return _readable(split, _named(split, names))


def _readable(split: DatasetSplit, files: list[str]) -> list[str]:
    other = [file for file in files if not file.endswith(ENDINGS)]
    if other:
        raise HubError(
            f"{split} is in {other[0]}, which cannot be read; {' and '.join(ENDINGS)} files can. Convert it and give "
            "the path of the file, or name another revision: the Hub converts most data sets in refs/convert/parquet"
        )
    return files


# ---- by README.md ---------------------------------------------------------------------------------------------------


def _configurations(readme: str) -> dict[str, dict[str, list[str]]]:
    """Patterns of file names by split, by the name of the configuration; {} if README.md has none that can be read."""
    matter = re.match(r"---[ \t]*\r?\n(.*?)\n---[ \t]*(?:\r?\n|$)", readme, re.DOTALL)
    if matter is None or len(matter[1]) > LONGEST_FRONT_MATTER:
        return {}
    try:
        values = yaml.safe_load(matter[1])
    except (yaml.YAMLError, ValueError, RecursionError):  # the Hub shows it all the same, and names of files remain
        return {}
    configs = values.get("configs") if isinstance(values, Mapping) else None
    found: dict[str, dict[str, list[str]]] = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, Mapping) and (splits := _patterns(config.get("data_files"))):
            found[_word(config.get("config_name")) or "default"] = splits
            if config.get("default"):  # it is known by that name too
                found["default"] = splits
    return found


def _configured(
    split: DatasetSplit, configurations: Mapping[str, dict[str, list[str]]], names: Sequence[str]
) -> list[str]:
    name = split.path
    if not name:
        if len(configurations) > 1 and "default" not in configurations:
            raise HubError(
                f"{split}: name one of its subsets, as in {replace(split, path=next(iter(configurations)))}: "
                f"{', '.join(configurations)}"
            )
        name = "default" if "default" in configurations else next(iter(configurations))
    splits = configurations[name]
    chosen = _choose(split, list(splits))
    patterns = [re.compile(glob_translate(pattern)) for pattern in splits[chosen]]
    files = sorted(file for file in names if any(pattern.match(file) for pattern in patterns))
    if not files:
        raise HubError(f"{split}: its README.md names {', '.join(splits[chosen])}, and the repository has no such file")
    return files


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Patterns of file names by split; {} if it is something else. A mere text or list is the training split."""
    if isinstance(data_files, Mapping):
        return _by_split(data_files.items())
    if isinstance(data_files, list) and any(isinstance(item, Mapping) for item in data_files):
        items = [item for item in data_files if isinstance(item, Mapping)]
        return _by_split((item.get("split", "train"), item.get("path")) for item in items)
    return _by_split([("train", data_files)])


def _by_split(items: Iterable[tuple[Any, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split, paths in items:
        patterns = [path for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str)]
        if patterns and (name := _word(split)):
            found[name] = patterns
    return found


def _word(value: Any) -> str | None:
    """A name, which YAML may have read as a number or a date. Anything nested could be of any size as a text."""
    return str(value) if isinstance(value, str | int | float | datetime.date) else None


# ---- by names -------------------------------------------------------------------------------------------------------


def _named(split: DatasetSplit, names: Sequence[str]) -> list[str]:
    inside = [name for name in names if not split.path or name.startswith(f"{split.path}/")]
    if split.path and not inside:
        raise HubError(f"{split}: the repository has neither a subset nor a file or directory {split.path}")
    data = [name for name in inside if name.endswith(ENDINGS)]
    if not data:
        raise HubError(f"{split}: the repository has no {' or '.join(ENDINGS)} file; name a revision or path that has")
    below = {name: name[len(split.path) :].removeprefix("/") for name in data}
    if split.split is None:
        if len(data) == 1:
            return data
        raise HubError(f"{split}: name a split, as in {replace(split, split='train')}; its files are {_few(data)}")
    files = [name for name in data if re.search(_WORD.format(re.escape(split.split)), below[name])]
    if not files:
        raise HubError(f"{split}: no file is named after the split {split.split}; there are {_few(data)}")
    return sorted(files)


def _choose(split: DatasetSplit, splits: list[str]) -> str:
    if split.split in splits:
        return split.split
    if split.split is None and len(splits) == 1:
        return splits[0]
    what = "name one of its splits" if split.split is None else f"it has no split {split.split}"
    raise HubError(f"{split}: {what}: {', '.join(splits)}, as in {replace(split, split=splits[0])}")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
