"""What a run is known by, from real files: the family's models, problems and tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from s2l_ray.config import load_config
from s2l_ray.errors import DataError
from s2l_ray.miniature.build import Family
from s2l_ray.run.identity import differences
from s2l_ray.run.inputs import load_inputs, with_absolute_paths
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART


@pytest.fixture
def project(family: Family, tmp_path: Path) -> Family:
    """The family, in a directory that a test may change."""
    shutil.copytree(family.directory, tmp_path / "project")
    return Family(tmp_path / "project")


def configured(project: Family, **overrides):
    values = run_config(project, project.directory / "run") | {"verifier.kind": "countdown", **overrides}
    return with_absolute_paths(load_config(QUICKSTART, values))


def contents(project: Family, **overrides) -> dict[str, str]:
    return load_inputs(configured(project, **overrides)).contents


def changed(project: Family, before: dict[str, str], **overrides) -> set[str]:
    after = contents(project, **overrides)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_a_moved_project_is_the_same(project: Family):
    here, before = configured(project), contents(project)
    assert before.keys() == {
        *("models.learner", "models.explorer", "data.train", "data.eval", "tokenizer", "rendered prompts"),
    }
    moved = Family(project.directory.rename(project.directory.with_name("mounted else?where")))
    there, after = configured(moved), contents(moved)
    assert here.models.learner != there.models.learner and here.data.train != there.data.train
    assert differences(here, there, before, after) == []
    assert len(differences(here, there, {}, after)) == 4  # by their paths: two models, two files


def test_one_answer_that_changed_is_noticed(project: Family):
    before = contents(project)
    rows = [json.loads(line) for line in project.train.read_text().splitlines()]
    rows[77]["answer"] = "x"
    project.train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert changed(project, before) == {"data.train", "rendered prompts"}


def test_how_a_data_file_is_written_does_not_matter(project: Family):
    before = contents(project)
    rows = [json.loads(line) for line in project.train.read_text().splitlines()]
    project.train.write_text("\n".join(json.dumps(row, indent=None, separators=(", ", " :  ")) for row in rows))
    assert changed(project, before) == set()


def test_held_out_problems_count_as_far_as_they_are_read(project: Family):
    before = contents(project)
    lines = project.heldout.read_text().splitlines(keepends=True)
    project.heldout.write_text("".join(lines[:8]))
    assert changed(project, before) == set()  # data.eval_limit is 8
    project.heldout.write_text("".join(reversed(lines)))
    assert changed(project, before) == {"data.eval", "rendered prompts"}


def test_directories_of_problems(project: Family):
    """Held-out problems by their files; and an id is of one problem alone, also where a training file is named eval."""
    (held_out := project.directory / "held").mkdir()
    lines = project.heldout.read_text().splitlines(keepends=True)
    (held_out / "one.jsonl").write_text("".join(lines[:3]))
    (held_out / "two.jsonl").write_text("".join(lines[2:4]))
    inputs = load_inputs(configured(project, **{"data.eval": str(held_out)}))
    assert inputs.files == {
        "one": [f"eval/one/heldout-{n}" for n in range(3)],
        "two": ["eval/one/heldout-2", "eval/two/heldout-3"],
    }
    assert [prompt.id for prompt in inputs.held_out] == [*inputs.files["one"], "eval/two/heldout-3"]
    (training := project.directory / "training").mkdir()
    (training / "eval.jsonl").write_text(lines[5])
    with pytest.raises(DataError, match=r"data.train: problem eval/heldout-5 of .* has the id of a held-out one"):
        load_inputs(configured(project, **{"data.train": str(training)}))


@pytest.mark.parametrize("kind", ["learner", "explorer"])
def test_one_weight_that_changed_is_noticed(kind: str, project: Family):
    before = contents(project)
    file = {"learner": project.large, "explorer": project.small}[kind] / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    assert changed(project, before) == {f"models.{kind}"}


def test_a_tokenizer_that_changed_is_noticed(project: Family):
    before = contents(project)
    for model in (project.small, project.large):
        file = model / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, two = sorted(vocabulary)[-2:]
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
        file.write_text(json.dumps(tokenizer))
    assert "tokenizer" in changed(project, before)


def test_a_chat_template_that_changed_is_noticed(project: Family):
    for model in (project.small, project.large):
        (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }} =")
    before = contents(project, **{"data.chat": True})
    for model in (project.small, project.large):
        (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }} >")
    assert changed(project, before, **{"data.chat": True}) == {"rendered prompts"}


def test_a_verifiers_module_counts_by_its_source(project: Family, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(project.directory)
    source = "def check(response, answer, question):\n    return response == answer\n"
    for name, text in {"grader_one": source, "grader_two": source, "grader_three": source + "\n# stricter\n"}.items():
        (project.directory / f"{name}.py").write_text(text)
    before = contents(project, **{"verifier.kind": "grader_one:check"})
    assert changed(project, before, **{"verifier.kind": "grader_two:check"}) == set()
    assert changed(project, before, **{"verifier.kind": "grader_three:check"}) == {"verifier source"}


@pytest.mark.parametrize(
    "key", ["objective.loss", "objective.advantage", "objective.correction.learner", "schedule.kind"]
)
def test_so_does_the_module_of_any_function_that_the_configuration_names(
    key: str, project: Family, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(project.directory)
    for number in (1, 2):
        module = project.directory / f"{key.replace('.', '_')}_{number}.py"
        module.write_text(f"def function(*arguments):\n    return 1 / {number}\n")
    one, two = ({key: f"{key.replace('.', '_')}_{number}:function"} for number in (1, 2))
    assert changed(project, contents(project, **one), **two) == {f"{key} source"}


def test_so_does_the_module_that_defines_a_function_of_another_ones(project: Family, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(project.directory)
    for number in (1, 2):
        (project.directory / f"defines_{number}.py").write_text(
            "from s2l_ray.objective import WholeBatch\n"
            f"def function(group, objective):\n    return group.rewards / {number}\nwhole = WholeBatch(function)\n"
        )
    named = {}
    for number in (1, 2):  # of equal source, but for the module that they import from
        (project.directory / f"names_{number}.py").write_text(
            "import functools, importlib, pathlib\n"
            "defines = importlib.import_module('defines_' + pathlib.Path(__file__).stem[-1])\n"
            "plain, whole = defines.function, defines.whole\npartial = functools.partial(plain)\n"
        )
        named[number] = [{"objective.advantage": f"names_{number}:{name}"} for name in ("plain", "whole", "partial")]
    for one, two in zip(named[1], named[2], strict=True):
        assert changed(project, contents(project, **one), **two) == {"objective.advantage source"}


def test_which_groups_are_replayed_counts_and_where_they_are_written_does_not(project: Family):
    rows = ['{"step": 1, "stragglers": ["a", "b"]}\n', '{"step": 2, "stragglers": ["c", "d"]}\n']
    replayed = {"rollout.straggler_groups": 2}
    for name, lines in {
        "one": rows,
        "two": [*rows, '{"step": 2, "stragglers": ["d", "c"]}\n'],  # step 2 was done again
        "three": [rows[0], '{"step": 2, "stragglers": ["c", "e"]}\n'],
    }.items():
        (project.directory / name).write_text("".join(lines))
    one, two, three = (
        replayed | {"rollout.replay_stragglers": str(project.directory / name)} for name in ("one", "two", "three")
    )
    before = contents(project, **one)
    assert changed(project, before, **two) == set()
    assert changed(project, before, **three) == {"rollout.replay_stragglers"}
