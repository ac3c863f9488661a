"""What MLflow costs a step: the time that logging takes the run, by what the server does.

A real MLflow server on sqlite, behind a proxy that makes it slow, deaf or busy. A step logs its metrics and a file.
Measured is how long a step waits for these calls; and, at the end, how long the end takes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.tracking.tracker import open_tracker
from tests.benchmarks.protocol import Result
from tests.support.mlflow_servers import Proxy, mlflow_server
from tests.support.step_records import step

STEPS = 20
UPDATE = {f"metric_{number}": 0.1 * number for number in range(60)}
"""About as many metrics as an update has."""
WARM_UP_S = 3.0
"""Seconds between the opening of a run and its first step: engines take longer to start."""
BETWEEN_S = 0.2
"""Seconds between two steps: those of a small run."""
MOST_MS = 5.0
"""Aim for the longest time that a step takes to log."""
TIMEOUT_S = 10.0


def run() -> list[Result]:
    results = []
    with _server() as (proxy, directory):
        for number, (name, change) in enumerate(
            {
                "local_server": {},
                "server_1_s": {"delay_s": 1.0},
                "server_5_s": {"delay_s": 5.0},
                "server_503": {"status": 503},
                "server_hangs": {"deaf": True},
            }.items()
        ):
            results += _measure(name, proxy, directory / str(number), change)
    return results


def _measure(name: str, proxy: Proxy, directory: Path, change: dict[str, object]) -> list[Result]:
    tracker = open_tracker(TrackingConfig(uri=proxy.url, timeout_s=TIMEOUT_S), directory, name)
    (directory / "figure.png").write_bytes(b"png" * 1000)
    tracker.log_params({f"key_{number}": number for number in range(150)})
    time.sleep(WARM_UP_S)
    proxy.__dict__.update(change)
    took = []
    for number in range(1, STEPS + 1):
        start = time.perf_counter()
        tracker.log_step(step(number, trainer=UPDATE))
        tracker.log_artifact(directory / "figure.png")
        took.append((time.perf_counter() - start) * 1000)
        time.sleep(BETWEEN_S)
    start = time.perf_counter()
    try:
        tracker.finish()
    except TrackingError as left:
        print(f"   {name}: {left}", flush=True)
    end = time.perf_counter() - start
    proxy.__dict__.update(delay_s=0.0, status=None, deaf=False)
    print(f"   {name}: {statistics.median(took):.2f} ms a step, at most {max(took):.2f}; end {end:.1f} s", flush=True)
    return [
        Result(f"{name}_ms_per_step", statistics.median(took), None, "ms"),
        Result(f"{name}_most_ms", max(took), MOST_MS, "ms"),
        Result(f"{name}_end_s", end, TIMEOUT_S, "s"),
    ]


@contextmanager
def _server() -> Iterator[tuple[Proxy, Path]]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with mlflow_server(directory, f"sqlite:///{directory}/mlflow.db") as url:
            proxy = Proxy(url)
            try:
                yield proxy, directory
            finally:
                proxy.stop()
