"""An advantage of your own: the learner's rollouts alone set the baseline.

Run it from the directory above:

    s2l train quickstart objective.advantage=examples.advantage:learner_baseline

`s2l_ray/objective/advantages.py` says what an advantage function gets and returns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s2l_ray.objective import AdvantageOptions, GroupRewards


def learner_baseline(group: GroupRewards, objective: AdvantageOptions) -> NDArray[np.float64]:
    """Each reward minus the mean reward of the learner's rollouts, or of the group where it has none: float64 [G]."""
    of_learner = ~group.from_explorer
    baseline = group.rewards[of_learner].mean() if of_learner.any() else group.rewards.mean()
    return np.asarray(group.rewards - baseline)
