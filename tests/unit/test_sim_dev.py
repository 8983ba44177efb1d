"""The dev city's day is the present one, and has always begun."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta, timezone

import pytest

from cluster_sim.dev import today
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.termination import TerminatedInOrder

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


def test_sigterm_is_taken_back_from_a_library_and_left_as_it_was_found():
    found = signal.getsignal(signal.SIGTERM)
    with TerminatedInOrder() as termination:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does when it starts
        termination.again()
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a second one does not interrupt the unwinding
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == found
