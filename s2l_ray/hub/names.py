"""How a configuration names what is on the Hub.

a model             ORG/NAME[@REVISION]
a split of a data set   hf://datasets/ORG/NAME[@REVISION][/PATH][:SPLIT]
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from s2l_ray.errors import HubError
from s2l_ray.kinds import RepositoryKind

SCHEME = "hf://"
DATASET_FORM = "hf://datasets/ORG/NAME[@REVISION][/PATH][:SPLIT]"
_ID = r"(?P<id>\w[\w.-]*/\w[\w.-]*)"
_REVISION = r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@:\s]+))?"
_MODEL = re.compile(_ID + _REVISION)
_DATASET = re.compile(r"hf://datasets/" + _ID + _REVISION + r"(?:/(?P<path>[^:]+?))?/?(?::(?P<split>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_IMPOSSIBLE = re.compile(r"\.\.|[\x00-\x20\x7f~^:?*\[\\]|^/|/$|//|^\.|/\.")
"""In the name of a revision, as `git check-ref-format` has it."""


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub at one revision."""

    kind: RepositoryKind
    id: str
    """ORG/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None: the repository's default branch."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return self.revision is not None and is_commit(self.revision)

    def at(self, commit: str) -> Repository:
        """The same repository at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{_quoted(self.revision)}"


@dataclass(frozen=True)
class DatasetSplit:
    """A split of a data set on the Hub."""

    repository: Repository
    path: str = ""
    """Name of a configuration (subset) of the data set, or path of a directory or file in its repository."""
    split: str | None = None

    def at(self, commit: str) -> DatasetSplit:
        """The same split at a commit."""
        return replace(self, repository=self.repository.at(commit))

    def __str__(self) -> str:
        path, split = f"/{self.path}" if self.path else "", f":{self.split}" if self.split else ""
        return f"{SCHEME}datasets/{self.repository}{path}{split}"


def is_commit(text: object) -> bool:
    """Whether it is the id of a commit, in full."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def model_repository(text: str) -> Repository | None:
    """The repository that the value of models.learner or models.explorer names; None if the value is a path.

    Raises:
        HubError: it begins as an address of the Hub does, which is a form for data; or no revision has such a name.
    """
    if text.startswith(SCHEME):
        raise HubError(f"{text} is not the name of a model; write ORG/NAME or ORG/NAME@REVISION, without {SCHEME}")
    found = _MODEL.fullmatch(text)
    return Repository("model", found["id"], _unquoted(found["revision"])) if found else None


def dataset_split(text: str) -> DatasetSplit | None:
    """The split that the value of data.train or data.eval names; None if the value is a path.

    Raises:
        HubError: it begins as an address of the Hub does, and is none.
    """
    if not text.startswith(SCHEME):
        return None
    found = _DATASET.fullmatch(text)
    if found is None:
        raise HubError(f"{text} is not an address of a data set; it has the form {DATASET_FORM}")
    repository = Repository("dataset", found["id"], _unquoted(found["revision"]))
    return DatasetSplit(repository, found["path"] or "", found["split"])


def _unquoted(revision: str | None) -> str | None:
    if revision is None:
        return None
    if _IMPOSSIBLE.search(name := unquote(revision)):
        raise HubError(f"{revision!r} is not the name of a branch, tag or commit")
    return name


def _quoted(revision: str) -> str:
    """A branch's name may have slashes, which would begin a path."""
    return revision if re.fullmatch(r"refs/(?:pr|convert)/[\w.-]+", revision) else quote(revision, safe="")
