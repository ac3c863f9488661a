from __future__ import annotations

import gzip
import json
import math
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from s2l_ray.config import DataConfig
from s2l_ray.errors import DataError, ModelError
from s2l_ray.tasks.data import Problem, load_problems
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_gsm8k_and_aime_rows_become_final_answers_with_row_based_ids(tmp_path):
    path = write(
        tmp_path / "train.jsonl",
        {"question": "48 and half as many?", "answer": "48/2 = <<48/2=24>>24\n#### 72"},
        "",
        {"question": "Sum of bases?", "answer": 70},
        {"question": "A #### in the text?", "answer": "first #### 1\nthen\n#### 2,125 "},
        {"question": "A decimal?", "answer": 0.15},
    )
    assert [(p.id, p.answer) for p in load_problems(path).problems] == [
        ("train-000001", "72"),
        ("train-000003", "70"),
        ("train-000004", "2,125"),
        ("train-000005", "0.15"),
    ]


def test_a_question_may_be_called_problem(tmp_path):
    """As in MATH-500 on the Hub."""
    rows = [{"problem": "1 + 1?", "solution": "...", "answer": "2"}, {"question": "q", "problem": "p", "answer": "3"}]
    loaded = load_problems(write(tmp_path / "x.jsonl", *rows))
    assert [(p.question, p.answer) for p in loaded.problems] == [("1 + 1?", "2"), ("q", "3")]


def test_repeated_questions_are_dropped_and_counted(tmp_path):
    rows = [{"question": q, "answer": "1"} for q in ("a", "b", " a\n", "c", "b")]
    loaded = load_problems(write(tmp_path / "x.jsonl", *rows))
    assert [p.question for p in loaded.problems] == ["a", "b", "c"]
    assert loaded.dropped == 2


def test_limit_counts_rows_and_later_rows_are_not_read(tmp_path):
    path = write(tmp_path / "x.jsonl", {"question": "a", "answer": "1"}, {"question": "a", "answer": "1"}, "{broken")
    loaded = load_problems(path, limit=2)
    assert (len(loaded.problems), loaded.dropped) == (1, 1)


def verl_row(question: str, answer: str, index: object) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": question}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": index},
    }


def test_verl_parquet_repeats_and_index_ids(tmp_path):
    path = tmp_path / "dapo.parquet"
    rows = [verl_row("p?", "34", "uuid-1"), verl_row("q?", "-5", "uuid-2"), verl_row("p?", "34", "uuid-1")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    loaded = load_problems(path)
    assert loaded.problems == [Problem("uuid-1", "p?", "34"), Problem("uuid-2", "q?", "-5")]
    assert loaded.dropped == 1


def test_an_index_that_repeats_is_no_id(tmp_path):
    path = write(tmp_path / "mix.jsonl", verl_row("p?", "1", 0), verl_row("q?", "2", 0))
    assert [p.id for p in load_problems(path).problems] == ["mix-000001", "mix-000002"]


def test_own_ids_are_kept_and_must_differ(tmp_path):
    rows = [{"id": 7, "question": "a", "answer": "1"}, {"id": "x", "question": "b", "answer": "1"}]
    assert [p.id for p in load_problems(write(tmp_path / "x.jsonl", *rows)).problems] == ["7", "x"]
    rows.append({"id": "7", "question": "c", "answer": "1"})
    with pytest.raises(DataError, match=r"x.jsonl, line 3, field id: '7' is already the id of line 1"):
        load_problems(write(tmp_path / "x.jsonl", *rows))


def test_digest_is_of_the_problems_not_of_the_file(tmp_path):
    row = {"question": "a", "answer": "1"}
    one, two, other = tmp_path / "1" / "x.jsonl", tmp_path / "2" / "x.jsonl", tmp_path / "3" / "x.jsonl"
    for path in (one, two, other):
        path.parent.mkdir()
    digests = [
        load_problems(write(one, row)).digest,
        load_problems(write(two, json.dumps(row, indent=None, separators=(" ,", " : ")), row)).digest,
        load_problems(write(other, row | {"answer": "2"})).digest,
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_files_of_a_directory_are_told_apart(tmp_path):
    rows = [{"id": 1, "question": "a", "answer": "1"}, {"question": "b", "answer": "2"}]
    write(tmp_path / "math 500.jsonl", *rows, {"question": "e", "answer": "2"})
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"id": 1, "question": q, "answer": "3"} for q in "cd"][:1]),
        tmp_path / "aime.parquet",
    )
    (tmp_path / "spark.parquet").mkdir()
    for ignored in (".hidden.jsonl", "README.md", "spark.parquet/part-0.parquet"):
        (tmp_path / ignored).write_text("no problems")
    found = load_problems(tmp_path, limit=2)
    assert [(p.id, p.question, p.files) for p in found.problems] == [
        ("aime/1", "c", ("aime",)),
        ("math-500/1", "a", ("math-500",)),
        ("math-500/math 500-000002", "b", ("math-500",)),
    ]
    write(tmp_path / "more.jsonl", {"question": " c", "answer": "3"})
    again = load_problems(tmp_path, limit=2)
    assert (again.dropped, again.digest) == (1, found.digest)
    assert again.problems[0].files == ("aime", "more")


def test_a_directory_without_data_or_with_two_files_of_one_name_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"is a directory without a file of type .jsonl or .parquet"):
        load_problems(tmp_path)
    for name in ("数学.jsonl", "物理.jsonl"):  # MLflow would call both so
        write(tmp_path / name, {"question": name, "answer": "3"})
    with pytest.raises(DataError, match=r"物理.jsonl and 数学.jsonl would both be called -; rename one of the files"):
        load_problems(tmp_path)


def test_columns_for_the_verifier_come_with_the_problems(tmp_path):
    rows = [verl_row("p?", "34", "1") | {"level": 2}, verl_row("q?", "-5", "2") | {"level": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    write(tmp_path / "x.jsonl", *rows)
    for name in ("x.parquet", "x.jsonl"):
        found = load_problems(tmp_path / name, columns=["level", "extra_info"]).problems
        assert [json.loads(p.columns) for p in found] == [
            {"level": 2, "extra_info": {"index": "1"}},
            {"level": None, "extra_info": {"index": "2"}},
        ]
        assert {p.columns for p in load_problems(tmp_path / name).problems} == {"{}"}


def test_the_digest_is_of_the_columns_too_and_without_any_that_of_earlier_versions(tmp_path):
    row = {"question": "a", "answer": "1", "kind": {"x": 1, "y": 2}}
    reordered, other = row | {"kind": {"y": 2, "x": 1}}, row | {"kind": {"x": 1, "y": 3}}
    digests = [
        load_problems(write(tmp_path / "x.jsonl", {"id": "1"} | one), columns=columns).digest
        for one, columns in ((row, ()), (other, ()), (row, ["kind"]), (reordered, ["kind"]), (other, ["kind"]))
    ]
    assert digests[0] == digests[1] == blake2b(b'["1", "a", "1"]', digest_size=8).hexdigest()
    assert digests[2] == digests[3]
    assert len({digests[0], digests[2], digests[4]}) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "1"}, r"field kind: missing, and the verifier is to have it; the row has answer"),
        ({"question": "a", "answer": "1", "kind": math.nan}, r"line 1, field kind: .*a column for the verifier may"),
        ({"question": "a", "answer": "1", "kind": [b"x"]}, r"line 1, field kind: .*bytes is not JSON serializable"),
    ],
)
def test_columns_that_cannot_be_given_are_errors_with_line_and_field(tmp_path, row, message):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        load_problems(tmp_path / "x.parquet", columns=["kind"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'question': 1}", "line 2: not valid JSON"),
        ("[1, 2]", "line 2: .* is not a JSON object"),
        ('{"question": "q", "answer": NaN}', "line 2: not valid JSON .*NaN"),
        ('{"question": "q", "answer": 1e999}', "line 2, field answer must be a text or a number, not inf"),
        ('{"question": "q", "answer": "1", "answer": "2"}', "line 2: not valid JSON .*'answer' is given twice"),
        ('{"question": "q", "answer": ' + "7" * 10_000 + "}", "line 2: not valid JSON .*Exceeds the limit"),
        ("[" * 100_000, "line 2: not valid JSON .*recursion"),
        (
            r'{"question": "q\ud800", "answer": "1"}',
            r"line 2, field question: character 2 is '\\ud800', half of a surr",
        ),
        (r'{"question": "q", "answer": "\udfff"}', r"line 2, field answer: character 1 is '\\udfff'"),
        (r'{"question": "q", "answer": "1", "id": "\udfff"}', r"line 2, field id: character 1 is '\\udfff'"),
        (
            r'{"prompt": [{"role": "user", "content": "\ud800"}], "reward_model": {"ground_truth": "1"}}',
            "line 2, field prompt: character 1",
        ),
        (
            r'{"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "\ud800"}}',
            "line 2, field reward_model.ground_truth: character 1",
        ),
        ('{"question": "q"}', "line 2, field answer: missing; the row has question"),
        ('{"answer": "1"}', "line 2, field question: .* the row has answer"),
        ('{"question": " ", "answer": "1"}', "line 2, field question"),
        ('{"problem": " ", "answer": "1"}', "line 2, field problem"),
        ('{"question": 5, "answer": "1"}', "line 2, field question"),
        ('{"question": "q", "answer": ""}', "line 2, field answer is empty"),
        ('{"question": "q", "answer": "text ####  "}', "line 2, field answer is empty"),
        ('{"question": "q", "answer": true}', "line 2, field answer must be a text or a number"),
        ('{"question": "q", "answer": ["1"]}', "line 2, field answer must be a text or a number"),
        ('{"question": "q", "answer": "1", "id": [1]}', "line 2, field id must be"),
        ('{"prompt": [{"role": "user", "content": "q"}]}', "line 2, field reward_model: a record is needed"),
        (
            '{"prompt": [{"role": "user", "content": "q"}], "reward_model": {}}',
            "line 2, field reward_model.ground_truth",
        ),
        ('{"prompt": "q", "reward_model": {"ground_truth": "1"}}', "line 2, field prompt: one message"),
        (
            '{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "reward_model": {}}',
            "line 2, field prompt: .*data.system",
        ),
    ],
)
def test_a_malformed_row_names_file_line_and_field(tmp_path, line, message):
    path = write(tmp_path / "x.jsonl", {"question": "fine", "answer": "1"}, line)
    with pytest.raises(DataError, match=rf"x\.jsonl, {message}"):
        load_problems(path)


def test_unusual_texts_that_are_fine(tmp_path):
    path = tmp_path / "x.jsonl"
    long = "word " * 10**6
    rows = [
        {"question": "\0", "answer": "5"},
        {"question": "\U0001f642", "answer": "5"},
        {"question": long, "answer": 5},
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows))
    assert [p.question for p in load_problems(path).problems] == ["\0", "\U0001f642", long]


def test_unusable_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no rows"):
        load_problems(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="unknown type '.csv'"):
        load_problems(write(tmp_path / "x.csv", "a,b"))
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_problems(write(tmp_path / "x.parquet", "not parquet"))
    (tmp_path / "x.jsonl").write_bytes(gzip.compress(b'{"question": "a", "answer": "1"}'))
    with pytest.raises(DataError, match="x.jsonl is compressed with gzip; convert it to JSONL"):
        load_problems(tmp_path / "x.jsonl")
    texts = pyarrow.array([b"q", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"question": texts, "answer": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="x.parquet, line 2: not UTF-8"):
        load_problems(tmp_path / "x.parquet")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line 1: not UTF-8"):
        load_problems(tmp_path / "latin.jsonl")


TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words; by default it puts <s> (1) before every text and </s> (2) after it."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "what",
        "is",
        "{x}",
        "\\frac{1}{2}",
        "?",
        "user",
        "system",
        "assistant",
        "brief",
        "Q:",
    ]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


PROBLEM = Problem("p-1", "what is {x} \\frac{1}{2} ?", "5")


def test_plain_prompts_have_one_bos_no_eos_and_braces_survive(tokenizer):
    data = DataConfig(train="x", chat=False, prompt="Q: {question}")
    [prompt] = render_prompts([PROBLEM], tokenizer, data)
    assert prompt.text == "Q: what is {x} \\frac{1}{2} ?"
    assert prompt.token_ids.tolist() == [1, 12, 3, 4, 5, 6, 7]
    assert prompt.token_ids.dtype == np.int32
    assert (prompt.id, prompt.question, prompt.answer) == ("p-1", PROBLEM.question, "5")
    [prompt] = render_prompts([PROBLEM], tokenizer, DataConfig(train="x", chat=False, prompt="<s> {question}"))
    assert prompt.token_ids.tolist() == [1, 3, 4, 5, 6, 7]


def test_chat_prompts_are_what_the_template_says(tokenizer):
    tokenizer.chat_template = TEMPLATE
    [prompt] = render_prompts([PROBLEM], tokenizer, DataConfig(train="x", system="brief"))
    assert prompt.text == "<s>system brief <s>user what is {x} \\frac{1}{2} ? assistant"
    assert prompt.token_ids.tolist() == [1, 9, 11, 1, 8, 3, 4, 5, 6, 7, 10]


def test_prompts_that_cannot_be_used(tokenizer):
    with pytest.raises(ModelError, match=r"no chat template; set data.chat=false"):
        render_prompts([PROBLEM], tokenizer, DataConfig(train="x"))
    with pytest.raises(DataError, match=r"prompt p-1 has 6 tokens, more than data.max_prompt_tokens = 5"):
        render_prompts([PROBLEM], tokenizer, DataConfig(train="x", chat=False, max_prompt_tokens=5))
    assert len(render_prompts([PROBLEM], tokenizer, DataConfig(train="x", chat=False, max_prompt_tokens=6))) == 1
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ModelError, match=r"fails on prompt p-1 \(no system role\)"):
        render_prompts([PROBLEM], tokenizer, DataConfig(train="x", system="brief"))


def test_load_tokenizer_without_a_usable_one(tmp_path):
    with pytest.raises(ModelError, match="has no tokenizer; copy tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="no usable tokenizer in"):
        load_tokenizer(tmp_path)
