"""Prices, weather ahead and the seasonal energy ledger, as the planner reads them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cluster_sim.scenarios import load_scenario
from scheduler.domain.ledger import (
    day_start_s,
    overdrawn_kwh,
    reference_balance,
    released_kwh,
    seasonal_rule,
    year_start_s,
)
from scheduler.domain.outlook import CalendarOutlook, local_hour
from scheduler.domain.state import SiteEnergy
from scheduler.domain.topology import Topology, build_topology
from solvers.facility import DAYS_IN_MONTH
from suanli.model import Site
from suanli.model.units import HOURS_PER_DAY, HOURS_PER_YEAR, SECONDS_PER_HOUR

DX_ROOM = "e01-hub"


@cache
def topology() -> Topology:
    return build_topology(load_scenario("songjiang-s").fleet())


@cache
def start_s() -> int:
    return load_scenario("songjiang-s").start_s


def site(site_id: str = DX_ROOM) -> Site:
    return topology().sites[topology().site_index[site_id]]


def test_local_time_is_shanghai() -> None:
    assert local_hour(start_s() + 90 * 60) == (7, 1.5)


def test_july_has_its_critical_hours_from_noon_to_two() -> None:
    outlook = CalendarOutlook(topology())
    hourly = [
        outlook.price_yuan_per_kwh("ai-core", start_s() + h * SECONDS_PER_HOUR) for h in range(HOURS_PER_DAY)
    ]
    assert [h for h, p in enumerate(hourly) if p == max(hourly)] == [12, 13]
    assert min(hourly) == hourly[3]


def test_the_reported_forecast_goes_before_the_normals() -> None:
    reported = {"from_s": start_s(), "dry_bulb_c": [30.0, 32.0], "wet_bulb_c": [25.0, 26.0]}
    outlook = CalendarOutlook(topology(), reported)
    assert outlook.dry_bulb_c(start_s() + SECONDS_PER_HOUR // 2) == pytest.approx((30.0 + 32.0) / 2)
    beyond_s = start_s() + 5 * SECONDS_PER_HOUR
    assert outlook.dry_bulb_c(beyond_s) == CalendarOutlook(topology()).dry_bulb_c(beyond_s)


def test_the_seasonal_rule_spends_nothing_over_a_whole_year() -> None:
    """Σ (Π·φ − Π)·P_ref over the year is zero: July takes exactly what winter leaves."""
    rule = seasonal_rule(site())
    days = np.array(DAYS_IN_MONTH)[:, None]
    assert (rule.phi * days).sum() == pytest.approx(days.sum() * HOURS_PER_DAY)
    assert rule.phi[6].mean() > 1 > rule.phi[0].mean()


def test_summer_is_released_more_than_winter() -> None:
    hours, day = np.ones(HOURS_PER_DAY), SECONDS_PER_HOUR * np.arange(HOURS_PER_DAY)
    january_s = year_start_s(start_s()) + 14 * HOURS_PER_DAY * SECONDS_PER_HOUR
    july = released_kwh(site(), reference_balance(site(), start_s()), start_s(), start_s() + day, hours)
    january = released_kwh(site(), reference_balance(site(), january_s), january_s, january_s + day, hours)
    assert july > 0 > january


def test_a_site_ahead_of_its_reference_may_spend_its_share_of_the_rest_of_the_year() -> None:
    hours, day = np.ones(HOURS_PER_DAY), SECONDS_PER_HOUR * np.arange(HOURS_PER_DAY)
    on_track = reference_balance(site(), start_s())
    plain = released_kwh(site(), on_track, start_s(), start_s() + day, hours)
    ahead = released_kwh(site(), on_track + 1000.0, start_s(), start_s() + day, hours)
    left_hours = HOURS_PER_YEAR - (start_s() - year_start_s(start_s())) / SECONDS_PER_HOUR
    assert ahead - plain == pytest.approx(1000.0 * HOURS_PER_DAY / left_hours)


# ---------------------------------------------------------------------- what today has overdrawn


def test_a_site_that_keeps_to_its_release_has_overdrawn_nothing():
    now_s = start_s() + 5 * SECONDS_PER_HOUR + 600
    midnight_kwh = reference_balance(site(), start_s()) + 100.0
    starts = start_s() + SECONDS_PER_HOUR * np.arange(6)
    hours = np.array([1.0] * 5 + [600 / SECONDS_PER_HOUR])
    given_kwh = released_kwh(site(), midnight_kwh, start_s(), starts, hours)

    def overdrawn(used_kwh: float) -> float:
        return overdrawn_kwh(site(), midnight_kwh - used_kwh, used_kwh, start_s(), now_s)

    assert overdrawn(given_kwh) == pytest.approx(0.0, abs=1e-9)
    assert overdrawn(given_kwh - 2.0) == pytest.approx(-2.0)
    assert overdrawn(given_kwh + 2.0) == pytest.approx(2.0)


def test_nothing_is_overdrawn_at_midnight():
    assert (
        day_start_s(start_s()) == start_s() == day_start_s(start_s() + HOURS_PER_DAY * SECONDS_PER_HOUR - 1)
    )
    assert overdrawn_kwh(site(), 0.0, 0.0, start_s(), start_s()) == 0.0


def test_the_energy_of_a_day_begins_anew_at_local_midnight():
    def window(from_s: int) -> dict[str, float]:
        return {
            "from_s": from_s,
            "it_energy_kwh": 2.0,
            "facility_energy_kwh": 3.0,
            "useful_it_energy_kwh": 1.0,
        }

    energy = SiteEnergy(it_kwh=10.0, facility_kwh=15.0, useful_it_kwh=10.0)
    for from_s in (start_s() - 300, start_s(), start_s() + 300):
        energy.add(window(from_s))
    assert (energy.it_kwh, energy.facility_kwh, energy.useful_it_kwh) == (10 + 3 * 2, 15 + 3 * 3, 10 + 3 * 1)
    assert (energy.day_it_kwh, energy.day_facility_kwh, energy.day_useful_it_kwh) == (2 * 2, 2 * 3, 2 * 1)
    assert energy.today_from_s == start_s()
    assert energy.is_of_day(start_s() + 600) and not energy.is_of_day(start_s() - 1)
