"""A loss of your own: dual-clip PPO (arXiv 1912.09729, eq. 5).

Run it from the directory above:

    s2l train quickstart objective.loss=examples.loss:dual_clip

`s2l_ray/objective/losses.py` says what a loss function gets and returns. `objective` is the whole section of the
configuration, so that clip_low and clip_high mean what they mean for ppo.
"""

from __future__ import annotations

from torch import Tensor

from s2l_ray.objective import LossOptions, LossTokens

LARGEST_LOSS = 3.0
"""c: a token with a negative advantage A has a loss of at most c |A|, however large its ratio is."""


def dual_clip(tokens: LossTokens, objective: LossOptions) -> Tensor:
    """The loss of ppo, but no more than -c A where A < 0: float32 [N]."""
    ratio = (tokens.logprobs - tokens.old_logprobs).exp()
    bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    loss = -(ratio * tokens.advantages).minimum(bounded * tokens.advantages)
    return loss.where(tokens.advantages >= 0, loss.minimum(-LARGEST_LOSS * tokens.advantages))
