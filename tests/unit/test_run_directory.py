from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from s2l_ray.cli import main
from s2l_ray.config import Config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.run.checkpoints import CheckpointDraft, read_checkpoint
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier import pins_of
from s2l_ray.run.finished import done_already, next_free
from s2l_ray.tasks.sources import Pin
from tests.support.run_directories import CONTENTS, RECORD, acquired, config, learner, save, to_resume


def test_only_one_run_writes_to_a_directory(tmp_path: Path):
    first = RunDirectory.acquire(config(tmp_path))
    with pytest.raises(ConfigError, match="another process is writing"):
        RunDirectory.acquire(config(tmp_path))
    first.close()
    RunDirectory.acquire(config(tmp_path)).close()


def test_a_directory_that_was_not_used_does_not_stay(tmp_path: Path):
    RunDirectory.acquire(config(tmp_path)).close()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "of the user").touch()
    RunDirectory.acquire(config(tmp_path)).close()
    assert (tmp_path / "run" / "of the user").exists()


def test_another_configuration_is_refused_and_the_keys_named(tmp_path: Path):
    run = acquired(config(tmp_path))
    run.log.append(RECORD)
    run.close()
    with pytest.raises(ConfigError, match="seed was 1, now 2"):
        acquired(config(tmp_path, seed=2))
    # What does not enter the computation may change.
    acquired(config(tmp_path, **{"checkpoint.every": 3, "cluster.step_timeout_s": 9})).close()
    less_memory = {"trainer.gradient_checkpointing": "on", "trainer.cpu_offload": True, "trainer.compile": True}
    acquired(config(tmp_path, **less_memory)).close()


@pytest.mark.parametrize("key", CONTENTS)
def test_files_that_hold_something_else_are_refused_and_named(key: str, tmp_path: Path):
    run = acquired(config(tmp_path))
    save(run, 1)
    run.close()
    with pytest.raises(ConfigError) as caught:
        acquired(config(tmp_path), **{key: "digest 99"})
    where = {"models.learner": " (a)", "models.explorer": " (b)", "data.train": " (x.jsonl)", "tokenizer": ""}[key]
    message = str(caught.value)
    assert f"{key}{where} was {CONTENTS[key]}, now digest 99" in message and message.count(" was ") == 1
    assert "Restore what has changed, or choose another name or run_dir" in message
    of_the_learner = key in ("models.learner", "tokenizer")
    assert message.endswith(
        "Its checkpoints are of another learner, which this run cannot train on from"
        if of_the_learner
        else f"resume={tmp_path}/run run_dir={tmp_path}/run-more"
    )


@pytest.mark.parametrize("changed", [{"trainer.lora_rank": 8}, {"trainer.lora_targets": ["q_proj"]}])
def test_what_no_checkpoint_could_be_loaded_for_is_not_advised(changed: dict[str, object], tmp_path: Path):
    run = acquired(config(tmp_path, **{"trainer.lora_rank": 4}))
    save(run, 1)
    run.close()
    with pytest.raises(ConfigError, match=f"{next(iter(changed))} was .*are of another learner") as caught:
        acquired(config(tmp_path, **{"trainer.lora_rank": 4, **changed}))
    assert "choose another name or run_dir" in str(caught.value) and "resume=" not in str(caught.value)
    with pytest.raises(ConfigError, match="seed was 1, now 2.* To train on .* resume="):
        acquired(config(tmp_path, **{"trainer.lora_rank": 4, "seed": 2}))


def test_where_files_lie_does_not_matter(tmp_path: Path):
    run = acquired(config(tmp_path))
    save(run, 1)
    run.close()
    elsewhere = {"models.learner": "/mnt/a", "models.explorer": "/mnt/b", "data.train": "/mnt/x.jsonl"}
    again = acquired(config(tmp_path, **elsewhere))
    assert again.path == run.path and again.remembered()["contents"] == CONTENTS
    again.close()


def test_of_a_run_that_remembers_no_contents_paths_are_compared(tmp_path: Path):
    run = acquired(config(tmp_path))
    save(run, 1)
    (run.path / "run.json").unlink()
    run.close()
    with pytest.raises(ConfigError, match="data.train was 'x.jsonl', now '/mnt/x.jsonl'"):
        acquired(config(tmp_path, **{"data.train": "/mnt/x.jsonl"}))
    acquired(config(tmp_path)).close()
    with pytest.raises(ConfigError, match="now digest 99"):  # from then on it remembers
        acquired(config(tmp_path), tokenizer="digest 99")


def test_an_attempt_that_did_no_step_binds_nobody(tmp_path: Path):
    run = acquired(config(tmp_path))
    run.remember(mlflow_run_id="of the attempt")
    (run.path / "stragglers.jsonl").write_text('{"step": 1, "stragglers": ["a"]}\n')
    run.close()
    same = acquired(config(tmp_path))
    assert same.remembered()["mlflow_run_id"] == "of the attempt" and (same.path / "stragglers.jsonl").exists()
    same.close()
    other = acquired(config(tmp_path, seed=2), tokenizer="digest 99")
    assert other.remembered()["mlflow_run_id"] is None and not (other.path / "stragglers.jsonl").exists()
    assert other.remembered()["contents"]["tokenizer"] == "digest 99"


def test_never_resume_refuses_what_is_there(tmp_path: Path):
    acquired(config(tmp_path)).close()
    with pytest.raises(ConfigError, match="resume is never"):
        RunDirectory.acquire(config(tmp_path, resume="never"))


def test_checkpoints_count_when_whole_and_the_newest_are_kept(tmp_path: Path):
    run = acquired(config(tmp_path))
    for step in (2, 4, 6):
        save(run, step)
    killed = run.path / "checkpoints" / "step-000008" / "trainer"
    killed.mkdir(parents=True)  # the process was killed before it was whole
    for name in ("step-000006.bak", "step-000006 (copy)", "step-", "step--6", "step-\N{SUPERSCRIPT TWO}"):
        shutil.copytree(run.path / "checkpoints" / "step-000006", run.path / "checkpoints" / name)
    assert [step for step, _ in run.checkpoints] == [4, 6]
    assert to_resume(run, config(tmp_path)).step == 6
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        read_checkpoint(killed.parent, learner(run))


def test_a_checkpoint_that_does_not_become_whole_leaves_the_one_that_was_there(tmp_path: Path):
    saved = tmp_path / "saved"
    (saved / "of the user").mkdir(parents=True)

    def begun(step: int, shard: str) -> CheckpointDraft:
        draft = CheckpointDraft(saved, {"step": step})
        draft.trainer.mkdir()
        (draft.trainer / "shard").write_text(shard)
        return draft

    first = begun(0, "old")
    assert not (saved / "state.json").exists()
    first.complete({})
    begun(0, "new").discard()
    assert read_checkpoint(saved, {}).step == 0 and (saved / "trainer" / "shard").read_text() == "old"
    assert {path.name for path in saved.iterdir()} == {"of the user", "trainer", "manifest.json", "state.json"}
    begun(0, "new").complete({})
    assert read_checkpoint(saved, {}).step == 0 and (saved / "trainer" / "shard").read_text() == "new"
    assert {path.name for path in saved.iterdir()} == {"of the user", "trainer", "manifest.json", "state.json"}


def test_a_draft_that_is_discarded_leaves_no_directory(tmp_path: Path):
    CheckpointDraft(tmp_path / "saved", {"step": 0}).discard()
    assert not (tmp_path / "saved").exists()


def test_the_checkpoint_includes_what_was_logged(tmp_path: Path):
    run = acquired(config(tmp_path))
    save(run, 3)
    assert [record.step for record in to_resume(run, config(tmp_path)).records] == [1, 2, 3]


# ---- where a run goes on from -------------------------------------------------------------------------------------


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Directory of a run with a checkpoint of step 2 and one of step 4."""
    run = acquired(config(tmp_path, run_dir=str(tmp_path / "first")))
    save(run, 2)
    save(run, 4)
    run.close()
    return run.path


@pytest.mark.parametrize(
    ("name", "step"), [("first/checkpoints/step-000002", 2), ("first", 4), ("./first/../first", 4), ("first:step-2", 2)]
)
def test_another_runs_checkpoint_is_where_a_run_begins_and_its_own_where_it_goes_on(
    name: str, step: int, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, resume=name)
    run = acquired(settings)
    found = to_resume(run, settings)
    assert found.step == step and [record.step for record in found.records] == list(range(1, step + 1))
    save(run, 5)
    assert to_resume(run, settings).directory == run.path / "checkpoints" / "step-000005"
    for checkpoint in first.glob("checkpoints/*"):  # and it is not needed any more
        checkpoint.rename(first / checkpoint.name)
    assert to_resume(run, settings).step == 5


def test_a_step_without_a_checkpoint_is_refused_with_those_that_there_are(first: Path, tmp_path: Path):
    settings = config(tmp_path, resume=f"{first}:step-3")
    with pytest.raises(
        ConfigError, match=f"resume: {first} has no whole checkpoint of step 3; it has {first}:step-2, {first}:step-4$"
    ):
        to_resume(acquired(settings), settings)


@pytest.mark.parametrize("name", ["nowhere", ".", "first/checkpoints", "first/checkpoints/step-000003"])
def test_what_is_no_checkpoint_is_refused(name: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, resume=name)
    with pytest.raises(ConfigError, match="resume: .* neither a whole checkpoint .* nor the directory of a run"):
        to_resume(acquired(settings), settings)


def test_a_checkpoint_of_another_learner_is_refused_and_other_data_are_not(first: Path, tmp_path: Path):
    settings = config(tmp_path, resume=str(first))
    with pytest.raises(ConfigError, match="another learner .models.learner was digest 11, now digest 99"):
        to_resume(acquired(settings, **{"models.learner": "digest 99"}), settings)
    settings = config(tmp_path, resume=str(first), run_dir=str(tmp_path / "b"), **{"trainer.lora_rank": 8})
    with pytest.raises(ConfigError, match="trainer.lora_rank was 0, now 8"):
        to_resume(acquired(settings), settings)
    settings = config(tmp_path, resume=str(first), run_dir=str(tmp_path / "c"), seed=7)
    assert to_resume(acquired(settings, **{"data.train": "another"}), settings).step == 4


def test_fewer_steps_than_are_done_are_refused(first: Path, tmp_path: Path):
    settings = config(tmp_path, resume=str(first), **{"schedule.steps": 3, "schedule.mix_steps": 3})
    with pytest.raises(ConfigError, match="schedule.steps is 3, but .*000004 is of step 4; set schedule.steps to 4 or"):
        to_resume(acquired(settings), settings)


# ---- more steps ---------------------------------------------------------------------------------------------------


def test_where_a_run_ends_may_change_unless_the_learning_rate_depends_on_it(tmp_path: Path):
    run = acquired(config(tmp_path))
    save(run, 2)
    run.close()
    acquired(config(tmp_path, **{"schedule.steps": 90})).close()
    falling = {"trainer.lr_schedule": "linear", "run_dir": str(tmp_path / "falling")}
    run = acquired(config(tmp_path, **falling))
    save(run, 2)
    run.close()
    with pytest.raises(ConfigError, match="schedule.steps was 60, now 90"):
        acquired(config(tmp_path, **falling, **{"schedule.steps": 90}))


def test_more_steps_after_the_end_go_the_way_that_the_message_names(first: Path, tmp_path: Path):
    (first / "summary.json").write_text("{}")
    for asked, more in ((60, 60), (4, 8)):
        steps = {"schedule.steps": asked, "schedule.mix_steps": 2}
        with pytest.raises(ConfigError) as caught:
            next_free(config(tmp_path, run_dir=str(first), **steps))
        assert "already holds a finished run; choose another run_dir" in str(caught.value)
        words = shlex.split(str(caught.value).rpartition("train on from its end: ")[2])
        assert words == [f"resume={first}", f"run_dir={first}-more", f"schedule.steps={more}"]
        overrides = dict(word.split("=", 1) for word in words)
        longer, notice = next_free(config(tmp_path, **overrides, **{"schedule.mix_steps": 2}))
        assert notice is None and longer.run_path == Path(f"{first}-more")
        assert to_resume(acquired(longer), longer).step == 4 and longer.schedule.steps == more
        (longer.run_path / ".lock").unlink()


def finished(settings: Config) -> Config:
    """The settings of a run whose directory holds its end, with what the run settled by itself."""
    settled = {"models": settings.models.model_copy(update={"dtype": "float32"})}
    acquired(settings.model_copy(update=settled)).close()
    (settings.run_path / "summary.json").write_text("{}")
    return settings


def test_the_same_command_finds_its_run_finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    settings = finished(config(tmp_path))
    done = (
        f"{tmp_path}/run holds this run, finished after 60 steps; there is nothing to do. To train on from its end: "
        f"resume={tmp_path}/run run_dir={tmp_path}/run-more schedule.steps=60"
    )
    assert done_already(settings) == done
    assert done_already(config(tmp_path, **{"engines.learner.count": 2, "trainer.cpu_offload": True})) == done
    assert main(["train", str(tmp_path / "run.yaml"), f"run_dir={tmp_path}/run"]) == 0
    assert capfd.readouterr().out == f"{done}\n"


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"schedule.steps": 61}, {"models.dtype": "bfloat16"}, {"resume": "never"}, {"data.train": "y.jsonl"}],
)
def test_another_run_than_the_finished_one_is_refused(other: dict[str, object], tmp_path: Path):
    finished(config(tmp_path))
    assert done_already(config(tmp_path, **other)) is None
    with pytest.raises(ConfigError, match="already holds a finished run"):
        next_free(config(tmp_path, **other))


@pytest.mark.parametrize("key", ["data.train_limit", "rollout.explorer_seed", "trainer.skip_grad_norm"])
def test_what_has_no_value_now_is_not_what_had_one(key: str, tmp_path: Path):
    limited = {key: 7}
    finished(config(tmp_path, **limited))
    assert done_already(config(tmp_path, **limited)) is not None
    assert done_already(config(tmp_path)) is None


def test_a_run_that_began_from_another_checkpoint_is_another_one(tmp_path: Path):
    finished(config(tmp_path, resume="outputs/a:step-20"))
    assert done_already(config(tmp_path, resume="outputs/a:step-20")) is not None
    assert done_already(config(tmp_path)) is not None  # as a job that is started again says it
    assert done_already(config(tmp_path, resume="outputs/b")) is None


def test_a_finished_run_without_its_configuration_is_refused(tmp_path: Path):
    settings = finished(config(tmp_path))
    (settings.run_path / "config.yaml").unlink()
    assert done_already(settings) is None
    with pytest.raises(ConfigError, match="already holds a finished run"):
        next_free(settings)


def test_a_run_whose_mirror_is_not_whole_is_not_done(tmp_path: Path):
    mirror = {"checkpoint.mirror": f"file://{tmp_path}/mirror"}
    finished(config(tmp_path, **mirror))
    assert done_already(config(tmp_path, **mirror)) is None
    (tmp_path / "mirror" / "run").mkdir(parents=True)
    (tmp_path / "mirror" / "run" / "summary.json").write_text("{}")
    assert done_already(config(tmp_path, **mirror)) is not None


def test_the_commit_of_a_branch_is_what_was_asked_for(tmp_path: Path):
    address = "hf://datasets/openai/gsm8k/main/train"
    acquired(config(tmp_path, **{"data.train": f"{address}@1234"})).close()
    memory = tmp_path / "run" / "run.json"
    pins = {"hub": {"data.train": {"asked": address, "pinned": f"{address}@1234"}}}
    memory.write_text(json.dumps(json.loads(memory.read_text()) | pins))
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert done_already(config(tmp_path, **{"data.train": address})) is not None
    assert done_already(config(tmp_path, **{"data.train": f"{address}@5678"})) is None


def test_a_finished_run_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fresh = config(tmp_path, run_dir=None)
    assert next_free(fresh) == (fresh, None)
    for name in ("mine", "mine-2"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "summary.json").write_text("{}")
    free, notice = next_free(fresh)
    outputs = tmp_path / "outputs"
    assert free.run_path == outputs / "mine-3"
    begin = f"{outputs}/mine holds a finished run; this one is in {outputs}/mine-3. To train on from its end: resume="
    assert notice.startswith(begin)
    with pytest.raises(ConfigError, match="already holds a finished run"):
        next_free(config(tmp_path, run_dir="outputs/mine"))


# ---- memory -------------------------------------------------------------------------------------------------------


def test_what_is_remembered_adds_up(tmp_path: Path):
    run = RunDirectory.acquire(config(tmp_path))
    run.remember(mlflow_run_id="a")
    run.remember(other=1)
    assert run.remembered() == {"mlflow_run_id": "a", "other": 1}
    assert {path.name for path in run.path.iterdir()} == {".lock", "run.json"}


DAMAGE = ["", "{", "null", "[1]", '"x"', "\udcff", '{"step": tru', "[" * 100_000]


@pytest.mark.parametrize(
    "pins", [None, [], {"models.learner": None}, {"models.learner": "x"}, {"data.train": {"asked": 1}}]
)
def test_damaged_commits_of_the_hub_are_one_clear_message(pins: object, tmp_path: Path):
    run = acquired(config(tmp_path))
    run.remember(hub={"data.train": {"asked": "a/b", "pinned": "a/b@c", "later": 1}})
    assert pins_of(run.path) == {"data.train": Pin("a/b", "a/b@c")}
    run.remember(hub=pins)
    run.close()
    with pytest.raises(DataError, match="run.json is damaged .*remove its `hub`"):
        pins_of(run.path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_json_is_one_clear_message(damage: str, tmp_path: Path):
    run = acquired(config(tmp_path))
    (run.path / "run.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    run.close()
    with pytest.raises(DataError, match="run.json is damaged .*; remove it: the run then continues in a new MLflow"):
        acquired(config(tmp_path))
    (run.path / "run.json").unlink()
    acquired(config(tmp_path)).close()


@pytest.mark.parametrize("damage", [*DAMAGE, "{}", '{"step": "4"}'])
def test_a_damaged_state_is_one_clear_message_and_the_way_works(damage: str, first: Path, tmp_path: Path):
    settings = config(tmp_path, run_dir=str(first))
    state = first / "checkpoints" / "step-000004" / "state.json"
    state.write_bytes(damage.encode("utf-8", "surrogateescape"))
    run = acquired(settings)
    with pytest.raises(DataError, match="state.json is damaged .*; remove .*step-000004: the run then resumes from"):
        to_resume(run, settings)
    state.unlink()
    assert to_resume(run, settings).step == 2


@pytest.mark.parametrize("damage", [b"", b"\xff\n\xff\n", b"{}\n{}\n", None])
def test_a_checkpoint_with_a_damaged_log_is_one_clear_message(damage: bytes | None, first: Path, tmp_path: Path):
    settings = config(tmp_path, run_dir=str(first))
    log = first / "checkpoints" / "step-000004" / "steps.jsonl"
    log.write_bytes(log.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(DataError, match="steps.jsonl"):
        to_resume(acquired(settings), settings)


@pytest.mark.parametrize("damage", ["", "models: {", "name: mine\n", "unknown: 1\n", "a: \x00"])
def test_a_damaged_configuration_is_one_clear_message(damage: str, first: Path, tmp_path: Path):
    (first / "config.yaml").write_text(damage)
    with pytest.raises(ConfigError, match="configuration of the run that .*first holds cannot be read; .*run_dir"):
        acquired(config(tmp_path, run_dir=str(first)))


def test_state_is_written_as_json(first: Path):
    state = json.loads((first / "checkpoints" / "step-000004" / "state.json").read_text())
    assert state["step"] == 4 and state["learner"]["models.learner"] == "digest 11"
