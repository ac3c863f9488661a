"""What Kueue's webhooks refuse, and what would leave a job in its queue for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from tests.support.kubernetes.names import is_label_key, is_subdomain
from tests.support.kubernetes.objects import Object, Problem, duplicates, get, mapping, problems, quantity, rows
from tests.support.kubernetes.pods import autoscaling, cluster_spec, pods

Found = Iterator[tuple[str, str]]

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
LONGEST_RUN = "kueue.x-k8s.io/max-exec-time-seconds"
ELASTIC = "kueue.x-k8s.io/elastic-job"
TOPOLOGY = tuple(f"kueue.x-k8s.io/podset-{kind}-topology" for kind in ("required", "preferred", "unconstrained"))
MOST_POD_SETS = 18


def queue_name(obj: Object) -> str | None:
    """The local queue that an object is submitted to."""
    return mapping(obj, "metadata", "labels").get(QUEUE)


def kueue_problems(obj: Object) -> list[Problem]:
    """Refusals about one object."""
    found: list[tuple[str, str]] = []
    if (queue := queue_name(obj)) is not None:
        if not is_subdomain(queue):
            found.append((f"metadata.labels.{QUEUE}", f"{queue!r} is no name of a queue"))
        found += _longest_run(obj)
        if cluster := cluster_spec(obj):
            found += _cluster(obj, *cluster)
        if obj.get("kind") == "RayJob":
            found += _job(mapping(obj, "spec"))
    if cluster := cluster_spec(obj):
        found += _topology(*cluster)
    if obj.get("kind") == "ClusterQueue":
        found += [*_quotas(mapping(obj, "spec")), *_eligible(mapping(obj, "spec"))]
    return problems(obj, found)


def _longest_run(obj: Object) -> Found:
    value = mapping(obj, "metadata", "labels").get(LONGEST_RUN)
    if value is not None and not (value.isdecimal() and int(value) > 0):
        yield f"metadata.labels.{LONGEST_RUN}", f"must be a positive number, not {value}"


def _cluster(obj: Object, path: str, spec: Object) -> Found:
    if autoscaling(spec) and mapping(obj, "metadata", "annotations").get(ELASTIC) != "true":
        yield f"{path}.enableInTreeAutoscaling", f"needs the annotation {ELASTIC} in a Kueue queue"
    groups = rows(spec, "workerGroupSpecs")
    if len(groups) + 1 > MOST_POD_SETS:
        yield f"{path}.workerGroupSpecs", f"Kueue takes {MOST_POD_SETS} pod sets, the head's included"
    for index, group in enumerate(groups):
        if group.get("groupName") == "head":
            yield f"{path}.workerGroupSpecs[{index}].groupName", "Kueue keeps the name head for the head"


def _job(spec: Object) -> Found:
    if spec.get("clusterSelector"):
        yield "spec.clusterSelector", "a job in a Kueue queue brings its own cluster"
    elif not spec.get("rayClusterSpec"):
        yield "spec.rayClusterSpec", "is missing"
    elif not spec.get("shutdownAfterJobFinishes"):
        yield "spec.shutdownAfterJobFinishes", "must be true in a Kueue queue, or the quota stays taken"


def _topology(path: str, spec: Object) -> Found:
    groups = [("headGroupSpec", mapping(spec, "headGroupSpec"))]
    groups += [(f"workerGroupSpecs[{index}]", group) for index, group in enumerate(rows(spec, "workerGroupSpecs"))]
    for place, group in groups:
        annotations = mapping(group, "template", "metadata", "annotations")
        given = [key for key in TOPOLOGY if key in annotations]
        where = f"{path}.{place}.template.metadata.annotations"
        if len(given) > 1:
            yield where, f"has several topologies: {', '.join(given)}"
        for key in given[:1]:
            if key.endswith("unconstrained-topology"):
                if annotations[key].lower() not in ("true", "false"):
                    yield where, f"{key} must be true or false"
            elif not is_label_key(annotations[key]):
                yield where, f"{key} must be a node label, not {annotations[key]}"


def _quotas(spec: Object) -> Found:
    cohort = spec.get("cohortName") or spec.get("cohort")
    flavors, resources = [], []
    for index, group in enumerate(rows(spec, "resourceGroups")):
        covered = rows(group, "coveredResources")
        resources += covered
        for number, flavor in enumerate(rows(group, "flavors")):
            flavors.append(flavor.get("name"))
            path = f"spec.resourceGroups[{index}].flavors[{number}]"
            if [row.get("name") for row in rows(flavor, "resources")] != covered:
                yield f"{path}.resources", "must be coveredResources in their order"
            for row in rows(flavor, "resources"):
                yield from _limits(f"{path}.resources[{row.get('name')}]", row, cohort)
    for _, name in duplicates(resources):
        yield "spec.resourceGroups", f"covers {name} twice"
    for _, name in duplicates(flavors):
        yield "spec.resourceGroups", f"uses flavor {name} twice"


def _limits(path: str, row: Object, cohort: str | None) -> Found:
    nominal = quantity(row.get("nominalQuota", 0))
    if nominal < 0:
        yield f"{path}.nominalQuota", "is negative"
    for key in ("borrowingLimit", "lendingLimit"):
        if row.get(key) is not None and not cohort:
            yield f"{path}.{key}", "needs a cohort"
    if row.get("lendingLimit") is not None and quantity(row["lendingLimit"]) > nominal:
        yield f"{path}.lendingLimit", "is more than nominalQuota"


def _eligible(spec: Object) -> Found:
    if spec.get("namespaceSelector") is None:
        yield "spec.namespaceSelector", "is missing, so no namespace may use the queue; {} lets all"


def admission_problems(objects: list[Object]) -> list[Problem]:
    """Jobs that their queue can never admit: a resource that it does not cover, or more than its whole quota."""
    local = {get(obj, "metadata", "name"): obj for obj in objects if obj.get("kind") == "LocalQueue"}
    queues = {get(obj, "metadata", "name"): obj for obj in objects if obj.get("kind") == "ClusterQueue"}
    found = []
    for obj in objects:
        queue = queues.get(get(local.get(queue_name(obj)), "spec", "clusterQueue"))
        if queue is not None:
            found += problems(obj, _unadmitted(obj, queue))
    return found


def _unadmitted(obj: Object, queue: Object) -> Found:
    covered: dict[str, Decimal] = {}
    for group in rows(queue, "spec", "resourceGroups"):
        for name in rows(group, "coveredResources"):
            offers = [row for flavor in rows(group, "flavors") for row in rows(flavor, "resources")]
            covered[name] = sum((quantity(row["nominalQuota"]) for row in offers if row["name"] == name), Decimal(0))
    shared = get(queue, "spec", "cohortName") or get(queue, "spec", "cohort")
    for name, amount in requested(obj).items():
        if name not in covered:
            yield "spec", f"asks for {name}, which {get(queue, 'metadata', 'name')} does not cover"
        elif amount > covered[name] and not shared:
            yield "spec", f"asks for {amount} of {name}, more than the whole quota, {covered[name]}"


def requested(obj: Object) -> Counter[str]:
    """What all pods of an object request together."""
    counts = {"worker": iter(rows((cluster_spec(obj) or ("", {}))[1], "workerGroupSpecs"))}
    total: Counter[str] = Counter()
    for pod in pods(obj):
        if pod.role == "redis-cleanup":  # runs when the others are gone
            continue
        group = next(counts["worker"]) if pod.role == "worker" else {}
        copies = group.get("replicas", 0) * group.get("numOfHosts", 1) if group else 1
        for container in rows(pod.spec, "containers"):
            asked = mapping(container, "resources", "limits") | mapping(container, "resources", "requests")
            for name, value in asked.items():
                total[name] += quantity(value) * copies  # type: ignore[assignment]
    return total
