"""How busy the machine is that this process runs on, as MLflow's own monitors measure it.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SAMPLE_S = 5.0
"""Seconds between two samples."""


class NodeMeter:
    """Takes samples of CPUs, memory, disk, network and, where `nvidia-ml-py` is installed, GPUs, in a thread."""

    def __init__(self, sample_s: float = SAMPLE_S) -> None:
        self._monitors = _monitors()
        self._lock = threading.Lock()
        self._sample_s = sample_s
        self._sample()
        threading.Thread(target=self._work, name="node-meter", daemon=True).start()

    def read(self) -> dict[str, float]:
        """Means over the samples since the last `read`, by MLflow's names, such as `cpu_utilization_percentage`."""
        with self._lock:
            self._collect()
            means = {key: float(value) for monitor in self._monitors for key, value in _mean(monitor)}
            for monitor in self._monitors:
                monitor.clear_metrics()
        return means

    def _work(self) -> None:
        while True:
            time.sleep(self._sample_s)
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            self._collect()

    def _collect(self) -> None:
        for monitor in self._monitors:
            monitor.collect_metrics()


def _mean(monitor: BaseMetricsMonitor) -> list[tuple[str, float]]:
    return list(monitor.aggregate_metrics().items())


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # there is no GPU, or nothing to read it with
        monitors.append(GPUMonitor())
    return monitors
