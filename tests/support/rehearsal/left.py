"""What a job that was stopped has left behind."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

import psutil

from tests.support.rehearsal.cluster import RehearsedCluster

SETTLE_S = 20.0
"""Seconds in which Ray takes back what the job had; its own processes wait for work then."""
IDLE = "ray::IDLE"


@dataclass(frozen=True)
class Left:
    """What is left, and how the job ended."""

    status: str
    mlflow: str
    processes: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    placement_groups: tuple[str, ...] = ()
    log: str = field(default="", compare=False)

    @classmethod
    def nothing(cls, mlflow: str) -> Left:
        """As it should be."""
        return cls("STOPPED", mlflow)

    @classmethod
    def after(cls, cluster: RehearsedCluster, before: set[int], status: str, mlflow: str, log: str) -> Left:
        """Look, and again for a while if there is something.

        Args:
            before: `processes_of` the cluster before the job.
        """
        deadline = time.monotonic() + SETTLE_S
        while True:
            processes = tuple(_titles(cluster, before))
            actors = tuple(row["class_name"] for row in cluster.living("actors"))
            groups = tuple(row["placement_group_id"] for row in cluster.living("placement_groups"))
            if not (processes or actors or groups) or time.monotonic() > deadline:
                return cls(status, mlflow, processes, actors, groups, log)
            time.sleep(0.2)

    @staticmethod
    def processes_of(cluster: RehearsedCluster) -> set[int]:
        """All processes in the cluster's pods."""
        return {process.pid for pod in cluster.pods for process in pod.processes}


def _titles(cluster: RehearsedCluster, before: set[int]) -> list[str]:
    found = []
    for pod in cluster.pods:
        for process in pod.processes:
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if process.pid not in before and title and not title.startswith(IDLE):
                    found.append(f"{pod.name}: {title}")
    return found
