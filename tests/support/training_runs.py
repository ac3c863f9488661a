"""Training runs over actors that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actors.batch import StepBatch
from actors.weight_sync import WeightSyncReport
from s2l_ray.compute import ComputeMeter, ForwardCost
from s2l_ray.config import Config
from s2l_ray.machine.checksums import FileSum, write_summed
from s2l_ray.placement.dtype import DtypeChoice
from s2l_ray.reporter import Reporter
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.run.damaged import damaged_aside
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.from_mirror import fetch, open_mirror
from s2l_ray.run.inputs import Inputs
from s2l_ray.run.run_actors import RunActors
from s2l_ray.run.set_up import RunParts
from s2l_ray.run.tracking import RunTracking
from s2l_ray.run.trial_terms import TrialTerms
from s2l_ray.run.uploader import Uploader
from s2l_ray.schedule import GroupSplit
from s2l_ray.tracking.tracker import NoTracker
from tests.support.run_directories import CONTENTS


class Graph:
    """Keeps the calls. Its phase changes before step 3, and step 2 leaves out a straggler."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.version = 0
        self.weights = "initial"
        self.engines = {"explorer": 1, "learner": 1}
        self.explores = True
        self.writes: Callable[[], None] = lambda: None
        """Called when a checkpoint is about to be written, in the background or not."""
        self.trainer = SimpleNamespace(
            save=self._save,
            begin_save=self._begin_save,
            lacks_memory=lambda: "",
            tend=lambda: None,
            export=lambda path: self._call("export"),
            saved=lambda directory, step: None,
        )

    def _call(self, name: str, step: int | None = None) -> None:
        self.calls.append(name if step is None else f"{name} {step}")

    def _save(self, directory: str) -> dict[str, FileSum]:
        return self._begin_save(directory)()

    def _begin_save(self, directory: str) -> Callable[[], dict[str, FileSum]]:
        self._call("save")
        state = {"version": str(self.version), "weights": self.weights}

        def write() -> dict[str, FileSum]:
            self.writes()
            Path(directory).mkdir()
            return {name: write_summed(Path(directory) / name, [text.encode()]) for name, text in state.items()}

        return write

    def load(self, directory: str) -> None:
        self._call("load")
        self.version = int((Path(directory) / "version").read_text())
        self.weights = (Path(directory) / "weights").read_text()

    def rest(self) -> None:
        self._call("rest")

    def take_restarts(self) -> int:
        return 0

    def close(self) -> None:
        self._call("close")

    def phase_changes_before(self, step: int) -> bool:
        return step == 3

    def apply_phase(self, step: int) -> None:
        self._call("apply_phase", step)

    def restore_schedule(self, observed: dict[int, tuple[int, int]]) -> None:
        self._call("restore_schedule", len(observed))

    def begin_collect(self, step: int) -> None:
        self._call("begin_collect", step)

    def collect(self, step: int) -> StepBatch:
        self._call("collect", step)
        rows = [RolloutSummary("a", "explorer", i, 0, float(i), "right", 3, 5, False, "00") for i in range(2)]
        return StepBatch(
            split=GroupSplit(step, Fraction(1), 2, 0),
            prompts=["a"],
            assignment=[],
            summaries=rows,
            spans={},
            work=[],
            under_way=[],
            refilled=0,
            explorer_only=(0, 0),
            stragglers=["late"] if step == 2 else [],
            stale_dropped=0,
            banked=0,
            banked_prompts=frozenset(),
            redone=0,
            prefetched_bytes=3 * 10**6,
        )

    def update(self, batch: StepBatch) -> tuple[StepBatch, dict[str, float], list]:
        self._call("update", batch.split.step)
        return batch, {"loss": 0.5}, []

    def weight_sync(self, version: int) -> None:
        self._call("weight_sync", version)
        self.version = version

    def weight_sync_during(self, version: int, work: Callable[[], Any]) -> tuple[WeightSyncReport, Any]:
        self.weight_sync(version)
        return WeightSyncReport(version, 2 * 10**6, 0.5, 0.1, 0.2, 10.0, 0.0, 0.1, 0.3, ()), work()


def set_up_over(graph: Graph) -> Callable[..., RunParts]:
    """`run.set_up.set_up`, with a graph in the place of actors. Run directory and mirror are real."""

    def set_up(
        config: Config,
        reporter: Reporter,
        stack: ExitStack,
        actors: RunActors | None = None,
        terms: TrialTerms | None = None,
    ) -> RunParts:
        actors = actors or RunActors()
        actors.take()
        actors._graph = graph
        stack.callback(actors.stop)
        directory = RunDirectory.acquire(config, terms=terms)
        stack.callback(directory.close)
        uploader = None
        mirror = open_mirror(config)
        with damaged_aside(directory, reporter.phase, reporter.note):
            if mirror:
                fetch(mirror, directory, config, reporter.phase, reporter.note)
        if mirror:
            keep, timeout_s = config.checkpoint.keep, config.checkpoint.mirror_timeout_s
            uploader = Uploader(mirror, directory.path, keep, timeout_s, reporter, directory.pointed)
        directory.adopt(config, CONTENTS)
        if uploader:
            stack.enter_context(uploader)
            directory.in_use = lambda: uploader.uploading
        return RunParts(
            settings=config,
            dtype=DtypeChoice("float32", "it was asked for"),
            inputs=Inputs({}, [], [], CONTENTS),
            directory=directory,
            checkpoint=directory.to_resume(config, CONTENTS),
            stragglers={},
            tracking=stack.enter_context(RunTracking(NoTracker(), reporter)),
            plan=SimpleNamespace(),
            meter=ComputeMeter({"explorer": ForwardCost(10, 1, 5), "learner": ForwardCost(100, 2, 50)}),
            actors=actors,
            graph=graph,
            uploader=uploader,
        )

    return set_up
