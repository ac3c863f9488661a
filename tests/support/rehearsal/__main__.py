"""Stop the trial several times in the middle, and say how long each stop took.

    python -m tests.support.rehearsal 5

As root. Every other job is started with SIGINT ignored. A figure is one of this machine at this time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.rehearsal.cluster import RehearsedCluster
from tests.support.rehearsal.left import Left
from tests.support.rehearsal.network import why_impossible
from tests.support.rehearsal.trial import Trial


def stop(trial: Trial, cluster: RehearsedCluster, job: str, *, sigint_ignored: bool) -> str:
    """Start the run or go on with it, stop it after another step, and describe that."""
    before, steps = Left.processes_of(cluster), len(trial.records())
    entrypoint = trial.rayjob["spec"]["entrypoint"]
    cluster.submit(job, entrypoint=f"trap '' INT; {entrypoint}" if sigint_ignored else entrypoint)
    cluster.until(job, lambda: len(trial.records()) > steps, PATIENCE_S, "another step")
    begin = time.monotonic()
    cluster.stop(job)
    while trial.mlflow() == "RUNNING":
        time.sleep(0.02)
    killed = time.monotonic() - begin
    status = cluster.ended(job, PATIENCE_S)
    over = time.monotonic() - begin
    left = Left.after(cluster, before, status, trial.mlflow(), cluster.log(job))
    rest = "nothing is left" if left == Left.nothing("KILLED") else str(left)
    return f"MLflow {left.mlflow} after {killed:.1f} s, job {status} after {over:.1f} s; {rest}"


def main(count: int) -> int:
    """Stop `count` times, on one cluster."""
    if reason := why_impossible():
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        trial = Trial.emitted(Path(folder))
        cluster = trial.cluster("stops")
        try:
            cluster.start()
            for number in range(count):
                ignored = number % 2 == 1
                said = stop(trial, cluster, f"stop-{number}", sigint_ignored=ignored)
                print(f"{'SIGINT ignored' if ignored else 'plain':14}  {said}", flush=True)
        finally:
            cluster.kill()
            trial.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
