"""A run with faults, and the same one without: groups and weights must be the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from s2l_ray import load_config
from s2l_ray.run.training_run import TrainingRun
from tests.chaos.saboteur import Fault, Outcome, Saboteur
from tests.support.paths import ROOT
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@dataclass
class Told:
    """What a run did."""

    digests: list[str]
    """Of every step's groups."""
    losses: list[float]
    weights: str
    """Digest of the exported model."""
    seconds: float
    outcomes: list[Outcome]
    notes: list[str]
    restarts: int
    redone: int


def chaos_config(family: Any, directory: Path, **overrides: Any) -> dict[str, Any]:
    """Many small steps with all roles, in deterministic mode; hung actors are found soon."""
    return run_config(family, directory) | {
        "engines.learner.count": 2,
        "engines.learner.cpus": 0.25,
        "engines.explorer.cpus": 0.25,
        "trainer.ranks": 2,
        "trainer.cpus": 0.25,
        "trainer.deterministic": True,
        "evaluation.samples": 2,
        "evaluation.k": [1, 2],
        "tracking.enabled": False,
        "cluster.weight_sync_timeout_s": 30,
        "recovery.heartbeat_s": 0.5,
        "recovery.heartbeat_timeout_s": 15,
        "recovery.max_restarts": 1000,
        "recovery.backoff_s": 0.1,
        **overrides,
    }


def run(family: Any, directory: Path, faults: Sequence[Fault] = (), **overrides: Any) -> Told:
    """Train to the end, whatever happens."""
    saboteur = Saboteur(faults)
    begin = time.monotonic()
    config = load_config(QUICKSTART, chaos_config(family, directory, **overrides))
    with TrainingRun(config, saboteur) as training:
        saboteur.run = training
        while not training.done:
            step = training.steps_done + 1
            started = time.monotonic()
            saboteur.idle(step)
            training.step()
            saboteur.join()
            for outcome in saboteur.outcomes:
                if outcome.fault.step == step:
                    outcome.seconds = time.monotonic() - started
        records = training.records
    return Told(
        [record.digest for record in records],
        [record.trainer.get("loss", float("nan")) for record in records],
        weights_digest(directory / "model"),
        time.monotonic() - begin,
        saboteur.outcomes,
        saboteur.notes,
        sum(record.pipeline.restarts for record in records),
        sum(record.pipeline.redone for record in records),
    )


def weights_digest(model: Path) -> str:
    """A digest of all tensors, by name."""
    found = hashlib.blake2b(digest_size=16)
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                found.update(name.encode() + tensors.get_tensor(name).view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tell(told: Told) -> str:
    """One JSON line."""
    return json.dumps({**asdict(told), "losses": told.losses})
