"""Emulators of S3 and GCS on loopback, which can be told to fail."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import Any
from unittest import mock

from werkzeug.serving import make_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Store:
    """A store with one bucket, named `bucket`.

    Args:
        uri: of a place in it, with {} for the name of a bucket and what follows.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.fails: Callable[[str, str], bool] = lambda method, path: False
        """Which requests (method, path) are answered with 503."""

    def uri(self, path: str = "bucket/runs") -> str:
        return self._uri.format(path)

    def guarded(self, application: Wsgi) -> Wsgi:
        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            if self.fails(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            return application(environ, start)

        return answer


@contextlib.contextmanager
def s3() -> Iterator[Store]:
    """moto's S3."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store("")
    application = store.guarded(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    where = f"127.0.0.1:{server.server_port}"
    store._uri = f"s3://{{}}?scheme=http&endpoint_override={where}&region=us-east-1"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with mock.patch.dict(os.environ, CREDENTIALS):
            client = boto3.client("s3", endpoint_url=f"http://{where}", region_name="us-east-1")
            client.create_bucket(Bucket="bucket")
            yield store
    finally:
        server.shutdown()
        thread.join()


GCS_EMULATOR = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextlib.contextmanager
def gcs() -> Iterator[Store]:
    """gcp-storage-emulator's GCS. It cannot be told to fail.

    In a process of its own: some calls of pyarrow's to GCS keep the interpreter's lock while they wait for an answer.
    """
    command = [sys.executable, "-c", GCS_EMULATOR]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin and server.stdout
    where = f"127.0.0.1:{int(server.stdout.readline())}"
    try:
        url, about = f"http://{where}/storage/v1/b?project=p", json.dumps({"name": "bucket"})
        request = urllib.request.Request(url, about.encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        yield Store(f"gs://anonymous@{{}}?scheme=http&endpoint_override={where}&retry_limit_seconds=2")
    finally:
        server.stdin.close()  # it ends then, also where this process was killed
        server.wait(60)
        server.stdout.close()
