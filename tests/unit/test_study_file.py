"""The file of a study and its space: what is refused, what is drawn, and what is checked before anything starts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray import cli
from s2l_ray.config import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.reporter import SilentReporter
from s2l_ray.tracking.metrics import step_metrics
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.keys import checked_space
from s2l_ray.tuning.measured import check_metric
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.place import STATE, StudyPlace
from s2l_ray.tuning.preparing import PreparedStudy, prepare, prepare_again
from s2l_ray.tuning.reading import load_study, parse_study, split_overrides
from s2l_ray.tuning.report import write_report
from s2l_ray.tuning.space import Space
from tests.support.step_records import step
from tests.support.studies import study as made_up_study
from tests.support.studies import trial

STUDY = """\
trials: 4
space:
  schedule.kind: [linear, off]
  trainer.learning_rate: {loguniform: [5e-5, 5e-4]}
config: {evaluation.every: 20}
"""


GRIDS = [
    f"tune.space.{key}={{grid: [{', '.join(f'{10**-9 * n:.3e}' for n in range(1, 1000))}]}}"
    for key in ("trainer.learning_rate", "trainer.eps", "trainer.grad_clip", "objective.entropy")
]
"""Their combinations do not fit into memory."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(STUDY)
    return str(file)


def prepared(study: str, *overrides: str, config: str = "quickstart") -> PreparedStudy:
    of_config, of_study = split_overrides(overrides)
    return prepare(config, load_study(study, of_study), of_config, SilentReporter())


def space_of(**space: Any) -> dict[str, Domain]:
    return checked_space(parse_study({"space": {key.replace("__", "."): value for key, value in space.items()}}))


def test_a_study_is_named_after_its_file_and_overrides_change_its_keys(study: str) -> None:
    file = load_study(study, ["trials=3", "scheduler.kind=asha", "space.seed=[1, 2]"])
    assert (file.name, file.trials, file.scheduler.kind, file.space["seed"].choice) == ("small", 3, "asha", (1, 2))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trail=3", "trail: unknown key; did you mean 'trials'?"),
        ("space.seed={rand: [1, 2]}", "space.seed.rand: unknown key; did you mean 'randint'?"),
        ("space.seed=3", "space.seed: give a list of values, or one of choice, grid, uniform"),
        ("space.seed={uniform: [2, 1]}", "space.seed: uniform needs two numbers, the smaller one first"),
        ("space.seed={loguniform: [0, 1]}", "space.seed: loguniform needs numbers above 0"),
        ("space.seed=[1, 1]", "space.seed: choice has a value twice"),
        ("space.seed={grid: [1], uniform: [1, 2]}", "space.seed: give exactly one of"),
        ("scheduler.gracee=1", "scheduler.gracee: unknown key; did you mean 'grace'?"),
        ("scheduler=3", "scheduler: must be a mapping of keys to values"),
        ("scheduler=ashaa", "scheduler.kind: must be 'none', 'asha' or 'pbt'"),
        ("scheduler.grace=1", "scheduler: grace is for kind: asha, not none"),
        ("name=a/b", "name: must have at most 60 letters, digits, '.', '_' and '-', of which the first"),
        ("space={}", "space: is empty"),
        ("space.seed=[]", "space.seed.choice: is empty"),
        ("space.seed={choice: {uniform: [1, 2]}}", "space.seed.choice: must be a list of values"),
        ("space={trainer: {eps: [1, 2]}}", "space.trainer: the keys of the space are dotted: write trainer.eps"),
        ("nodes_per_trial=1", ""),
    ],
)
def test_a_wrong_key_or_value_of_the_file_is_named(study: str, override: str, message: str) -> None:
    if not message:
        with pytest.raises(ConfigError, match="give nodes_per_trial or cpus_per_trial, not both"):
            load_study(study, [override, "cpus_per_trial=1"])
        return
    with pytest.raises(ConfigError) as refused:
        load_study(study, [override])
    assert message in str(refused.value)


def test_the_kind_of_the_scheduler_can_stand_for_its_section(study: str) -> None:
    assert load_study(study, ["scheduler=asha"]).scheduler.kind == "asha"
    scheduler = load_study(study, ["scheduler=asha", "scheduler.grace=20"]).scheduler
    assert (scheduler.kind, scheduler.grace) == ("asha", 20)
    Path(study).write_text(STUDY + "scheduler: pbt\n")
    with pytest.raises(ConfigError, match="small.yaml: space: with scheduler.kind: pbt"):
        load_study(study)


def test_a_wrong_key_or_value_of_the_space_names_the_file(study: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_study(study, ["space={rollout.max_stalenes: [1], rollout.max_staleness: [-1]}"])
    assert str(refused.value) == (
        f"study file {study}:\n"
        "  space.rollout.max_stalenes: unknown key; did you mean rollout.max_staleness?\n"
        "  space.rollout.max_staleness: must be greater than or equal to 0 (got -1)"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune.space={rollout.max_staleness: [-1]}"], "space.rollout.max_staleness: must be"),
        (["tune.trials=null"], "trials: missing"),
        (["trainer.epss=1"], "trainer.epss: unknown key"),
        (["tune.config={trainer: {learning_rate: 1}}"], "trainer.learning_rate is in the study's space and is also"),
    ],
)
def test_what_the_files_say_is_checked_before_ray_is_even_imported(
    study: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("driver", "rehearsal", "preparing"):
        monkeypatch.setitem(sys.modules, f"s2l_ray.tuning.{module}", None)  # importing it is an error
    for option in ([], ["--dry-run"]):
        arguments = cli._parser().parse_args(["tune", "quickstart", study, *words, *option])
        with pytest.raises(ConfigError, match=message):
            arguments.run(arguments)


def test_paths_that_the_study_has_resolved_are_remembered_as_they_were_given(study: str, tmp_path: Path) -> None:
    source = Path(load_config("quickstart").data.train)
    (tmp_path / "mine.jsonl").write_bytes(source.read_bytes())
    given = ["bank.path=outputs/shared", "bank.mode=readwrite", "data.train=mine.jsonl"]
    first = prepared(study, *given)
    assert first.base.bank.path == str(tmp_path / "outputs" / "shared")
    assert first.base.data.train == str(tmp_path / "mine.jsonl")
    first.place.write(first.state)
    for ready in (first, prepared(study, *given), prepare_again(first.place, [])):
        config = ready.as_given(None)
        assert (config.bank.path, config.bank.mode, config.data.train) == ("outputs/shared", "readwrite", "mine.jsonl")
        assert config.models.learner == first.base.models.learner


def interpolating(folder: Path, keys: str) -> str:
    (folder / "own.yaml").write_text(f"extends: quickstart\n{keys}\n")
    return str(folder / "own.yaml")


def test_best_yaml_has_what_the_best_trial_interpolates(study: str, tmp_path: Path) -> None:
    config = interpolating(tmp_path, "trainer: {warmup_steps: '${schedule.mix_steps}'}")
    ready = prepared(study, "tune.space.schedule.mix_steps={grid: [5, 30]}", config=config)
    about = made_up_study(tmp_path / "small", name="small", keys=ready.space.keys, trials=4)
    best = trial(
        about,
        2,
        values=ready.samples[1].values,
        status="finished",
        step=120,
        metric=0.3,
        metric_step=120,
        history=((120, 0.3),),
    )
    assert (ready.base.trainer.warmup_steps, best.values["schedule.mix_steps"]) == (5, 30)
    ready.place.write(ready.state)
    for one in (ready, prepare_again(ready.place, [])):
        write_report(about, [best], StudyFacts(60.0), one.as_given(best))
        found = load_config(tmp_path / "small" / "best.yaml")
        assert (found.schedule.mix_steps, found.trainer.warmup_steps) == (30, 30)


def test_best_yaml_of_pbt_has_the_last_values(study: str) -> None:
    ready = prepared(study, "tune.scheduler={kind: pbt}", "tune.space={trainer.learning_rate: {uniform: [1e-4, 2e-4]}}")
    changed = TrialOutcome("small_00003", {"trainer.learning_rate": 1.5e-4}, 120)
    assert ready.as_given(changed).trainer.learning_rate == 1.5e-4


OPTUNA, PBT = "tune.search=optuna", "tune.scheduler={kind: pbt}"
DIRECT = "trainer: {warmup_steps: '${schedule.mix_steps}'}"
BY_ANOTHER = "trainer: {eps: '${objective.kl}', weight_decay: '${.eps}'}"


@pytest.mark.parametrize(
    ("keys", "how", "space", "named"),
    [
        (DIRECT, OPTUNA, "{schedule.mix_steps: {randint: [5, 30]}}", ("trainer.warmup_steps", "schedule.mix_steps")),
        (BY_ANOTHER, PBT, "{objective.kl: {uniform: [0.1, 0.2]}}", ("trainer.eps", "objective.kl")),
        (
            BY_ANOTHER,
            OPTUNA,
            "{objective.kl: {uniform: [0.1, 0.2]}, trainer.grad_clip: [1, 2]}",
            ("trainer.eps", "objective.kl"),
        ),
        (
            BY_ANOTHER,
            PBT,
            "{objective.kl: {uniform: [0.1, 0.2]}, trainer.weight_decay: [0.1, 0.2]}",
            ("trainer.eps", "objective.kl"),
        ),
        (BY_ANOTHER, PBT, "{trainer.eps: {uniform: [0.1, 0.2]}}", ("trainer.weight_decay", "trainer.eps")),
    ],
)
def test_what_follows_a_varied_key_is_refused_where_values_are_not_known_before(
    study: str, tmp_path: Path, keys: str, how: str, space: str, named: tuple[str, str]
) -> None:
    """Trials of Optuna would all have that of the first draw; an exploit would leave it as it was."""
    config, (follower, varied) = interpolating(tmp_path, keys), named
    with pytest.raises(ConfigError) as refused:
        prepared(study, how, f"tune.space={space}", config=config)
    kind = "search: optuna" if how == OPTUNA else "scheduler.kind: pbt"
    assert str(refused.value) == (
        f"{follower} interpolates {varied}, which the study varies: with {kind} it would keep its value while that of "
        f"{varied} changes. Give {follower} a value in the study's config, or vary it too"
    )


def test_what_is_fixed_or_varied_itself_does_not_follow_another_key(study: str, tmp_path: Path) -> None:
    space = "tune.space={schedule.mix_steps: {randint: [5, 30]}}"
    fixed = prepared(study, OPTUNA, space, "trainer.warmup_steps=3", config=interpolating(tmp_path, DIRECT))
    assert fixed.base.trainer.warmup_steps == 3
    prepared(study, OPTUNA, space, "tune.space.trainer.warmup_steps=[1, 2]", config=interpolating(tmp_path, DIRECT))
    own = interpolating(tmp_path, "run_dir: 'outputs/${schedule.mix_steps}'")  # the study sets it
    assert prepared(study, OPTUNA, space, config=own).base.run_dir is None


def test_a_file_that_is_not_there_says_what_could_be_meant() -> None:
    with pytest.raises(ConfigError, match="study file nowhere does not exist; s2l-ray ships"):
        load_study("nowhere")


def test_values_are_those_of_the_configuration() -> None:
    assert space_of(schedule__kind=["linear", False])["schedule.kind"].choice == ("linear", "off")
    assert space_of(trainer__betas=[[0.9, 0.99], [0.8, 0.9]])["trainer.betas"].choice == ([0.9, 0.99], [0.8, 0.9])


@pytest.mark.parametrize(
    ("key", "domain", "message"),
    [
        ("trainer__learnin_rate", [1], "space.trainer.learnin_rate: unknown key; did you mean trainer.learning_rate?"),
        ("rolout__max_staleness", [1], "rolout.max_staleness: unknown key; did you mean rollout.max_staleness?"),
        ("rollout__frobnicate", [1], "space.rollout.frobnicate: unknown key; valid keys here: "),
        ("rollout__max_staleness", [-1], "space.rollout.max_staleness: must be greater than or equal to 0 (got -1)"),
        ("trainer", [1], "space.trainer is a section; vary the keys in it"),
        ("schedule__mix_steps", {"uniform": [1, 9]}, "schedule.mix_steps is an integer; use randint"),
        ("schedule__mix_steps", {"randint": [0, 9]}, "schedule.mix_steps: must be greater than 0 (got 0)"),
        ("rollout__group_size", [4, "x"], "rollout.group_size: must be a whole number"),
        ("schedule__kind", ["cosin"], "schedule.kind: must be one of linear"),
        ("name", ["a"], "name cannot be varied"),
        ("evaluation__samples", [1], "evaluation.samples cannot be varied"),
        ("bank__path", ["a"], "bank.path cannot be varied"),
        ("seed", [1, "1"], "seed: choice has a value twice"),
    ],
)
def test_a_key_or_value_of_the_space_is_checked_like_an_override(key: str, domain: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        space_of(**{key: domain})
    assert message in str(refused.value)


def test_draws_depend_on_key_seed_and_place_alone() -> None:
    space = space_of(trainer__learning_rate={"loguniform": [5e-5, 5e-4]}, rollout__group_size={"randint": [4, 6]})
    first = Space(space).draw(50, seed=1)
    alone = Space({"rollout.group_size": space["rollout.group_size"]}).draw(50, seed=1)
    assert [values["rollout.group_size"] for values in first] == [values["rollout.group_size"] for values in alone]
    assert {values["rollout.group_size"] for values in first} == {4, 5, 6}
    assert all(5e-5 <= values["trainer.learning_rate"] <= 5e-4 for values in first)
    assert first != Space(space).draw(50, seed=2)
    below = sum(values["trainer.learning_rate"] < 1.58e-4 for values in first)  # sqrt(5e-5 * 5e-4): half of the draws
    assert 15 <= below <= 35


def test_every_combination_of_the_grids_has_the_same_draws() -> None:
    space = Space(
        space_of(seed={"grid": [1, 2]}, schedule__kind={"grid": ["linear", "off"]}, rollout__group_size=[4, 8, 16])
    )
    drawn = space.draw(8, seed=1)
    assert [(v["seed"], v["schedule.kind"]) for v in drawn] == [
        (1, "linear"),
        (1, "off"),
        (2, "linear"),
        (2, "off"),
    ] * 2
    assert len({v["rollout.group_size"] for v in drawn[:4]}) == len({v["rollout.group_size"] for v in drawn[4:]}) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.trials=null"], "trials: missing; say how many trials the study has"),
        (["tune.space.seed={grid: [1, 2, 3]}"], "trials (4) must be a multiple of 3"),
        (["trainer.learning_rate=1"], "trainer.learning_rate is in the study's space and is also given a value"),
        (["data.eval=null"], "metric: eval/learner/pass_at_1 needs held-out problems"),
        (["tune.metric=eval/learner/pass_at_3"], "there are pass_at_1, pass_at_2, pass_at_4, pass_at_8, reward"),
        (["tune.metric=eval/explorer/reward"], "is not measured of trials"),
        (["tune.metric=rewards"], "metric: 'rewards' is no metric of a step; did you mean 'reward'?"),
        (["tune.metric=trainer"], "metric: 'trainer' is no metric of a step; docs/reference/metrics.md lists them"),
        (["tune.scheduler={kind: asha, grace: 30}"], "trials are compared every 30 steps, but eval/learner/pass_at_1"),
        (["tune.scheduler={kind: asha, grace: 120}"], "scheduler.grace (120) must be less than schedule.steps (120)"),
        (["tune.scheduler={kind: asha}", "evaluation.every=0"], "set evaluation.every in the study's config"),
        (["tune.scheduler={kind: pbt}"], "impossible for schedule.kind. Possible are objective."),
        (
            ["tune.scheduler={kind: pbt}", "tune.space={objective.kl: [0, 0.1]}"],
            "either all of its values are above 0 or none",
        ),
        (["tune.trials=100000"], "trials: 100000 are more than a study may have (10000)"),
        (["tune.space.seed={grid: [1, 2]}", *GRIDS, "tune.trials=null"], "are more than a study may have"),
        (["tracking.uri=http://me:secret@127.0.0.1:5000"], "tracking.uri has a password"),
        (["run_dir=elsewhere"], "run_dir cannot be given to the trials of a study: they are in the directory of"),
        (["placement.cpus=1"], "placement.cpus cannot be given to the trials of a study: use tune.cpus_per_trial"),
        (["tune.config={name: other}"], "name cannot be given to the trials of a study"),
        (["tune.search=optuna", "tune.space.seed={grid: [1, 2]}"], "search: optuna chooses values by itself"),
    ],
)
def test_what_does_not_go_together_is_refused(study: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(study, *overrides)
    assert message in str(refused.value)


def test_every_metric_of_a_step_can_be_that_of_a_study() -> None:
    base = load_config("quickstart")
    for metric in step_metrics(step(1, parts={"sampling": 1.0}, busy={"learner": 0.5}, engines={"learner": 1})):
        check_metric(metric, base)


def test_an_impossible_trial_is_refused_with_its_number_values_and_reason(study: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(study, "tune.space.schedule.mix_steps={grid: [40, 121]}")
    message = str(refused.value)
    assert message.startswith("2 of 4 trials cannot be run")
    assert (
        "\n  trial 2 with schedule.kind=off, trainer.learning_rate=0.0004037, schedule.mix_steps=121 and 1 more: "
        "quickstart: schedule: mix_steps (T_mix = 121) must not exceed steps (T = 120)"
    ) in message


def test_corners_of_the_space_are_checked_where_values_are_suggested_later(study: str) -> None:
    with pytest.raises(ConfigError, match=r"the space has values that cannot be run.*\n.*mix_steps=121") as refused:
        prepared(study, "tune.search=optuna", "tune.space.schedule.mix_steps={randint: [40, 121]}")
    assert "\n  a trial with schedule.kind=linear, trainer.learning_rate=5e-5, " in str(refused.value)


def test_what_is_fixed_need_not_go_with_values_that_are_replaced(study: str) -> None:
    ready = prepared(study, "tune.space.schedule.mix_steps=[2, 4]", "schedule.steps=4", "evaluation.every=2")
    assert {sample.config.schedule.mix_steps for sample in ready.samples} <= {2, 4}


def test_seeds_of_learners_share_the_explorers_rollouts(study: str) -> None:
    ready = prepared(study, "tune.space.seed={grid: [7, 8]}")
    assert {(s.config.seed, s.config.explorer_seed) for s in ready.samples} == {(7, 7), (8, 7)}


def test_the_same_command_goes_on_with_an_unfinished_study_and_begins_another_after_a_finished_one(study: str) -> None:
    first = prepared(study)
    first.place.write(first.state)
    again = prepared(study)
    assert again.resumed and [s.config for s in again.samples] == [s.config for s in first.samples]
    first.state.finished = True
    first.place.write(first.state)
    assert prepared(study).place.name == "small-2"


def test_a_study_of_a_version_that_knew_fewer_keys_goes_on(study: str) -> None:
    first = prepared(study)
    del first.state.config["objective"]["old_logprobs"], first.state.study["max_failures"]
    first.place.write(first.state)
    assert prepared(study).resumed
    assert prepare_again(StudyPlace.existing(str(first.place.directory)), []).resumed
    with pytest.raises(ConfigError, match=r"differ in\n  objective.old_logprobs: 'trainer' before, 'engine' now$"):
        prepared(study, "objective.old_logprobs=engine")


def test_an_unfinished_study_is_not_gone_on_with_as_another_one(study: str) -> None:
    first = prepared(study)
    first.place.write(first.state)
    with pytest.raises(ConfigError) as refused:
        prepared(study, "trainer.eps=1e-6", "tune.space.schedule.kind=[linear]", "tune.max_failures=9")
    message = str(refused.value)
    assert "trainer.eps: 1e-08 before, 1e-06 now" in message
    assert "space.schedule.kind.choice: ['linear', 'off'] before, ['linear'] now" in message
    assert "max_failures" not in message


def test_a_study_is_resumed_from_what_it_remembers(study: str) -> None:
    first = prepared(study)
    first.place.write(first.state)
    again = prepare_again(first.place, ["cluster.address=auto", "placement.mode=separate", "tune.max_failures=9"])
    assert (again.base.cluster.address, again.file.max_failures, again.resumed) == ("auto", 9, True)
    assert again.base.placement.mode == "separate"
    fewer = prepare_again(first.place, ["tune.cpus_per_trial=2"])
    assert fewer.file.cpus_per_trial == 2
    assert [s.values for s in again.samples] == [s.values for s in first.samples]
    with pytest.raises(ConfigError, match=r"trainer.eps: 1e-08 before, 1e-06 now"):
        prepare_again(first.place, ["trainer.eps=1e-6"])
    with pytest.raises(ConfigError, match=r"trainer.learning_rate is in the study's space"):
        prepare_again(first.place, ["trainer.learning_rate=1e-4"])
    with pytest.raises(ConfigError, match=f"^{re.escape(str(first.place))}: cluster.adress: unknown key"):
        prepare_again(first.place, ["cluster={adress: auto}"])
    first.state.finished = True
    first.place.write(first.state)
    results = first.place.directory / "tune.json"
    results.write_text('{"trials": [{}]}')
    with pytest.raises(ConfigError, match="this study is finished; its results are in"):
        prepare_again(first.place, [])


@pytest.mark.parametrize("content", ["", "{}", '{"trials": [{"na', "[]", None])
def test_results_that_are_damaged_are_made_again_from_tunes_state(study: str, content: str | None) -> None:
    first = prepared(study)
    first.state.finished = True
    first.place.write(first.state)
    if content is not None:
        (first.place.directory / "tune.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tune.json, with its results, is damaged or not there. Put a copy"):
        prepare_again(first.place, [])
    (first.place.directory / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")
    again = prepare_again(first.place, [])
    assert again.before is not None and again.before.finished and not again.state.finished


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (None, "it is not whole"),
        ({"format": 2}, "is of another version of s2l-ray"),
        ({"study": None}, "(study: is empty)"),
        ({"trials": []}, "it has 0 trials"),
        ({"trials": [{}] * 4}, "the values of a trial: 'schedule.kind'"),
    ],
)
def test_a_damaged_state_of_a_study_says_so(study: str, changes: dict[str, Any] | None, reason: str) -> None:
    first = prepared(study)
    first.place.write(first.state)
    file = first.place.directory / STATE
    text = file.read_text()
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | changes) if changes else text.partition("\nformat")[0])
    with pytest.raises(ConfigError) as refused:
        prepare_again(StudyPlace.existing(str(first.place.directory)), [])
    assert reason in str(refused.value)


def test_the_directory_of_a_run_is_not_made_that_of_a_study(study: str, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "small").mkdir(parents=True)
    (tmp_path / "outputs" / "small" / "config.yaml").write_text("name: small\n")
    with pytest.raises(ConfigError, match="is the directory of a run; give the study another name"):
        prepared(study)
