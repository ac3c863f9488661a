"""Where the time of a whole run went: its records and its trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.timing import (
    PARTS,
    attribute,
    read_trace,
    role_of,
)
from s2l_ray.timing.attribution import ROLLOUT_PARTS, UPDATE_PARTS
from tests.support.trace_events import check_events, strictly
from tests.support.undisturbed import Undisturbed


def test_every_second_of_a_run_has_its_part(run: Undisturbed) -> None:
    for row in run.records:
        assert sum(row["parts"].values()) == pytest.approx(row["seconds"]["total"], abs=1e-4)
        waited = sum(row["parts"].get(part, 0.0) for part in ROLLOUT_PARTS)
        updated = sum(row["parts"].get(part, 0.0) for part in UPDATE_PARTS)
        assert waited == pytest.approx(row["seconds"]["rollout"], abs=1e-4)
        assert updated == pytest.approx(row["seconds"]["update"], abs=1e-4)
        assert {"fetch", "prepare", "old_logprobs", "forward_backward", "optimizer"} <= set(row["parts"])
        assert all(0.0 <= share <= 1.0 + 1e-9 for share in row["busy"].values())
    # Step 1 is the explorer's alone, the last two are the learner's.
    assert not {"generate", "explore_and_generate"} & set(run.records[0]["parts"])
    assert not {"explore", "explore_and_generate"} & set(run.records[-1]["parts"])
    assert run.records[-1]["busy"]["explorer"] == 0.0 < run.records[-1]["busy"]["learner"]


def test_a_runs_trace_holds_what_its_records_say(run: Undisturbed) -> None:
    path = Path(run.config.run_path) / "trace.json"
    check_events(strictly(path.read_text()))
    spans = read_trace(path)
    records = {row["step"]: row for row in run.records}
    assert {s.step for s in spans if s.name == "step"} == set(records)
    for whole in (s for s in spans if s.name == "step"):
        phases = [s for s in spans if s.track == "driver" and s.step == whole.step and s.name != "step"]
        found, recorded = attribute(whole, phases, spans), records[whole.step]["parts"]
        for part in PARTS:
            assert found.get(part, 0.0) == pytest.approx(recorded.get(part, 0.0), abs=2e-4), part
    assert {role_of(s.track) for s in spans} == {"driver", "trainer", "learner", "explorer", "verifier"}
    assert (path.parent / "figures" / "timeline.png").exists()
