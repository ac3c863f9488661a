"""What people read for the activities of actors and for the parts of a step."""

from __future__ import annotations

ACTIVITIES = {
    "explore": "explorer samples",
    "generate": "learner samples",
    "read": "bank is read",
    "rollout": "waiting for rollouts",
    "wait_for_ranks": "waits for ranks",
    "old_logprobs": "old log-probs",
    "forward_backward": "forward, backward",
    "update_rest": "rest of update",
    "weight_sync": "weight sync",
    "hand_over": "hand-over",
}
"""Activities whose names do not read well -> what is shown."""
PARTS = {
    "explore": "wait for explorer",
    "generate": "wait for learner",
    "explore_and_generate": "wait for both",
    "bank": "wait for bank",
    "verify": "wait for verdicts",
    "wait_for_ranks": "wait for ranks",
}
"""The same for parts of a step that are named otherwise than the activity: a step waits while others are active."""


def activity_name(activity: str) -> str:
    """Such as "old log-probs" for old_logprobs, "explorer samples" for explore."""
    return ACTIVITIES.get(activity, activity.replace("_", " "))


def part_name(part: str) -> str:
    """Such as "wait for explorer" for explore."""
    return PARTS.get(part) or activity_name(part)
