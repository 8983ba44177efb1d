"""The dev city's day is the present one, and has always begun."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cluster_sim.dev import today
from cluster_sim.scenarios.loader import load_scenario

SHANGHAI = timezone(timedelta(hours=8))


@pytest.mark.parametrize("hour", [0, 5, 7, 8, 9, 23])
def test_the_day_has_begun_within_the_last_day_at_its_own_hour(hour: int):
    scenario = load_scenario("tiny-cloud-edge")
    assert scenario.day.start.hour == 8
    now = datetime(2026, 11, 22, hour, 30, tzinfo=SHANGHAI)
    start = today(scenario, now).day.start
    assert timedelta(0) <= now - start < timedelta(days=1)
    assert (start.hour, start.minute, start.utcoffset()) == (8, 0, timedelta(hours=8))
    # told from another time zone it is the same day
    assert today(scenario, now.astimezone(UTC)).day.start == start
