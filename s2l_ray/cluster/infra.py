"""What an infra file says about a Kubernetes cluster: all that a plan cannot know of the pods it becomes.

image: registry.example/s2l-ray:0.1.0-cuda
claims: {outputs: s2l-outputs, models: s2l-models}
workers:
  tolerations: [{key: nvidia.com/gpu, operator: Exists}]
  groups:
    gpu-8-h100-80gb: {extra_resources: {rdma/hca_shared: 1}}

Every key has a default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from s2l_ray.cluster.names import LONGEST_NAME, is_job_name, is_label_value, is_object_name, is_qualified
from s2l_ray.config.problems import problems_of
from s2l_ray.config.section import AfterValidator, Section
from s2l_ray.config.text import NOT_YAML, listed, read_documents, yaml_problem
from s2l_ray.errors import ConfigError
from s2l_ray.redaction import has_password, is_secret_name

if TYPE_CHECKING:
    pass

SECRET_KEY = re.compile(r"(?!\.\.?$)[\w.-]+", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


def _object_name(name: str) -> str:
    if not is_object_name(name):
        raise ValueError(f"{name!r} is no name of a Kubernetes object: lower-case letters, digits, - and . only")
    return name


ObjectName = Annotated[str, AfterValidator(_object_name)]
"""The name of an object in the job's namespace."""


def _job_name(name: str) -> str:
    if not is_job_name(name):
        raise ValueError(
            f"{name!r} is no name for it: lower-case letters, digits and - only, at most {LONGEST_NAME}, a letter first"
        )
    return name


def _checked(holds: Callable[[str], bool], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not holds(text):
            raise ValueError(f"{text!r} is no {what} that Kubernetes takes")
        return text

    return AfterValidator(check)


LARGEST_NUMBER = 2**31 - 1
"""The largest value of Kubernetes' int32 fields."""
LARGEST_GB = 1e6
Count = Annotated[int, Field(gt=0, le=LARGEST_NUMBER)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Gigabytes = Annotated[float, Field(gt=0, le=LARGEST_GB)]
Key = Annotated[str, _checked(is_qualified, "name of a label, annotation or resource")]
LabelValue = Annotated[str, _checked(is_label_value, "value of a label")]
Labels = dict[Key, LabelValue]
Annotations = dict[Key, str]
Resource = Annotated[Key, _checked(lambda name: "/" in name, "name of an extended resource (DOMAIN/NAME)")]
Variable = Annotated[str, _checked(lambda name: bool(VARIABLE.fullmatch(name)), "name of an environment variable")]
Image = Annotated[str, _checked(lambda name: bool(re.fullmatch(r"\S+", name)), "name of an image")]


class Toleration(Section):
    """A taint of nodes that pods tolerate."""

    key: Key | None = None
    """The taint's key; without one, `operator: Exists` tolerates every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Claims(Section):
    """Names of persistent volume claims, which must exist."""

    outputs: ObjectName = "s2l-outputs"
    """Runs, checkpoints and banks; mounted at /outputs in every pod. ReadWriteMany, unless all pods are on one node."""
    models: ObjectName | None = None
    """Models; mounted at /models. The Hub's cache (HF_HOME) is in it, and without it in /outputs."""
    data: ObjectName | None = None
    """Data; mounted read-only at /data."""


class Pods(Section):
    """Pods of one kind: where they may run, and what they have beside the plan's resources."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels that nodes must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that the pods tolerate."""
    annotations: Annotations = Field(default_factory=dict)
    """Further annotations of the pods."""
    labels: Labels = Field(default_factory=dict)
    """Further labels of the pods."""
    extra_resources: dict[Resource, Count] = Field(default_factory=dict)
    """Extended resources, such as `rdma/hca_shared: 1`."""
    priority_class: ObjectName | None = None
    """Name of a PriorityClass."""
    runtime_class: ObjectName | None = None
    """Name of a RuntimeClass, such as `nvidia`."""
    object_store_gb: Annotated[float, Field(ge=0.1, le=LARGEST_GB)] | None = None
    """Ray's object store; default: what prefetched rollouts and two steps take, at most 30% of the memory."""
    shm_gb: Gigabytes | None = None
    """Size of /dev/shm, at least the object store; default: that and 1 GB for each GPU, or 0.25 GB without."""


class Head(Pods):
    """The pod of Ray's head. The run's driver is on it, its planned actors are not: Ray counts no CPU there."""

    cpus: Count = 2
    """CPUs of its container."""
    memory_gb: Annotated[float, Field(ge=2, le=LARGEST_GB)] = 8.0
    """Memory of its container: Ray's own processes, the driver and what has no planned place, such as verifiers."""


class Workers(Pods):
    """All worker pods; `groups` changes single worker groups."""

    gpu_resource: Resource = "nvidia.com/gpu"
    """Name of the extended resource that stands for GPUs."""
    groups: dict[str, Pods] = Field(default_factory=dict)
    """Keys that differ for a worker group, by its name, such as gpu-8-h100-80gb."""

    def of(self, group: str) -> Pods:
        """What holds for a worker group."""
        own = self.groups.get(group, Pods())
        given = {name: getattr(own, name) for name in own.model_fields_set}
        common = {name: getattr(self, name) for name in Pods.model_fields}
        return Pods.model_construct(**(common | given))


class Job(Section):
    """How KubeRay runs the job. Only `--emit rayjob` has it."""

    backoff_limit: CountOrZero = 2
    """How often a failed job is tried again, each time on new pods; it goes on from its last checkpoint."""
    active_deadline_s: Count = 7 * 24 * 3600
    """Longest time for each try; a job that exceeds it is stopped and not tried again."""
    ttl_s: CountOrZero = 600
    """How long the pods of a finished job stay."""


class Infra(Section):
    """What `s2l plan --emit` must be told about a Kubernetes cluster."""

    name: Annotated[str, AfterValidator(_job_name)] | None = None
    """Name of the RayJob or RayCluster; default: the run's, so written that Kubernetes takes it."""
    namespace: ObjectName | None = None
    """Namespace of all objects; default: that of `kubectl apply`."""
    image: Image | None = None
    """Image of every container, with Python, Ray and s2l-ray; default: s2l-ray:VERSION-cuda, or -cpu without GPUs."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets with which the image is pulled."""
    service_account: ObjectName | None = None
    """Service account of the pods; its token is not mounted."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the RayJob or RayCluster."""
    labels: Labels = Field(default_factory=dict)
    """Labels of every object."""
    queue: ObjectName | None = None
    """Kueue's LocalQueue that admits the job."""
    claims: Claims = Claims()
    token_secret: ObjectName = "s2l-ray-token"
    """Secret whose key auth_token is Ray's authentication token."""
    mlflow_uri: str | None = None
    """MLFLOW_TRACKING_URI, in place of the run's tracking.uri; default: that, else a file in /outputs."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Further environment variables of every container."""
    secrets: dict[Variable, str] = Field(default_factory=dict)
    """Environment variables from secrets, written SECRET/KEY: `HF_TOKEN: hugging-face/token`."""
    stop_grace_s: Count = 60
    """How long a run that is stopped, or whose pod is deleted, may take to end."""
    head: Head = Head()
    workers: Workers = Workers()
    job: Job = Job()

    @model_validator(mode="after")
    def _no_secrets(self) -> Infra:
        for name, value in self.environment.items():
            if is_secret_name(name) or has_password(value):
                raise ValueError(f"environment.{name} looks like a secret; put it in a Secret and name that in secrets")
        for name, place in self.secrets.items():
            secret, _, key = place.partition("/")
            if not (is_object_name(secret) and SECRET_KEY.fullmatch(key)):
                raise ValueError(f"secrets.{name} must be SECRET/KEY, the name of a Secret and a key in it")
            if name in self.environment:
                raise ValueError(f"{name} is in environment and in secrets; keep one of them")
        return self


def load_infra(path: str | Path) -> Infra:
    """Read an infra file.

    Raises:
        ConfigError: it is missing or malformed, a key is unknown (the nearest is named) or a value impossible.
    """
    try:
        (values,) = read_documents(Path(path)) or [None]
    except OSError as error:
        raise ConfigError(f"infra file {path} cannot be read: {error.strerror}") from None
    except NOT_YAML as error:
        raise ConfigError(f"infra file {path} is not valid YAML: {yaml_problem(error)}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"infra file {path} must be a mapping of keys to values")
    try:
        return Infra.model_validate(values or {})
    except ValidationError as error:
        raise ConfigError(f"infra file {path}:\n  {listed(problems_of(error, Infra))}") from None
