"""A RayJob of `s2l plan --emit`, rehearsed: its pods as isolated process trees, as KubeRay's operator makes them.

One story on three clusters, in this order: what is refused, a stop while the run starts, a stop in the middle, all pods
deleted, the head lost, and the end, with the groups of a run that nothing disturbed. No Kubernetes is involved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from s2l_ray.cli import main
from s2l_ray.results import StepRecord
from s2l_ray.step_log import StepLog
from tests.support.patience import PATIENCE_S
from tests.support.rehearsal.cluster import RehearsedCluster
from tests.support.rehearsal.left import Left
from tests.support.rehearsal.memory import why_unlimited
from tests.support.rehearsal.network import why_impossible
from tests.support.rehearsal.trial import OUTPUTS, STEPS, Trial

if reason := why_impossible():
    pytest.skip(reason, allow_module_level=True)

pytestmark = pytest.mark.long


class Story:
    """What happens, each part once and after the parts before it."""

    def __init__(self, folder: Path) -> None:
        self.trial = Trial.emitted(folder)
        self._folder = folder
        self._begin = time.monotonic()
        self.clusters: list[RehearsedCluster] = []

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin:6.1f} s  {text}", flush=True)

    def _cluster(self, letters: str) -> RehearsedCluster:
        cluster = self.trial.cluster(letters)
        self.clusters.append(cluster)
        cluster.start()
        self.say(f"{cluster.name} is ready")
        return cluster

    @cached_property
    def cluster(self) -> RehearsedCluster:
        return self._cluster("first")

    @cached_property
    def local(self) -> list[StepRecord]:
        """The same run on a private Ray of this machine, that nothing disturbs."""
        path, run = self._folder / "local.yaml", self._folder / "local"
        path.write_text(self.trial.config())
        fewer = ["trainer.cpus=0.5", "engines.explorer.cpus=0.25", "engines.learner.cpus=0.25"]
        elsewhere = [f"run_dir={run}", "placement.inventory=null", "cluster.address=local", "tracking.enabled=false"]
        assert main(["train", str(path), *fewer, *elsewhere]) == 0
        self.say("the local run is done")
        return list(StepLog(run / "steps.jsonl").read())

    @cached_property
    def wrong_token(self) -> tuple[int, CompletedProcess[str], CompletedProcess[str]]:
        """Status of the dashboard; a worker that asks for the head; a run's driver."""
        wrong = {"RAY_AUTH_TOKEN": "another-token"}
        status = self.cluster.dashboard("GET", "/api/jobs/", token=wrong["RAY_AUTH_TOKEN"])[0]
        asks = ["bash", "-c", "ray health-check --address $FQ_RAY_IP:$RAY_PORT"]
        worker = self.cluster.workers[0].exec(asks, PATIENCE_S, **wrong)
        words = ["s2l", "train", "/etc/s2l-ray/config.yaml", f"run_dir={OUTPUTS}/refused"]
        driver = self.cluster.head.exec(words, PATIENCE_S, **wrong)
        self.say("a wrong token was refused")
        return status, worker, driver

    @cached_property
    def not_shared(self) -> tuple[str, str]:
        """Status and log of a job whose run directory is a folder of each pod."""
        words = "s2l train /etc/s2l-ray/config.yaml run_dir=/tmp/trial tracking.uri=sqlite:////tmp/mlflow.db"
        self.cluster.submit("not-shared", entrypoint=words)
        status = self.cluster.ended("not-shared", PATIENCE_S)
        self.say("a run directory that is not shared was refused")
        return status, self.cluster.log("not-shared")

    @cached_property
    def stopped_while_starting(self) -> Left:
        cluster = self.cluster
        before = Left.processes_of(cluster)
        cluster.submit("starting")
        says = "starting engines, verifiers and trainer"
        cluster.until("starting", lambda: says in cluster.log("starting"), PATIENCE_S, "the engines start")
        time.sleep(2)  # into the start of the engines
        return self._stop("starting", before)

    @cached_property
    def stopped(self) -> Left:
        """With SIGINT ignored, as what a script starts with & inherits it; and two commands in the entrypoint."""
        assert self.stopped_while_starting
        cluster = self.cluster
        before = Left.processes_of(cluster)
        words = self.trial.rayjob["spec"]["entrypoint"]
        cluster.submit("stopped", entrypoint=f"trap '' INT; cd /tmp && {words} && touch {OUTPUTS}/went-on")
        self._until_step(2, "stopped")
        return self._stop("stopped", before)

    def _until_step(self, step: int, job: str) -> None:
        self.clusters[-1].until(job, lambda: len(self.trial.records()) >= step, PATIENCE_S, f"step {step}")
        self.say(f"{job} is at step {len(self.trial.records())}")

    def _stop(self, job: str, before: set[int]) -> Left:
        cluster, begin = self.cluster, time.monotonic()
        cluster.stop(job)
        while self.trial.mlflow() == "RUNNING" and time.monotonic() < begin + PATIENCE_S:
            time.sleep(0.05)
        killed = time.monotonic() - begin
        status = cluster.ended(job, PATIENCE_S)
        over = time.monotonic() - begin
        self.say(f"{job}: MLflow said {self.trial.mlflow()} {killed:.1f} s after the stop, over {over:.1f} s")
        return Left.after(cluster, before, status, self.trial.mlflow(), cluster.log(job))

    @cached_property
    def deleted(self) -> tuple[dict[str, float], str, int]:
        """Seconds that each pod took; what MLflow says then; steps that were done."""
        assert self.stopped
        cluster = self.cluster
        cluster.submit("deleted")
        self._until_step(len(self.trial.records()) + 2, "deleted")
        seconds = cluster.delete()
        self.say(f"all pods were deleted: {', '.join(f'{name} {took:.1f} s' for name, took in seconds.items())}")
        return seconds, self.trial.mlflow(), len(self.trial.records())

    @cached_property
    def lost(self) -> str:
        """What MLflow says when the head was killed."""
        assert self.deleted
        cluster = self._cluster("again")
        cluster.submit("lost")
        self._until_step(len(self.trial.records()) + 2, "lost")
        cluster.head.kill()
        cluster.kill()
        self.say("the head was killed")
        return self.trial.mlflow()

    @cached_property
    def finished(self) -> tuple[str, str]:
        """Status and log of the job that goes on to the end."""
        assert self.lost
        cluster = self._cluster("third")
        words = self.trial.rayjob["spec"]["entrypoint"]
        cluster.submit("finished", entrypoint=f"cd /tmp && {words} && touch {OUTPUTS}/done")
        status = cluster.ended("finished", PATIENCE_S)
        self.say(f"the run has ended: {status}")
        self.say(f"memory: {', '.join(f'{pod.name} {pod.peak / 1e9:.1f} GB' for pod in cluster.pods)}")
        return status, cluster.log("finished")

    def close(self) -> None:
        for cluster in self.clusters:
            cluster.kill()
        self.trial.close()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("rehearsal"))
    try:
        yield story
    finally:
        story.close()


def test_a_wrong_token_is_refused_by_dashboard_head_and_driver(story: Story):
    status, worker, driver = story.wrong_token
    assert status in (401, 403)
    assert worker.returncode != 0
    assert driver.returncode == 1 and "the cluster does not accept our token" in driver.stderr, driver
    assert "Traceback" not in driver.stderr
    assert not (story.trial.outputs / "refused" / "steps.jsonl").exists()


def test_a_run_directory_that_the_nodes_do_not_share_is_refused(story: Story):
    status, log = story.not_shared
    assert status == "FAILED"
    assert "run_dir" in log and "Traceback" not in log, log
    assert any(worker.address in log or worker.name in log for worker in story.cluster.workers), log
    assert "starting engines" not in log


def test_a_stop_while_the_engines_start_leaves_nothing(story: Story):
    assert story.stopped_while_starting == Left.nothing("KILLED")


def test_a_stop_in_the_middle_leaves_nothing_also_with_sigint_ignored(story: Story):
    assert story.stopped == Left.nothing("KILLED")
    assert not (story.trial.outputs / "went-on").exists()


def test_deleted_pods_end_the_run_first(story: Story):
    seconds, mlflow, steps = story.deleted
    assert mlflow == "KILLED"
    assert steps < STEPS
    grace = story.trial.rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert max(seconds.values()) < grace["terminationGracePeriodSeconds"]


def test_a_new_cluster_goes_on_where_the_head_was_lost_to_the_groups_of_a_local_run(story: Story):
    local = story.local
    assert story.lost == "RUNNING"  # nobody was left to say otherwise
    status, log = story.finished
    assert status == "SUCCEEDED", log
    records = story.trial.records()
    assert [record.step for record in records] == list(range(1, STEPS + 1))
    for key in ("prompts", "digest", "explorer_per_group", "reward"):
        assert [getattr(r, key) for r in records] == [getattr(r, key) for r in local], key
    assert story.trial.mlflow() == "FINISHED"
    assert (story.trial.outputs / "done").exists()
    assert why_unlimited() or sum(pod.out_of_memory for pod in story.clusters[-1].pods) == 0
