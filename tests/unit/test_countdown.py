"""The embedded task: exact checking, seeded generation, a split that cannot leak."""

from __future__ import annotations

import itertools
import json
import operator
import re

import pytest

from s2l_ray.config.shipped import EXPERIMENTS
from s2l_ray.errors import DataError
from s2l_ray.miniature.build import EMBEDDED
from s2l_ray.miniature.countdown import CountdownProblem, check, generate, parse_question, write_jsonl
from s2l_ray.miniature.recipe import QUICK

QUESTION = "3 7 12 5 : 27"


def every_chain(pool: tuple[int, ...], steps: tuple[str, ...] = ()):
    """Second implementation, by brute force: (steps, final number) of all chains over the numbers."""
    if len(pool) == 1:
        yield steps, pool[0]
    for i, j in itertools.permutations(range(len(pool)), 2):
        rest = tuple(n for k, n in enumerate(pool) if k not in (i, j))
        for sign, function in {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}.items():
            result = function(pool[i], pool[j])
            if result == int(result) and 1 <= result <= 99:
                step = f"{pool[i]} {sign} {pool[j]} = {int(result)}"
                yield from every_chain((*rest, int(result)), (*steps, step))


@pytest.mark.parametrize(
    ("response", "status", "why"),
    [
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 10 + 17 = 27", "right", ""),
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 10 + 17 = 27 .", "right", ""),
        (" 3+7=10;12+5=17;10+17=27. ", "right", ""),
        ("3 + 7 = 11 ; 12 + 5 = 17 ; 11 + 17 = 28 .", "wrong", "3 + 7 is not 11"),
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 17 - 10 = 7 .", "wrong", "ends at 7, not at 27"),
        ("3 + 7 = 10 ; 10 + 17 = 27 .", "wrong", "17 is not available"),
        ("3 * 7 = 21 ; 21 + 5 = 26 .", "wrong", "2 steps leave [12, 26] unused"),
        ("12 + 12 = 24 ; 24 + 3 = 27 ; 7 - 5 = 2 .", "wrong", "12 is not available"),
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 10 + 17 = 27 ; 27 * 1 = 27 .", "wrong", "1 is not available"),
        ("5 - 7 = 2 ; 3 + 12 = 15 ; 2 + 15 = 17 .", "wrong", "5 - 7 is not 2"),
        ("7 / 3 = 2 ; 12 + 5 = 17 ; 2 + 17 = 19 .", "wrong", "7 / 3 is not 2"),
        ("7 / 0 = 0 ; 12 + 5 = 17 ; 3 + 17 = 20 .", "wrong", "7 / 0 is not 0"),
        ("7 * 12 = 84 ; 84 * 5 = 420 ; 420 / 3 = 140 .", "wrong", "84 * 5 is not 420"),
        ("27", "unparsable", "27"),
        ("", "unparsable", ""),
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 10 +", "unparsable", ""),
        ("3 + 7 = 10 ; ; 12 + 5 = 17 .", "unparsable", ""),
        ("3 + 7 = 10 . 12 + 5 = 17 ; 10 + 17 = 27 .", "unparsable", ""),
        ("3 + 7 = 10 ; 12 + 5 = 17 ; 1 0 + 17 = 27 .", "unparsable", ""),
        ("3 + 7 = ١٠ ; 12 + 5 = 17 ; 10 + 17 = 27 .", "unparsable", ""),
        ("9" * 10_000 + " + 7 = 10", "unparsable", ""),
    ],
)
def test_verdicts_worked_out_by_hand(response: str, status: str, why: str) -> None:
    verdict = check(response, QUESTION, QUESTION)
    assert verdict.status == status
    assert verdict.reward == (1.0 if status == "right" else 0.0)
    assert why in verdict.detail


def test_a_repeated_number_may_be_used_as_often_as_it_was_given() -> None:
    assert check("6 + 6 = 12 ; 12 + 6 = 18 ; 18 + 2 = 20", "6 6 2 6 : 20").status == "right"
    assert check("6 + 6 = 12 ; 12 + 6 = 18 ; 18 + 2 = 20", "6 6 2 7 : 20").status == "wrong"


def test_the_checker_agrees_with_brute_force_over_all_chains() -> None:
    numbers, target = parse_question(QUESTION)
    chains = list(every_chain(tuple(numbers)))
    assert {last for _, last in chains} > {target}, "the problem must have right and wrong chains"
    for steps, last in chains:
        assert check(" ; ".join(steps) + " .", QUESTION).status == ("right" if last == target else "wrong")


@pytest.mark.parametrize("answer", ["", "27", "3 7 12 5", "3 7 x 5 : 27", "3 7 12 5 : 27 : 1", "-3 7 12 5 : 27"])
def test_a_gold_answer_that_is_no_problem_is_a_data_error(answer: str) -> None:
    with pytest.raises(DataError, match="not a countdown problem"):
        check("3 + 7 = 10", answer)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_problems_are_in_range_solved_by_their_trace_and_all_different(split) -> None:
    problems = generate(150, split, seed=3)
    assert len({p.key for p in problems}) == 150
    for problem in problems:
        assert len(problem.numbers) == 4 and all(1 <= n <= 20 for n in problem.numbers)
        assert 10 <= problem.target <= 99
        assert problem.split == split
        assert check(problem.trace, problem.question).status == "right"
        assert len(problem.prompt.split()) == 7 and len(problem.trace.split()) == 18


def test_the_split_is_blind_to_order_and_seed() -> None:
    """A held-out problem stays held out however its numbers are shown, so no seed can leak it."""
    shown = CountdownProblem((3, 7, 12, 5), 27, "")
    for order in itertools.permutations(shown.numbers):
        assert CountdownProblem(order, 27, "").split == shown.split
    train = {p.key for seed in range(3) for p in generate(300, "train", seed)}
    heldout = {p.key for seed in range(3) for p in generate(100, "heldout", seed)}
    assert not train & heldout


def test_one_problem_in_ten_is_held_out() -> None:
    splits = [
        CountdownProblem((a, b, 9, 1), t, "").split for a in range(1, 20) for b in range(1, a) for t in range(20, 24)
    ]
    assert 0.07 < splits.count("heldout") / len(splits) < 0.13


def test_generation_is_a_function_of_its_seed() -> None:
    assert generate(50, "train", 1) == generate(50, "train", 1)
    assert generate(50, "train", 1) == generate(80, "train", 1)[:50]
    assert generate(50, "train", 1) != generate(50, "train", 2)


def test_excluded_problems_do_not_occur() -> None:
    first = generate(300, "train", 1)
    again = generate(300, "train", 1, exclude=first)
    assert not {p.key for p in first} & {p.key for p in again}


def test_rows_carry_the_problem_as_gold_answer(tmp_path) -> None:
    problems = generate(3, "heldout", 1)
    write_jsonl(problems, tmp_path / "rows.jsonl", "heldout")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["heldout-0", "heldout-1", "heldout-2"]
    assert all(row["question"] == row["answer"] for row in rows)
    assert [check(p.trace, row["answer"]).reward for p, row in zip(problems, rows, strict=True)] == [1.0] * 3


@pytest.mark.parametrize(("numbers", "steps"), [(3, 2), (5, 4)])
def test_problems_of_other_sizes_are_right_and_as_strictly_split(numbers: int, steps: int) -> None:
    problems = generate(50, "heldout", 1, numbers=numbers)
    assert {len(problem.numbers) for problem in problems} == {numbers}
    assert {problem.trace.count(";") + 1 for problem in problems} == {steps}
    assert all(check(problem.trace, problem.question).status == "right" for problem in problems)
    assert {problem.split for problem in problems} == {"heldout"}


def test_the_family_of_cross_family_was_not_pretrained_on_what_its_runs_train_on() -> None:
    """But for what two draws share by chance, as some problems come up more often than others."""
    text = EXPERIMENTS.paths()["cross_family"].read_text(encoding="utf-8")
    told = re.search(r"s2l family build seed=(\d+) --to (\S+)", text)
    assert told is not None and f"models.explorer: {told[2]}/small" in text
    pretraining = {problem.key for problem in generate(QUICK.problems, "train", int(told[1]))}
    rows = map(json.loads, EMBEDDED.train.read_text(encoding="utf-8").splitlines())
    keys = [(tuple(sorted(numbers)), target) for numbers, target in (parse_question(row["answer"]) for row in rows)]
    assert sum(key in pretraining for key in keys) < 0.1 * len(keys)  # 217 of 4,000; with the next seed all of them
