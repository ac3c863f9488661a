from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.config import EngineConfig, load_config
from s2l_ray.config.reference import keys
from s2l_ray.config.renamed import ELSEWHERE, RENAMED, SECTIONS, WHOLE_KEYS
from s2l_ray.config.shipped import CONFIGURATIONS as CONFIGURATIONS_SHIPPED
from s2l_ray.config.unknown import is_known, unknown_config_key
from s2l_ray.errors import ConfigError
from tests.support.documents import braces
from tests.support.paths import ROOT

MINIMAL = "models: {learner: a, explorer: b}\ndata: {train: x.jsonl}\n"
CONFIGS = ROOT / "configs"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


# Studies and experiments are files of other kinds, which their own tests read.
CONFIGURATIONS = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if not path.name.startswith("tune_") and "experiments" not in path.relative_to(CONFIGS).parts
)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path: Path):
    config = load_config(path, ["data.train=somewhere.jsonl"])
    assert config.name == path.stem


def test_overrides_beat_the_file_and_the_file_beats_what_it_extends(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(MINIMAL + "seed: 5\nschedule: {steps: 9, mix_steps: 3}\n")
    (tmp_path / "run.yaml").write_text("extends: base.yaml\nschedule: {steps: 8}\n")
    config = load_config(tmp_path / "run.yaml", ["schedule.mix_steps=4"])
    assert (config.seed, config.schedule.steps, config.schedule.mix_steps) == (5, 8, 4)


def test_python_overrides_may_be_dotted_or_nested(minimal: Path):
    config = load_config(minimal, {"schedule.steps": 9, "schedule": {"mix_steps": 2}})
    assert (config.schedule.steps, config.schedule.mix_steps) == (9, 2)


def test_resolved_yaml_reads_back_equal(minimal: Path, tmp_path: Path):
    config = load_config(minimal, ["trainer.learning_rate=1e-4", "evaluation.k=[1,4]"])
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.mix_step=3", "schedule.mix_step: unknown key; did you mean schedule.mix_steps?"),
        ("trainer.learning_rate=fast", "trainer.learning_rate: must be a number"),
        ("schedule.mix_steps=61", r"mix_steps \(T_mix = 61\) must not exceed steps \(T = 60\)"),
        ("rollout.group_size=1", "group_size must be at least 2"),
        ("objective.mini_batch_prompts=5", "must divide rollout.prompts_per_step"),
        ("engines.learner.max_model_len=10", "engines.learner.max_model_len"),
        ("tracking.rollout_traces=17", r"must not exceed rollout.keep_groups \* rollout.group_size \(16\)"),
        ("evaluation.samples=4", "samples .4. must be at least the largest k .8."),
        ("trainer.lr_min_ratio=0.1", "trainer: lr_min_ratio needs lr_schedule: linear or cosine"),
        ("trainer.lr_schedule=square", "trainer.lr_schedule: must be 'constant', 'linear' or 'cosine'"),
        (
            "trainer={lr_schedule: linear, warmup_steps: 60}",
            r"warmup_steps \(60\) leaves none of the run's 60 optimizer",
        ),
        ("objective.overlong_penalty=0.5", "overlong_penalty needs overlong_buffer_tokens"),
        (
            "objective={overlong_buffer_tokens: 9999}",
            r"overlong_buffer_tokens \(9999\) must not exceed rollout.max_tokens",
        ),
        (
            "objective={old_logprobs: engine, correction: {learner: token}}",
            "old_logprobs: engine needs correction.learner",
        ),
        ("objective.reference_offload=true", "reference_offload needs kl above 0"),
        ("objective.entropy=-1", "objective.entropy: must be greater than or equal to 0"),
        ("trainer.skip_grad_norm=0", "trainer.skip_grad_norm: must be greater than 0"),
        (
            "trainer={gradient_checkpointing: on, recomputed_layers: 2}",
            "recomputed_layers needs gradient_checkpointing: auto",
        ),
        (
            "trainer={ranks: 8, replicas: 3}",
            r"trainer.replicas: 3 does not divide 8 trainer ranks into groups of equal size; set trainer.ranks to",
        ),
        ("trainer.replicas=0", r"trainer.replicas: must be 'auto', or greater than 0 \(got 0\)"),
        ("models.dtype=x", r"models.dtype: must be 'auto', 'bfloat16' or 'float32' \(got 'x'\)"),
        ("trainer.gradient_checkpointing=yes please", "trainer.gradient_checkpointing: must be 'auto', 'on'"),
        ("data.prompt=hello", "prompt must contain {question}"),
        (
            "verifier.kind=maths",
            "verifier.kind: must be one of math, choice, countdown, or your own module:function; did you mean",
        ),
        ("verifier={kind: countdown, extract: lenient}", "extract is for kind: math alone; countdown reads responses"),
        ("verifier.extract=loose", "verifier.extract: must be 'strict' or 'lenient'"),
        ("schedule.steps=true", r"schedule.steps: must be a number \(got True\)"),
        ("data.eval_limit=false", r"data.eval_limit: must be a number \(got False\)"),
        ("evaluation.confidence=true", r"evaluation.confidence: must be a number"),
        ("evaluation.k=[1,true]", r"evaluation.k: has an entry that must be a number \(got \[1, True\]\)"),
        ("trainer.replicas=true", r"trainer.replicas: must be a number \(got True\)"),
        ("seed", "write it as key=value"),
    ],
)
def test_bad_values_name_the_key(minimal: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(minimal, [override])


def test_the_engines_old_log_probs_need_the_whole_softmax(minimal: Path):
    engine = "objective.old_logprobs=engine"
    assert load_config(minimal, [engine, "rollout.learner.temperature=1.2"]).objective.old_logprobs == "engine"
    with pytest.raises(ConfigError, match=r"leave out rollout\.learner\.top_p and rollout\.learner\.top_k, or"):
        load_config(minimal, [engine, "rollout.learner.top_p=0.9", "rollout.learner.top_k=5"])


def test_a_bare_on_or_off_is_the_word(minimal: Path):
    """YAML reads them as booleans."""
    config = load_config(minimal, ["schedule.kind=off", "trainer.gradient_checkpointing=on"])
    assert (config.schedule.kind, config.trainer.gradient_checkpointing) == ("off", "on")
    minimal.write_text(MINIMAL + "schedule: {kind: off}\ntrainer: {gradient_checkpointing: off}\n")
    config = load_config(minimal)
    assert (config.schedule.kind, config.trainer.gradient_checkpointing) == ("off", "off")


def test_bad_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("models: {learner: ")
    with pytest.raises(ConfigError, match="broken.yaml is not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "circle.yaml").write_text("extends: circle.yaml")
    with pytest.raises(ConfigError, match="extends goes in a circle"):
        load_config(tmp_path / "circle.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_config(tmp_path / "list.yaml")


def test_missing_sections_are_named(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("data: {train: x}")
    with pytest.raises(ConfigError, match="models: missing"):
        load_config(tmp_path / "run.yaml")


def test_values_that_only_the_user_has_are_asked_for():
    with pytest.raises(ConfigError, match="data.train must be given"):
        load_config(CONFIGS / "gsm8k_smollm2.yaml")


def test_the_short_form_of_the_bank_keeps_its_path(tmp_path):
    quickstart = CONFIGS / "quickstart.yaml"
    expected = {"mode": "read", "path": "/b", "recording": None}
    for overrides in (["bank.path=/b", "bank=read"], {"bank.path": "/b", "bank": "read"}):
        assert load_config(quickstart, overrides).bank.model_dump() == expected
    assert load_config(quickstart, ["bank=off"]).bank.mode == "off"
    extended = tmp_path / "mine.yaml"
    extended.write_text(f"extends: {quickstart}\nbank: readwrite\n")
    assert load_config(extended, ["bank.path=/b"]).bank.model_dump() == expected | {"mode": "readwrite"}


def test_a_key_of_another_framework_leads_to_ours() -> None:
    for here, ends in ELSEWHERE.items():
        assert all(map(is_known, here.split(" and ")))
        for end in ends:
            befores = ("",) if end in WHOLE_KEYS else ("", "trainer.", "actor_rollout_ref.actor.")
            for other in (before + end for before in befores):
                with pytest.raises(ConfigError, match=f"^override {other}: unknown key; see {re.escape(here)}$"):
                    load_config("quickstart", [f"{other}=1"])
    for other, here in SECTIONS.items():
        assert all(map(is_known, re.split(", | and ", here)))
        with pytest.raises(ConfigError, match=f"^override {other}.any: unknown key; see {here}$"):
            load_config("quickstart", [f"{other}.any=1"])


def keys_of_the_guide() -> Iterator[tuple[str, set[str]]]:
    """Each key of another framework in own.md's tables, with the keys of ours beside it."""
    text = (ROOT / "docs/guides/own.md").read_text().split("## Coming from another framework\n")[1]
    for row in (line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")):
        ours = {key for code in re.findall("`([^`]+)`", row[-1]) for key in braces(code.partition(":")[0])}
        for part in ";".join(row[1:-1]).split(";"):
            keys_alone = re.split("[:/]| with ", part)[0]  # before values, and keys of other rows
            yield from ((key, ours) for key in re.findall("`([a-z_.]+)`?", keys_alone))


def test_every_key_in_the_guides_tables_leads_to_the_one_beside_it() -> None:
    found = [(key, ours) for key, ours in keys_of_the_guide() if key != "accelerate"]  # which is a command
    assert len(found) > 80
    for key, ours in found:
        said = unknown_config_key(key).partition("unknown key; ")[2]
        named = {name for name in re.findall(r"[a-z_.]+[a-z]", said) if is_known(name)}
        assert named and named <= ours, f"{key}: {said}, and the guide has {sorted(ours)}"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        *[(key, "there is none like it here: each rollout is used once") for key in ("ppo_epochs", "num_iterations")],
        ("trainer.val_before_train", "there is none like it here: before and after its steps a run evaluates anyway"),
        ("logging_steps", "there is none like it here: every step is logged"),
        ("critic.model.path", "there is none like it here: the mean of a group takes the place of a critic"),
        ("actor_rollout_ref.actor.optim.weight_decay", "see trainer.weight_decay"),
        ("algorithm.filter_groups.max_num_gen_batches", "see rollout.refill_rounds"),
        ("fsdp_config", "`s2l config` lists all keys"),
        ("gradient_accumulation_steps", "`s2l config` lists all keys"),
        ("delta", "`s2l config` lists all keys"),
        ("sede", "did you mean seed?"),
        ("rollout.max", "did you mean rollout.max_tokens or rollout.max_staleness?"),
        *[(key, f"did you mean trainer.{key}?") for key in ("lora_rank", "learning_rate", "gradient_checkpointing")],
        ("group_size", "did you mean rollout.group_size?"),
        ("lora_rnk", "did you mean trainer.lora_rank?"),
        ("kl", "did you mean objective.kl?"),
        ("rollout.lora_rank", "did you mean trainer.lora_rank?"),
        ("traner.lora_rnk", "did you mean trainer.lora_rank?"),
        ("evaluation.temperature", "did you mean evaluation.sampling.temperature?"),
        ("data.path", "valid keys here: train, eval, "),
        ("swap_mode", "this key is now rollout.weight_sync_mode"),
    ],
)
def test_files_overrides_and_s2l_config_say_the_same_of_an_unknown_key(key: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^override {key}: .*{re.escape(said)}"):
        load_config("quickstart", [f"{key}=1"])
    with pytest.raises(ConfigError, match=f"^{key}: .*{re.escape(said)}"):
        keys(key)
    section = key.rpartition(".")[0]
    if not section or is_known(section):  # of other sections a file is told the first part alone
        (tmp_path / "run.yaml").write_text(f"extends: quickstart\n{yaml.safe_dump(nested(key))}")
        with pytest.raises(ConfigError, match=f"run.yaml: {key}: .*{re.escape(said)}"):
            load_config(tmp_path / "run.yaml")


def nested(key: str) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: nested(rest) if rest else 1}


def test_keys_are_explained_as_an_override_has_them() -> None:
    assert [key.name for key in keys("trainer.learning_rate=3")] == ["trainer.learning_rate"]
    with pytest.raises(ConfigError, match=r"^rollout\.n: unknown key; see rollout\.group_size$"):
        keys("rollout.n=8")


def test_what_only_looks_like_another_frameworks_key_is_told_what_is_there() -> None:
    for key, said in {
        "trainer.beta": "did you mean trainer.betas?",
        "evaluation.n": "valid keys here: ",
        "bank.model": "did you mean bank.mode?",
    }.items():
        with pytest.raises(ConfigError, match=f"^override {key}: unknown key; .*{re.escape(said)}"):
            load_config("quickstart", [f"{key}=1"])


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_told_its_new_name(old: str, new: str, tmp_path: Path) -> None:
    assert [key.name for key in keys(new)] == [new]
    section, name = old.split(".")
    with pytest.raises(ConfigError, match=f"override {old}: this key is now {new}"):
        load_config("quickstart", [f"{old}=1"])
    (tmp_path / "run.yaml").write_text(f"extends: quickstart\n{section}: {{{name}: 1}}\n")
    with pytest.raises(ConfigError, match=f"{old}: this key is now {new}"):
        load_config(tmp_path / "run.yaml")
    for asked in (old, name):
        with pytest.raises(ConfigError, match=f"{asked}: this key is now {new}"):
            keys(asked)


def test_the_changelog_has_the_renamed_keys() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert all(f"| `{old}` | `{new}` |" in text for old, new in RENAMED.items())


def test_an_extended_file_that_is_missing_is_named_with_the_file_that_extends_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("extends: quickstrat\n")
    with pytest.raises(ConfigError, match=r"run.yaml: extends: /.*/quickstrat does not exist; did you mean quickstart"):
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("engine", "longest", "gpu", "cpu"),
    [
        ({}, 4096, 8192, 4352),  # 4096 + 256
        ({}, 1000, 8192, 2048),
        ({"max_num_seqs": 4}, 1000, 4000, 2048),  # four texts of 1,000 tokens
        ({"max_num_seqs": 10_000}, 1000, 10_000, 11_000),
        ({"max_num_batched_tokens": 3000}, 1000, 3000, 3000),
    ],
)
def test_the_most_tokens_of_an_engines_batch(engine, longest, gpu, cpu):
    settings = EngineConfig(**engine)
    assert (settings.batched_tokens(longest, gpu=True), settings.batched_tokens(longest, gpu=False)) == (gpu, cpu)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("schedule.steps=12", "the file or name comes first, then keys such as schedule.steps=12; s2l-ray ships"),
        ("data.train=/a/b.jsonl", "the file or name comes first, then keys such as data.train=/a/b.jsonl"),
        ("seed=3", "the file or name comes first, then keys such as seed=3"),
        ("lr=0.1/quickstrat", "did you mean quickstart"),
        ("/data/lr=0.1/quickstrat.yaml", "did you mean quickstart"),
    ],
)
def test_what_could_have_been_meant_by_a_name_that_is_not_found(name, said):
    assert said in CONFIGURATIONS_SHIPPED.hint(name)


def test_a_batch_holds_a_token_of_each_sequence(tmp_path):
    with pytest.raises(
        ConfigError, match=r"engines.learner: max_num_batched_tokens must be at least max_num_seqs \(256\)"
    ):
        load_config("quickstart", {"engines.learner.max_num_batched_tokens": 255})
