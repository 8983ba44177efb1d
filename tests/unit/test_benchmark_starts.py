"""The arithmetic of `benchmarks.starts`: which forecasts are judged, and what shares come of them."""

from __future__ import annotations

import pytest

from benchmarks.starts import Told, by_kind, calibration, judged

HOUR_S = 3600


def told(
    started_s: int | None, *, on_arrival: bool = True, kind: str = "other", latest_s: int = 3 * HOUR_S
) -> Told:
    """Asked at 0; the interval reaches from one hour to `latest_s`, likely at two."""
    return Told("w", kind, 0, on_arrival, HOUR_S, 2 * HOUR_S, latest_s, started_s)


def test_shares_of_what_started_before_in_and_after_the_interval_or_never():
    forecasts = [told(s) for s in (HOUR_S - 1, HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 3 * HOUR_S + 1, None)]
    found = calibration(forecasts)
    assert (found.asked, found.within_frac, found.early_frac) == (6, 3 / 6, 1 / 6)
    assert found.late_frac == pytest.approx(2 / 6), "never is late"
    assert found.median_width_h == 2.0
    assert found.median_error_h == pytest.approx(1.0, abs=1e-3)


def test_only_forecasts_whose_latest_start_was_played_are_judged_whatever_came_of_them():
    ends_s = 3 * HOUR_S
    inside, started_soon, open_ = (
        told(None),
        told(HOUR_S, latest_s=4 * HOUR_S),
        told(None, latest_s=ends_s + 1),
    )
    assert judged([inside, started_soon, open_], ends_s) == [inside]


def test_kinds_and_moments_are_told_apart_and_empty_ones_left_out():
    forecasts = [told(HOUR_S), told(None, on_arrival=False, kind="gang")]
    found = by_kind(forecasts)
    assert list(found) == ["all", "on arrival", "later", "gang", "other"]
    assert (found["on arrival"].within_frac, found["gang"].within_frac) == (1.0, 0.0)
    assert "later" not in by_kind(forecasts[:1])
