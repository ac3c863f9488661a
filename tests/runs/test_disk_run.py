"""A disk that fills up under a run: one message, the checkpoints before are whole, and the same run goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from s2l_ray import S2LPO, load_config
from s2l_ray.errors import DiskError
from s2l_ray.miniature.build import Family
from s2l_ray.reporter import SilentReporter
from s2l_ray.results import StepRecord
from tests.support.run_settings import run_config
from tests.support.small_disk import fill, small_disk
from tests.support.undisturbed import QUICKSTART


class Noting(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Filling(Noting):
    """Fills the disk when step 3 has ended: the next file is the checkpoint of step 4."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.disk = disk

    def step(self, record: StepRecord) -> None:
        if record.step == 3:
            fill(self.disk)


@pytest.mark.timeout(400)
@pytest.mark.long
def test_a_disk_that_fills_up_under_a_run(family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        run = disk / "run"
        changes = {"schedule.kind": "off", "schedule.steps": 4, "rollout.keep_groups": 0, "data.eval": None}
        changes |= {"tracking.timeout_s": 15}  # for so long the end waits for MLflow, whose store cannot be written to
        config = load_config(QUICKSTART, run_config(family, run) | changes)
        reporter = Filling(disk)
        algorithm = S2LPO(config, reporter)
        try:
            with pytest.raises(DiskError) as caught:
                while not algorithm.train()["done"]:
                    pass
        finally:
            algorithm.stop()
        # The checkpoint of the last step is written while the model is exported: either may hear of it first.
        refused = (
            rf"{run}/(checkpoints/step-000004|model)\S* cannot be written: No space left on device; free some space"
        )
        assert re.match(refused, str(caught.value))
        # MLflow's store is there too, and the file of what it lacks: which of them says so first is a matter of time.
        assert any(re.search("It has not confirmed .*undelivered.jsonl", note) for note in reporter.notes)
        assert "Traceback" not in capfd.readouterr().err

        (disk / "ballast").unlink()
        resumed = Noting()
        algorithm = S2LPO(config, resumed)
        try:
            while not algorithm.train()["done"]:
                pass
        finally:
            algorithm.stop()
        assert any(
            note.startswith(f"resumed after step 2 from {run / 'checkpoints' / 'step-000002'}")
            for note in resumed.notes
        )
        assert [json.loads(line)["step"] for line in (run / "steps.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
        assert (run / "summary.json").exists() and (run / "model" / "model.safetensors").exists()
