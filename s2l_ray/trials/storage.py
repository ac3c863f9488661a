"""Tune's storage as a URL. Tune gives a trial its file system, without the URL that the user gave."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from pyarrow import fs

from s2l_ray.errors import ConfigError


def storage_url(files: fs.FileSystem, path: str) -> str:
    """A directory, or the URI, of a path in a file system of pyarrow's, as `machine.storage.Storage` takes it.

    Credentials are left out: the environment has to give them, as for checkpoint.mirror.

    Raises:
        ConfigError: it is a file system of another kind than local, S3 and GCS.
    """
    if isinstance(files, fs.LocalFileSystem):
        return path
    given = _arguments(files)
    options = {key: given[key] for key in ("scheme", "endpoint_override") if given.get(key)}
    if isinstance(files, fs.S3FileSystem):
        return f"s3://{quote(path)}?{urlencode(options | {'region': files.region})}"
    if isinstance(files, fs.GcsFileSystem):
        user = "anonymous@" if given.get("anonymous") else ""
        if limit := given.get("retry_time_limit"):
            options["retry_limit_seconds"] = f"{limit.total_seconds():g}"
        return f"gs://{user}{quote(path)}" + (f"?{urlencode(options)}" if options else "")
    raise ConfigError(
        f"storage_path of Tune is a file system of the kind {files.type_name}; give a directory, s3://... or gs://..."
    )


def _arguments(files: fs.FileSystem) -> dict[str, Any]:
    """What a file system was made with. Only pickling tells that."""
    (arguments,) = files.__reduce__()[1]
    return arguments if isinstance(arguments, dict) else {}
