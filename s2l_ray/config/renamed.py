"""Keys of earlier versions, and what they are called now: for the error that an old key is."""

from __future__ import annotations

RENAMED = {
    "cluster.swap_timeout_s": "cluster.weight_sync_timeout_s",
    "objective.logprob_gap_alarm": "health.logprob_gap_limit",
    "rollout.explore_ahead_gb": "rollout.prefetch_gb",
    "rollout.explore_ahead_steps": "rollout.prefetch_steps",
    "rollout.replay_left_out": "rollout.replay_stragglers",
    "rollout.swap_mode": "rollout.weight_sync_mode",
}
