"""`s2l bank import`: the authors' offline rollouts, a row at a time, against a reading by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from s2l_ray.bank.preparing import prepare, training_prompts
from s2l_ray.bank.recording import recordings
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.cli import main
from s2l_ray.config import Config, load_config
from s2l_ray.errors import BankError
from s2l_ray.kinds import VerdictStatus
from s2l_ray.miniature.build import Family
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from tests.support.undisturbed import QUICKSTART

DRAWS = 4


class Offline:
    """A configuration, its prompts, and a file of the authors' format: four rollouts of each of eight prompts."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.folder, self.family = folder, family
        self.config = self.configured()
        self.prompts = training_prompts(self.config)
        self.tokenizer = AutoTokenizer.from_pretrained(family.small)
        self.rows = [self.row(prompt, draw) for draw in range(DRAWS) for prompt in self.prompts]
        self.file = folder / "offline.jsonl"

    def configured(self, *overrides: str) -> Config:
        return load_config(
            QUICKSTART,
            [
                f"models.learner={self.family.large}",
                f"models.explorer={self.family.small}",
                f"data.train={self.family.train}",
                "data.train_limit=8",
                f"bank.path={self.folder / 'bank'}",
                "rollout.group_size=4",
                "rollout.prompts_per_step=4",
                "objective.mini_batch_prompts=4",
                "schedule.steps=2",
                "schedule.mix_steps=2",
                *overrides,
            ],
        )

    def row(self, prompt: Prompt, draw: int) -> dict[str, Any]:
        """Of nonsense, but with a right answer as the first draw."""
        text = solution(prompt) if draw == 0 else f"{draw} + {draw} ="
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return {
            "prompt_id": prompt.id,
            "prompt": prompt.question,
            "prompt_ids": prompt.token_ids.tolist(),
            "response": text,
            "response_ids": ids,
            "small_model_log_probs": [-0.125 * (n + draw) for n in range(len(ids))],
            "reward": 1.0 if draw == 0 else 0.0,
            "is_correct": draw == 0,
            "data_source": "countdown",
            "ground_truth": prompt.answer,
        }

    def write(self, rows: list[dict[str, Any]] | None = None) -> Path:
        self.file.write_text("".join(json.dumps(row) + "\n" for row in (self.rows if rows is None else rows)))
        (self.folder / "config.yaml").write_text(self.config.to_yaml())
        return self.file

    def import_(self, rows: list[dict[str, Any]] | None = None) -> int:
        return main(["bank", "import", str(self.write(rows)), str(self.folder / "config.yaml")])


def solution(prompt: Prompt) -> str:
    """By search: some way of three steps from the four numbers to the target."""
    *numbers, target = [int(word) for word in prompt.question.replace(":", " ").split()]

    def search(left: list[int], steps: list[str]) -> list[str] | None:
        if len(left) == 1:
            return steps if left[0] == target else None
        for i in range(len(left)):
            for j in range(len(left)):
                if i == j:
                    continue
                a, b, rest = left[i], left[j], [n for k, n in enumerate(left) if k not in (i, j)]
                exact = a // b if b and a % b == 0 else None
                for sign, value in (("+", a + b), ("-", a - b), ("*", a * b), ("/", exact)):
                    if value is not None and 1 <= value <= 99:
                        found = search([*rest, value], [*steps, f"{a} {sign} {b} = {value}"])
                        if found:
                            return found
        return None

    return " ; ".join(search(numbers, [])) + " ."


@pytest.fixture
def offline(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offline:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Offline(family, tmp_path)


def test_imported_rollouts_are_read_by_a_run_that_names_them(offline: Offline, capsys) -> None:
    offline.rows[1]["prompt_id"] = "unknown"  # found by its question
    offline.rows[2]["prompt"] = [{"role": "user", "content": offline.rows[2]["prompt"]}]
    offline.rows[2]["prompt_id"] = None
    assert offline.import_() == 0
    (recording,) = recordings(bank_storage(offline.config.bank.path))
    said = capsys.readouterr().out
    assert f"imported 32 rollouts of 8 prompts, 4 each, into {offline.folder / 'bank'}/{recording.name}" in said
    assert f"bank.mode=read bank.recording={recording.name}" in said and "differ" not in said

    run = offline.configured("bank.mode=read", f"bank.recording={recording.name[:8]}", "seed=9")
    bank = RolloutBank(prepare(run, offline.prompts), {prompt.id: prompt for prompt in offline.prompts})
    for number, prompt in enumerate(offline.prompts):
        found, report = bank.read(ExplorerRequest(1, prompt.id, DRAWS, 9, 0))
        for draw, rollout in enumerate(found.rollouts):
            row = offline.rows[draw * 8 + number]
            assert rollout.token_ids.tolist() == row["response_ids"] and rollout.text == row["response"]
            assert rollout.logprobs.tolist() == row["small_model_log_probs"]
            assert (rollout.reward, rollout.finish_reason, rollout.model) == (row["reward"], "stop", "small")
        statuses: list[VerdictStatus] = [row.status for row in report.rows]
        assert statuses[0] == "right" and "right" not in statuses[1:]


def test_columns_are_given_to_the_verifier_and_are_of_the_recording(offline: Offline, monkeypatch) -> None:
    own = "def check(response, answer, question, level):\n    return level / 4\n"
    (offline.folder / "by_level.py").write_text(own)
    monkeypatch.syspath_prepend(offline.folder)
    problems = offline.folder / "levels.jsonl"
    rows = [json.loads(line) for line in offline.family.train.read_text().splitlines()[:8]]
    problems.write_text("".join(json.dumps(row | {"level": n % 3}) + "\n" for n, row in enumerate(rows)))
    settings = f"data.train={problems}", "verifier.kind=by_level:check", "verifier.columns=[level]"
    offline.config = offline.configured(*settings)
    assert offline.import_() == 0
    (recording,) = recordings(bank_storage(offline.config.bank.path))
    assert recording.fingerprint.fields["verifier.columns"] == "level"
    run = offline.configured("bank.mode=read", f"bank.recording={recording.name}", *settings)
    prompts = training_prompts(run)
    bank = RolloutBank(prepare(run, prompts), {prompt.id: prompt for prompt in prompts})
    for number, prompt in enumerate(prompts):
        found, _ = bank.read(ExplorerRequest(1, prompt.id, DRAWS, 9, 0))
        assert [rollout.reward for rollout in found.rollouts] == [number % 3 / 4] * DRAWS
    with pytest.raises(BankError, match="another question, answer or column for the verifier"):
        problems.write_text(problems.read_text().replace('"level": 2', '"level": 3'))
        others = training_prompts(run)
        RolloutBank(prepare(run, others), {prompt.id: prompt for prompt in others})


def test_a_run_that_does_not_name_it_does_not_read_it(offline: Offline) -> None:
    offline.import_()
    (recording,) = recordings(bank_storage(offline.config.bank.path))
    assert recording.fingerprint.origin.startswith("imported from offline.jsonl (")
    with pytest.raises(BankError) as refused:
        prepare(offline.configured("bank.mode=read"), offline.prompts)
    assert 'origin: recorded "imported from offline.jsonl (' in str(refused.value)
    assert "rollout.explorer_seed: recorded null, this run 1" in str(refused.value)
    with pytest.raises(BankError, match="does not fit this run: rollout.explorer.temperature: recorded 1.0, this run"):
        other = offline.configured(
            "bank.mode=read", f"bank.recording={recording.name}", "rollout.explorer.temperature=0.7"
        )
        prepare(other, offline.prompts)


def test_importing_again_adds_nothing(offline: Offline, capsys) -> None:
    offline.import_()
    before = sorted((offline.folder / "bank").rglob("*.parquet"))
    assert offline.import_() == 0
    assert sorted((offline.folder / "bank").rglob("*.parquet")) == before
    assert "32 were there already" in capsys.readouterr().out
    offline.import_(offline.rows[:8])  # another file: a recording of its own
    assert len(recordings(bank_storage(offline.config.bank.path))) == 2


def test_rewards_are_the_verifiers_and_differences_are_counted(offline: Offline, capsys) -> None:
    offline.rows[3]["reward"] = 0.0
    offline.rows[20]["reward"] = 1
    offline.rows.append(offline.rows[0] | {"prompt_id": "other", "prompt": "9 9 9 9 : 9"})
    assert offline.import_() == 0
    said = capsys.readouterr().out
    assert "2 rewards by verifier.kind differ from the file's" in said
    assert "1 rows of prompts that data.train does not have were left out" in said
    (recording,) = recordings(bank_storage(offline.config.bank.path))
    run = offline.configured("bank.mode=read", f"bank.recording={recording.name}")
    bank = RolloutBank(prepare(run, offline.prompts), {prompt.id: prompt for prompt in offline.prompts})
    found, _ = bank.read(ExplorerRequest(1, offline.prompts[3].id, 1, 9, 0))
    assert found.rollouts[0].reward == 1.0


def test_cut_responses_are_told_from_whole_ones(offline: Offline, capsys) -> None:
    """At rollout.max_tokens = 20 without an end-of-sequence token."""
    eos = offline.tokenizer.eos_token_id
    ids = [offline.rows[8]["response_ids"][0]] * 20
    for row, tokens in zip(offline.rows[:3], (ids, [*ids[:19], eos], ids[:19]), strict=True):
        row["response_ids"], row["small_model_log_probs"] = tokens, [-1.0] * len(tokens)
    offline.import_()
    (recording,) = recordings(bank_storage(offline.config.bank.path))
    run = offline.configured("bank.mode=read", f"bank.recording={recording.name}")
    bank = RolloutBank(prepare(run, offline.prompts), {prompt.id: prompt for prompt in offline.prompts})
    asked = [ExplorerRequest(1, prompt.id, 1, 9, 0) for prompt in offline.prompts[:3]]
    assert [bank.read(one)[0].rollouts[0].finish_reason for one in asked] == ["length", "stop", "stop"]


BAD = {
    "tokens that are none": ({"response_ids": [1, "2"]}, "field response_ids: a list of token ids is needed"),
    "no tokens": ({"response_ids": []}, "field response_ids: a list of token ids is needed, not \\[\\]"),
    "unknown token": ({"response_ids": [4000], "small_model_log_probs": [-1.0]}, "4000 is not a token of models.exp"),
    "too long": (
        {"response_ids": [1] * 21, "small_model_log_probs": [-1.0] * 21},
        r"21 tokens are more than rollout.max_tokens \(20\)",
    ),
    "fewer log-probs": ({"small_model_log_probs": [-1.0]}, "small_model_log_probs: 1 of them for [0-9]+ response_ids"),
    "positive log-prob": ({"small_model_log_probs": [0.5]}, "a list of numbers up to 0 is needed"),
    "no reward": ({"reward": None}, "field reward: a number in \\[0, 1\\] is needed, not None"),
    "reward of another scale": ({"reward": -1}, "field reward: a number in \\[0, 1\\] is needed, not -1"),
    "no response": ({"response": 3}, "field response: a text is needed, not 3"),
    "no text": ({"response": "\ud800"}, "field response: character 1 is '.ud800', half of a surrogate pair"),
    "another template": ({"prompt_ids": [5, 6]}, "field prompt_ids: they are not the tokens of prompt .* data.chat"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_nothing_is_imported(offline: Offline, capsys, case: str) -> None:
    change, message = BAD[case]
    offline.rows[17] |= change
    assert offline.import_() == 1
    error = capsys.readouterr().err
    assert f"error: {offline.file}, line 18, " in error
    assert re.search(message, error), error
    assert not (offline.folder / "bank").exists()


def test_a_file_of_other_prompts_is_refused(offline: Offline, capsys) -> None:
    assert offline.import_([row | {"prompt_id": "x", "prompt": "y"} for row in offline.rows]) == 1
    assert "none of its 32 rows is of a prompt of data.train" in capsys.readouterr().err


def test_ids_of_another_file_do_not_mislead(offline: Offline, capsys) -> None:
    """Row numbers as ids: the id belongs to another of our prompts, the question says which one is meant."""
    exchanged = [row | {"prompt_id": offline.prompts[(n + 1) % 8].id} for n, row in enumerate(offline.rows)]
    assert offline.import_(exchanged) == 0
    assert "imported 32 rollouts of 8 prompts, 4 each" in capsys.readouterr().out
