"""A day of the full city is folded into its tables before a reader gets impatient."""

from __future__ import annotations

import time

import pytest

from cluster_sim.result import build_day_result
from tests.unit._synthetic_day import synthetic_day


@pytest.mark.slow
def test_a_hundred_and_fifty_thousand_events_fold_in_three_seconds_of_one_core():
    events, fleet, window = synthetic_day(scale=240)
    assert len(events) > 150_000
    begun_s = time.process_time()
    day = build_day_result(events, fleet, window)
    assert time.process_time() - begun_s < 3.0
    assert day.account_problems == ()
