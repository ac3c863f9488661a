"""Short runs of the tiny family, and recordings of one-token rollouts for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s2l_ray.bank.contents import fingerprint_of, made_with
from s2l_ray.bank.preparing import settings_of, training_prompts
from s2l_ray.bank.recording import create
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.config import Config, load_config
from s2l_ray.miniature.build import Family
from s2l_ray.rollouts.records import Rollout, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest
from tests.support.undisturbed import QUICKSTART


def configured(family: Family, folder: Path, *overrides: str) -> Config:
    """A run of 3 steps with 4 prompts and G = 4, of which the explorer has 4, 2 and 0."""
    return load_config(
        QUICKSTART,
        [
            f"models.learner={family.large}",
            f"models.explorer={family.small}",
            f"data.train={family.train}",
            f"bank.path={folder / 'bank'}",
            "models.dtype=bfloat16",
            "rollout.group_size=4",
            "rollout.prompts_per_step=4",
            "objective.mini_batch_prompts=4",
            "schedule.steps=3",
            "schedule.mix_steps=3",
            *overrides,
        ],
    )


def fill(config: Config, requests: list[ExplorerRequest]) -> RolloutBank:
    """Record one-token rollouts for these requests under the configuration's fingerprint."""
    storage = bank_storage(config.bank.path)
    recording = create(storage, fingerprint_of(config), made_with(config))
    bank = RolloutBank(
        settings_of(storage, recording, reads=True), {prompt.id: prompt for prompt in training_prompts(config)}
    )
    for asked in requests:
        bank.record(asked, answers(asked))
    bank.close()
    return bank


def answers(asked: ExplorerRequest) -> RolloutSet:
    token, logprob = np.array([7], np.int32), np.array([-1.0], np.float32)
    verdict = Verdict("wrong", 0.0)
    rollouts = [
        Rollout(asked.prompt_id, "explorer", "small", 0, index, token, logprob, "7", "stop", verdict)
        for index in range(asked.count)
    ]
    return RolloutSet(asked.prompt_id, np.array([1], np.int32), rollouts)
