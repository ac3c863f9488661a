"""Benchmarks without an engine: files, settings, the directory, samples, results, tables and contamination."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from s2l_ray.bank.fingerprint import Fingerprint
from s2l_ray.bank.recording import create
from s2l_ray.bank.rollout_bank import BankSettings, RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.benchmark.contamination import TrainingText
from s2l_ray.benchmark.directory import Evaluation, EvaluationDirectory, settings_of
from s2l_ray.benchmark.figure import pass_at_k_figure
from s2l_ray.benchmark.jobs import make_jobs
from s2l_ray.benchmark.models import EvaluatedModel, find_models
from s2l_ray.benchmark.problems import Benchmark, data_source, load_benchmark, load_benchmarks
from s2l_ray.benchmark.results import Report, results
from s2l_ray.benchmark.samples import Outcomes, read_outcomes, read_problems, read_rollouts
from s2l_ray.benchmark.settings import PRESETS, Options, common_configuration, configuration, ks_of
from s2l_ray.benchmark.table import contamination_text, crossover_text, tables
from s2l_ray.cli import main
from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.errors import ConfigError, DataError, ModelError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.report.measured import evaluation_section
from s2l_ray.rollouts.records import Prompt, Rollout, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.run.benchmarking import remaining, rounds
from s2l_ray.statistics import pass_at_k
from s2l_ray.tasks.data import Problem
from tests.support.evaluated_runs import run_directory
from tests.support.paths import SHARED_DATA
from tests.support.word_models import WORDS, make_model

SMALL = EvaluatedModel("small", str(DIRECTORY / "small"))


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def countdown(path: Path, count: int = 3) -> str:
    lines = (DIRECTORY / "heldout.jsonl").read_text().splitlines()[:count]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_the_kind_of_a_benchmark_is_seen_from_its_rows(tmp_path):
    math = load_benchmark(write(tmp_path / "aime.jsonl", {"question": "1+1?", "answer": 2}))
    assert (math.kind, math.name, math.problems[0].id) == ("math", "aime", "aime/aime-000001")
    choices = {"label": ["A", "B"], "text": ["x", "y"]}
    choice = load_benchmark(write(tmp_path / "qa.jsonl", {"question": "?", "choices": choices, "answerKey": "B"}))
    assert choice.kind == "choice"
    assert load_benchmark(countdown(tmp_path / "held.jsonl")).kind == "countdown"


def test_a_file_of_two_kinds_is_refused(tmp_path):
    choices = {"label": ["A", "B"], "text": ["x", "y"]}
    rows = {"question": "?", "choices": choices, "answerKey": "B"}, {"question": "1+1?", "answer": 2}
    with pytest.raises(DataError, match="1 of its 2 problems are multiple-choice"):
        load_benchmark(write(tmp_path / "mixed.jsonl", *rows))


def test_two_benchmarks_of_one_name_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    paths = [countdown(tmp_path / "x.jsonl"), countdown(tmp_path / "a" / "x.jsonl")]
    with pytest.raises(DataError, match="would both be benchmark x; rename"):
        load_benchmarks(paths)


def test_a_directory_is_no_benchmark(tmp_path):
    countdown(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="is a directory; name the files in it, each of which is a benchmark"):
        load_benchmark(str(tmp_path))


def test_columns_for_the_verifier_are_in_the_prompts_but_not_in_the_file_of_problems(tmp_path, monkeypatch):
    (tmp_path / "by_level.py").write_text("def check(response, answer, question, level):\n    return level / 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = write(tmp_path / "x.jsonl", {"id": "7", "question": "1+1?", "answer": 2, "level": 3})
    words = ["verifier.kind=by_level:check", "verifier.columns=[level]", "data.chat=false", "rollout.max_tokens=8"]
    (job,) = make_jobs(
        SMALL, load_benchmarks([file], None, ["level"]), Options(1, overrides=words), tmp_path, clip=False
    )
    assert [json.loads(prompt.columns) for prompt in job.prompts] == [{"level": 3}]
    EvaluationDirectory(tmp_path / "out").write_problems(job.benchmarks[0])
    written = (tmp_path / "out" / "problems" / "x.jsonl").read_text()
    assert json.loads(written) == {"id": "x/7", "question": "1+1?", "answer": "2"}


def test_a_bad_row_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"bad.jsonl, line 2, field answer: missing"):
        load_benchmark(write(tmp_path / "bad.jsonl", {"question": "a", "answer": 1}, {"question": "b"}))
    with pytest.raises(DataError, match="none.jsonl does not exist"):
        load_benchmark(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="embedded:nothing: the embedded family has"):
        data_source("embedded:nothing")


@pytest.mark.parametrize(
    ("name", "kind", "problems", "first"),
    [
        ("aime24", "math", 30, "204"),
        ("aime25", "math", 30, "70"),
        ("math500", "math", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("olympiadbench", "math", 674, "2"),
        ("gsm8k_test", "math", 1319, "18"),
        ("commonsenseqa", "choice", 100, "A"),
    ],
)
def test_the_published_benchmarks_are_read_as_they_are(name, kind, problems, first):
    file = SHARED_DATA / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not on this machine")
    found = load_benchmark(str(file))
    assert (found.kind, found.problems[0].answer) == (kind, first)
    assert len(found.problems) + found.dropped == problems


# ---- settings -------------------------------------------------------------------------------------------------------


def benchmark_of(kind: str = "math") -> Benchmark:
    return Benchmark("b", "b.jsonl", kind, (Problem("b/1", "q", "a"),), "d", 0)


def test_presets_are_those_of_the_paper_and_key_value_has_precedence():
    config = configuration("m", benchmark_of(), Options(4, "nothink", overrides=["evaluation.sampling.top_k=7"]))
    sampling = config.rollout.explorer
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.presence_penalty) == (0.7, 0.8, 7, 1.5)
    assert config.rollout.max_tokens == 38912 and config.evaluation.samples == 4
    think = configuration("m", benchmark_of(), Options(4, "think")).rollout.explorer
    assert (think.temperature, think.top_p, think.top_k, think.presence_penalty) == (0.6, 0.95, 20, 0.0)
    assert set(PRESETS) == {"nothink", "think"}


@pytest.mark.parametrize(
    ("kind", "prompt", "verifier", "chat"),
    [
        ("math", r"\boxed{}.", "math", True),
        ("choice", r"letter", "choice", True),
        ("countdown", ">", "countdown", False),
    ],
)
def test_each_kind_has_its_prompt_and_verifier(kind, prompt, verifier, chat):
    config = configuration("m", benchmark_of(kind), Options(1))
    assert prompt in config.data.prompt and (config.verifier.kind, config.data.chat) == (verifier, chat)


def test_a_configuration_file_says_prompts_and_verifier():
    config = configuration("m", benchmark_of("math"), Options(2, file="quickstart"))
    assert (config.verifier.kind, config.data.prompt, config.rollout.max_tokens) == ("countdown", "{question} >", 20)
    assert config.evaluation.samples == 2 and config.data.train == "b.jsonl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.k=[1,8]"], r"samples \(4\) must be at least the largest k \(8\)"),
        (["evaluation.sampling.temp=1"], "unknown key; did you mean evaluation.sampling.temperature"),
        (["rollout.max_tokens=many"], "rollout.max_tokens"),
    ],
)
def test_wrong_keys_and_values_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        common_configuration(Options(4, overrides=words))


def test_the_table_shows_1_the_given_k_and_n():
    assert ks_of(common_configuration(Options(16, overrides=["evaluation.k=[1,4]"]))) == [1, 4, 16]
    assert ks_of(common_configuration(Options(1))) == [1]


# ---- models ---------------------------------------------------------------------------------------------------------


def test_models_are_directories_runs_and_parts_of_runs(tmp_path):
    run = run_directory(tmp_path / "mine", trained=True)
    words = [str(run), f"{run}:learner", f"{run}:explorer", "Qwen/Qwen3-8B-Base"]
    found = find_models(words, tmp_path / "out")
    assert [one.label for one in found] == ["mine", "mine:learner", "mine:explorer", "Qwen3-8B-Base"]
    assert [one.source for one in found] == [
        str(run / "model"), str(DIRECTORY / "large"), str(DIRECTORY / "small"), "Qwen/Qwen3-8B-Base",
    ]  # fmt: skip


def test_models_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [run_directory(tmp_path / name, trained=True) for name in ("a", "b")]
    found = find_models([f"{run}/model" for run in runs], tmp_path / "out")
    assert [one.label for one in found] == [f"{run}/model" for run in runs]


def test_a_run_without_a_trained_model_and_a_model_given_twice_are_refused(tmp_path):
    run = run_directory(tmp_path / "mine", trained=False)
    with pytest.raises(ModelError, match=r"without a trained model .* or evaluate .*:learner"):
        find_models([str(run)], tmp_path / "out")
    with pytest.raises(ModelError, match="given twice"):
        find_models(["embedded:small", "embedded:small"], tmp_path / "out")
    with pytest.raises(ModelError, match="embedded:tiny: the embedded family has"):
        find_models(["embedded:tiny"], tmp_path / "out")


# ---- jobs -----------------------------------------------------------------------------------------------------------


def jobs_of(tmp_path: Path, *words: str, samples: int = 20, clip: bool = False):
    benchmarks = load_benchmarks([countdown(tmp_path / "held.jsonl")])
    return make_jobs(SMALL, benchmarks, Options(samples, overrides=words), tmp_path / "out", clip=clip)


def test_a_job_asks_for_every_sample_once_and_then_for_what_is_missing(tmp_path):
    (job,) = jobs_of(tmp_path)
    job = job.with_dtype("float32")
    plan = job.plan()
    draws = [(r.prompt_id, r.first_draw + i) for r in plan.requests for i in range(r.count)]
    assert len(draws) == len(set(draws)) == 60 and [r.count for r in plan.requests] == [16] * 3 + [4] * 3
    assert {prompt.id for prompt in job.prompts} == {r.prompt_id for r in plan.requests}
    assert all(prompt.text.endswith(" >") for prompt in job.prompts)
    record(job, plan.requests[0])
    again = job.plan()
    assert again.recorded == 16 and again.rollouts == 44


def test_seeds_are_of_the_model_the_problem_and_the_sample(tmp_path):
    (job,) = jobs_of(tmp_path)
    (large,) = make_jobs(
        replace(SMALL, source=str(DIRECTORY / "large")), job.benchmarks, Options(20), tmp_path / "o", clip=False
    )
    mine, theirs = (one.with_dtype("float32").plan().requests for one in (job, large))
    assert len({request.first_seed for request in mine + theirs}) == 12
    # Samples 16 to 19 go on where 0 to 15 end, however they are requested.
    assert mine[3].first_seed == mine[0].first_seed + 16


def test_questions_are_put_into_the_chat_template_with_their_choices_and_the_instruction(tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %} >"
    model = EvaluatedModel("chat", str(make_model(tmp_path / "chat", WORDS, rows=16, chat_template=template)))
    choices = {"label": ["1", "2"], "text": ["bank", "library"]}
    paths = [
        write(tmp_path / "qa.jsonl", {"question": "Books?", "choices": choices, "answerKey": "2"}),
        write(tmp_path / "aime.jsonl", {"question": "$1+1$?", "answer": "so\n#### 2"}),
    ]
    choice, math = make_jobs(model, load_benchmarks(paths), Options(2), tmp_path / "out", clip=False)
    asked = "Please answer with the letter of one choice, within \\boxed{}."
    assert (
        choice.prompts[0].text == f"user: Books?\nA. bank\nB. library\n\n{asked} >" and choice.prompts[0].answer == "B"
    )
    assert (
        math.prompts[0].text.startswith("user: $1+1$?\n\nPlease reason step by step") and math.prompts[0].answer == "2"
    )
    assert (choice.config.verifier.kind, math.config.verifier.kind) == ("choice", "math")
    plain = EvaluatedModel("plain", str(make_model(tmp_path / "plain", WORDS, rows=16, chat_template=None)))
    (job, _) = make_jobs(plain, load_benchmarks(paths), Options(2), tmp_path / "out", clip=False)
    assert job.prompts[0].text.startswith("Books?\nA. bank") and job.config.data.chat is False
    for word in ("data.system=Think.", "data.chat_template=default"):  # which a model without a template cannot be told
        with pytest.raises(ModelError, match="no chat template"):
            make_jobs(plain, load_benchmarks(paths), Options(2, overrides=(word,)), tmp_path / "out", clip=False)


def test_a_response_beyond_the_positions_is_refused_or_clipped(tmp_path):
    limit = json.loads((DIRECTORY / "small" / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(
        ModelError, match=rf"small has {limit} positions, .* set rollout.max_tokens={limit - 7} or less"
    ):
        jobs_of(tmp_path, "rollout.max_tokens=38912")
    (job,) = jobs_of(tmp_path, "rollout.max_tokens=38912", clip=True)
    assert (job.config.rollout.max_tokens, job.config.data.max_prompt_tokens) == (limit - 7, 7)


# ---- the directory and the record of samples ------------------------------------------------------------------------


def test_a_changed_setting_is_refused_with_the_difference(tmp_path):
    directory = EvaluationDirectory(tmp_path)
    directory.agree({"evaluation.sampling.temperature": 0.7, "seed": 1})
    directory.save()
    again = EvaluationDirectory(tmp_path)
    again.agree({"seed": 1, "a on b: data.chat": True})
    with pytest.raises(ConfigError, match=r"evaluation.sampling.temperature: was 0.7, is 1.0; seed: was 1, is 2\. "):
        again.agree({"evaluation.sampling.temperature": 1.0, "seed": 2})


@pytest.mark.parametrize("content", ['{"format": 1, "settings": null}', '{"format": 1, "evaluations": [{"what": 1}]}'])
def test_settings_that_are_damaged_are_named(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(DataError, match=r"settings\.json is damaged \(a value in it is of another type"):
        EvaluationDirectory(tmp_path)


def test_settings_are_told_by_what_they_belong_to(tmp_path):
    (job,) = jobs_of(tmp_path)
    found = settings_of("small", job.benchmarks, job.with_dtype("float32").fingerprint)
    assert found["small: models.dtype"] == "float32" and found["evaluation.sampling.temperature"] == 1.0
    assert found["small on held: verifier.kind"] == "countdown" and found["seed"] == 1
    assert {"held: content", "small: weights", "small on held: rollout.max_tokens"} <= found.keys()


def rollout(prompt: Prompt, index: int, status: str, detail: str, tokens: int, reason: str = "stop") -> Rollout:
    verdict = Verdict(status, float(status == "right"), detail)
    ids, logprobs = np.arange(tokens, dtype=np.int32), np.full(tokens, -0.5, np.float32)
    return Rollout(prompt.id, "explorer", "small", 0, index, ids, logprobs, f"text {index}", reason, verdict)


def record(job, request: ExplorerRequest) -> None:
    bank = RolloutBank(job.plan().settings, {prompt.id: prompt for prompt in job.prompts})
    prompt = next(prompt for prompt in job.prompts if prompt.id == request.prompt_id)
    rows = [rollout(prompt, index, "right" if index % 4 == 0 else "wrong", "1", 5) for index in range(request.count)]
    bank.record(request, RolloutSet(prompt.id, prompt.token_ids, rows))
    bank.close()


PROMPTS = [Prompt(f"b/{n}", "q", "q >", np.array([1, 2], np.int32), "42") for n in range(2)]


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Evaluation]:
    """Two problems with three samples each, of a recording that has those of another problem as well."""
    storage = bank_storage(str(tmp_path / "samples"))
    recording = create(storage, Fingerprint({"origin": "s2l-ray"}), {})
    other = Prompt("c/0", "q", "q >", np.array([3], np.int32), "42")
    settings = BankSettings(storage.url, recording.shards, True, True)
    bank = RolloutBank(settings, {prompt.id: prompt for prompt in [*PROMPTS, other]})
    told = {
        "b/0": [("right", "42", 3, "stop"), ("wrong", "7", 5, "stop"), ("wrong", " 7 ", 7, "length")],
        "b/1": [("unparsable", "no answer found", 9, "length"), ("wrong", "8", 1, "stop"), ("wrong", "9", 2, "stop")],
        "c/0": [("right", "42", 3, "stop")],
    }
    for prompt in [*PROMPTS, other]:
        rows = [
            rollout(prompt, i, status, detail, n, reason)
            for i, (status, detail, n, reason) in enumerate(told[prompt.id])
        ]
        bank.record(ExplorerRequest(0, prompt.id, len(rows), 1, 0), RolloutSet(prompt.id, prompt.token_ids, rows))
        bank.close()
    (tmp_path / "problems").mkdir()
    write(tmp_path / "problems" / "b.jsonl", *({"id": p.id, "question": "q", "answer": "42"} for p in PROMPTS))
    return tmp_path, Evaluation("small", "s", "b", "b.jsonl", "math", recording.name)


def test_outcomes_are_the_numbers_of_the_samples(recorded):
    directory, evaluation = recorded
    found = read_outcomes(directory, evaluation, ["b/0", "b/1"], 3)
    assert found.right.tolist() == [[True, False, False], [False] * 3] and found.correct.tolist() == [1, 0]
    assert found.tokens.tolist() == [[3, 5, 7], [9, 1, 2]] and found.truncated.tolist()[0] == [False, False, True]
    assert found.statuses == {"right": 1, "wrong": 4, "unparsable": 1}
    assert [sorted(votes) for votes in found.wrong] == [[2], [1, 1]]
    assert read_outcomes(directory, replace(evaluation, kind="countdown"), ["b/0"], 2).wrong is None


def test_samples_that_two_commands_recorded_count_once(recorded):
    directory, evaluation = recorded
    shards = directory / "samples" / evaluation.recording / "shards"
    for shard in list(shards.glob("*.parquet")):
        shutil.copy(shard, shard.with_name(f"again-{shard.name}"))
    found = read_outcomes(directory, evaluation, ["b/0", "b/1"], 3)
    assert [sorted(votes) for votes in found.wrong] == [[2], [1, 1]]
    assert [len(rollouts) for rollouts in read_rollouts(directory, evaluation).values()] == [3, 3]


def test_missing_samples_are_counted(recorded):
    directory, evaluation = recorded
    with pytest.raises(DataError, match="2 of 8 samples of small on b are missing; give the command again"):
        read_outcomes(directory, evaluation, ["b/0", "b/1"], 4)


def test_rollouts_have_tokens_logprobs_and_texts(recorded):
    directory, evaluation = recorded
    found = read_rollouts(directory, evaluation)
    assert sorted(found) == ["b/0", "b/1"] and [r.index for r in found["b/0"]] == [0, 1, 2]
    sample = found["b/1"][0]
    assert sample.token_ids.tolist() == list(range(9)) and sample.logprobs.tolist() == [-0.5] * 9
    assert (sample.text, sample.judged.status, sample.finish_reason) == ("text 0", "unparsable", "length")
    file = directory / "problems" / "b.jsonl"
    file.write_text(file.read_text().replace('"question": "q"', '"question": "q\u2028q"', 1))
    assert read_problems(directory, "b")[0]["question"] == "q\u2028q"  # no end of a line in a file of JSON lines
    assert read_problems(directory, "b")[1] == {"id": "b/1", "question": "q", "answer": "42"}


# ---- results --------------------------------------------------------------------------------------------------------


def outcomes(model: str, counts: list[int], n: int, wrong: list[list[int]] | None = None) -> Outcomes:
    right = np.array([[draw < count for draw in range(n)] for count in counts])
    ids = [f"b/{number}" for number in range(len(counts))]
    evaluation = Evaluation(model, model, "b", "b.jsonl", "math", "0" * 16)
    tokens = np.full(right.shape, 10) + right
    return Outcomes(evaluation, ids, right, tokens, ~right, {"right": int(right.sum())}, wrong)


def evaluated() -> dict:
    """The small model solves every problem one time in eight, the large one 40 % of them always."""
    small, large = outcomes("small", [1] * 50, 8), outcomes("large", [8] * 20 + [0] * 30, 8)
    benchmark = Benchmark("b", "b.jsonl", "math", tuple(Problem(i, "q", "a") for i in small.problem_ids), "d", 0)
    return results([benchmark], [small, large], Report([1, 4, 8], 0.95, 1), {})


def test_results_by_hand():
    found = evaluated()
    small, large = found["results"]
    assert small["pass_at"]["1"]["value"] == pytest.approx(1 / 8) and small["pass_at"]["8"]["value"] == 1.0
    assert small["pass_at"]["4"]["value"] == pytest.approx(pass_at_k(8, 1, 4)) == 0.5
    assert large["pass_at"]["1"]["value"] == pytest.approx(0.4) and large["mean_at"] == {"8": pytest.approx(0.4)}
    assert large["pass_at"]["8"]["low"] < 0.4 < large["pass_at"]["8"]["high"]
    assert large["response_tokens"]["value"] == pytest.approx(10.4) and large["truncated"] == pytest.approx(0.6)
    assert small["maj_at"] is None and len(small["pass_at"]) == 8
    (pair,) = found["pairs"]
    assert pair["difference"]["1"]["value"] == pytest.approx(0.275)
    assert pair["difference"]["8"]["value"] == pytest.approx(-0.6) and pair["difference"]["8"]["p_holm"] < 0.001
    # 0.4 lies between pass@3 = 3/8 and pass@4 = 4/8 of the small model: at 3 + 0.025 / 0.125 = 3.2.
    crossover = pair["crossover"]
    assert (crossover["leader"], crossover["challenger"]) == ("large", "small")
    assert (
        crossover["k"] == pytest.approx(3.2) and crossover["low"] < 3.2 < crossover["high"] and crossover["share"] == 1
    )


def test_a_report_has_the_tables_and_the_crossover(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "family"
    directory.mkdir()
    (directory / "evaluation.json").write_text(json.dumps(evaluated()))
    section = evaluation_section(directory)
    models, pairs = section.tables
    assert models.columns == ("small", "large")
    cells = {row.label: [cell.partition(" ")[0] for cell in row.cells] for row in models.rows}
    assert cells["pass@1"] == ["12.5", "40.0"] and cells["pass@8"] == ["100.0", "40.0"] and "maj@8" not in cells
    assert cells["tokens, mean"] == ["10.1", "10.4"] and cells["cut off"] == ["87.5", "60.0"]
    assert [(row.label, row.cells[0].partition(" ")[0]) for row in pairs.rows] == [
        *[("large - small, pass@1", "+27.5"), ("large - small, pass@4", "-10.0"), ("large - small, pass@8", "-60.0")]
    ]
    assert pairs.rows[2].cells[1] == "<0.001"
    assert section.paragraphs == [crossover_text(evaluated()["pairs"][0]["crossover"], "b", 8)]
    assert main(["report", str(directory)]) == 0
    html = (directory / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1 and "overtakes large at k* = 3.2" in html
    (directory / "evaluation.json").write_text(json.dumps(evaluated() | {"format": 9}))
    assert main(["report", str(directory)]) != 0
    assert "format 9, this version reads 1" in " ".join(capsys.readouterr().err.split())


def test_majorities_are_counted_from_the_answers():
    one = outcomes("m", [2, 1], 3, wrong=[[1], [2]])
    benchmark = Benchmark("b", "b.jsonl", "math", (), "d", 0)
    (row,) = results([benchmark], [one], Report([1, 3], 0.9, 1), {})["results"]
    assert row["maj_at"]["3"]["value"] == 0.5 and row["maj_at"]["1"]["value"] == pytest.approx(0.5)


def test_majorities_of_very_many_samples_are_left_out():
    one = outcomes("m", [2, 1], 513, wrong=[[1], [2]])
    (row,) = results([Benchmark("b", "b.jsonl", "math", (), "d", 0)], [one], Report([1, 513], 0.9, 1), {})["results"]
    assert row["maj_at"] is None and len(row["pass_at"]) == 513


def test_holm_corrects_over_the_pairs_of_a_benchmark():
    models = [outcomes(name, [c] * 12, 4) for name, c in (("a", 1), ("b", 2), ("c", 3))]
    found = results([Benchmark("b", "b.jsonl", "math", (), "d", 0)], models, Report([1, 4], 0.95, 1), {})
    raw = [pair["difference"]["1"]["p"] for pair in found["pairs"]]
    assert raw == [2 / 2**12] * 3 and [p["difference"]["1"]["p_holm"] for p in found["pairs"]] == [6 / 2**12] * 3
    assert json.loads(json.dumps(found)) == found


def text_of(found: dict) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in tables(found):
        console.print(part, markup=False)
    return console.export_text()


def test_the_table_has_models_pairs_and_the_crossover():
    text = text_of(evaluated())
    assert (
        "b: 50 problems x 8 samples" in text
        and "12.5 [12.5, 12.5]" in text
        and "large - small" in text
        and "<0.001" in text
    )
    assert "b: small overtakes large at k* = 3.2 [" in text and "(in 100% of the resamples)" in text


def test_a_crossover_that_is_not_there_is_said_so():
    none = {"leader": "l", "challenger": "c", "k": None, "low": None, "high": None, "share": 0.25}
    assert crossover_text(none, "b", 8) == "b: c does not overtake l up to k = 8 (in 25% of the resamples it does)"
    found = none | {"k": 6.0, "low": 4.0}
    assert crossover_text(found, "b", 8) == "b: c overtakes l at k* = 6.0 [4.0, beyond 8] (in 25% of the resamples)"


def test_the_figure_has_a_curve_and_a_band_for_each_model(tmp_path):
    figure = pass_at_k_figure(evaluated())
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 8]
    assert [line.get_label() for line in curves] == ["small", "large"] and len(axes.collections) == 2
    assert curves[0].get_ydata()[3] == pytest.approx(0.5)
    assert next(text.get_text() for text in axes.texts).startswith("k* = 3.2\n[")
    figure.savefig(tmp_path / "figure.png")


# ---- contamination --------------------------------------------------------------------------------------------------

LONG = "Alice has three red apples and buys seven green ones at the market on a cold and rainy Monday morning"


def test_contamination_is_exact_after_normalisation_or_shares_n_grams():
    training = TrainingText("train.jsonl", [Problem("t1", LONG, "10"), Problem("t2", "What is 2 + 2?", "4")])
    words = LONG.split()
    changed = " ".join([*words[:16], "Sunday", "in", "May"])
    found = training.check(
        [
            Problem("same", LONG.upper().replace(" ", "  "), "10"),
            Problem("short", "what is 2+2 ?", "4"),
            Problem("near", changed, "10"),
            Problem("far", "Bob walks " + " ".join(f"w{n}" for n in range(20)), "1"),
            Problem("other short", "What is 2 + 3?", "5"),
        ]
    )
    assert [(one.problem_id, one.exact, one.row) for one in found.found] == [
        ("same", True, "t1"), ("short", True, "t2"), ("near", False, "t1"),
    ]  # fmt: skip
    # 19 words have seven 13-grams, of which those that begin at words 0 to 3 are the training row's.
    assert found.found[2].share == pytest.approx(4 / 7) and (found.exact, found.close) == (2, 1)
    assert TrainingText("t", [Problem("t1", LONG, "10")]).check([Problem("near", changed, "")], share=0.6).found == []


def test_contamination_names_rows_in_the_table():
    training = TrainingText("train.jsonl", [Problem("t1", LONG, "10")])
    one = training.check([Problem("b/1", LONG, "10"), Problem("b/2", "other", "1")])
    found = evaluated()
    found["benchmarks"][0]["contamination"] = [
        {"against": one.against, "problems": 2, "exact": 1, "close": 0, "found": [vars(f) for f in one.found]}
    ]
    assert "b: of its 2 problems 1 are in train.jsonl, and 0 more nearly so: b/1 (the same as t1)" in text_of(found)
    clean = {"against": "t", "problems": 3, "found": []}
    assert contamination_text("b", clean) == "b: none of its 3 problems is in t"


# ---- rounds ---------------------------------------------------------------------------------------------------------


def config_of(*words: str):
    return configuration(
        SMALL.source, benchmark_of("countdown"), Options(4, overrides=["models.dtype=float32", *words])
    )


def test_models_sample_side_by_side_where_there_is_room_for_their_engines():
    two = Inventory.of([{"gpus": 0, "cpus": 2, "memory_gb": 16}])
    found = list(rounds([config_of()] * 3, two))
    assert [[number for number, _ in placed] for placed in found] == [[0, 1], [2]]
    threads = list(rounds([config_of("engines.explorer.threads=2")] * 2, two))
    assert [[number for number, _ in placed] for placed in threads] == [[0], [1]]


def test_on_gpus_a_count_leaves_room_for_the_next_model():
    gpus = Inventory.of([{"count": 2, "gpus": 2, "gpu": "A100-80GB", "cpus": 32}])
    greedy = list(rounds([config_of()] * 2, gpus))
    assert [len(placed[0][1].phases[0].engines) for placed in greedy] == [4, 4]
    shared = list(rounds([config_of("engines.explorer.count=2")] * 2, gpus))
    assert [[number for number, _ in placed] for placed in shared] == [[0, 1]]
    left = remaining(gpus, shared[0][0][1], 1)
    assert [spec.gpus for spec in left.specs] == [0, 2]
