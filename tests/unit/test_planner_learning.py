"""Learning a plant from its meters: wrong declared coefficients, then a fault, are followed within hours."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from cluster_sim.scenarios import load_scenario
from scheduler.domain.topology import Topology, build_topology
from scheduler.planner.learn import learn, nominal, scaled, thetas
from solvers.facility import facility_power_kw
from suanli.model.units import SECONDS_PER_HOUR

SITE = "e03-iiot-e"
WINDOW_S = 300
DRY_C, WET_C = 30.0, 26.0


@cache
def topology() -> Topology:
    return build_topology(load_scenario("songjiang-s").fleet())


def meters(from_hour: int, hours: int, overhead_factor: float) -> list[dict[str, Any]]:
    """What a plant whose overhead is `overhead_factor` times the declared one reports, at a load that breathes."""
    site = topology().sites[topology().site_index[SITE]]
    declared = nominal(site, DRY_C, WET_C)
    out = []
    for start in range(from_hour * SECONDS_PER_HOUR, (from_hour + hours) * SECONDS_PER_HOUR, WINDOW_S):
        it_kw = site.rated_it_kw * (0.5 + 0.2 * np.sin(start / 4000.0))
        overhead_kw = float(facility_power_kw(declared, site.rated_it_kw, it_kw)) - it_kw
        share = WINDOW_S / SECONDS_PER_HOUR
        out.append(
            {
                "site_id": SITE,
                "from_s": start,
                "until_s": start + WINDOW_S,
                "it_energy_kwh": it_kw * share,
                "facility_energy_kwh": (it_kw + overhead_factor * overhead_kw) * share,
                "dry_bulb_c": DRY_C,
                "wet_bulb_c": WET_C,
                "open": True,
                "up": True,
            }
        )
    return out


def error_after(body: dict[str, Any], overhead_factor: float) -> float:
    """Relative error of the facility power that the learned plant forecasts at 60 % load."""
    index = topology().site_index[SITE]
    site = topology().sites[index]
    it_kw = 0.6 * site.rated_it_kw
    declared = float(facility_power_kw(nominal(site, DRY_C, WET_C), site.rated_it_kw, it_kw))
    truth = it_kw + overhead_factor * (declared - it_kw)
    learned = scaled(site, thetas(topology(), body)[index], DRY_C, WET_C)
    return abs(float(facility_power_kw(learned, site.rated_it_kw, it_kw)) / truth - 1.0)


def test_before_any_meter_the_plant_is_as_declared() -> None:
    assert (thetas(topology(), {}) == 1.0).all()


@pytest.mark.parametrize("overhead_factor", [0.85, 1.15])
def test_coefficients_15_percent_off_are_learned_within_the_day(overhead_factor: float) -> None:
    body = learn(topology(), {}, meters(0, 1, overhead_factor))
    for hour in range(1, 6):
        body = learn(topology(), body, meters(hour, 1, overhead_factor))
    assert body["error_frac"][SITE] < 0.03
    assert error_after(body, overhead_factor) < 0.01


def test_a_fouled_condenser_is_followed_within_two_hours() -> None:
    body = learn(topology(), {}, meters(0, 4, 1.0))
    assert error_after(body, 1.0) < 0.005
    body = learn(topology(), body, meters(4, 1, 1.35))
    body = learn(topology(), body, meters(5, 1, 1.35))
    assert error_after(body, 1.35) < 0.03


def test_windows_of_a_closed_or_dead_site_teach_nothing() -> None:
    closed = [{**m, "open": False} for m in meters(0, 2, 3.0)]
    body = learn(topology(), {}, closed)
    assert thetas(topology(), body)[topology().site_index[SITE]] == pytest.approx([1.0, 1.0, 1.0])


def test_the_whole_learner_travels_in_its_event_body() -> None:
    """Learning in one go or through saved bodies gives the same factors: a restart loses nothing."""
    first = learn(topology(), {}, meters(0, 1, 1.15))
    resumed = learn(topology(), dict(first), meters(1, 1, 1.15))
    assert resumed == learn(topology(), learn(topology(), {}, meters(0, 1, 1.15)), meters(1, 1, 1.15))
