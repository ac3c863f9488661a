"""Chat templates: one date for a run and a recording, one error for whatever fails inside, one chosen of many."""

from __future__ import annotations

import datetime
import random
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from s2l_ray.bank.contents import fingerprint_of, made_with
from s2l_ray.bank.date import dated
from s2l_ray.bank.recording import create, matching
from s2l_ray.bank.storage import bank_storage
from s2l_ray.cli import main
from s2l_ray.config import Config, DataConfig, load_config
from s2l_ray.errors import BankError, ConfigError, DataError, ModelError
from s2l_ray.miniature.build import Family
from s2l_ray.run.checkpoints import CheckpointDraft
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier import begun_on
from s2l_ray.tasks.data import Problem
from s2l_ray.tasks.prompts import load_tokenizer, render_prompts
from tests.support.run_directories import CONTENTS, save
from tests.support.undisturbed import QUICKSTART
from tests.support.word_models import WORDS, make_model

PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
LLAMA = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "Today Date: {{ date_string }}\n" + PLAIN
)
"""As Llama 3.2's template takes the date."""
GRANITE = "Today's Date: {{ strftime_now('%B %d, %Y') }}.\n" + PLAIN
DAY = datetime.date(2026, 3, 9)
PROBLEMS = [Problem("p-1", "3 7", "5"), Problem("p-2", "12 5", "7")]


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(make_model(tmp_path / "model", WORDS, rows=16))


def rendered(tokenizer: PreTrainedTokenizerFast, **data: object) -> list[str]:
    return [prompt.text for prompt in render_prompts(PROBLEMS, tokenizer, DataConfig(train="x", **data))]


# ---- the date -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "first_line"), [(LLAMA, "Today Date: 09 Mar 2026"), (GRANITE, "Today's Date: March 09, 2026.")]
)
def test_a_template_writes_the_day_that_it_is_given(tokenizer, template, first_line):
    tokenizer.chat_template = template
    assert rendered(tokenizer, date=DAY) == [f"{first_line}\nuser: 3 7\n", f"{first_line}\nuser: 12 5\n"]


def test_a_template_that_writes_the_hour_too_gets_midnight(tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%H:%M:%S.%f') }}"
    assert rendered(tokenizer, date=DAY) == ["00:00:00.000000"] * 2


def test_a_template_that_chooses_at_random_chooses_the_same_again(tokenizer):
    tokenizer.chat_template = "{{ range(100000)|random }}"
    first = rendered(tokenizer)
    random.seed(7)
    state = random.getstate()
    assert rendered(tokenizer) == first
    assert first[0] != first[1]
    assert random.getstate() == state  # nobody else's random numbers change


def test_the_date_needs_chat():
    with pytest.raises(ValueError, match="date needs chat: true"):
        DataConfig(train="x", chat=False, date=DAY)


def with_template(model: Path, target: Path, template: str) -> Path:
    shutil.copytree(model, target)
    tokenizer = load_tokenizer(target)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture
def configured(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Configurations of the tiny family with a template that writes the date."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = with_template(family.small, tmp_path / "dated", LLAMA)

    def make(*overrides: str) -> Config:
        fixed = [f"models.learner={model}", f"models.explorer={model}", f"data.train={family.train}", "data.chat=true"]
        places = [f"bank.path={tmp_path / 'bank'}", f"run_dir={tmp_path / 'run'}"]
        return load_config(QUICKSTART, [*fixed, *places, *overrides])

    return make


def test_only_a_template_that_writes_a_date_gets_one(configured, family, tmp_path):
    config = configured()
    assert dated(config, bank=False).data.date == datetime.date.today()
    assert dated(config, DAY, bank=False).data.date == DAY
    plain = with_template(family.small, tmp_path / "plain", PLAIN)
    for override in (f"models.explorer={plain}", "data.chat=false"):
        assert dated(configured(override), DAY, bank=False).data.date is None
    assert "data.date" not in fingerprint_of(configured(f"models.explorer={plain}")).fields


def test_a_run_that_goes_on_keeps_its_day_and_refuses_another(configured, tmp_path):
    began = RunDirectory.acquire(configured())
    began.adopt(dated(configured(), DAY, bank=False), CONTENTS)  # as a run that began on that day
    save(began, 2)
    began.close()
    config = configured()
    again = dated(config, begun_on(config), bank=False)
    assert again.data.date == DAY
    goes_on = RunDirectory.acquire(again)
    goes_on.adopt(again, CONTENTS)
    copied = load_config(tmp_path / "run" / "config.yaml", [f"run_dir={tmp_path / 'copy'}"])
    assert copied.data.date == DAY  # the resolved configuration makes the same prompts
    with pytest.raises(ConfigError, match=r"data.date was '2026-03-09', now '2026-03-10'"):
        goes_on.adopt(configured("data.date=2026-03-10"), CONTENTS)


def test_a_run_that_begins_from_anothers_checkpoint_takes_its_day(configured, tmp_path):
    checkpoint = tmp_path / "saved"
    CheckpointDraft(checkpoint, {"step": 2, "date": DAY.isoformat()}).complete({})
    config = configured(f"resume={checkpoint}")
    assert dated(config, begun_on(config), bank=False).data.date == DAY


def test_yesterdays_recording_is_read_with_its_day(configured):
    config = configured()
    storage = bank_storage(config.bank.path)
    for day in ("2026-03-08", "2026-03-09"):
        create(storage, fingerprint_of(configured(f"data.date={day}")), made_with(configured()))
    create(
        storage, fingerprint_of(configured("data.date=2026-03-10", "rollout.explorer.top_k=3")), made_with(configured())
    )
    now = dated(config, bank=True)
    assert now.data.date == DAY  # the latest of those that differ in nothing else
    assert matching(storage, fingerprint_of(now), None).fingerprint.fields["data.date"] == "2026-03-09"
    older = fingerprint_of(configured("data.date=2026-03-08")).digest
    assert dated(configured("bank.mode=read", f"bank.recording={older}"), bank=True).data.date.day == 8
    assert dated(configured("data.date=2026-03-11"), bank=True).data.date.day == 11
    with pytest.raises(BankError, match=r'data.date: recorded "2026-03-0.", this run "2026-03-11"'):
        matching(storage, fingerprint_of(configured("data.date=2026-03-11")), None)


# ---- errors inside a template ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no\nsystem role') }}", r"\(no system role\)"),
        ("{{ nothing.at.all }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ 1 // 0 }}", "ZeroDivisionError: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{{ ''.join(1) }}", "TypeError: "),
        ("{{ ''.__class__.__mro__ }}", "SecurityError: "),
        ("{{ messages.append(1) }}", "SecurityError: "),
        ("{{ range(10**9)|list }}", "OverflowError: "),
        ("{{ '%d'|format('x') }}", "TypeError: "),
        ("{{ 'x'.encode('none') }}", "LookupError: "),
        ("{{ strftime_now() }}", "TypeError: "),
        ("one\n{% if %}", r"TemplateSyntaxError: .*, line 2"),
        ("{{ messages|no_such_filter }}", "TemplateSyntaxError: .*line 1|TemplateAssertionError"),
        ("{% include 'other' %}", "TypeError: no loader"),
    ],
)
def test_whatever_fails_inside_a_template_is_one_error(tokenizer, template, reason):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=rf"the chat template of .*model fails on prompt p-1 .*{reason}") as caught:
        rendered(tokenizer, date=DAY)
    assert "\n" not in str(caught.value)
    assert "correct the template, or set data.chat=false" in str(caught.value)


def test_a_template_that_refuses_a_system_message_alone(tokenizer):
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    assert rendered(tokenizer) == ["user: 3 7\n", "user: 12 5\n"]
    with pytest.raises(ModelError, match=r"fails on prompt p-1 \(no\); try without data.system"):
        rendered(tokenizer, system="brief")


def test_an_empty_template(tokenizer):
    tokenizer.chat_template = ""
    with pytest.raises(ModelError, match="has no chat template; set data.chat=false"):
        rendered(tokenizer)
    tokenizer.chat_template = "{# nothing #}"
    with pytest.raises(DataError, match="prompt p-1 has no tokens; check its question, data.prompt and the chat tem"):
        rendered(tokenizer)


def test_the_command_says_it_without_a_traceback(configured, family, tmp_path, capsys):
    broken = with_template(family.small, tmp_path / "broken", "{{ nothing.at.all }}")
    config = tmp_path / "config.yaml"
    config.write_text(configured(f"models.learner={broken}", f"models.explorer={broken}").to_yaml())
    assert main(["explore", str(config)]) == 1
    assert capsys.readouterr().err.startswith(f"error: the chat template of {broken} fails on prompt")


# ---- several templates ----------------------------------------------------------------------------------------------


def test_of_several_templates_one_is_chosen(tokenizer, tmp_path):
    tokenizer.chat_template = {"tool_use": "tools", "plain": PLAIN}
    tokenizer.save_pretrained(tmp_path / "several")  # additional_chat_templates/
    several = load_tokenizer(tmp_path / "several")
    assert rendered(several, chat_template="plain") == ["user: 3 7\n", "user: 12 5\n"]
    message = r"has no chat template named {}; choose one with data.chat_template, of plain, tool_use"
    with pytest.raises(ModelError, match=message.format("default")):
        rendered(several)
    with pytest.raises(ModelError, match=message.format("rag")):
        rendered(several, chat_template="rag")


def test_a_default_template_needs_no_choice_and_a_single_one_has_no_other_name(tokenizer):
    tokenizer.chat_template = {"default": PLAIN, "tool_use": "tools"}
    assert rendered(tokenizer) == rendered(tokenizer, chat_template="default") == ["user: 3 7\n", "user: 12 5\n"]
    tokenizer.chat_template = PLAIN
    with pytest.raises(ModelError, match="named tool_use; choose one with data.chat_template, of default"):
        rendered(tokenizer, chat_template="tool_use")


def test_the_fingerprint_is_of_the_chosen_template(family, configured, tmp_path):
    model = with_template(family.small, tmp_path / "several", {"a": PLAIN, "b": PLAIN + "b"})
    digests = {
        name: fingerprint_of(configured(f"models.explorer={model}", f"data.chat_template={name}")).digest
        for name in ("a", "b")
    }
    alone = with_template(family.small, tmp_path / "alone", PLAIN)
    assert fingerprint_of(configured(f"models.explorer={alone}")).digest == digests["a"] != digests["b"]
