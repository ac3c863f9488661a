"""Hand-made rollouts that are functions of (prompt, draw), and a process that records them.

python -m tests.support.bank_rollouts FOLDER LAST_DRAW [whole | between | within]
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.rollouts.records import Prompt, Rollout, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest

PROMPTS = {
    f"p{n}": Prompt(f"p{n}", f"question {n}", f"question {n} >", np.arange(n + 2, dtype=np.int32), str(n))
    for n in range(12)
}
PER_REQUEST = 4


def rollout(prompt_id: str, draw: int, index: int) -> Rollout:
    """Of 1 to 40 tokens."""
    number = int(prompt_id[1:])
    rng = np.random.default_rng((number, draw))
    tokens = rng.integers(0, 150_000, int(rng.integers(1, 41))).astype(np.int32)
    right = (number + draw) % 3 == 0
    return Rollout(
        prompt_id=prompt_id,
        source="explorer",
        model="small",
        weight_version=0,
        index=index,
        token_ids=tokens,
        logprobs=-rng.exponential(size=len(tokens)).astype(np.float32),
        text=f"π is {draw}\n" * (draw % 3),
        finish_reason="length" if len(tokens) == 40 else "stop",
        verdict=Verdict("right", 1.0, "") if right else Verdict("wrong", 0.1 * (draw % 2), f"got {draw}"),
    )


def request(prompt_id: str, first: int, count: int = PER_REQUEST, step: int = 1) -> ExplorerRequest:
    return ExplorerRequest(step, prompt_id, count, 1, first)


def scored(asked: ExplorerRequest) -> RolloutSet:
    draws = range(asked.first_draw, asked.first_draw + asked.count)
    rollouts = [rollout(asked.prompt_id, draw, index) for index, draw in enumerate(draws)]
    return RolloutSet(asked.prompt_id, PROMPTS[asked.prompt_id].token_ids, rollouts)


def requests(last_draw: int) -> list[ExplorerRequest]:
    """Draws 0 to `last_draw` of all prompts."""
    return [request(p, first) for first in range(0, last_draw + 1, PER_REQUEST) for p in PROMPTS]


def settings(folder: str) -> BankSettings:
    return BankSettings(folder, "made-by-hand/shards", reads=True, is_local=True)


def main(folder: str, last_draw: str, ending: str = "whole") -> None:
    """Shards of about ten requests. `between` and `within` end by SIGKILL when two are whole: before the third is
    begun, and when it is written but not in place."""
    bank = RolloutBank(settings(folder), PROMPTS, shard_bytes=12_000)
    replace, written = os.replace, []

    def counted(source: str, target: str) -> None:
        if ending == "within" and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        written.append(target)

    os.replace = counted
    for number, asked in enumerate(requests(int(last_draw))):
        bank.record(asked, scored(asked))
        if ending == "between" and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        assert number < 100
    bank.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
