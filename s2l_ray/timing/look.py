"""How activities and parts of a step look: order, names, colours; the same in figures and on the terminal."""

from __future__ import annotations

from s2l_ray.style import COLOURS as OF_SOURCE

COLOURS = {
    "explore": OF_SOURCE["explorer"],
    "generate": OF_SOURCE["learner"],
    "explore_and_generate": "#6F4E7C",
    "bank": "#8C6D31",
    "read": "#8C6D31",
    "verify": "#E69F00",
    "assemble": "#BFBFBF",
    "rollout": "#D9D9D9",
    "fetch": "#56B4E9",
    "wait_for_ranks": "#B8B8B8",
    "prepare": "#A6D96A",
    "old_logprobs": "#66C2A4",
    "reference": "#B2E2D2",
    "forward_backward": "#009E73",
    "optimizer": "#00523B",
    "update": "#009E73",
    "update_rest": "#D5EBD0",
    "weight_sync": "#CC79A7",
    "hand_over": "#C9B458",
    "evaluate": "#999999",
    "checkpoint": "#7F3C8D",
    "other": "#E3E3E3",
}
"""Activity or part -> colour, in the order they are shown."""
NAMES = {
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
"""Where an activity's name does not read well."""
PART_NAMES = {
    "explore": "wait for explorer",
    "generate": "wait for learner",
    "explore_and_generate": "wait for both",
    "bank": "wait for bank",
    "verify": "wait for verdicts",
    "wait_for_ranks": "wait for ranks",
}
"""The same for parts of a step: a step waits while others are active."""


def name_of(activity: str) -> str:
    """For people: old_logprobs -> old log-probs, explore -> explorer samples."""
    return NAMES.get(activity, activity.replace("_", " "))


def part_name(part: str) -> str:
    """For people: explore -> wait for explorer."""
    return PART_NAMES.get(part) or name_of(part)
