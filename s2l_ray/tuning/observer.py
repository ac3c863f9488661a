"""What Tune's driver tells of the trials of a study, as outcomes: for the live table, MLflow and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback

from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome

Listener = Callable[[str, TrialOutcome], None]
"""Told of an event ("started", "step", "exploited", "failed", "ended") and of the trial after it."""


class StudyObserver(Callback):  # type: ignore[misc]  # Ray has no types
    """A callback of Tune: `Tuner(..., run_config=RunConfig(callbacks=[observer]))`.

    Tune pickles its callbacks into tuner.pkl: what comes out of there has the outcomes and no listeners. Tune also
    keeps its state with the experiment's (`get_state`), so that a study that is resumed has the outcomes of before.

    Args:
        about: the study.
        listeners: each is called in Tune's loop, and must return at once.
    """

    def __init__(self, about: StudyAbout, *listeners: Listener) -> None:
        self.about = about
        self._listeners = listeners
        self._outcomes: dict[str, TrialOutcome] = {}

    @property
    def outcomes(self) -> list[TrialOutcome]:
        """The trials so far, in the order of their names."""
        return sorted(self._outcomes.values(), key=lambda outcome: outcome.name)

    def get_state(self) -> dict[str, Any]:
        """The outcomes as JSON values."""
        return {"outcomes": {key: outcome.to_json() for key, outcome in self._outcomes.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over the outcomes that `get_state` gave."""
        self._outcomes = {key: TrialOutcome.from_json(row) for key, row in state["outcomes"].items()}
