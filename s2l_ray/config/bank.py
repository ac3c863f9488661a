"""The bank of recorded explorer rollouts."""

from __future__ import annotations

from typing import Annotated, Any

from s2l_ray.config.section import FINGERPRINT_PATTERN, Field, Place, Section, YamlWord, model_validator
from s2l_ray.kinds import BankMode


class BankConfig(Section):
    """The bank of recorded explorer rollouts."""

    mode: Annotated[BankMode, YamlWord] = "off"
    """How the run uses the bank; `bank: read` is short for `bank: {mode: read}`.

    - `off`: not at all;
    - `read`: every explorer rollout comes from the bank and no explorer engine is started; a missing rollout is an
      error before anything starts;
    - `write`: explorer rollouts are sampled and recorded;
    - `readwrite`: rollouts that the bank has are read, the others are sampled and recorded."""
    path: Place = "outputs/bank"
    """Directory or URI of the bank: s3://..., gs://..., or fsspec+PROTOCOL://... for any other protocol of fsspec. A
    bank holds recordings with different settings side by side."""
    recording: Annotated[str, Field(pattern=FINGERPRINT_PATTERN)] | None = None
    """With mode: read, the recording to read, by its fingerprint or the beginning of it (`s2l bank show` lists them),
    instead of the one with this run's own settings. Only its rollout.explorer_seed, models.dtype and origin may differ
    from the run's: this is how imported rollouts are read, and those of another seed."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        """`read` as `{mode: read}`. YAML reads a bare `off` as a boolean."""
        return {"mode": value} if isinstance(value, str | bool) else value

    @model_validator(mode="after")
    def _named_to_be_read(self) -> BankConfig:
        if self.recording is not None and self.mode != "read":
            raise ValueError("recording is for mode: read; what is recorded goes where this run's settings say")
        return self
