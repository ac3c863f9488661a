"""The placement modes, each as a record of facts. Nothing else asks for a mode by its name.

A further mode is a name in `kinds.PlacementModeName`, a record here, and a sentence in the text of `placement.mode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.kinds import PlacementModeName, Source


@dataclass(frozen=True)
class PlacementMode:
    """Which actors share GPUs, and so who has to wait for whom."""

    name: PlacementModeName
    description: str
    """One line, for reports."""
    learner_sleeps: bool
    """Learner engines are on the trainer's GPUs and sleep while it works; otherwise they never pause."""
    explorer_sleeps: bool
    """Explorer engines are on the trainer's GPUs and sleep while it works; otherwise they can sample ahead then."""
    has_engine_gpus: bool
    """There are GPUs without trainer ranks. Their engines never sleep, and the explorer's may be handed over to the
    learner."""
    needs_explorer: bool = False
    """Without an explorer the mode is no different from another one."""

    @property
    def sleeping(self) -> tuple[Source, ...]:
        """Kinds of engine that are on the trainer's GPUs."""
        sleeps: dict[Source, bool] = {"learner": self.learner_sleeps, "explorer": self.explorer_sleeps}
        return tuple(source for source, asleep in sleeps.items() if asleep)


PLACEMENT_MODES: dict[PlacementModeName, PlacementMode] = {
    mode.name: mode
    for mode in (
        PlacementMode(
            name="colocated",
            description="trainer ranks and engines share every GPU, in turn",
            learner_sleeps=True,
            explorer_sleeps=True,
            has_engine_gpus=False,
        ),
        PlacementMode(
            name="separate",
            description="trainer, learner and explorer have devices of their own",
            learner_sleeps=False,
            explorer_sleeps=False,
            has_engine_gpus=True,
        ),
        PlacementMode(
            name="mixed",
            description="learner engines share the trainer's GPUs in turn, explorers have GPUs of their own",
            learner_sleeps=True,
            explorer_sleeps=False,
            has_engine_gpus=True,
            needs_explorer=True,
        ),
    )
}
"""By name. Of two that are equally fast the planner takes the earlier one."""

SLEEPLESS = PLACEMENT_MODES["separate"]
"""The mode in which no engine sleeps, the only one on CPUs, where an engine cannot give its memory back."""
