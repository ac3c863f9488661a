"""What a source of models or data may be.

A path, a part of the embedded family, which the package carries, or what is on the Hub.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from s2l_ray.config.section import AfterValidator, LocalPath
from s2l_ray.errors import HubError
from s2l_ray.hub.names import dataset_split, model_repository

PREFIX = "embedded:"
FAMILY = Path("s2l_ray") / "miniature" / "family"
PARTS = ("small", "large", "train.jsonl", "heldout.jsonl")


def family_directory(root: Path) -> Path:
    """The embedded family of the package in `root`; if that lacks it, the one of the s2l-ray that is installed.

    What `ray job submit --working-dir` uploads lacks it (.rayignore), and comes before what is installed.
    """
    if not (root / FAMILY).is_dir():
        with suppress(PackageNotFoundError):
            package = distribution("s2l-ray")
            # An editable installation says where its source is (PEP 610).
            origin = urlsplit(json.loads(package.read_text("direct_url.json") or "{}").get("url", ""))
            places = [Path(str(package.locate_file(FAMILY)))]
            if origin.scheme == "file":
                places.append(Path(unquote(origin.path)) / FAMILY)
            return next((place for place in places if place.is_dir()), root / FAMILY)
    return root / FAMILY


DIRECTORY = family_directory(Path(__file__).parents[2])


def _expand(text: str) -> str:
    """The path of a part of the embedded family. Any other text is returned as it is."""
    if not text.startswith(PREFIX):
        return text
    part = text.removeprefix(PREFIX)
    if part not in PARTS:
        raise ValueError(f"the embedded family has {', '.join(PREFIX + name for name in PARTS)}, and nothing else")
    return str(DIRECTORY / part)


def source_name(path: str) -> str:
    """What a configuration may call a path: `embedded:PART` for a part of the embedded family, else the path itself."""
    place = Path(path)
    return f"{PREFIX}{place.relative_to(DIRECTORY).as_posix()}" if place.is_relative_to(DIRECTORY) else path


def _model(text: str) -> str:
    try:
        model_repository(text)
    except HubError as error:
        raise ValueError(str(error)) from None
    return text


def _data(text: str) -> str:
    try:
        dataset_split(text)
    except HubError as error:
        raise ValueError(str(error)) from None
    return text


ModelSource = Annotated[LocalPath, AfterValidator(_expand), AfterValidator(_model)]
"""The directory of a model; the name of a model of the embedded family, which becomes its path; or ORG/NAME[@REVISION]
on the Hub.
"""
DataSource = Annotated[LocalPath, AfterValidator(_expand), AfterValidator(_data)]
"""The path of a data file; the name of a file of the embedded family, which becomes its path; or a split of a data set
on the Hub, see `hub.names`.
"""
