"""Fingerprints, which recording a run reads, what it needs, and what is refused before anything starts."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.bank import contents
from s2l_ray.bank.contents import file_digest, fingerprint_of, model_digest
from s2l_ray.bank.exploring import RecordingPlan, plan_recording
from s2l_ray.bank.fingerprint import Fingerprint, prompt_digest
from s2l_ray.bank.holding import holding
from s2l_ray.bank.needed import every_request, needed_requests
from s2l_ray.bank.preparing import prepare, training_prompts
from s2l_ray.bank.recording import create, matching, recordings
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.bank.storage import bank_storage
from s2l_ray.cli import main
from s2l_ray.config import Config
from s2l_ray.errors import BankError, ConfigError
from s2l_ray.miniature.build import Family
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.schedule import Schedule
from tests.support.recorded import configured, fill


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests of files are remembered here, not in the home directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "s2l-ray" / "file-digests"


def planned(config: Config, rollouts: int | None = None) -> RecordingPlan:
    return plan_recording(config, training_prompts(config), rollouts)


# ---- fingerprints ---------------------------------------------------------------------------------------------------


def test_what_changes_the_fingerprint_and_what_does_not(family: Family, tmp_path: Path) -> None:
    base = fingerprint_of(configured(family, tmp_path))
    same = [
        "rollout.group_size=8",
        "rollout.prompts_per_step=8",
        "objective.mini_batch_prompts=2",
        "schedule.steps=9",
        "schedule.kind=abrupt",
        "data.train_limit=40",
        "trainer.learning_rate=1e-3",
        "rollout.learner.temperature=0.5",
        "engines.explorer.max_num_seqs=7",
        "verifier.timeout_s=1",
        f"models.learner={family.small}",
    ]
    for override in same:
        assert fingerprint_of(configured(family, tmp_path, override)).digest == base.digest, override
    assert fingerprint_of(configured(family, tmp_path, "seed=2", "rollout.explorer_seed=1")).digest == base.digest
    changed = {
        "engines.explorer.batch_invariant=true": "engines.explorer.batch_invariant: recorded null, this run true",
        "rollout.explorer.temperature=0.7": "rollout.explorer.temperature: recorded 1.0, this run 0.7",
        "rollout.explorer.top_p=0.95": "rollout.explorer.top_p: recorded 1.0, this run 0.95",
        "rollout.explorer.top_k=20": "rollout.explorer.top_k: recorded 0, this run 20",
        "rollout.explorer.presence_penalty=1.5": "rollout.explorer.presence_penalty: recorded 0.0, this run 1.5",
        "rollout.max_tokens=19": "rollout.max_tokens: recorded 20, this run 19",
        "models.dtype=float32": 'models.dtype: recorded "bfloat16", this run "float32"',
        "data.prompt=Solve {question} >": 'data.prompt: recorded "{question} >", this run "Solve {question} >"',
        "seed=2": "rollout.explorer_seed: recorded 1, this run 2",
        "verifier.kind=math": 'verifier.kind: recorded "countdown", this run "math"',
    }
    for override, difference in changed.items():
        assert base.differences(fingerprint_of(configured(family, tmp_path, override)))[0] == difference
    other_model = fingerprint_of(configured(family, tmp_path, f"models.explorer={family.large}"))
    assert [line.split(":")[0] for line in base.differences(other_model)] == ["models.explorer"]


def test_rewards_at_another_level_of_extraction_are_another_recording(family: Family, tmp_path: Path) -> None:
    strict, lenient = (
        fingerprint_of(configured(family, tmp_path, "verifier.kind=math", f"verifier.extract={level}"))
        for level in ("strict", "lenient")
    )
    assert strict.differences(lenient) == ['verifier.extract: recorded "strict", this run "lenient"']


def test_a_models_digest_is_of_its_content(family: Family, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(family.small, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0.0"}, indent=7))
    assert model_digest(copy) == model_digest(family.small)
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    assert model_digest(copy) != model_digest(family.small)
    (copy / "config.json").write_text(json.dumps(config))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_digest(copy) != model_digest(family.small)


def test_sharded_weights_all_count(family: Family, tmp_path: Path) -> None:
    copy = tmp_path / "sharded"
    shutil.copytree(family.small, copy)
    (copy / "model.safetensors").rename(copy / "b.safetensors")
    (copy / "a.safetensors").write_bytes(b"a")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    before = model_digest(copy)
    (copy / "a.safetensors").write_bytes(b"b")
    assert model_digest(copy) != before


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, own_cache: Path, monkeypatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    fresh = file_digest(file)
    assert not own_cache.exists()  # it changed just now, and may again within the resolution of its times
    monkeypatch.setattr(contents, "RACY_S", 0.0)
    time.sleep(0.01)
    assert file_digest(file) == fresh
    (remembered,) = own_cache.iterdir()
    assert remembered.read_text() == fresh and str(tmp_path) not in remembered.name
    remembered.write_text("what was remembered")
    assert file_digest(file) == "what was remembered"
    stat = file.stat()
    file.write_bytes(b"two")  # as long, and with the times that it had
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(file) not in ("what was remembered", fresh)


def test_without_a_cache_digests_are_computed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    monkeypatch.setattr(contents, "RACY_S", 0.0)
    (tmp_path / "weights").write_bytes(b"one")
    time.sleep(0.01)
    assert file_digest(tmp_path / "weights") == file_digest(tmp_path / "weights")


def test_your_own_verifier_counts_by_its_source(family: Family, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_own_verifier.py"
    digests = []
    for limit in (1, 2):
        module.write_text(f"def check(response, answer, question):\n    return len(response) > {limit}\n")
        sys.modules.pop("my_own_verifier", None)
        import linecache

        linecache.clearcache()
        found = fingerprint_of(configured(family, tmp_path, "verifier.kind=my_own_verifier:check"))
        digests.append(found.fields["verifier source"])
    assert digests[0] != digests[1]


def test_a_prompts_digest_by_hand() -> None:
    import hashlib

    prompt = Prompt("p", "1 + 1", "1 + 1 >", np.array([3, 300], np.int32), "2")
    expected = hashlib.blake2b(b"\x03\0\0\0\x2c\x01\0\0" + b'["2", "1 + 1"]', digest_size=8).hexdigest()
    assert prompt_digest(prompt) == expected
    expected = hashlib.blake2b(b"\x03\0\0\0\x2c\x01\0\0" + b'["2", "1 + 1", "{1}"]', digest_size=8).hexdigest()
    assert prompt_digest(replace(prompt, columns="{1}")) == expected


# ---- which recording ------------------------------------------------------------------------------------------------


def fingerprint(**changed: object) -> Fingerprint:
    fields = {"origin": "s2l-ray", "a": 1, "b": "x", "rollout.explorer_seed": 1}
    return Fingerprint(fields | changed)


def test_recordings_lie_side_by_side(tmp_path: Path) -> None:
    storage = bank_storage(str(tmp_path))
    made = [create(storage, fingerprint(a=a), {"s2l-ray": "1"}) for a in (1, 2)]
    assert create(storage, fingerprint(a=1), {"s2l-ray": "2"}) == made[0]  # it was there
    assert sorted(r.name for r in made) == [r.name for r in recordings(storage)]
    assert matching(storage, fingerprint(a=2), None) == made[1]


def test_a_bank_that_does_not_match_is_refused_with_the_differences_of_the_nearest(tmp_path: Path) -> None:
    storage = bank_storage(str(tmp_path))
    with pytest.raises(BankError, match="holds no recordings; s2l explore CONFIG makes one"):
        matching(storage, fingerprint(), None)
    create(storage, fingerprint(a=9, b="z"), {})
    near = create(storage, fingerprint(b="y"), {})
    with pytest.raises(BankError) as refused:
        matching(storage, fingerprint(), None)
    assert f'the nearest, {near.name}, differs: b: recorded "y", this run "x". Change' in str(refused.value)


def test_a_named_recording_may_differ_in_seed_and_origin_only(tmp_path: Path) -> None:
    storage = bank_storage(str(tmp_path))
    imported = create(storage, fingerprint(origin="imported from f", **{"rollout.explorer_seed": None}), {})
    other = create(storage, fingerprint(a=3), {})
    run = fingerprint(**{"rollout.explorer_seed": 5})
    assert matching(storage, run, imported.name[:6]) == imported
    with pytest.raises(BankError, match=f"bank.recording {other.name} does not fit this run: a: recorded 3, this run"):
        matching(storage, run, other.name)
    with pytest.raises(BankError, match="bank.recording 0000: 0 recordings in .* are named so; there are "):
        matching(storage, run, "0000")


def test_what_is_no_recording_is_passed_over_or_named(tmp_path: Path) -> None:
    storage = bank_storage(str(tmp_path))
    (tmp_path / "notes").mkdir()
    assert recordings(storage) == []
    for content in ('{"format": 1}', '{"format": 1, "fingerprint": 3, "made_with": {}}', "[" * 10_000):
        (tmp_path / "notes" / "recording.json").write_text(content)
        with pytest.raises(BankError, match="notes/recording.json is not a recording's"):
            recordings(storage)
    (tmp_path / "notes" / "recording.json").write_text('{"format": 2}')
    with pytest.raises(BankError, match="has format 2, this version of s2l-ray reads 1"):
        recordings(storage)


def test_bank_settings_are_checked(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bank: recording is for mode: read"):
        configured(family, tmp_path, "bank.mode=readwrite", "bank.recording=abcd")
    with pytest.raises(ConfigError, match="bank.recording"):
        configured(family, tmp_path, "bank.mode=read", "bank.recording=../x")
    config = configured(family, tmp_path, "bank.mode=write", "bank.recording=null")
    named = config.model_copy(update={"bank": config.bank.model_copy(update={"mode": "read", "recording": "abcd"})})
    with pytest.raises(ConfigError, match="s2l explore records under the fingerprint of this configuration"):
        planned(named)


# ---- what a run needs -----------------------------------------------------------------------------------------------


def asked(requests: list[ExplorerRequest]) -> set[tuple[str, int]]:
    """(prompt, draw)."""
    return {(r.prompt_id, r.first_draw + n) for r in requests for n in range(r.count)}


def test_needed_is_what_the_steps_ask_for(family: Family, tmp_path: Path) -> None:
    """12 prompts, 4 a step: an epoch is 3 steps. G_w of steps 1 to 5 is 4, 3, 2, 1, 0 of 4."""
    config = configured(family, tmp_path, "schedule.steps=5", "schedule.mix_steps=5")
    ids = [f"p{n}" for n in range(12)]
    requests = needed_requests(config, ids)
    assert [r.count for r in requests] == [4] * 4 + [3] * 4 + [2] * 4 + [1] * 4
    assert [r.first_draw for r in requests] == [0] * 12 + [4] * 4  # every epoch has G draws of its own
    assert [r.step for r in requests] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert {r.prompt_id for r in requests[:12]} == set(ids)


def test_needed_with_stragglers_and_refills(family: Family, tmp_path: Path) -> None:
    ids = [f"p{n}" for n in range(12)]
    plain = asked(needed_requests(configured(family, tmp_path), ids))
    extra = needed_requests(configured(family, tmp_path, "rollout.straggler_groups=2"), ids)
    assert len([r for r in extra if r.step == 1]) == 6 and plain < asked(extra)
    # One round of refills replaces at most the 4 groups of a step: 8 prompts of 12 with step 1's four draws.
    refills = needed_requests(configured(family, tmp_path, "rollout.refill_rounds=1"), ids)
    assert len({r.prompt_id for r in refills if r.step == 1}) == 8 and plain < asked(refills)
    all_of_them = needed_requests(configured(family, tmp_path, "rollout.refill_rounds=9"), ids)
    assert asked(all_of_them) == {(p, d) for p in ids for d in range(4)}


def test_needed_of_an_adaptive_schedule_is_the_most_that_it_can_ask(family: Family, tmp_path: Path) -> None:
    overrides = ["schedule.kind=adaptive", "schedule.steps=6", "schedule.mix_steps=4", "schedule.start=0.75"]
    requests = needed_requests(configured(family, tmp_path, *overrides), [f"p{n}" for n in range(40)])
    assert [(r.step, r.count) for r in requests] == [(step, 3) for step in (1, 2, 3) for _ in range(4)]
    nothing = needed_requests(
        configured(family, tmp_path, *overrides[:2], "schedule.mix_steps=1"), [f"p{n}" for n in range(40)]
    )
    assert nothing == [] and Schedule("off", 4, 1).split(1).explorer == 0


def test_every_request_is_a_group_at_a_time(family: Family, tmp_path: Path) -> None:
    requests = every_request(configured(family, tmp_path), ["a", "b"], 10)
    found = [(r.prompt_id, r.first_draw, r.count) for r in requests]
    assert found == [("a", 0, 4), ("b", 0, 4), ("a", 4, 4), ("b", 4, 4), ("a", 8, 2), ("b", 8, 2)]
    seeds = [r.first_seed for r in requests if r.prompt_id == "a"]
    assert np.diff(seeds).tolist() == [4, 4]  # draws have consecutive seeds however they are asked for


# ---- before a run ---------------------------------------------------------------------------------------------------


def test_a_bank_that_lacks_rollouts_is_refused_with_the_count_and_the_first(family: Family, tmp_path: Path) -> None:
    config = configured(family, tmp_path, "bank.mode=read")
    train = training_prompts(config)
    needed = needed_requests(config, [prompt.id for prompt in train])
    assert len(needed) == 8
    fill(config, needed[:6])
    first = needed[6]
    with pytest.raises(BankError) as refused:
        prepare(config, train)
    assert "lacks 2 of the 8 explorer requests that this run may make" in str(refused.value)
    assert f"the first: step 2, prompt {first.prompt_id}, draws 0..1; s2l explore CONFIG" in str(refused.value)
    fill(config, needed)
    settings = prepare(config, train)
    assert settings.reads and settings.is_local and settings.path == str(tmp_path / "bank")
    assert all(RolloutBank(settings, {p.id: p for p in train}).covers(needed))


def test_runs_share_a_recording(family: Family, tmp_path: Path) -> None:
    """Another group size, schedule, subset and seed, with rollouts that were recorded once."""
    config = configured(family, tmp_path, "rollout.explorer_seed=7")
    train = training_prompts(config)
    fill(config, every_request(config, [prompt.id for prompt in train], 8))
    for overrides in (["rollout.group_size=8"], ["schedule.kind=constant"], ["data.train_limit=16"], ["seed=3"]):
        other = configured(family, tmp_path, "rollout.explorer_seed=7", "bank.mode=read", *overrides)
        assert prepare(other, training_prompts(other)) is not None


def test_a_run_without_explorer_or_bank_has_nothing_to_prepare(family: Family, tmp_path: Path) -> None:
    for overrides in (["bank.mode=off"], ["bank.mode=read", "schedule.kind=off"]):
        config = configured(family, tmp_path, *overrides)
        assert prepare(config, training_prompts(config)) is None
    assert not (tmp_path / "bank").exists()


def test_a_run_that_writes_makes_its_recording(family: Family, tmp_path: Path) -> None:
    config = configured(family, tmp_path, "bank.mode=write")
    settings = prepare(config, training_prompts(config))
    assert not settings.reads
    (recording,) = recordings(bank_storage(str(tmp_path / "bank")))
    assert recording.fingerprint.digest == fingerprint_of(config).digest == recording.name
    assert recording.made_with["transformers"] == __import__("transformers").__version__


def test_exploring_leaves_out_what_is_there(family: Family, tmp_path: Path) -> None:
    config = configured(family, tmp_path)
    whole = planned(config)
    assert (whole.rollouts, whole.recorded) == (4 * 4 + 4 * 2, 0)
    fill(config, whole.requests[:3])
    rest = planned(config)
    assert (rest.rollouts, rest.recorded) == (24 - 12, 12) and asked(rest.requests) == asked(whole.requests[3:])
    more = planned(config, rollouts=6)
    assert more.rollouts == 128 * 6 - 12
    with pytest.raises(ConfigError, match="the explorer never samples .* --rollouts N records anyway"):
        planned(configured(family, tmp_path, "schedule.kind=off"))


def test_what_a_bank_holds(family: Family, tmp_path: Path, capsys) -> None:
    config = configured(family, tmp_path)
    plan = planned(config)
    fill(config, plan.requests)
    storage = bank_storage(config.bank.path)
    (recording,) = recordings(storage)
    has = holding(storage, recording)
    assert (has.prompts, has.rollouts, has.tokens, has.mean_reward, has.shards) == (8, 24, 24, 0.0, 1)
    assert has.nbytes == sum(f.stat().st_size for f in (tmp_path / "bank").glob("*/shards/*.parquet"))
    assert main(["bank", "show", config.bank.path]) == 0
    shown = capsys.readouterr().out
    assert f"recording {recording.name}" in shown and "24 of 8 prompts" in shown
    assert main(["bank", "show", str(tmp_path / "none")]) == 1
    assert "holds no recordings" in capsys.readouterr().err
    create(storage, fingerprint(), {})
    assert holding(storage, recordings(storage)[0]).rollouts + holding(storage, recordings(storage)[1]).rollouts == 24


def test_nothing_is_explored_twice(family: Family, tmp_path: Path, capsys) -> None:
    """With all of it recorded, the command says so and starts no engine."""
    config = configured(family, tmp_path)
    plan = planned(config)
    fill(config, plan.requests)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert main(["explore", str(tmp_path / "config.yaml")]) == 0
    assert f"nothing to record: all 24 rollouts are in {tmp_path / 'bank'}/" in capsys.readouterr().out
