"""The bank of recorded explorer rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator

from s2l_ray.config.section import Section, YamlWord


class BankConfig(Section):
    mode: Annotated[Literal["off", "read", "write", "readwrite"], YamlWord] = "off"
    """`read`: every explorer rollout comes from the bank, no explorer engine is started, and what is missing is an
    error before anything starts; `write`: explorer rollouts are sampled and recorded; `readwrite`: those that the bank
    has are read, the others sampled and recorded. `bank: read` is short for `bank: {mode: read}`."""
    path: str = "outputs/bank"
    """Directory, or s3://... or gs://...; recordings with different settings lie in it side by side."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str | bool) else value
