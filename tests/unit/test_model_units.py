"""Units that carry a meaning of their own beyond arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from suanli.model.units import epoch_s, local_time

AT_S = epoch_s(datetime(2026, 7, 15, 18, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    ("offset_hours", "text"),
    [(8, "2026-07-16 02:05+08:00"), (0, "2026-07-15 18:05+00:00"), (-5, "2026-07-15 13:05-05:00")],
)
def test_an_instant_is_told_in_the_zone_of_the_place_which_is_named(offset_hours, text):
    assert local_time(AT_S, offset_hours) == text
