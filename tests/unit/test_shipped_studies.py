"""The studies that s2l-ray ships: they can be drawn and planned, and share what they should."""

from __future__ import annotations

from functools import cache

import pytest

from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.union import union_of
from s2l_ray.config.shipped import CONFIGURATIONS, STUDIES
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.slicing import slice_of
from s2l_ray.planner.search import make_plan
from s2l_ray.tuning.reading import load_study
from s2l_ray.tuning.samples import Sample, StudyConfigs, drawn_samples
from s2l_ray.tuning.schedulers import rungs_of, with_defaults
from s2l_ray.tuning.sharing import with_bank
from s2l_ray.tuning.slices import number_at_once, sliced
from s2l_ray.tuning.study_file import StudyFile
from tests.support.paths import ROOT

STUDIES_GUIDE = ROOT / "docs" / "guides" / "studies.md"
TWO_CORES = Inventory.of([{"gpus": 0, "cpus": 2, "memory_gb": 16}])
PAPER = ["data.train=FILE", "data.eval=FILE"]
SHIPPED = {
    "tune_schedule": ("quickstart", [], TWO_CORES, 8),
    "tune_pbt": ("quickstart", [], TWO_CORES, 4),
    "paper/tune_schedule": ("paper/qwen3_1.7b_to_8b", PAPER, load_inventory("2x8xH100"), 8),
}
"""By name: the configuration that it is for, values of its user's, a cluster, and how many trials it has."""


@cache
def drawn(name: str) -> tuple[StudyFile, list[Sample]]:
    config, overrides, _, _ = SHIPPED[name]
    file = load_study(name)
    configs = StudyConfigs.read(config, overrides, file, lambda config: {})
    return with_defaults(file, configs.base), drawn_samples(configs, file)


def test_studies_are_no_configurations() -> None:
    assert sorted(STUDIES.paths()) == sorted(SHIPPED)
    assert not set(STUDIES.paths()) & set(CONFIGURATIONS.paths())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_trial_fits_and_two_run_at_once(name: str) -> None:
    file, samples = drawn(name)
    cluster, trials = SHIPPED[name][2:]
    assert len(samples) == trials
    for sample in samples:
        config = with_bank(sliced(sample.config, file), "read")
        plan = make_plan(config, slice_of(cluster, config.placement))
        assert plan.layout is not None, plan.problems
        assert not any(slot.role == "explorer" for phase in plan.layout.phases for slot in phase.slots)
    assert number_at_once(cluster, sliced(samples[0].config, file).placement, trials) == 2


def test_asha_compares_twice_and_pbt_exploits_twice() -> None:
    file, samples = drawn("tune_schedule")
    assert rungs_of(file.scheduler, samples[0].config.schedule.steps) == (15, 30)
    file, samples = drawn("tune_pbt")
    assert (file.scheduler.interval, samples[0].config.schedule.steps) == (10, 30)
    for _, config in ((sample.number, sample.config) for sample in samples):
        assert config.checkpoint.every == config.evaluation.every == 10


@pytest.mark.parametrize(("name", "problems"), [("tune_schedule", 4000), ("paper/tune_schedule", 17_000)])
def test_trials_need_less_than_three_tenths_of_what_separate_runs_would_sample(name: str, problems: int) -> None:
    """In rollouts. No trial gets to a second epoch, so that their number does not depend on the data."""
    ids = [str(number) for number in range(problems)]
    needs = [needed_requests(sample.config, ids) for sample in drawn(name)[1]]
    separate = sum(request.count for need in needs for request in need)
    together = sum(request.count for request in union_of(needs))
    assert together < 0.3 * separate
    if name == "tune_schedule":
        assert (
            f"read {together:,} rollouts, where separate runs would sample {separate:,}." in STUDIES_GUIDE.read_text()
        )
