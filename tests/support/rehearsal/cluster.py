"""The cluster of a RayJob: its pods, and what the operator asks of the head's dashboard."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.rehearsal.environment import contents
from tests.support.rehearsal.operator import (
    DASHBOARD_PORT,
    Object,
    head_domain_name,
    head_pod,
    head_service,
    job_request,
    worker_pods,
)
from tests.support.rehearsal.pods import Node, Pod

READY_S = 300.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class RehearsedCluster:
    """One cluster of a RayJob, from its creation to its deletion.

    Args:
        rayjob: a RayJob object, as `kubectl apply` gets it.
        name: of the cluster; the operator takes the RayJob's and five letters.
    """

    def __init__(self, rayjob: Object, name: str, node: Node) -> None:
        self.name = name
        self.rayjob = rayjob
        self._node = node
        self._namespace = rayjob["metadata"].get("namespace", "default")
        self.head = Pod(head_pod(rayjob, name), node)
        domain_name = head_domain_name(name, self._namespace)
        node.world.name(f"{domain_name} {head_service(name)}", self.head.address)
        self.workers: list[Pod] = []
        self.token = self._token()

    def _token(self) -> str:
        auth = self.rayjob["spec"]["rayClusterSpec"].get("authOptions", {})
        if auth.get("mode") != "token":
            return ""
        return contents(self._node.objects, "Secret", auth.get("secretName", self.name))["auth_token"]

    @property
    def pods(self) -> list[Pod]:
        """The head and the workers."""
        return [self.head, *self.workers]

    def start(self) -> None:
        """Start every pod, and wait until all are ready, as the operator does before it submits the job."""
        self.head.start()
        self.workers = [Pod(manifest, self._node) for manifest in worker_pods(self.rayjob, self.name)]
        for pod in self.workers:
            pod.start()
        self._until(lambda: all(self._is_ready(pod) for pod in self.pods), READY_S, "the cluster is ready")

    def _is_ready(self, pod: Pod) -> bool:
        probe = pod.manifest["spec"]["containers"][0]["readinessProbe"]["httpGet"]
        try:
            return self._ask("GET", pod.address, probe["port"], probe["path"])[0] == 200
        except OSError:
            return False

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            for pod in self.pods:
                pod.check()
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.2)

    # ---- the dashboard ----

    def _ask(self, method: str, host: str, port: int, path: str, body: Object | None = None, token: str = "") -> Any:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["x-ray-authorization"] = f"Bearer {token}"
        with self._node.world.inside():
            connection = http.client.HTTPConnection(host, port, timeout=20)
            try:
                connection.request(method, path, json.dumps(body) if body else None, headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

    def dashboard(self, method: str, path: str, body: Object | None = None, token: str | None = None) -> Any:
        """Status and text of an answer of the head's dashboard; with the cluster's token unless another is given."""
        own = self.token if token is None else token
        return self._ask(method, self.head.address, DASHBOARD_PORT, path, body, own)

    def submit(self, submission_id: str, **changed: Any) -> None:
        """Submit the RayJob's job as HTTPMode does.

        Args:
            changed: entries of the RayJob's spec that are to be others.
        """
        rayjob = self.rayjob | {"spec": self.rayjob["spec"] | changed}
        status, text = self.dashboard("POST", "/api/jobs/", job_request(rayjob, submission_id))
        assert status == 200, text

    def job(self, submission_id: str) -> Object:
        """What Ray says of a job."""
        status, text = self.dashboard("GET", f"/api/jobs/{submission_id}")
        assert status == 200, text
        found: Object = json.loads(text)
        return found

    def log(self, submission_id: str) -> str:
        """The driver's log."""
        return str(json.loads(self.dashboard("GET", f"/api/jobs/{submission_id}/logs")[1]).get("logs", ""))

    def until(self, submission_id: str, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until something is so, and the job has not ended before."""

        def now() -> bool:
            if condition():
                return True
            job = self.job(submission_id)
            assert job["status"] not in ENDED, f"{job['status']} before {what}: {self.log(submission_id)[-4000:]}"
            return False

        self._until(now, timeout_s, what)

    def ended(self, submission_id: str, timeout_s: float) -> str:
        """Wait for the end of a job, and return its status."""
        self._until(lambda: self.job(submission_id)["status"] in ENDED, timeout_s, f"{submission_id} has ended")
        return str(self.job(submission_id)["status"])

    def stop(self, submission_id: str) -> None:
        """Stop a job, as the operator does when a RayJob is deleted."""
        status, text = self.dashboard("POST", f"/api/jobs/{submission_id}/stop", {})
        assert status == 200 and json.loads(text)["stopped"], text

    def living(self, kind: str) -> list[Object]:
        """Actors or placement_groups that are not gone."""
        text = self.dashboard("GET", f"/api/v0/{kind}?limit=1000")[1]
        rows = json.loads(text)["data"]["result"]["result"]
        return [row for row in rows if row["state"] not in ("DEAD", "REMOVED")]

    # ---- the end ----

    def delete(self) -> dict[str, float]:
        """Delete all pods at the same time, as when the cluster is deleted. Returns the seconds that each took."""
        with ThreadPoolExecutor(len(self.pods)) as pool:
            return dict(zip([pod.name for pod in self.pods], pool.map(Pod.delete, self.pods), strict=True))

    def kill(self) -> None:
        """End every pod at once."""
        for pod in self.pods:
            pod.kill()
