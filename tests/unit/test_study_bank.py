"""What a study counts of the bank that its trials share, over all of its starts."""

from __future__ import annotations

from s2l_ray.tuning.sharing import Held, SharedBank
from s2l_ray.tuning.study_bank import least, numbers_of


def bank(sampled: int, sampled_tokens: int) -> SharedBank:
    """As a start leaves it that has recorded so much itself."""
    return SharedBank("/bank", ("ab12",), 48, 960, sampled, sampled_tokens, ((480, 480), (480, 480)))


def test_what_a_killed_start_has_recorded_counts_for_the_study():
    """The bank had 10 rollouts; the first start was killed when it had recorded 30, and the second recorded 8."""
    held = least({}, Held(10, 200))
    held = least(held, Held(40, 800))
    numbers = numbers_of(bank(8, 160), held)
    assert (numbers["sampled"], numbers["sampled_tokens"]) == (38, 760)
    assert (numbers["rollouts"], numbers["tokens"], numbers["ratio"]) == (48, 960, 0.5)
    again = numbers_of(bank(0, 0), least(held, Held(48, 960)))  # a later start finds all of them
    assert again == numbers


def test_what_was_deleted_between_two_starts_counts_once():
    held = least(least({}, Held(48, 960)), Held(0, 0))
    numbers = numbers_of(bank(48, 960), held)
    assert (numbers["sampled"], numbers["sampled_tokens"]) == (48, 960)
