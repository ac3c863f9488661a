"""What the benchmarks against peers count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks import train_vs_trl, vs_process_per_step
from tests.support.process_per_step import Settings, offline_groups


def test_speed_leaves_out_the_first_two_steps() -> None:
    """Steps 3 and 4 have 300 + 500 tokens in 12 - 4 seconds."""
    curve = train_vs_trl.Curve(0.0, [3.0, 4.0, 6.0, 12.0], [6.0, 8.0, 9.0, 10.0], [100, 200, 300, 500], [], Path())
    assert curve.rate() == pytest.approx(100.0)
    assert curve.rate("cpu") == pytest.approx(400.0)


def test_what_is_neither_sampling_nor_training() -> None:
    theirs = {"imports": 5.0, "generate": 2.0, "train": 1.0, "save": 0.5, "total": 10.0}
    assert vs_process_per_step.remainder(theirs) == pytest.approx(7.0)
    ours = {
        "generate": 0.4,
        "explore": 0.1,
        "forward_backward": 0.3,
        "old_logprobs": 0.1,
        "weight_sync": 0.05,
        "total": 1.0,
    }
    assert vs_process_per_step.remainder(ours) == pytest.approx(0.1)


def test_long_tail_ends_with_one_chance_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.setitem(train_vs_trl.LONG_TAIL, "vocabulary", 500)
    path, train = train_vs_trl.write_long_tail(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        end = model(torch.randint(1, 499, (4, 200))).logits.softmax(-1)[..., -1]
    assert end.mean().item() == pytest.approx(1 / 128, rel=0.05)
    assert end.std().item() < 0.2 * end.mean().item()
    rows = [json.loads(line) for line in Path(train).read_text().splitlines()]
    assert {len(row["question"].split()) for row in rows} == {64}


def test_offline_rollouts_are_drawn_by_prompt(tmp_path: Path) -> None:
    """Two of each prompt's three rows, the same ones in every process."""
    settings = Settings(
        learner="", explorer="", train="", directory=str(tmp_path), prompts=[["b", "a"]], offline_rollouts=3,
        explorer_per_group=2, learner_per_group=2, mini_batch_prompts=2, max_tokens=4, learning_rate=1.0,
        betas=(0.9, 0.9), dtype="float32", seed=1,
    )  # fmt: skip
    rows = [
        {
            "prompt_id": prompt,
            "prompt_ids": [k],
            "response_ids": [10 * k + draw],
            "small_model_log_probs": [-1.0],
            "reward": float(draw == 0),
            "is_correct": draw == 0,
        }
        for k, prompt in enumerate("ab")
        for draw in range(3)
    ]
    settings.offline_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = offline_groups(settings, ["b", "a"])
    assert [group.prompt_id for group in groups] == ["b", "a"]
    drawn = [[int(rollout.token_ids[0]) for rollout in group.rollouts] for group in groups]
    assert all(len(set(own)) == 2 for own in drawn)
    assert set(drawn[0]) < {10, 11, 12} and set(drawn[1]) < {0, 1, 2}
    assert [[r.reward for r in g.rollouts] for g in groups] == [[float(t % 10 == 0) for t in own] for own in drawn]
    assert drawn == [[int(r.token_ids[0]) for r in g.rollouts] for g in offline_groups(settings, ["b", "a"])]
