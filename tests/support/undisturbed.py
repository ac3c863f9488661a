"""One whole run that nothing disturbs, for tests that look at it and for those that compare another with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray import S2LPO, load_config
from s2l_ray.config import Config
from s2l_ray.errors import S2LError
from s2l_ray.miniature.build import Family
from tests.support.paths import ROOT
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@dataclass
class Undisturbed:
    """A run of six steps through the Python interface, with what was seen on the way."""

    config: Config
    results: list[dict[str, Any]] = field(default_factory=list)
    """Of `S2LPO.train`."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Of its steps, as JSON values."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """After every weight sync: how far the engine is from transformers, and from itself before."""
    summary: dict[str, Any] = field(default_factory=dict)
    restored_iteration: int = 0
    restored_pass_at: dict[int, float] = field(default_factory=dict)


def undisturbed_run(family: Family, folder: Path) -> Undisturbed:
    run = Undisturbed(load_config(QUICKSTART, run_config(family, folder / "run")))
    text = AutoTokenizer.from_pretrained(family.large)("3 7 12 5 : 24 > 3 + 7 = 10 ; 10 + 5 = 15 .").input_ids
    text = np.array(text, dtype=np.int32)
    algo = S2LPO(run.config)
    try:
        previous = None
        while not run.results or not run.results[-1]["done"]:
            run.results.append(algo.train())
            run.records.append(algo.run.records[-1].to_json())
            # After every weight sync: the engine's log-probs of a fixed text against transformers on the trainer's
            # weights.
            algo.run.graph.trainer.export(str(folder / "exported"))
            engine = algo.run.graph.score(text)[0]
            run.gaps.append((np.abs(engine - reference(folder / "exported", text)).max(), change(engine, previous)))
            previous = engine
        with pytest.raises(S2LError, match="the run is over: all 6 steps are done"):
            algo.step()
        run.summary = algo.summary
        algo.restore(algo.save(str(folder / "saved")))
        run.restored_iteration, run.restored_pass_at = algo.iteration, algo.evaluate().pass_at
    finally:
        algo.stop()
    return run


def change(now: np.ndarray, before: np.ndarray | None) -> float:
    return np.inf if before is None else float(np.abs(now - before).max())


@torch.no_grad()
def reference(model_dir: Path, text: np.ndarray) -> np.ndarray:
    ids = torch.as_tensor(text, dtype=torch.long)[None]
    logits = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)(ids).logits[0, :-1].float()
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
