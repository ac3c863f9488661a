"""Records between processes: what arrives is what was sent."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from ray import cloudpickle

from s2l_ray.errors import GroupError
from s2l_ray.rollouts.records import (
    Period,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutSet,
    SetReport,
    Verdict,
    report_on,
    without_columns,
    write_groups,
)


def rollout(index: int, tokens: list[int], verdict: Verdict | None, weight_syncs: tuple = ()) -> Rollout:
    return Rollout(
        "p", "learner", "m", 3, index, np.array(tokens, np.int32), -np.array(tokens, np.float32) / 7, f"text {index}",
        "stop", verdict, weight_syncs,
    )  # fmt: skip


def rollout_set() -> RolloutSet:
    verdicts = [Verdict("right", 1.0, "5"), Verdict("timeout", 0.0), None]
    rollouts = [
        rollout(0, [4, 5, 6], verdicts[0]),
        rollout(1, [], verdicts[1]),
        rollout(2, [7, 8], verdicts[2], ((1, 4),)),
    ]
    return RolloutSet("p", np.array([1, 2], np.int32), rollouts, Period(1.5, 2.5))


def same(a: object, b: object) -> bool:
    """Field by field, arrays by value and type."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("how", [pickle, cloudpickle])
def test_a_set_arrives_as_it_was_sent(how) -> None:
    sent = rollout_set()
    got = how.loads(how.dumps(sent))
    assert same(got, sent)
    assert got.rollouts[2].token_versions.tolist() == [3, 4]
    assert not same(got, replace(sent, rollouts=sent.rollouts[:2]))
    empty = RolloutSet("p", sent.prompt_token_ids, [])
    assert same(how.loads(how.dumps(empty)), empty)


def test_a_set_travels_as_three_arrays() -> None:
    buffers: list[pickle.PickleBuffer] = []
    text = cloudpickle.dumps(rollout_set(), protocol=5, buffer_callback=buffers.append)
    assert sorted(b.raw().nbytes for b in buffers) == [8, 20, 20]  # the prompt's 2 tokens; 5 tokens, 5 log-probs
    got = pickle.loads(text, buffers=[b.raw().toreadonly() for b in buffers])  # as Ray hands out shared memory
    assert got.rollouts[0].token_ids.base is not None and not got.rollouts[0].token_ids.flags.writeable
    assert same(got, rollout_set())


def test_log_probs_that_do_not_fit_their_tokens_are_an_error() -> None:
    broken = replace(rollout(0, [1, 2], None), logprobs=np.zeros(3, np.float32))
    with pytest.raises(GroupError, match="has not one log-prob for each of its tokens"):
        pickle.dumps(RolloutSet("p", np.array([1], np.int32), [broken, rollout(1, [5], None)]))


def test_a_report_arrives_as_it_was_sent() -> None:
    scored = rollout_set().scored([Verdict("right", 1.0), Verdict("wrong", 0.0), Verdict("unparsable", 0.5)])
    sent = report_on(scored, Period(3.0, 4.0))
    got = pickle.loads(pickle.dumps(sent))
    assert same(got, sent) and isinstance(got, SetReport)
    assert [row.newest_version for row in got.rows] == [None, None, 4]
    assert [row.reward for row in got.rows] == [1.0, 0.0, 0.5]


def test_texts_that_utf8_cannot_encode_are_written_as_escapes(tmp_path) -> None:
    odd = replace(rollout(0, [1], Verdict("wrong", 0.0, "x")), text='half \ud83d, "whole" \U0001f642 \0 \\ud83d')
    path = tmp_path / "deep" / "step.jsonl"
    write_groups(path, [RolloutGroup("p", np.array([1], np.int32), [odd])], {"p": ("2 + 3?", "5")})
    assert "\U0001f642" in path.read_text(encoding="utf-8")
    row = json.loads(path.read_text(encoding="utf-8"))
    assert (row["question"], row["answer"], row["response"]) == ("2 + 3?", "5", odd.text)


def test_engines_get_no_columns_and_the_same_prompts_where_there_are_none():
    plain = Prompt("a", "q", "q >", np.array([1], np.int32), "2")
    tested = Prompt("b", "q", "q >", np.array([2], np.int32), "3", '{"tests": ["x"]}')
    assert without_columns(only := {"a": plain}) is only
    bare = without_columns({"a": plain, "b": tested})
    assert bare["a"] is plain and list(bare) == ["a", "b"]
    assert (bare["b"].columns, bare["b"].answer, bare["b"].token_ids.tolist()) == ("{}", "3", [2])
