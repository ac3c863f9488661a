"""What the trainer's configuration leaves to the plan: what a plan found, put where the trainer looks for it."""

from __future__ import annotations

from s2l_ray.config import Config
from s2l_ray.placement.plan import Layout


def with_recomputed_layers(config: Config, count: int) -> Config:
    """The same configuration with trainer.recomputed_layers."""
    trainer = config.trainer.model_copy(update={"recomputed_layers": count})
    return config.model_copy(update={"trainer": trainer})


def with_replicas(config: Config, count: int) -> Config:
    """The same configuration with trainer.replicas."""
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"replicas": count})})


def as_planned(config: Config, layout: Layout) -> Config:
    """The configuration of the trainer's ranks: what it leaves to the plan is as the plan says."""
    if config.trainer.replicas == "auto":
        config = with_replicas(config, layout.replicas)
    return config if layout.recomputed_layers is None else with_recomputed_layers(config, layout.recomputed_layers)
