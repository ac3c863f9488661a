"""Training from the bank against exploring live: the same groups, seconds per step; and how fast a recording is read.

The run: the tiny family, 32 prompts x 8 rollouts a step, half of them the explorer's, once without a bank, once
recording, once reading. The recording that is read for speed: 4,096 rollouts of 64 to 2,048 tokens, in the order in
which they were recorded, and in random order, on one thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from s2l_ray import S2LPO, load_config
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.miniature.build import Family, build_family
from s2l_ray.miniature.recipe import TINY
from s2l_ray.rollouts.records import Prompt, Rollout, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest
from tests.benchmarks.protocol import Result
from tests.support.run_settings import run_config

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
STEPS, FIRST_TIMED = 12, 3
PROMPTS, DRAWS = 512, 8


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        results = _reading(Path(folder) / "reading")
        family = build_family(Path(folder) / "family", recipe=TINY)
        runs = {mode: _train(family, Path(folder), mode) for mode in ("off", "write", "read")}
    live, recording, read = (runs[mode] for mode in ("off", "write", "read"))
    same = [
        len({row["digest"] for row in rows}) == 1
        for rows in zip(live.records, recording.records, read.records, strict=True)
    ]
    print(f"{sum(same)} of {STEPS} steps have the same groups, to the token, in all three runs")
    return [
        *results,
        Result("bank_steps_with_equal_groups", sum(same) / STEPS, aim=1.0, unit="share of steps"),
        Result("bank_step_time_reading_over_live", read.step_s / live.step_s, aim=None, unit="ratio"),
        Result("bank_step_time_recording_over_live", recording.step_s / live.step_s, aim=None, unit="ratio"),
        Result("bank_start_time_reading_over_live", read.start_s / live.start_s, aim=None, unit="ratio"),
    ]


class _Run:
    """What was measured of a run."""

    def __init__(self, records: list[dict], start_s: float) -> None:
        self.records = records
        self.start_s = start_s
        timed = records[FIRST_TIMED - 1 :]
        self.step_s = sum(row["seconds"]["total"] for row in timed) / len(timed)


def _train(family: Family, folder: Path, mode: str) -> _Run:
    settings = run_config(family, folder / mode) | {
        "data.eval": None,
        "rollout.group_size": 8,
        "rollout.prompts_per_step": 32,
        "objective.mini_batch_prompts": 16,
        "schedule.kind": "constant",
        "schedule.start": 0.5,
        "schedule.steps": STEPS,
        "schedule.mix_steps": STEPS,
        "checkpoint.every": STEPS,
        "bank.mode": mode,
        "bank.path": str(folder / "bank"),
        "tracking.enabled": False,
    }
    begin = time.monotonic()
    algo = S2LPO(load_config(QUICKSTART, settings))
    start_s = time.monotonic() - begin
    try:
        for _ in range(STEPS):
            algo.train()
    finally:
        algo.stop()
    done = _Run([record.to_json() for record in algo.run.records], start_s)
    print(f"bank {mode}: start {start_s:.1f} s, step {done.step_s:.3f} s")
    return done


# ---- reading --------------------------------------------------------------------------------------------------------


def _reading(folder: Path) -> list[Result]:
    settings = BankSettings(str(folder), "recording/shards", reads=True, is_local=True)
    prompts = {f"p{n}": Prompt(f"p{n}", "q", "q", np.arange(64, dtype=np.int32), "a") for n in range(PROMPTS)}
    bank = RolloutBank(settings, prompts)
    rng = np.random.default_rng(0)
    requests = [ExplorerRequest(1, prompt_id, DRAWS, 1, 0) for prompt_id in prompts]
    for request in requests:
        bank.record(request, _rollouts(request, prompts, rng))
    bank.close()
    stored = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    shuffled = [requests[n] for n in rng.permutation(PROMPTS)]
    results = []
    for order, asked in (("recorded", sorted(requests, key=lambda r: r.prompt_id)), ("random", shuffled)):
        bank = RolloutBank(settings, prompts, cache_bytes=32 * 2**20)
        begin = time.monotonic()
        nbytes = sum(bank.read(request)[1].nbytes for request in asked)
        seconds = time.monotonic() - begin
        print(f"read in {order} order: {nbytes / 1e6:.0f} MB ({stored / 1e6:.0f} MB stored) in {seconds:.2f} s")
        results += [
            Result(f"bank_read_rollouts_{order}_order", PROMPTS * DRAWS / seconds, aim=None, unit="rollouts/s"),
            Result(f"bank_read_bytes_{order}_order", nbytes / seconds / 1e6, aim=None, unit="MB/s"),
        ]
    return results


def _rollouts(request: ExplorerRequest, prompts: dict[str, Prompt], rng: np.random.Generator) -> RolloutSet:
    """Token ids as frequent as words are, log-probs of which many are nearly 0, three letters of text a token."""
    rollouts = []
    for index in range(request.count):
        length = int(rng.integers(64, 2049))
        tokens = (rng.zipf(1.3, length) % 151_000).astype(np.int32)
        logprobs = (-rng.exponential(size=length) * (rng.random(length) < 0.4)).astype(np.float32)
        text = "".join(map(chr, rng.integers(97, 123, 3 * length)))
        verdict = Verdict("right", 1.0)
        rollouts.append(
            Rollout(request.prompt_id, "explorer", "small", 0, index, tokens, logprobs, text, "stop", verdict)
        )
    return RolloutSet(request.prompt_id, prompts[request.prompt_id].token_ids, rollouts)
