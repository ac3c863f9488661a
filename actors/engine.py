"""What explorer and learner actors share: a vLLM engine behind Ray calls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import ray

from s2l_ray.errors import EngineError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.kinds import EngineMemory
from s2l_ray.machine.temporary import drop_short_names, use_short_tmpdir
from s2l_ray.rollouts.records import Prompt, RolloutSet
from s2l_ray.rollouts.requests import SampleRequest


class EngineActor:
    """Base of the engine actors. Asynchronous: many sample calls run at once and share the engine's batch."""

    engine_class: ClassVar[type[SamplingEngine]] = SamplingEngine

    def __init__(self, settings: EngineSettings, prompts: dict[str, Prompt]) -> None:
        self._settings = settings
        self._prompts = prompts

    async def ready(self) -> None:
        """Start the engine; returns once it answers.

        Raises:
            EngineError: it does not start.
            PlacementError: TMPDIR on its node cannot be used.
        """
        use_short_tmpdir(print)  # vLLM's sockets are below it
        try:
            self._engine = self.engine_class(self._settings, self._prompts)
        except Exception as error:  # anything from a bad model file to a lack of memory, in another process
            log = Path(ray._private.worker.global_worker.get_err_file_path())
            raise EngineError(
                f"the {self._settings.source} engine did not start on {self._settings.model}: "
                f"{reason_in(log) or error} (its log: {log})"
            ) from error

    async def sample(self, request: SampleRequest) -> RolloutSet:
        return await self._engine.sample(request)

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        return await self._engine.score(token_ids)

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def wake(self, memory: EngineMemory) -> None:
        await self._engine.wake(memory)

    async def close(self) -> None:
        if hasattr(self, "_engine"):
            await self._engine.close()
        drop_short_names()


def reason_in(log: Path) -> str | None:
    """The first exception in an engine's log that is not vLLM pointing at an earlier one."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = [match[1] for line in lines if (match := re.search(r"\b(\w+(?:Error|Exception): .+)", line))]
    return next((line for line in found if "See root cause above" not in line), None)
