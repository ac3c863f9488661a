"""One whole run that nothing disturbs, for tests that look at it and for those that compare another with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray import S2LPO, load_config
from s2l_ray.errors import S2LError
from s2l_ray.miniature.build import Family
from tests.support.paths import ROOT
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


class Undisturbed:
    """A run of six steps through the Python interface, with what was seen on the way."""

    def __init__(self, config) -> None:
        self.config = config
        self.algo = S2LPO(config)
        self.results: list[dict] = []
        self.gaps: list[tuple[float, float]] = []


def undisturbed_run(family: Family, folder: Path) -> Undisturbed:
    run = Undisturbed(load_config(QUICKSTART, run_config(family, folder / "run")))
    text = AutoTokenizer.from_pretrained(family.large)("3 7 12 5 : 24 > 3 + 7 = 10 ; 10 + 5 = 15 .").input_ids
    text = np.array(text, dtype=np.int32)
    try:
        previous = None
        while not run.results or not run.results[-1]["done"]:
            run.results.append(run.algo.train())
            # After every weight sync: the engine's log-probs of a fixed text against transformers on the trainer's
            # weights.
            run.algo.run.graph.trainer.export(str(folder / "exported"))
            engine = run.algo.run.graph.score(text)[0]
            run.gaps.append((np.abs(engine - reference(folder / "exported", text)).max(), change(engine, previous)))
            previous = engine
        with pytest.raises(S2LError, match="the run is over: all 6 steps are done"):
            run.algo.step()
        run.algo.restore(run.algo.save(str(folder / "saved")))
        run.restored_iteration, run.restored_evaluation = run.algo.iteration, run.algo.evaluate()
    finally:
        run.algo.stop()
    return run


def change(now: np.ndarray, before: np.ndarray | None) -> float:
    return np.inf if before is None else float(np.abs(now - before).max())


@torch.no_grad()
def reference(model_dir: Path, text: np.ndarray) -> np.ndarray:
    ids = torch.as_tensor(text, dtype=torch.long)[None]
    logits = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)(ids).logits[0, :-1].float()
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
