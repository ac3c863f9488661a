"""cluster/slurm/train.sbatch, with programs in the place of Slurm's, Ray's and ours that note how they are called."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
PROGRAMS = {
    "hostname": 'echo "10.1.2.3 192.168.0.1"',
    "srun": """
while [[ $1 == --* ]]; do echo "$1" >> "$NOTES/srun"; shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & done
trap 'kill $(jobs -p)' TERM
wait
""",
    "ray": """
if [[ $1 == status ]]; then
    echo "Active:"
    cat "$NOTES"/nodes 2> /dev/null
    [[ -s $NOTES/nodes ]]
    exit
fi
printf '%s\\n' "${@:2}" > "$NOTES/ray-$SLURM_NODEID"
echo " 1 node_$SLURM_NODEID" >> "$NOTES/nodes"
exec sleep 300
""",
    "s2l": """
printf '%s\\n' "$@" > "$NOTES/s2l"
echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" > "$NOTES/token"
cp "$NOTES/nodes" "$NOTES/joined"
if [[ $2 == waits ]]; then
    trap 'sleep 1; echo saved > "$NOTES/saved"; exit 143' TERM
    echo > "$NOTES/waiting"
    while :; do sleep 0.1; done
fi
exit 7
""",
}


class Job:
    """The script in an allocation of two nodes."""

    def __init__(self, folder: Path) -> None:
        (programs := folder / "programs").mkdir()
        (notes := folder / "notes").mkdir()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}")
            (programs / name).chmod(0o755)
        self.notes = notes
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "NOTES": str(notes),
            "SLURM_JOB_ID": f"test-{os.getpid()}",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "16",
            "SLURM_GPUS_ON_NODE": "8",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = ["bash", str(SCRIPT), *words]
        return subprocess.Popen(
            command, env=self.environment, text=True, stderr=subprocess.PIPE, start_new_session=True
        )

    def lines(self, name: str) -> list[str]:
        return (self.notes / name).read_text().splitlines()


@pytest.fixture
def job(tmp_path: Path):
    found = Job(tmp_path)
    yield found
    shutil.rmtree(f"/tmp/s2l-{os.getuid()}/{found.environment['SLURM_JOB_ID']}", ignore_errors=True)


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit status. What is left of the job is ended, as Slurm does."""
    try:
        return process.wait(PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_ray_is_started_on_all_nodes_before_the_run_that_joins_it(job: Job):
    from ray.scripts.scripts import start

    assert ended(job.start("quickstart", "name=my run")) == 7  # the run's status is the job's
    assert job.lines("s2l") == ["train", "quickstart", "name=my run", "cluster.address=10.1.2.3:6379"]
    assert len(job.lines("joined")) == 2
    head, worker = (start.make_context("ray start", job.lines(f"ray-{node}")).params for node in (0, 1))
    assert (head["head"], head["node_ip_address"], head["port"], head["dashboard_host"]) == (
        True,
        "10.1.2.3",
        6379,
        "127.0.0.1",
    )
    assert (worker["head"], worker["address"]) == (False, "10.1.2.3:6379")
    for parameters in (head, worker):
        assert (parameters["num_cpus"], parameters["num_gpus"], parameters["block"]) == (16, 8, True)
    assert job.lines("srun") == ["--cpus-per-task=16", "--kill-on-bad-exit=1"]


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["tune", "quickstart", "tune_schedule"], ["tune", "quickstart", "tune_schedule"]),
        (["experiment", "figure4", "seed=2"], ["experiment", "figure4", "seed=2"]),
        (["train", "quickstart"], ["train", "quickstart"]),
        (["configs/tune.yaml"], ["train", "configs/tune.yaml"]),
    ],
)
def test_a_study_or_an_experiment_is_run_in_the_place_of_a_run(words: list[str], called: list[str], job: Job):
    assert ended(job.start(*words)) == 7
    assert job.lines("s2l") == [*called, "cluster.address=10.1.2.3:6379"]


def test_the_nodes_are_the_jobs_alone_with_all_of_their_memory():
    options = re.findall("^#SBATCH (.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"--exclusive", "--mem=0"} <= set(options)


def test_the_token_is_in_the_environment_alone(job: Job):
    assert ended(job.start("quickstart")) == 7
    ((mode, token),) = (line.split() for line in job.lines("token"))
    assert mode == "token" and re.fullmatch("[0-9a-f]{64}", token)
    assert not any(token in path.read_text() for path in job.notes.iterdir() if path.name != "token")


def test_a_signal_is_the_run_s_which_ends_in_its_own_time(job: Job):
    process = job.start("waits")
    deadline = time.monotonic() + PATIENCE_S
    while not (job.notes / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 143 and job.lines("saved") == ["saved"]


def test_it_says_what_it_lacks(job: Job):
    process = job.start()
    assert ended(process) == 2 and process.stderr.read() == "name a configuration, as for s2l train\n"


def test_ray_that_does_not_start_ends_the_job(job: Job):
    (Path(job.environment["PATH"].split(":")[0]) / "srun").write_text("#!/bin/bash\nexit 1\n")
    process = job.start("quickstart")
    assert ended(process) == 1 and "Ray has ended on some node; see /tmp/s2l-" in process.stderr.read()
