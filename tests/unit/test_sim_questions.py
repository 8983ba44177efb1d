"""When the day's two questions are asked."""

from __future__ import annotations

from cluster_sim.questions import PENDING_ASKED_AT_HOURS, PLACED_ASKED_AT_HOURS, hours_of


def test_a_whole_day_is_asked_at_the_hours_named():
    assert hours_of(PENDING_ASKED_AT_HOURS, 24) == set(PENDING_ASKED_AT_HOURS)
    assert hours_of(PLACED_ASKED_AT_HOURS, 24) == {10, 12, 15}


def test_a_short_day_is_asked_too_and_never_at_its_opening():
    assert hours_of(PLACED_ASKED_AT_HOURS, 6) == {2, 3, 4}
    assert hours_of(PENDING_ASKED_AT_HOURS, 6) <= set(range(1, 7))
    assert hours_of(PLACED_ASKED_AT_HOURS, 1) == {1}
