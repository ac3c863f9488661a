"""An importance weight of your own: the geometric mean over the response.

Run it from the directory above:

    s2l train quickstart objective.correction.explorer=examples.correction:geometric_mean

`s2l_ray/objective/weighting.py` says what such a function gets and returns. objective.correction.cap and .mode bound
the weight afterwards.
"""

from __future__ import annotations

from torch import Tensor

from s2l_ray.objective import sequence_sums, spread


def geometric_mean(log_ratio: Tensor, lengths: Tensor) -> Tensor:
    """The log of the geometric mean of the ratios over the response, for each of its tokens: float32 [N].

    Of `sequence`, the product, this is the root that makes long responses comparable with short ones (GSPO's ratio,
    arXiv 2507.18071, eq. 7).
    """
    return spread(sequence_sums(log_ratio, lengths) / lengths, lengths, len(log_ratio))
