"""The files of a bank, on disk or in an object store: the same few operations, through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import BankError
from s2l_ray.machine.places import output_path


class Storage:
    """The files under one root. Paths are relative to it, with slashes.

    Args:
        url: a directory, or a URI that pyarrow knows: s3://..., gs://..., file://..., fsspec+PROTOCOL://...

    Raises:
        BankError: here and in every method, if the file system refuses the operation; with its reason.
    """

    def __init__(self, url: str) -> None:
        self.url = url if "://" in url else str(output_path(url).resolve())
        with self._explained():
            if "://" in url:
                self._fs, self._root = fs.FileSystem.from_uri(url.rstrip("/"))
            else:
                self._fs, self._root = fs.LocalFileSystem(), self.url

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine, perhaps on a mounted file system."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def directories(self, path: str = "") -> list[str]:
        """The names of the directories in `path`, sorted; none if `path` does not exist."""
        return [info.base_name for info in self._list(path) if info.type == fs.FileType.Directory]

    def files(self, path: str, suffix: str) -> list[tuple[str, int]]:
        """(name, bytes) of the files in `path` that end with `suffix`, sorted; none if `path` does not exist."""
        found = [info for info in self._list(path) if info.type == fs.FileType.File]
        return [(info.base_name, info.size) for info in found if info.base_name.endswith(suffix)]

    def exists(self, path: str) -> bool:
        """Whether `path` is a file."""
        with self._explained():
            return bool(self._fs.get_file_info(self._at(path)).type == fs.FileType.File)

    def read(self, path: str) -> bytes:
        """The content of a file."""
        with self._explained(path), self._fs.open_input_stream(self._at(path)) as stream:
            return bytes(stream.read())

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """A file for random access. Errors while it is open are raised as BankError with its name."""
        with self._explained(path), self._fs.open_input_file(self._at(path)) as file:
            yield file

    def put(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file completely or not at all: by renaming it on a disk, by a single upload in an object store."""
        target = self._at(path)
        with self._explained(path):
            if self.is_local:
                _write_and_rename(Path(target), data)
            else:
                self._fs.create_dir(os.path.dirname(target), recursive=True)
                with self._fs.open_output_stream(target) as stream:
                    stream.write(data)

    def _list(self, path: str) -> list[fs.FileInfo]:
        with self._explained():
            found = self._fs.get_file_info(fs.FileSelector(self._at(path), allow_not_found=True))
        return sorted(found, key=lambda info: info.base_name)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextlib.contextmanager
    def _explained(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, ImportError, ValueError) as error:
            where = f"{self.url}/{path}" if path else self.url
            raise BankError(f"bank.path: {where}: {' '.join(str(error).split())}") from error


def _write_and_rename(target: Path, data: bytes | pa.Buffer) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()  # on a full disk it would take up space that is needed
        raise
