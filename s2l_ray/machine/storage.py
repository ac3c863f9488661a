"""Files on disk or in an object store: the same few operations, through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import S2LError, StorageError
from s2l_ray.machine.disk import writing

CHUNK_BYTES = 16 * 2**20
"""Most of a file that is in memory at a time while it is copied."""
CONNECT_S, ANSWER_S, TRIES = 5.0, 15.0, 3
"""Bounds on one request to S3: seconds to connect, seconds without an answer, attempts."""
GCS_RETRY_S = 20
"""Seconds for which a request to GCS is tried again."""
S3_OPTIONS = ("region", "scheme", "endpoint_override")


class Storage:
    """The files under one root. Paths are relative to it, with slashes.

    Credentials are taken from where the store's own library looks for them: the environment, its files, the machine.

    Args:
        url: a directory, or a URI that pyarrow knows: s3://..., gs://..., file://..., fsspec+PROTOCOL://...
        key: of the configuration that gives it, for messages.
        error: class of what is raised.

    Raises:
        S2LError: of class `error`, here and in every method, if the file system refuses the operation; with its reason.
    """

    def __init__(self, url: str, key: str, error: type[S2LError] = StorageError) -> None:
        self._key, self._error = key, error
        try:
            self.url = url if "://" in url else str(Path(url).expanduser().resolve())
        except RuntimeError as reason:  # links that go in a circle
            raise error(f"{key}: {reason}") from None
        with self._explained():
            self._fs, self._root = _opened(self.url)

    def __str__(self) -> str:
        return self.url.partition("?")[0].rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine, perhaps on a mounted file system."""
        return isinstance(self._fs, fs.LocalFileSystem)

    @property
    def opened(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of the root in it, for libraries that take pyarrow's."""
        return self._fs, self._root

    def directories(self, path: str = "") -> list[str]:
        """The names of the directories in `path`, sorted; none if `path` does not exist."""
        if isinstance(self._fs, fs.GcsFileSystem):  # pyarrow lists those only for which there is an object of their own
            return sorted({name.partition("/")[0] for name in self.tree(path) if "/" in name})
        return [info.base_name for info in self._list(path) if info.type == fs.FileType.Directory]

    def files(self, path: str, suffix: str) -> list[tuple[str, int]]:
        """(name, bytes) of the files in `path` that end with `suffix`, sorted; none if `path` does not exist."""
        found = [info for info in self._list(path) if info.type == fs.FileType.File]
        return [(info.base_name, info.size) for info in found if info.base_name.endswith(suffix)]

    def exists(self, path: str) -> bool:
        """Whether `path` is a file."""
        with self._explained(path):
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
                with self._writing(target) as stream:
                    stream.write(data)

    def tree(self, path: str) -> dict[str, int]:
        """The bytes of every file below `path`, by its path relative to that; {} if `path` does not exist."""
        selector = fs.FileSelector(self._at(path), allow_not_found=True, recursive=True)
        with self._explained(path):
            found = [info for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]
        within = len(self._at(path)) + 1
        return {info.path[within:]: info.size for info in found}

    def upload(self, source: Path, path: str, go_on: Callable[[], None]) -> None:
        """Copy a file of this machine. What `go_on`, called for every chunk, raises ends the copy.

        A copy that is ended may leave a file that is cut off: compare sizes (`tree`) before you rely on it.
        """
        with self._explained(path), source.open("rb") as file, self._writing(self._at(path)) as stream:
            while chunk := file.read(CHUNK_BYTES):
                go_on()
                stream.write(chunk)

    def download(self, path: str, target: Path, go_on: Callable[[], None]) -> None:
        """Copy a file to this machine. What `go_on`, called for every chunk, raises ends the copy.

        Raises:
            DiskError: it cannot be written here.
        """
        with self._explained(path), self._fs.open_input_stream(self._at(path)) as stream, writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while chunk := stream.read(CHUNK_BYTES):
                    go_on()
                    file.write(chunk)

    def remove(self, path: str) -> None:
        """Delete a file, if it exists."""
        if self.exists(path):
            with self._explained(path):
                self._fs.delete_file(self._at(path))

    def remove_tree(self, path: str) -> None:
        """Delete a directory and all that is in it."""
        with self._explained(path):
            if self.is_local:
                shutil.rmtree(self._at(path), ignore_errors=True)
            else:
                try:
                    self._fs.delete_dir(self._at(path))
                except FileNotFoundError:  # GCS has deleted the files, and misses one that stands for the directory
                    if self.tree(path):
                        raise

    @contextlib.contextmanager
    def _writing(self, target: str) -> Iterator[pa.NativeFile]:
        """A new file, which is there once the block has ended."""
        if not isinstance(self._fs, (fs.S3FileSystem, fs.GcsFileSystem)):
            # These two have no directories, and would try to make a bucket that is missing.
            self._fs.create_dir(os.path.dirname(target), recursive=True)
        stream = self._fs.open_output_stream(target)
        try:
            yield stream
            stream.close()
        except BaseException:
            _never_freed(stream)
            raise

    def _list(self, path: str) -> list[fs.FileInfo]:
        with self._explained(path):
            found = self._fs.get_file_info(fs.FileSelector(self._at(path), allow_not_found=True))
        return sorted(found, key=lambda info: info.base_name)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextlib.contextmanager
    def _explained(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, ImportError, ValueError) as error:
            where = f"{self}/{path}" if path else str(self)
            reason = " ".join(str(error).split()).partition(" error_info=")[0]  # GCS repeats itself from there on
            raise self._error(f"{self._key}: {where}: {reason}") from error


def _never_freed(stream: pa.NativeFile) -> None:
    """Keep a file whose writing failed to the end of the process, and through it.

    Where one is freed, pyarrow tries once more to finish it, and no other thread of the process runs meanwhile: a
    minute if the store hangs, for ever if the process is ending. Few fail so late that there is one.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def _opened(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a directory or URI, and the path in it."""
    if "://" not in url:
        return fs.LocalFileSystem(), url
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _s3(parts.netloc, dict(parse_qsl(parts.query))), unquote(f"{parts.netloc}{parts.path}").rstrip("/")
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
        url = parts._replace(query="&".join(filter(None, (parts.query, f"retry_limit_seconds={GCS_RETRY_S}")))).geturl()
    try:
        found, root = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        raise ValueError("a URI must begin with s3://, gs://, file:// or fsspec+PROTOCOL://") from None
    return found, root.rstrip("/")


def _s3(bucket: str, options: dict[str, str]) -> fs.S3FileSystem:
    """S3 with bounds on its requests, which a URI cannot give: pyarrow's own let a server that hangs take minutes."""
    if unknown := sorted(options.keys() - set(S3_OPTIONS)):
        raise ValueError(f"unknown option {unknown[0]}; a URI of S3 may have {', '.join(S3_OPTIONS)}")
    elsewhere = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    if not options.keys() & {"region", "endpoint_override"} and not any(map(os.environ.get, elsewhere)):
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_S,
        request_timeout=ANSWER_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
    )


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
