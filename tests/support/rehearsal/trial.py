"""The RayJob that is rehearsed: a short run of the embedded family on one head and two workers, a trainer rank on each.

It comes from `s2l plan --emit rayjob`; the Secret and the claim that it names are made here.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from s2l_ray.results import StepRecord
from s2l_ray.step_log import StepLog
from tests.support.paths import ROOT
from tests.support.rehearsal.cluster import RehearsedCluster
from tests.support.rehearsal.memory import remove_left_groups
from tests.support.rehearsal.network import World
from tests.support.rehearsal.operator import Object
from tests.support.rehearsal.pods import Image, Node

TOKEN = "the-token-of-the-rehearsal"
OUTPUTS = "/outputs"
STEPS = 14
OVERRIDES = {
    "name": "trial",
    "data.eval": "null",
    "rollout.group_size": 4,
    "rollout.prompts_per_step": 4,
    "objective.mini_batch_prompts": 4,
    "schedule.steps": STEPS,
    "schedule.mix_steps": 8,
    "checkpoint.every": 1,
    "trainer.ranks": 2,
    "trainer.cpus": 1.5,  # of two on each worker, so that the ranks are on different ones
    "engines.explorer.cpus": 0.5,
    "engines.learner.cpus": 0.5,
    "engines.learner.count": 1,
    "tracking.uri": f"sqlite:///{OUTPUTS}/mlflow.db",
}
NODES = {"nodes": [{"count": 2, "gpus": 0, "cpus": 2, "memory_gb": 4}]}
INFRA = {
    "namespace": "research",
    "head": {"cpus": 1, "memory_gb": 4, "object_store_gb": 0.2},
    "workers": {"object_store_gb": 0.2},
}


def s2l(*words: str, **environment: str) -> str:
    """Run `s2l` on this machine, outside of the rehearsal, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "s2l_ray", *words],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def image() -> Image:
    """This machine's Python and this checkout, where the image has its own."""
    environment = {
        "PATH": f"{Path(sys.prefix).resolve()}/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": "/app",
        "PYTHONUNBUFFERED": "1",
    }
    folders = {"/app": ROOT, sys.base_prefix: Path(sys.base_prefix)}
    folders[str(Path(sys.prefix).resolve())] = Path(sys.prefix).resolve()
    return Image(folders, environment, working_directory="/home/s2l", home="/home/s2l")


@dataclass(frozen=True)
class Trial:
    """The manifest, and what is in the namespace beside it."""

    rayjob: Object
    node: Node
    outputs: Path
    """The claim's folder."""

    @classmethod
    def emitted(cls, folder: Path) -> Trial:
        """Emit the manifest, and make a closed world for it."""
        outputs = folder / "outputs"
        outputs.mkdir()
        os.chown(outputs, 1000, 1000)
        for name, content in {"nodes": NODES, "infra": INFRA}.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        overrides = [f"{key}={value}" for key, value in OVERRIDES.items()]
        files = ["--inventory", str(folder / "nodes.yaml"), "--infra", str(folder / "infra.yaml")]
        text = s2l("plan", "quickstart", *overrides, *files, "--emit", "rayjob")
        (folder / "job.yaml").write_text(text)
        documents = list(yaml.safe_load_all(text))
        objects = {(found["kind"], found["metadata"]["name"]): found for found in documents}
        rayjob = next(found for found in documents if found["kind"] == "RayJob")
        auth = rayjob["spec"]["rayClusterSpec"]["authOptions"]
        objects["Secret", auth["secretName"]] = {"stringData": {"auth_token": TOKEN}}
        remove_left_groups()
        node = Node(World(folder), image(), folder / "pods", {"s2l-outputs": outputs}, objects)
        return cls(rayjob, node, outputs)

    def cluster(self, name: str) -> RehearsedCluster:
        """A new cluster of the RayJob; `name` are the letters that the operator adds."""
        return RehearsedCluster(self.rayjob, f"{self.rayjob['metadata']['name']}-{name}", self.node)

    def config(self) -> str:
        """The configuration that travels with the job."""
        found = self.node.objects["ConfigMap", f"{self.rayjob['metadata']['name']}-run"]
        return str(found["data"]["config.yaml"])

    def records(self, name: str = "trial") -> list[StepRecord]:
        """Steps of a run on the volume."""
        path = self.outputs / name / "steps.jsonl"
        return list(StepLog(path).read()) if path.exists() else []

    def mlflow(self, name: str = "trial") -> str:
        """Status of the run in MLflow; empty where there is none yet."""
        path = self.outputs / "mlflow.db"
        if not path.exists():
            return ""
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20) as database:
            try:
                rows = database.execute("select status from runs where name = ?", (name,)).fetchall()
            except sqlite3.OperationalError:  # it is being made
                return ""
        assert len(rows) <= 1, f"{len(rows)} runs in MLflow"
        return str(rows[0][0]) if rows else ""

    def close(self) -> None:
        """End all that is left."""
        self.node.world.close()
        remove_left_groups()
