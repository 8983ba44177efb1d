"""Learning a plant from its meters: found from a wrong start, followed when it changes, deaf to empty meters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.domain.topology import build_topology
from scheduler.planner.learn import learn, nominal, scaled, thetas
from tests.builders import a_fleet, a_site

HOUR_S = 3600
TRUE = np.array([1.15, 0.85, 1.15])
"""15 % off in each part, as scenarios start."""


@pytest.fixture
def topology():
    return build_topology(a_fleet(a_site("e01").cpus(), a_site("e02").cpus()).build())


def meter(topology, theta, hour: int, it_kw: float, site_id: str = "e01", **fields: Any) -> dict[str, Any]:
    """What the meters of a plant with these factors read in one hour."""
    site = topology.sites[topology.site_index[site_id]]
    c = nominal(site, 30.0, 25.0)
    overhead_kw = theta @ np.array(
        [float(c.fixed_kw), float(c.loss_slope) * it_kw, float(c.loss_square) * it_kw**2 / site.rated_it_kw]
    )
    return {
        "site_id": site_id, "from_s": hour * HOUR_S, "until_s": (hour + 1) * HOUR_S, "it_energy_kwh": it_kw,
        "facility_energy_kwh": it_kw + overhead_kw, "dry_bulb_c": 30.0, "wet_bulb_c": 25.0, "up": True, "open": True,
        **fields,
    }  # fmt: skip


def day(topology, theta, hours, start: int = 0) -> list[dict[str, Any]]:
    """Load swings between 300 and 800 kW of 1 MW."""
    return [meter(topology, theta, start + h, 550 + 250 * np.sin(h * 0.9)) for h in range(hours)]


def forecast_error(topology, learner, theta, it_kw: float) -> float:
    learned = thetas(topology, learner)[0]
    true_kw = meter(topology, theta, 0, it_kw)["facility_energy_kwh"]
    plant = scaled(topology.sites[0], learned, 30.0, 25.0)
    rated_kw = topology.sites[0].rated_it_kw
    said_kw = it_kw + float(
        plant.fixed_kw + plant.loss_slope * it_kw + plant.loss_square * it_kw**2 / rated_kw
    )
    return abs(said_kw - true_kw) / true_kw


def test_before_any_meter_the_plant_is_as_declared(topology):
    assert thetas(topology, {}).tolist() == [[1.0] * 3] * 2


def test_a_plant_15_percent_off_is_known_within_a_day(topology):
    learner: dict[str, Any] = {}
    for m in day(topology, TRUE, 12):
        learner = learn(topology, learner, [m])
    before = forecast_error(topology, {}, TRUE, 600.0)
    assert before > 0.005
    assert forecast_error(topology, learner, TRUE, 600.0) < 0.1 * before


def test_it_follows_a_cooling_that_degrades(topology):
    learner: dict[str, Any] = {}
    worse = TRUE * np.array([1.0, 1.6, 1.0])
    for m in day(topology, TRUE, 12):
        learner = learn(topology, learner, [m])
    jump = forecast_error(topology, learner, worse, 600.0)
    for m in day(topology, worse, 3, start=12):
        learner = learn(topology, learner, [m])
    assert jump > 0.03
    assert forecast_error(topology, learner, worse, 600.0) < 0.03


def test_the_error_told_is_that_of_the_forecast_before_the_meter_was_seen(topology):
    first = learn(topology, {}, [meter(topology, TRUE, 0, 600.0)])
    assert first["error_frac"] == {"e01": pytest.approx(forecast_error(topology, {}, TRUE, 600.0), abs=1e-6)}


def test_each_site_learns_from_its_own_meters_only(topology):
    learner = learn(topology, {}, day(topology, TRUE, 6))
    assert learner["theta"]["e02"] == [1.0, 1.0, 1.0]
    assert learner["theta"]["e01"] != [1.0, 1.0, 1.0]


@pytest.mark.parametrize("fields", [{"up": False}, {"open": False}, {"until_s": 30}, {"it_energy_kwh": 0.0}])
def test_meters_that_say_nothing_teach_nothing(topology, fields):
    assert learn(topology, {}, [meter(topology, TRUE * 3, 0, 600.0, **fields)])["theta"]["e01"] == [1.0] * 3


def test_one_batch_or_hour_by_hour_leaves_the_same_factors(topology):
    meters = day(topology, TRUE, 5)
    learner: dict[str, Any] = {}
    for m in meters:
        learner = learn(topology, learner, [m])
    assert learn(topology, {}, meters)["theta"]["e01"] == pytest.approx(learner["theta"]["e01"], abs=1e-6)


def test_nonsense_stays_within_bounds(topology):
    learner: dict[str, Any] = {}
    for h in range(20):
        learner = learn(topology, learner, [meter(topology, TRUE * 1000, h, 600.0)])
    assert max(learner["theta"]["e01"]) <= 5.0
