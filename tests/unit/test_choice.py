from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l_ray.errors import DataError
from s2l_ray.tasks.choice import check_choice
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.verifiers import resolve_verifier

QUESTION = "Where are books?\nA. bank\nB. library\nC. department store\nD. mall\nE. new york"
ROW = {
    "id": "q1",
    "question": "Where are books?",
    "choices": {"label": list("ABCDE"), "text": ["bank", "library", "department store", "mall", "new york"]},
    "answerKey": "B",
}


@pytest.mark.parametrize(
    "response",
    [
        "B", "(B)", "B.", "B. library", "B) library", "B: library", "library", "The answer is B.", "The answer is (B).",
        "Answer: B", "**Answer: B**", r"So \boxed{B}.", r"\boxed{\text{B}}", r"\boxed{library}", r"\boxed{B. library}",
        "<answer>B</answer>", "The correct answer is B. library", "<think>A or C?</think>\n\nB",
        "The answer is library.", "First I thought Answer: A\nNo. Answer: B", "The correct option is B because it is.",
        "B\n\nA library has books, as A does not.", "I would choose (B).\n(B)", "the answer is b",
    ],
)  # fmt: skip
def test_a_response_that_chooses_the_right_letter_is_right(response):
    verdict = check_choice(response, "B", QUESTION)
    assert (verdict.status, verdict.reward, verdict.detail) == ("right", 1.0, "B")


@pytest.mark.parametrize("response", ["A", r"\boxed{C}", "The answer is mall.", "Answer: (E)"])
def test_another_letter_is_wrong_and_named(response):
    verdict = check_choice(response, "B", QUESTION)
    assert (verdict.status, verdict.reward) == ("wrong", 0.0) and verdict.detail in "ACDE"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        "F",
        r"\boxed{F}",
        "A library",
        "A and B",
        "Both A and B.",
        "I think so.",
        "<think>B",
        r"\boxed{A} or \boxed{B}",
    ],
)
def test_a_response_without_one_choice_is_unparsable(response):
    assert check_choice(response, "B", QUESTION).status == "unparsable"


def test_the_registry_has_the_verifier():
    assert resolve_verifier("choice")("Answer: B", "B", QUESTION).reward == 1.0


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_questions_with_lettered_choices(tmp_path):
    numbered = ROW | {
        "id": "q2",
        "choices": ROW["choices"] | {"label": list("12345")},
        "answerKey": "4",
        "question": "Shops?",
    }
    found = load_problems(write(tmp_path / "csqa.jsonl", ROW, numbered))
    assert found.choices == 2
    assert (found.problems[0].question, found.problems[0].answer) == (QUESTION, "B")
    assert found.problems[1].answer == "D"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerKey": "F"}, "line 1, field answerKey: 'F' is not one of the labels A, B"),
        ({"choices": ["a", "b"]}, "line 1, field choices.label: a list of texts is needed"),
        ({"choices": {"label": ["A"], "text": ["bank"]}}, "2 to 26 choices"),
        ({"choices": {"label": ["A", "A"], "text": ["bank", "mall"]}}, "each with a label of its own"),
        ({"choices": {"label": ["A", "B"], "text": ["bank", ""]}}, "field choices.text"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_problems(write(tmp_path / "csqa.jsonl", ROW | change))
