"""Arguments of chat templates: how they are given, what is refused, what they change, and what `s2l evaluate` sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from s2l_ray.bank.contents import fingerprint_of
from s2l_ray.benchmark.directory import EvaluationDirectory, settings_of
from s2l_ray.benchmark.jobs import Job, make_jobs
from s2l_ray.benchmark.models import EvaluatedModel
from s2l_ray.benchmark.problems import load_benchmarks
from s2l_ray.benchmark.settings import Options
from s2l_ray.config import DataConfig, load_config
from s2l_ray.config.reference import differences as shown_differences
from s2l_ray.errors import ConfigError, ModelError
from s2l_ray.experiments.arms import study_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.run.identity import differences
from s2l_ray.tasks.data import Problem
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts, template_arguments
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.keys import checked_space
from s2l_ray.tuning.reading import parse_study
from s2l_ray.tuning.samples import Sample, StudyConfigs, drawn_samples, with_values
from s2l_ray.tuning.samples import settings_of as trial_settings_of
from tests.support.paths import ROOT
from tests.support.word_models import WORDS, make_model

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
QWEN = (
    PLAIN + "{%- if tools %}{{ tools }}{% endif %}{%- if add_generation_prompt %}{{ eos_token }}assistant:"
    "{%- if enable_thinking is defined and enable_thinking is false %} <think></think>{% endif %}{% endif %}"
)
"""As Qwen3's template takes it."""
SMOLLM = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set effort = effort | default('high') -%}" + PLAIN + "{{ enable_thinking }} {{ effort }}"
)
"""As SmolLM3's template takes it: with a default of its own."""
PROBLEMS = [Problem("p-1", "3 7", "5")]
THINKING = "data.chat_template_kwargs.enable_thinking"


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(make_model(tmp_path / "model", WORDS, rows=16, chat_template=QWEN))


def rendered(tokenizer: PreTrainedTokenizerFast, data: dict[str, Any] | None = None, **arguments: Any) -> str:
    """The text of the only prompt."""
    config = DataConfig(train="x", chat_template_kwargs=arguments, **(data or {}))
    [prompt] = render_prompts(PROBLEMS, tokenizer, config)
    return prompt.text


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """The configuration of a run whose models have QWEN for a template."""
    model = make_model(tmp_path / "words", WORDS, rows=16, chat_template=QWEN)
    file = tmp_path / "run.yaml"
    file.write_text(f"models: {{learner: {model}, explorer: {model}, dtype: float32}}\ndata: {{train: x}}\n")
    return file


def given(file: Path, *overrides: str | dict[str, Any]) -> dict[str, Any]:
    layers = [[one] if isinstance(one, str) else one for one in overrides]
    return load_config(file, *layers).data.chat_template_kwargs


# ---- rendering ------------------------------------------------------------------------------------------------------


def test_an_argument_changes_the_prompt(tokenizer):
    thinks = "user: 3 7\n</s>assistant:"
    assert rendered(tokenizer) == rendered(tokenizer, enable_thinking=True) == thinks
    assert rendered(tokenizer, enable_thinking=False) == f"{thinks} <think></think>"
    assert rendered(tokenizer, enable_thinking=0) == thinks  # the template asks for a boolean, and gets what was given
    tokenizer.chat_template = SMOLLM
    assert rendered(tokenizer) == "user: 3 7\nTrue high"
    assert rendered(tokenizer, enable_thinking=False, effort="low") == "user: 3 7\nFalse low"


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (PLAIN, set()),
        (QWEN, {"enable_thinking"}),  # neither tools nor eos_token, which are not for the user to give
        (SMOLLM, {"enable_thinking", "effort"}),
        ("{% set effort = 1 %}{{ effort }}{{ strftime_now('%d') }}{{ range(3) }}{{ namespace(a=1).a }}", set()),
        (
            "{% macro one(m) %}{{ m }}{{ style }}{% endmacro %}{% if tools %}{% set m = 1 %}{% endif %}{{ m }}",
            {"style"},
        ),
        ("{% if tools %}{% set head = 1 %}{% else %}{% set head = 2 %}{% endif %}{{ head }}", set()),
        ("{% if not style %}{% set style = 'plain' %}{% endif %}{{ style }}", {"style"}),
        ("{% for m in messages %}{% generation %}{{ role }}{% endgeneration %}{% break %}{% endfor %}", {"role"}),
    ],
)
def test_the_arguments_of_a_template_are_what_it_reads_and_is_not_given_otherwise(tokenizer, template, arguments):
    tokenizer.chat_template = template
    assert template_arguments(tokenizer, DataConfig(train="x")) == arguments


def test_an_argument_that_the_template_does_not_take_is_refused(tokenizer):
    tokenizer.chat_template = SMOLLM
    message = r"^data.chat_template_kwargs.thinking: the chat template of .*/model takes no such argument; it takes "
    with pytest.raises(ModelError, match=f"{message}effort, enable_thinking$"):
        rendered(tokenizer, thinking=False, effort="low")
    tokenizer.chat_template = PLAIN
    with pytest.raises(ModelError, match=f"{message}none$"):
        rendered(tokenizer, thinking=False)
    tokenizer.chat_template = "{% if %}"
    with pytest.raises(ModelError, match=r"is malformed \(TemplateSyntaxError: .*, line 1\); correct the template"):
        rendered(tokenizer, thinking=False)


def test_of_several_templates_the_chosen_one_has_to_take_it(tokenizer, tmp_path):
    config = tmp_path / "model" / "tokenizer_config.json"
    (tmp_path / "model" / "chat_template.jinja").unlink()
    templates = [{"name": "default", "template": PLAIN}, {"name": "switch", "template": QWEN}]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": templates}))  # the older layout
    tokenizer = load_tokenizer(tmp_path / "model")
    assert rendered(tokenizer, {"chat_template": "switch"}, enable_thinking=False).endswith("<think></think>")
    with pytest.raises(
        ModelError, match="enable_thinking: the chat template of .* takes no such argument; it takes none$"
    ):
        rendered(tokenizer, enable_thinking=False)


# ---- how it is given ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "arguments"),
    [
        (f"{THINKING}=false", {"enable_thinking": False}),
        ("data.chat_template_kwargs={enable_thinking: false}", {"enable_thinking": False}),
        ("data={chat_template_kwargs: {enable_thinking: off}}", {"enable_thinking": False}),
        (f'{THINKING}="false"', {"enable_thinking": "false"}),
        ("data.chat_template_kwargs={a: 1, b: 1.5, c: low, d: '1', e: 2026-03-09}",
         {"a": 1, "b": 1.5, "c": "low", "d": "1", "e": "2026-03-09"}),
        ("data.chat_template_kwargs={}", {}),
        (f"{THINKING}=null", {}),
    ],
)  # fmt: skip
def test_yaml_says_what_an_argument_is(run_file: Path, override: str, arguments: dict[str, Any]):
    config = load_config(run_file, [override])
    found = config.data.chat_template_kwargs
    assert found == arguments and list(map(type, found.values())) == list(map(type, arguments.values()))
    again = run_file.with_name("again.yaml")
    again.write_text(config.to_yaml())
    assert load_config(again) == config


def test_files_overrides_and_python_add_arguments_and_null_takes_one_out(run_file: Path):
    own = run_file.with_name("own.yaml")
    own.write_text("extends: run.yaml\ndata:\n  chat_template_kwargs:\n    enable_thinking: no\n    effort: low\n")
    assert given(own) == {"enable_thinking": False, "effort": "low"}
    assert given(own, f"{THINKING}=true", {"data.chat_template_kwargs": {"n": 2}}) == {
        "enable_thinking": True,
        "effort": "low",
        "n": 2,
    }
    assert given(own, {THINKING: None}) == {"effort": "low"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tokenize=false",
            "tokenize: cannot be given to the chat template: it says how a prompt is tokenised",
        ),
        (
            "messages=x",
            "messages: cannot be given to the chat template: the messages are those of data.prompt ",
        ),
        ("conversation=x", "conversation: cannot be given .*: the messages are those of data.prompt and data.system$"),
        ("tools=x", "tools: cannot be given to the chat template: prompts have none$"),
        ("documents=null", "documents: cannot be given to the chat template: prompts have none$"),
        ("add_generation_prompt=no", "add_generation_prompt: cannot be given .*: a prompt ends where the response beg"),
        ("chat_template=x", "chat_template: cannot be given to the chat template: use data.chat_template$"),
        ("strftime_now=x", "strftime_now: cannot be given to the chat template: use data.date$"),
        ("bos_token=x", "bos_token: cannot be given to the chat template: special tokens are the tokenizer's$"),
        ("enable-thinking=no", "enable-thinking: is not the name of an argument; these have letters, digits and _$"),
        ("2=no", "2: is not the name of an argument"),
        ("x=[1]", r"x: must be true or false, or a whole number, or a number, or text.* \(got \[1\]\)$"),
        ("x={a: 1}", "x: must be true or false, or a whole number, or a number, or text"),
        ("x=.nan", r"x: must be true or false, or a finite number, or text \(got nan\)$"),
        ("x.y=1", "x is a value and has no keys of its own$"),
    ],
)
def test_what_cannot_be_an_argument_is_refused_by_name(run_file: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=rf"data\.chat_template_kwargs\.{message}") as caught:
        load_config(run_file, [f"data.chat_template_kwargs.{override}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.chat=false", f"{THINKING}=false"], "data: chat_template_kwargs needs chat: true$"),
        (["data.chat_template_kwargs={on: 1}"], "data.chat_template_kwargs: the name True must be text; put it in quo"),
        (["data.chat_template_kwargs=low"], r"data.chat_template_kwargs: must be a mapping of keys to values \(got"),
        (["data.chat_template_kwarg={a: 1}"], "unknown key; did you mean data.chat_template_kwargs"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(run_file: Path, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(run_file, overrides)


def test_without_pydantic_there_are_arguments_too():
    code = (
        "import sys; sys.modules['pydantic'] = None; from s2l_ray.config import DataConfig; "
        "GIVEN = ({}, {'chat_template_kwargs': {'a': 1}}); "
        "print(*(DataConfig(train='x', **given).chat_template_kwargs for given in GIVEN))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "{} {'a': 1}\n"


# ---- what is another run, recording or trial ------------------------------------------------------------------------


def test_arguments_are_part_of_a_recordings_fingerprint(run_file: Path):
    plain, off = fingerprint_of(load_config(run_file)), fingerprint_of(load_config(run_file, [f"{THINKING}=false"]))
    assert not any("kwargs" in name for name in plain.fields)  # recordings of earlier versions keep their names
    assert plain.digest != off.digest
    assert plain.differences(off) == [f"{THINKING}: recorded null, this run false"]


def test_a_resumed_run_and_a_comparison_of_runs_name_the_argument(run_file: Path):
    before, now = load_config(run_file), load_config(run_file, [f"{THINKING}=false"])
    assert differences(before, now, {}, {}) == [f"{THINKING} was None, now False"]
    assert shown_differences(before, now) == [("data.chat_template_kwargs", "{}", '{"enable_thinking": false}')]


def test_a_study_varies_an_argument(run_file: Path):
    space = checked_space(parse_study({"space": {THINKING: [False, None]}}))
    assert space == {THINKING: Domain(choice=(False, None))}
    base = load_config(run_file)
    for value, arguments in ((False, {"enable_thinking": False}), (None, {})):
        config = with_values(base, {THINKING: value})
        assert config.data.chat_template_kwargs == arguments
        assert trial_settings_of(Sample(1, {THINKING: value}, config), base) == {THINKING: value}
    with pytest.raises(ConfigError, match="data.chat_template_kwargs is a section; vary the keys in it"):
        checked_space(parse_study({"space": {"data.chat_template_kwargs": [{"a": 1}]}}))
    with pytest.raises(ConfigError, match=f"{THINKING}: must be true or false, or"):
        checked_space(parse_study({"space": {THINKING: [[1]]}}))


def test_an_arm_that_does_not_give_an_argument_has_none():
    arms = {"off": {THINKING: False}, "own": {}}
    file = ExperimentFile(config="quickstart", values={"data.chat": True}, arms=arms, seeds=1)
    study = study_of(file)
    assert [run[THINKING] for run in study.runs] == [False, None]
    samples = drawn_samples(StudyConfigs.read("quickstart", [], study, lambda config: {}), study)
    assert [one.config.data.chat_template_kwargs for one in samples] == [{"enable_thinking": False}, {}]


# ---- s2l evaluate ---------------------------------------------------------------------------------------------------


def job_of(tmp_path: Path, preset: Any, *words: str, template: str | None = QWEN, file: str | None = None) -> Job:
    model = EvaluatedModel("m", str(make_model(tmp_path / "evaluated", WORDS, rows=16, chat_template=template)))
    rows = tmp_path / "aime.jsonl"
    rows.write_text('{"question": "3 7", "answer": "5"}\n')
    options = Options(2, preset, file=file, overrides=words)
    [job] = make_jobs(model, load_benchmarks([str(rows)]), options, tmp_path / "out", clip=False)
    return job


def test_settings_say_whether_a_model_thinks_where_its_template_asks(tmp_path):
    nothink, think, neither = (job_of(tmp_path, preset) for preset in ("nothink", "think", None))
    assert nothink.prompts[0].text == f"{neither.prompts[0].text} <think></think>"
    assert think.prompts[0].text == neither.prompts[0].text
    assert nothink.config.data.chat_template_kwargs == {"enable_thinking": False}
    assert think.config.data.chat_template_kwargs == {"enable_thinking": True}
    assert neither.config.data.chat_template_kwargs == {}
    assert nothink.config.rollout.explorer.temperature == 0.7  # the preset's other settings stay
    assert nothink.config.rollout.explorer.top_k == 20


@pytest.mark.parametrize("template", [PLAIN, None])
def test_settings_say_nothing_to_a_template_that_does_not_ask(tmp_path, template):
    assert job_of(tmp_path, "nothink", template=template).config.data.chat_template_kwargs == {}


def test_what_the_user_says_has_precedence_over_the_settings_and_these_over_a_file(tmp_path, run_file):
    own = job_of(tmp_path, "nothink", f"{THINKING}=true")
    assert own.config.data.chat_template_kwargs == {"enable_thinking": True}
    assert job_of(tmp_path, "nothink", f"{THINKING}=null").config.data.chat_template_kwargs == {}
    assert job_of(tmp_path, "nothink", "data.chat=false").prompts[0].text.startswith("3 7")
    file = run_file.with_name("thinks.yaml")
    file.write_text("extends: run.yaml\ndata: {chat_template_kwargs: {enable_thinking: true}}\n")
    assert job_of(tmp_path, None, file=str(file)).config.data.chat_template_kwargs == {"enable_thinking": True}
    assert job_of(tmp_path, "nothink", file=str(file)).config.data.chat_template_kwargs == {"enable_thinking": False}


def test_an_argument_for_a_model_without_a_template_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no chat template"):
        job_of(tmp_path, None, f"{THINKING}=false", template=None)


def test_an_evaluation_with_another_argument_is_refused(tmp_path):
    def settings(*words: str, preset: str = "nothink") -> dict[str, Any]:
        job = job_of(tmp_path, preset, *words).with_dtype("float32")
        return settings_of("m", job.benchmarks, job.fingerprint)

    directory = EvaluationDirectory(tmp_path)
    directory.agree(settings())
    key = f"m on aime: {THINKING}"
    assert directory.settings[key] is False
    directory.agree(settings())
    for words, now in ((f"{THINKING}=true", "true"), (f"{THINKING}=null", "null")):
        with pytest.raises(ConfigError, match=f"has samples of other settings: {key}: was false, is {now}. Evaluate"):
            directory.agree(settings(words))
    with pytest.raises(ConfigError, match=f"{key}: was false, is true"):
        directory.agree(settings(preset="think"))
    earlier = EvaluationDirectory(tmp_path / "earlier")  # of a version whose settings did not set it
    earlier.agree({name: value for name, value in settings().items() if name != key})
    with pytest.raises(ConfigError, match=f"{key}: was null, is false"):
        earlier.agree(settings())
    earlier.agree({name.replace("m on", "other on"): value for name, value in settings().items()})
