"""The benchmarks' protocol and what they count; not what they measure, which belongs to a machine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from s2l_ray.gpu_check.workload import write_qwen3
from s2l_ray.miniature import countdown
from s2l_ray.rollouts.requests import ExplorerRequest, LearnerRequest
from s2l_ray.tasks.math_answers import check_math
from tests.benchmarks import runner
from tests.benchmarks.answers import FAMILIES, gsm8k_style, math500_style
from tests.benchmarks.memory import update_peak
from tests.benchmarks.orchestration import GROUP, InstantEngine, Measured, _problems, _results
from tests.benchmarks.suites import pairs_of
from tests.benchmarks.verifier_suites import answer_of
from tests.support.latex_fuzz import pairs

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def test_every_benchmark_is_found() -> None:
    assert {"memory", "overlap", "update_vs_trl"} <= set(runner.names())
    assert not {"protocol", "runner"} & set(runner.names())


def test_an_unknown_benchmark_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "memroy"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "no benchmark memroy; there are" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("trl") is not None, reason="TRL is here")
def test_what_a_machine_lacks_is_said_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "update_vs_trl", "--out", str(tmp_path / "figures.json")])
    assert runner.main() == 0
    assert "skipped: TRL is not installed; `.venv/bin/python -m pip install trl" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text()) == []


def test_the_trainers_peak_does_not_grow_with_vocabulary_times_tokens(tmp_path: Path) -> None:
    vocabulary, few, many = 4_096, 1_024, 2_048
    model_dir = write_qwen3(tmp_path, vocab_size=vocabulary, **TINY)
    logits = (many - few) * vocabulary * 4
    chunked = [update_peak(model_dir, vocabulary, tokens, 128) for tokens in (few, many)]
    at_once = [update_peak(model_dir, vocabulary, tokens, tokens) for tokens in (few, many)]
    assert chunked[1] - chunked[0] < 0.1 * logits
    assert at_once[1] - at_once[0] > 1.5 * logits


def test_made_up_answers_are_what_they_are_said_to_be() -> None:
    answers = gsm8k_style(400, seed=1) + math500_style(400, seed=1)
    assert [check_math(a.response, a.gold).status == "right" for a in answers] == [a.right for a in answers]
    assert len({a.gold for a in answers}) > 80  # of 100 problems
    assert 0.4 < sum(a.right for a in answers) / len(answers) < 0.6
    assert len(FAMILIES) == 13
    assert math500_style(40, seed=2) == math500_style(40, seed=2)


SUITE = r"""
import pytest

@pytest.mark.parametrize("gold, pred, expected", [("$1/2$", "0.5", 1), ("7", "8", False), ("7", f(), 1), ("7", 7, 1)])
def test_grades(gold, pred, expected):
    assert grade(gold, pred) == expected

def test_asserts(self):
    assert is_equal("x+1", "1+x")
    assert not is_equal("x", "y")
    assert is_equal("(1, 2)", "(2, 1)") is False
    self.assertTrue(is_equal("3", "3.0"))
    assert is_equal("x+1", "1+x", 5)
"""


def test_pairs_are_read_out_of_a_suite_that_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_grader.py").write_text(SUITE)
    (tmp_path / "rows.jsonl").write_text('{"answer": "5", "response": "five", "label": "Correct"}\n{"answer": "5"}\n')
    (tmp_path / "rows.csv").write_text("gold,pred,expected\n6,7,0\n")
    (tmp_path / "other.py").write_text("not python at all")
    assert {pair[1:] for pair in pairs_of(tmp_path)} == {
        ("$1/2$", "0.5", True),
        ("7", "8", False),
        ("1+x", "x+1", True),
        ("y", "x", False),
        ("(2, 1)", "(1, 2)", False),
        ("3.0", "3", True),
        ("5", "five", True),
        ("6", "7", False),
    }
    assert {pair.source for pair in pairs_of(tmp_path)} == {"tests/test_grader.py", "rows.jsonl", "rows.csv"}


@pytest.mark.parametrize(
    ("gold", "answer"), [("$$ x = 1 $$", "x = 1"), (r"so \boxed{1}, \boxed{2}", "1, 2"), ("5", "5"), (r"\(3\)", "3")]
)
def test_a_suites_gold_answer_loses_its_delimiters(gold: str, answer: str) -> None:
    assert answer_of(gold) == answer


def test_suites_are_read_from_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = ["--out", str(tmp_path / "figures.json")]
    for given, said in ((str(tmp_path), "has no labelled pairs"), (None, "no suite is given; name a checkout")):
        monkeypatch.setattr("sys.argv", ["bench", "verifier_suites", *([given] if given else []), *out])
        assert runner.main() == 0
        assert said in capsys.readouterr().out


def test_random_answers_are_the_same_for_a_seed() -> None:
    assert list(pairs(60, seed=1)) == list(pairs(60, seed=1)) != list(pairs(60, seed=2))


def test_an_instant_engine_gives_what_is_asked_for() -> None:
    prompts, solutions = _problems(3)
    engine = InstantEngine("learner", prompts, solutions)
    got, _ = asyncio.run(engine.sample(LearnerRequest(5, "p2", 4, seed=1, weight_version=4)))
    assert [(r.prompt_id, r.source, r.index, r.weight_version) for r in got.rollouts] == [
        ("p2", "learner", index, 4) for index in range(4)
    ]
    verdicts = [countdown.check(r.text, prompts["p2"].answer).reward for r in got.rollouts]
    assert verdicts == [0.0, 1.0, 0.0, 1.0]
    explored, _ = asyncio.run(engine.sample(ExplorerRequest(5, "p0", GROUP, 1, 0)))
    assert len({r.token_ids.tobytes() for r in explored.rollouts}) == GROUP


def test_orchestration_is_flat_when_a_rollout_costs_the_same() -> None:
    few, some, many = (
        Measured(n, seconds, 100, memory) for n, seconds, memory in ((1, 2, 50), (10, 5, 50), (100, 60, 60))
    )
    figures = {result.name: result.value for result in _results("x", few, some, many)}
    assert figures["cost_per_rollout_100k_over_10k_x"] == pytest.approx(0.6 / 0.5)
    assert figures["scheduler_memory_100k_over_10k_x"] == 1.2 and figures["driver_memory_100k_over_10k_x"] == 1.0
    assert figures["orchestrated_rollouts_per_second_x_1k"] == 0.5
