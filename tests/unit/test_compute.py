"""FLOPs of rollouts and updates by hand, on models of round numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from s2l_ray.compute import Compute, ComputeMeter, ForwardCost, generation_flops, total, update_passes
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.results import EvaluationRecord, Spent, StepRecord
from s2l_ray.rollouts.records import RolloutSummary
from tests.support.step_records import evaluation, step

SMALL, LARGE = ForwardCost(layers=10, attention=1, head=5), ForwardCost(layers=100, attention=2, head=50)
METER = ComputeMeter({"explorer": SMALL, "learner": LARGE})


def rollout(prompt: str, source: str, tokens: int) -> RolloutSummary:
    return RolloutSummary(prompt, source, 0, 0, 1.0, "right", 3, tokens, False, "00")


def test_sampling_reads_the_prompt_once_and_every_response_token_but_the_last() -> None:
    """A prompt of 3 attends to 1 + 2 + 3 tokens; responses of 1 and 3 tokens read none, and positions 4 and 5."""
    prompt, read, logits = 3 * 10 + 6, 2 * 10 + 4 + 5, 4 * 5
    assert generation_flops(SMALL, 3, [1, 3]) == prompt + read + logits == 36 + 29 + 20
    assert generation_flops(SMALL, 3, []) == 0
    assert generation_flops(SMALL, 3, [0]) == prompt


def test_sampling_costs_what_torch_counts() -> None:
    """Prefill and two decoding steps with a KV cache, in eager attention, which multiplies with masked tokens too."""
    config = Qwen3Config(
        vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, attn_implementation="eager",
    )  # fmt: skip
    model, cache = Qwen3ForCausalLM(config), DynamicCache()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 5, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
        for _ in range(2):
            model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
    cost = ModelShape.from_config(config.to_dict(), "test").forward_cost
    masked = cost.attention * (5 * 5 - 15)
    assert counter.get_total_flops() == generation_flops(cost, 5, [3]) + masked


def test_passes_of_an_update() -> None:
    assert update_passes(1) == 3
    assert update_passes(4, reference=True, kl_in_reward=True) == 3 + 0.75 + 2
    assert update_passes(1, lora=True) == 2
    assert update_passes(4, rescored=0.5) == 3 + 0.5 * 0.75


def test_a_mixed_step() -> None:
    """Two prompts of 3 tokens: one by both sources, one by the explorer alone and from the bank."""
    rows = [rollout("a", "explorer", 2), rollout("a", "learner", 3), *[rollout("b", "explorer", 1)] * 2]
    found = METER.step(rows, recorded=["b", "not used"], optimizer_steps=2, trained_tokens=3.5)
    of_a, of_b = 36 + 10 + 4 + 2 * 5, 36 + 2 * 5
    learner = 3 * 100 + 2 * 6 + 2 * 100 + 2 * (4 + 5) + 3 * 50  # 680
    alone = (3 * 100 + 12 + (100 + 8) + (200 + 18) + 5 * 50) + (312 + 2 * 50)
    # Sequences of 5, 6, 4 and 4 tokens, 7 of them responses; half of the response tokens are trained on.
    forward = 19 * 100 + 2 * (15 + 21 + 10 + 10) + 7 * 50
    assert found == Compute(
        prompts=2,
        tokens={"explorer": 4, "learner": 3},
        rollout_flops={"explorer": of_a + of_b, "learner": learner},
        recorded_tokens=2,
        recorded_flops=of_b,
        grpo_flops=alone,
        update_flops=3.5 * forward / 2,
    )
    explored = 5 * 100 + 2 * 15 + 2 * 50 + 2 * (4 * 100 + 2 * 10 + 50)  # what the explorer sampled, forwarded
    saving = replace(METER, old_from_engine=True).step(rows, optimizer_steps=2)
    assert saving.update_flops == pytest.approx(3 * forward + explored / 2)
    assert replace(METER, old_from_engine=True).step(rows[1:2], optimizer_steps=2).update_flops == 3 * 792
    assert found.rollout_compute_saved == pytest.approx(1 - (of_a + of_b + learner) / alone)
    assert found.flops == of_a + of_b + learner + 3.5 * forward / 2 and found.sampled_tokens == 7


def test_grpo_saves_nothing_and_one_size_saves_only_the_second_reading_of_a_prompt() -> None:
    rows = [rollout("a", "learner", 4)] * 3
    assert METER.step(rows).rollout_compute_saved == 0
    twins = ComputeMeter({"explorer": LARGE, "learner": LARGE})
    mixed = twins.step([rollout("a", "explorer", 4), rollout("a", "learner", 4)])
    assert mixed.rollout_compute_saved == pytest.approx(-312 / mixed.grpo_flops)
    assert Compute().rollout_compute_saved is None


def test_steps_add_up_unless_one_is_not_known() -> None:
    one = METER.step([rollout("a", "learner", 4)])
    other = METER.step([rollout("a", "explorer", 2)])
    both = total([one, other])
    assert both is not None and both.prompts == 2 and both.tokens == {"learner": 4, "explorer": 2}
    assert both.flops == one.flops + other.flops and both.grpo_flops == one.grpo_flops + other.grpo_flops
    assert total([one, None]) is None and total([]) == Compute()


def test_records_keep_it_and_those_of_earlier_versions_have_none() -> None:
    compute = METER.step([rollout("a", "learner", 4)])
    record = step(1, compute=compute, seconds={"rollout": 1.0, "update": 0.5, "evaluate": 9.0, "total": 11.0})
    row = json.loads(json.dumps(record.to_json()))
    assert row["compute"]["rollout_compute_saved"] == 0 and StepRecord.from_json(row) == record
    del row["compute"]
    old = StepRecord.from_json(row)
    assert old.compute is None
    assert Spent.on([record, record]) == Spent(3.0, compute + compute) and Spent.on([record, old]) == Spent(3.0, None)
    for spent in (Spent.on([record]), Spent.on([old]), None):
        measured = replace(evaluation("learner", 1), spent=spent)
        assert EvaluationRecord.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    row = evaluation("learner", 1).to_json()
    del row["spent"]
    assert EvaluationRecord.from_json(row).spent is None
