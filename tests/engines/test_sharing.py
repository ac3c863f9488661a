"""What the trials of a study read of one bank, with real models, problems and fingerprints, and recordings by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.preparing import prepare, training_prompts
from s2l_ray.bank.storage import bank_storage
from s2l_ray.bank.tokens import RecordedTokens
from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.errors import BankError, ConfigError
from s2l_ray.miniature.build import Family
from s2l_ray.placement.inventory import Inventory
from s2l_ray.tuning import bound
from s2l_ray.tuning.needs import needs_of
from s2l_ray.tuning.recordings import TrialsRecording, by_engines, recordings_of
from s2l_ray.tuning.sharing import share, with_bank
from tests.support.recorded import configured, fill

NODES = Inventory.of([{"gpus": 0, "cpus": 2}])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def display() -> TaskDisplay:
    return TaskDisplay(Console(file=io.StringIO()))


def recordings(configs: list[Config], display: TaskDisplay) -> list[TrialsRecording]:
    return recordings_of(needs_of(configs, NODES, display))


def counts(groups: list[TrialsRecording]) -> list[int]:
    return [sum(request.count for request in group.requests) for group in groups]


def test_trials_read_together_what_differs_in_the_schedule_only(
    family: Family, tmp_path: Path, display: TaskDisplay
) -> None:
    """4 prompts a step. G = 4, linear over 3: 4, 2, 0. Constant: 4, 4, 4. G = 8: 8, 4, 0. Off: none."""
    overrides = ([], ["schedule.kind=constant"], ["rollout.group_size=8"], ["schedule.kind=off"])
    trials = [configured(family, tmp_path, *keys) for keys in overrides]
    (group,) = recordings(trials, display)
    assert (group.plan.rollouts, group.plan.recorded) == (4 * 8 + 4 * 4 + 4 * 4, 0)
    assert [request.step for request in group.plan.requests] == [1] * 4 + [2] * 4 + [3] * 4
    fill(trials[0], group.plan.requests[:4])
    (rest,) = recordings(trials, display)
    assert (rest.plan.rollouts, rest.plan.recorded) == (4 * 4 + 4 * 4, 4 * 8)
    fill(trials[0], rest.plan.requests)
    for trial in trials:  # which refuses a bank that lacks something
        prepare(with_bank(trial, "read"), training_prompts(trial))
    assert recordings([trials[3]], display) == []


def test_a_recording_for_each_kind_of_rollout(family: Family, tmp_path: Path, display: TaskDisplay) -> None:
    """Both temperatures with both schedules, another explorer, and another seed of the explorer's: four recordings."""
    longer = "schedule.kind=constant"
    overrides = [
        [],
        [longer],
        ["rollout.explorer.temperature=0.7"],
        ["rollout.explorer.temperature=0.7", longer],
        [f"models.explorer={family.large}"],
        ["rollout.explorer_seed=5", "seed=1"],
    ]
    trials = [configured(family, tmp_path, *keys) for keys in overrides]
    groups = recordings(trials, display)
    assert counts(groups) == [48, 48, 24, 24]
    assert len({group.name for group in groups}) == 4
    assert [group.plan.config.rollout.explorer.temperature for group in groups] == [1.0, 0.7, 1.0, 1.0]
    assert groups[2].plan.config.models.explorer == str(family.large)
    assert by_engines(groups) == [[groups[0].plan, groups[3].plan], [groups[1].plan], [groups[2].plan]]


def test_trials_on_other_subsets_and_seeds(family: Family, tmp_path: Path, display: TaskDisplay) -> None:
    """Other prompts at each step, of the same recording, since the explorer has one seed."""
    trials = [
        configured(family, tmp_path, "rollout.explorer_seed=1", *keys)
        for keys in ([], ["seed=2", "data.train_limit=16"])
    ]
    (group,) = recordings(trials, display)
    needs = [needed_requests(trial, [prompt.id for prompt in training_prompts(trial)]) for trial in trials]
    pairs = {(r.prompt_id, r.first_draw + n) for need in needs for r in need for n in range(r.count)}
    assert counts([group]) == [len(pairs)] and len(pairs) > 24
    assert len(group.plan.prompts) == len(training_prompts(trials[0]))


def test_prompts_of_one_id_that_differ_cannot_share(family: Family, tmp_path: Path, display: TaskDisplay) -> None:
    first, *rest = [json.loads(line) for line in family.train.read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(row) for row in (first | {"answer": "another"}, *rest)))
    trials = [configured(family, tmp_path, *keys) for keys in ([], [f"data.train={other}"])]
    with pytest.raises(BankError, match=r"data.train: prompt \S+ has other tokens, another question, answer or column"):
        recordings(trials, display)
    apart = [trials[0], configured(family, tmp_path, f"data.train={other}", "rollout.explorer_seed=5")]
    assert [len(plans) for plans in by_engines(recordings(apart, display))] == [1, 1]  # engines know prompts by id


def test_what_cannot_be_one_bank_is_refused_before_anything_starts(
    family: Family, tmp_path: Path, display: TaskDisplay
) -> None:
    here = configured(family, tmp_path)
    with pytest.raises(ConfigError, match="bank.path: the trials of a study share one bank; these are 2: "):
        share([here, configured(family, tmp_path / "elsewhere")], display)
    named = configured(family, tmp_path, "bank.mode=read", "bank.recording=abcd")
    with pytest.raises(ConfigError, match="leave bank.recording out, or set share_bank: false"):
        share([named], display)


def test_tokens_by_prompt_and_draw(family: Family, tmp_path: Path) -> None:
    """Every rollout has one token here; draws 4 to 7 of a prompt are not recorded."""
    config = configured(family, tmp_path)
    needed = needed_requests(config, [prompt.id for prompt in training_prompts(config)])
    fill(config, needed)
    (recording,) = (tmp_path / "bank").iterdir()
    tokens = RecordedTokens(bank_storage(config.bank.path), f"{recording.name}/shards")
    assert tokens.of(needed) == 24 and tokens.of(needed[:1]) == 4
    assert tokens.of([replace(needed[0], first_draw=2, count=9)]) == 2
    assert tokens.of([replace(needed[0], first_draw=4)]) == 0 and tokens.of([replace(needed[0], prompt_id="?")]) == 0
    assert RecordedTokens(bank_storage(str(tmp_path / "none")), "shards").of(needed) == 0


def test_every_key_of_a_fingerprint_decides_what_is_recorded(
    family: Family, tmp_path: Path, display: TaskDisplay
) -> None:
    """`needs_of` works out once what is equal in these keys, and `upper_bound` passes over the others."""
    config = configured(family, tmp_path, "engines.explorer.batch_invariant=true")
    (need,) = needs_of([config], NODES, display)
    keys = [name for name in need.explored.fingerprint.fields if "." in name]
    assert len(keys) > 8 and all(bound._decides(key) for key in keys)
    planner = ["group_size", "prompts_per_step", "straggler_groups", "refill_rounds", "explorer_seed"]
    others = ["data.train", "data.train_limit", "seed", "schedule.start", "schedule", "rollout"]
    assert all(map(bound._decides, [*(f"rollout.{key}" for key in planner), *others]))
    assert not any(map(bound._decides, ["trainer.learning_rate", "objective.loss", "rollout.learner", "engines"][:3]))
