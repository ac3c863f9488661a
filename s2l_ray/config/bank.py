"""The bank of recorded explorer rollouts."""

from __future__ import annotations

from typing import Annotated, Any

from s2l_ray.config.section import Field, LocalPath, Section, YamlWord, model_validator
from s2l_ray.kinds import BankMode


class BankConfig(Section):
    mode: Annotated[BankMode, YamlWord] = "off"
    """`read`: every explorer rollout comes from the bank, no explorer engine is started, and what is missing is an
    error before anything starts; `write`: explorer rollouts are sampled and recorded; `readwrite`: those that the bank
    has are read, the others sampled and recorded. `bank: read` is short for `bank: {mode: read}`."""
    path: LocalPath = "outputs/bank"
    """Directory, s3://..., gs://... or, for another protocol of fsspec's, fsspec+PROTOCOL://...; recordings with
    different settings lie in it side by side."""
    recording: Annotated[str, Field(pattern="^[0-9a-f]{4,16}$")] | None = None
    """read: take this recording (its fingerprint, or how that begins; `s2l bank show` lists them) instead of the one
    that this run's own settings would make. Its explorer_seed and origin may then differ, so that this is how imported
    rollouts are read, and another seed's; all else must be equal."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str | bool) else value

    @model_validator(mode="after")
    def _named_to_be_read(self) -> BankConfig:
        if self.recording is not None and self.mode != "read":
            raise ValueError("recording is for mode: read; what is recorded goes where this run's settings say")
        return self
