from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from s2l_ray.errors import ModelError
from s2l_ray.tasks.compat import check_models
from tests.support.word_models import WORDS, make_model


@pytest.fixture
def learner(tmp_path) -> Path:
    return make_model(tmp_path / "learner", WORDS, rows=16)


@pytest.fixture
def explorer(tmp_path) -> Path:
    return make_model(tmp_path / "explorer", WORDS, rows=10, eos=[1])


def test_siblings_pass_with_different_padding_of_the_embeddings(learner, explorer):
    check_models(str(learner), str(explorer))
    check_models(str(learner), str(learner))


def test_an_explorer_with_more_rows_than_the_learner_could_sample_what_the_learner_lacks(learner, tmp_path):
    larger = make_model(tmp_path / "larger", WORDS, rows=17)
    with pytest.raises(ModelError) as caught:
        check_models(str(learner), str(larger))
    assert f"models.explorer ({larger}) has 17 embedding rows, models.learner ({learner}) has 16" in str(caught.value)
    assert "after model.resize_token_embeddings(16)" in str(caught.value)
    check_models(str(larger), str(learner))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"models.learner: .* has no config.json; .*use the embedded family"),
        ("model.safetensors", r"models.learner: .* has no weights .*use the embedded family"),
    ],
)
def test_a_missing_part_is_named(learner, explorer, file, message):
    (learner / file).unlink()
    with pytest.raises(ModelError, match=message):
        check_models(str(learner), str(explorer))


def test_a_missing_tokenizer_is_named(learner, explorer):
    for file in learner.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"models.learner: .* has no tokenizer"):
        check_models(str(learner), str(explorer))


def test_a_broken_tokenizer_is_named(learner, explorer):
    (explorer / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"models.explorer: no usable tokenizer in"):
        check_models(str(learner), str(explorer))


@pytest.mark.parametrize("name", ["/nowhere/model", "models/large", "nobody/no-such-model", "a/b/c"])
def test_a_missing_directory_is_named_without_a_download(learner, name):
    with pytest.raises(ModelError, match=rf"models.explorer: .*{name}.*use the embedded family.*s2l family import"):
        check_models(str(learner), name)


def test_too_few_embedding_rows(learner, tmp_path):
    small = make_model(tmp_path / "small", WORDS, rows=9)
    with pytest.raises(ModelError, match=r"models.explorer: .* has token id 9, but config.json has vocab_size = 9"):
        check_models(str(learner), str(small))


def test_first_differing_token(learner, tmp_path):
    other = make_model(tmp_path / "other", [*WORDS[:5], "5", "12", *WORDS[7:]], rows=16)
    with pytest.raises(
        ModelError, match=r"2 tokens differ, the first is '12': id 5 for the learner, 6 for the explorer"
    ):
        check_models(str(learner), str(other))
    longer = make_model(tmp_path / "longer", [*WORDS, "extra"], rows=16)
    with pytest.raises(ModelError, match=r"1 tokens differ, .*'extra': id none for the learner, 10 for the explorer"):
        check_models(str(learner), str(longer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token": "</s>"}, r"pad_token differs: '<pad>' for the learner, '</s>' for the explorer"),
        ({"bos_token": "</s>"}, r"bos_token differs: None for the learner, '</s>' for the explorer"),
        ({"eos": [1, 2]}, r"eos_token_id .* differs: \[1\] for the learner, \[1, 2\] for the explorer"),
        ({"chat_template": "other"}, "chat template differs"),
    ],
)
def test_differing_specials(learner, tmp_path, change, message):
    other = make_model(tmp_path / "other", WORDS, 16, **change)
    with pytest.raises(ModelError, match=message):
        check_models(str(learner), str(other))


def test_equal_vocabularies_that_split_text_differently(learner, tmp_path):
    other = shutil.copytree(learner, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}  # splits punctuation off: more <unk> for the same text
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"is encoded as \[.*\] by the learner and as"):
        check_models(str(learner), str(other))


def test_no_end_of_sequence_token(learner, tmp_path):
    endless = make_model(tmp_path / "endless", WORDS, 16, eos_token=None)
    (endless / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"models.explorer: .* names no end-of-sequence token"):
        check_models(str(learner), str(endless))
