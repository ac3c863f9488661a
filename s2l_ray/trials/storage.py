"""Tune's storage as a URL. Tune gives a trial its file system, without the URL that the user gave."""

from __future__ import annotations

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
    if not isinstance(files, (fs.S3FileSystem, fs.GcsFileSystem)):
        raise ConfigError(
            f"Tune's storage_path is in a file system of the kind {files.type_name}; give a directory, s3://... or gs://..."
        )
    (given,) = files.__reduce__()[1]  # what it was made with, which only pickling tells
    options = {key: given[key] for key in ("scheme", "endpoint_override") if given[key]}
    if isinstance(files, fs.S3FileSystem):
        return f"s3://{quote(path)}?{urlencode(options | {'region': files.region})}"
    if limit := given["retry_time_limit"]:
        options["retry_limit_seconds"] = f"{limit.total_seconds():g}"
    return f"gs://{'anonymous@' if given['anonymous'] else ''}{quote(path)}?{urlencode(options)}"
