"""Which files of a data set's repository a split consists of.

As the Hub's documentation ("Data files Configuration") has it: the `configs` in the front matter of README.md name the
files of each split; without them the names of files and directories do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import yaml

from s2l_ray.errors import HubError
from s2l_ray.hub.names import DatasetSplit

README = "README.md"
ENDINGS = (".jsonl", ".parquet")
"""Types of files that can be read as problems."""
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


def _configurations(readme: str) -> dict[str, Any]:
    """data_files by the name of the configuration; {} if README.md has none."""
    matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, re.DOTALL)
    try:
        values = yaml.safe_load(matter[1]) if matter else {}
    except yaml.YAMLError:  # the Hub shows it all the same, and names of files remain
        return {}
    configs = values.get("configs") if isinstance(values, Mapping) else None
    found: dict[str, Any] = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, Mapping) and config.get("data_files"):
            name = str(config.get("config_name", "default"))
            found[name] = config["data_files"]
            if config.get("default"):  # it is known by that name too
                found["default"] = config["data_files"]
    return found


def _configured(split: DatasetSplit, configurations: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    name = split.path
    if not name:
        if len(configurations) > 1 and "default" not in configurations:
            raise HubError(
                f"{split}: name one of its subsets, as in {replace(split, path=next(iter(configurations)))}: "
                f"{', '.join(configurations)}"
            )
        name = "default" if "default" in configurations else next(iter(configurations))
    splits = _patterns(configurations[name])
    chosen = _choose(split, list(splits))
    files = sorted(file for file in names if any(fnmatch(file, pattern) for pattern in splits[chosen]))
    if not files:
        raise HubError(f"{split}: its README.md names {', '.join(splits[chosen])}, and the repository has no such file")
    return files


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Patterns of file names by split. A mere text or list is the training split."""
    if isinstance(data_files, str):
        return {"train": [data_files]}
    if all(isinstance(item, str) for item in data_files):
        return {"train": list(data_files)}
    found: dict[str, list[str]] = {}
    for item in data_files:
        if isinstance(item, Mapping) and item.get("path"):
            path = item["path"]
            found[str(item.get("split", "train"))] = [path] if isinstance(path, str) else [str(part) for part in path]
    return found


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
