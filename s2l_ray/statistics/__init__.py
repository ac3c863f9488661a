"""Statistics in pure functions, over numpy and scipy alone: estimates, intervals, and tests.

    pass_at_k.py     pass@k without bias, for one k or for every k up to n
    majority.py      maj@k
    bootstrap.py     intervals of means over problems, and of paired differences
    significance.py p-values by flipping signs, and Holm's correction for several tests
    over_seeds.py    Student's t over a few runs
    crossover.py     k*, where one pass@k curve overtakes another

A problem is what is resampled everywhere: problems are drawn from a benchmark, and samples of one problem are not
independent draws of the benchmark.
"""

from s2l_ray.statistics.bootstrap import Estimate, mean_interval, paired_difference, resampled_means
from s2l_ray.statistics.crossover import Crossover, crossover_k, crossover_of
from s2l_ray.statistics.majority import maj_at_every_k
from s2l_ray.statistics.over_seeds import paired_t_p_value, t_interval
from s2l_ray.statistics.pass_at_k import evaluate_counts, paired_change, pass_at_every_k, pass_at_k
from s2l_ray.statistics.significance import holm, sign_flip_p_value

__all__ = [
    "Crossover",
    "Estimate",
    "crossover_k",
    "crossover_of",
    "evaluate_counts",
    "holm",
    "maj_at_every_k",
    "mean_interval",
    "paired_change",
    "paired_difference",
    "paired_t_p_value",
    "pass_at_every_k",
    "pass_at_k",
    "resampled_means",
    "sign_flip_p_value",
    "t_interval",
]
