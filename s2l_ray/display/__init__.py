"""What people see of long work on a terminal or in a log: while it runs, and at its end.

On a terminal: a live panel. Elsewhere (a file, a pipe, CI): plain lines of stable form, one per step, for example

    step 12/60  alpha 0.63  G_w/G_s 6/2  reward 0.21 (explorer 0.18, learner 0.29)  820 tok/s  1.9 s (rollout 1.1, ...
"""

from __future__ import annotations

from s2l_ray.display.final import final_table
from s2l_ray.display.run import RunDisplay
from s2l_ray.display.tasks import FetchDisplay, TaskDisplay

__all__ = ["FetchDisplay", "RunDisplay", "TaskDisplay", "final_table"]
