"""What travels with a job: its configuration and its nodes, as files in every pod."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any
from urllib.parse import urlsplit

import yaml

from s2l_ray.cluster.infra import Infra
from s2l_ray.config import Config
from s2l_ray.config.embedded import source_name
from s2l_ray.config.reference import keys
from s2l_ray.config.run import directory_name, yaml_of
from s2l_ray.errors import ConfigError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.redaction import has_password

FOLDER = "/etc/s2l-ray"
CONFIG = "config.yaml"
INVENTORY = "inventory.yaml"
OUTPUTS, MODELS, DATA = "/outputs", "/models", "/data"
"""Where claims are mounted."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
WORDS = {"resume": ("auto", "never")}
"""Values of path keys that are no paths."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NODES = "placement.inventory"


def carried_config(config: Config, infra: Infra) -> str:
    """The configuration's file: all that differs from the defaults, with the paths of pods and the carried nodes.

    Raises:
        ConfigError: a path or MLflow's address is one of this machine, or has a password.
    """
    if uri := infra.mlflow_uri or config.tracking.uri:
        _check_tracking("mlflow_uri of the infra file" if infra.mlflow_uri else "tracking.uri", uri)
    update = {
        "run_dir": config.run_dir or f"{OUTPUTS}/{directory_name(config.name)}",
        "tracking": config.tracking.model_copy(update={"uri": None if infra.mlflow_uri else config.tracking.uri}),
        "cluster": config.cluster.model_copy(update={"address": None}),  # RAY_ADDRESS, which every job has
    }
    placed = config.model_copy(update=update)
    given = placed.model_dump(mode="json", exclude_defaults=True)
    for key in (key.name for key in keys() if re.search(r"\bpath\b", key.type) and key.name != NODES):
        path = reduce(getattr, key.split("."), placed)
        if path is not None and path not in WORDS.get(key, ()):
            _set(given, key, path_in_pod(key, str(path), infra))
    _set(given, NODES, f"{FOLDER}/{INVENTORY}")
    return yaml_of(given)


def _check_tracking(where: str, uri: str) -> None:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigError(f"{where} is no URI ({error})") from None
    if has_password(uri):
        raise ConfigError(f"{where} has a password; give MLFLOW_TRACKING_PASSWORD from a Secret instead (secrets:)")
    if parts.hostname in LOOPBACK:
        raise ConfigError(f"{where}: {parts.hostname} is another machine in every pod; give the server's own name")
    if parts.scheme in ("sqlite", "file") and not uri.split(":", 1)[1].lstrip("/").startswith(f"{OUTPUTS[1:]}/"):
        raise ConfigError(f"{where}: the file is in no claim; give sqlite:///{OUTPUTS}/mlflow.db, or leave it out")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value


def path_in_pod(key: str, path: str, infra: Infra) -> str:
    """Where a path of the configuration is in a pod. `embedded:` names stay names, outputs/ is the claim of outputs.

    Raises:
        ConfigError: it is in none of the claims.
    """
    if "://" in path or path.startswith(f"{FOLDER}/"):
        return path
    if (name := source_name(path)) != path:
        return name
    if path.startswith("outputs/"):
        return f"/{path}"
    if key.startswith("models.") and HUB_ID.fullmatch(path):
        return path
    claims = {OUTPUTS: infra.claims.outputs, MODELS: infra.claims.models, DATA: infra.claims.data}
    mounted = [folder for folder, claim in claims.items() if claim]
    if any(f"{path}/".startswith(f"{folder}/") for folder in mounted):
        return path
    raise ConfigError(
        f"{key}: {path} is no path in the pods, which have {', '.join(mounted)} (claims: of the infra file). Give the "
        f"path there{', or the id of a model on the Hub' * key.startswith('models.')}"
    )


def carried_inventory(inventory: Inventory) -> str:
    """The inventory's file: the nodes that the cluster must have when the run starts."""
    given = inventory.model_dump(mode="json", exclude_defaults=True) | {"fixed": True}
    nodes = [group.model_dump(mode="json", exclude_none=True) for group in inventory.nodes]
    text: str = yaml.safe_dump(given | {"nodes": nodes}, sort_keys=False)
    return text
