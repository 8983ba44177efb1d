"""Weather, plant, tariff and carbon against published figures and against each other."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from cluster_sim.scenarios.derive import days_by_month, normal_cooling_per_heat, opening_facility_per_it
from cluster_sim.world.carbon import carbon_g_by_hour
from cluster_sim.world.facility import FacilityPhysics, cooling_per_heat
from cluster_sim.world.tariff import hours_of, period_by_hour, prices_by_hour
from cluster_sim.world.weather import MonthNormals, WeatherTruth, dew_point_c, humidity_frac, wet_bulb_c
from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.topology import build_topology
from tests.support.sites import base_scenario

HOURS = np.arange(24, dtype=np.float64) + 0.5
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
RATED_W = 100_000.0

# annual PUE at loads .2 .3 .5 .7 .9, from the component tables under the monthly normals of Shanghai
PUE_ANNUAL = {
    "ai_hyper": (1.23, 1.19, 1.15, 1.14, 1.14),
    "wse_mid": (1.26, 1.21, 1.17, 1.16, 1.15),
    "wse_poor": (1.51, 1.40, 1.32, 1.29, 1.27),
    "wp113": (2.57, 2.17, 1.85, 1.71, 1.64),
    "dx_room": (1.74, 1.58, 1.45, 1.40, 1.37),
    "econ_micro": (1.46, 1.37, 1.30, 1.27, 1.26),
    "cabinet": (1.46, 1.37, 1.30, 1.27, 1.26),
}
LOADS = (0.2, 0.3, 0.5, 0.7, 0.9)


def nominal_power(plant, load, k):
    """The planner's form: P + R·L(u) + l·R + R·k0 + k·(heat), per R."""
    e0, e1, e2 = plant.electrical_loss
    heat = load + e0 + e1 * load + e2 * load**2 + plant.lighting
    return heat + plant.cooling_fixed + k * heat


def annual(plant, power_of_load_and_k):
    return sum(
        days * float(np.mean(power_of_load_and_k(normal_cooling_per_heat(base_scenario(), plant, month))))
        for month, days in enumerate(DAYS, 1)
    ) / sum(DAYS)


# ---------------------------------------------------------------- plant
@pytest.mark.parametrize("name", PUE_ANNUAL)
def test_nominal_plants_give_the_published_annual_pue(name):
    plant = base_scenario().plants.rows[name]
    for load, expected in zip(LOADS, PUE_ANNUAL[name], strict=True):
        assert annual(plant, partial(nominal_power, plant, load)) / load == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("name", PUE_ANNUAL)
def test_the_true_plant_differs_from_the_nominal_one_but_not_by_much(name):
    plant = base_scenario().plants.rows[name]
    physics = FacilityPhysics(plant, RATED_W, 0.1)
    off = [
        physics.steady_power_w(load * RATED_W, 0.2) / RATED_W / nominal_power(plant, load, 0.2) - 1
        for load in LOADS
    ]
    assert max(map(abs, off)) < 0.02
    assert max(map(abs, off)) > 1e-4


def test_more_load_hotter_weather_and_worse_cooling_never_cost_less():
    plant = base_scenario().plants.rows["dx_room"]
    physics = FacilityPhysics(plant, RATED_W, 0.1)
    by_load = [physics.steady_power_w(load * RATED_W, 0.25) for load in np.linspace(0, 1, 50)]
    assert all(b > a for a, b in pairwise(by_load))
    by_heat = [physics.steady_power_w(0.5 * RATED_W, k) for k in np.linspace(0, 0.5, 50)]
    assert all(b > a for a, b in pairwise(by_heat))


def test_heat_reaches_the_plant_with_the_lag_of_the_room():
    plant = base_scenario().plants.rows["dx_room"]
    physics = FacilityPhysics(plant, RATED_W, 0.1)
    steady = physics.steady_power_w(0.8 * RATED_W, 0.3)
    first = physics.open_power_w(0.8 * RATED_W, 0.3, 60)
    assert first < steady
    for _ in range(200):
        last = physics.open_power_w(0.8 * RATED_W, 0.3, 60)
    assert last == pytest.approx(steady, rel=1e-6)


def test_cooling_curves_pass_their_published_points():
    plants = base_scenario().plants.rows
    at = {27.0: 0.237, 25.0: 0.18, 15.0: 0.061}
    for wet, k in at.items():
        assert cooling_per_heat(plants["wse_mid"], np.array([30.0]), np.array([wet])) == pytest.approx(k)
    mixed = 0.4 * 0.058 + 0.6 * 0.237
    assert cooling_per_heat(plants["ai_hyper"], np.array([30.0]), np.array([27.0])) == pytest.approx(mixed)
    assert cooling_per_heat(plants["dx_room"], np.array([35.0]), np.array([27.0])) == pytest.approx(
        0.30, abs=0.002
    )
    assert cooling_per_heat(plants["econ_micro"], np.array([35.0]), np.array([27.0])) == pytest.approx(
        0.305, abs=0.006
    )


# ---------------------------------------------------------------- ledger opening
def test_openings_in_the_file_are_the_derived_ones():
    scenario = base_scenario()
    for name, plant in scenario.plants.rows.items():
        assert plant.opening_facility_per_it == opening_facility_per_it(scenario, plant), name


def test_the_ledger_has_run_from_new_year_to_the_played_day():
    scenario = base_scenario()
    assert days_by_month(scenario) == {1: 31, 2: 28, 3: 31, 4: 30, 5: 31, 6: 30, 7: 14}
    assert scenario.ledger_opening.hours == sum(days_by_month(scenario).values()) * 24


# ---------------------------------------------------------------- weather
def test_wet_bulb_of_saturated_air_is_its_temperature_and_dry_air_is_cooler():
    dry = np.array([10.0, 25.0, 33.0])
    assert wet_bulb_c(dry, np.ones(3)) == pytest.approx(dry, abs=0.35)
    assert (wet_bulb_c(dry, np.full(3, 0.5)) < dry - 2).all()
    # the tables: 20 °C at 50 % has a wet bulb of 13.7 °C
    assert wet_bulb_c(np.array([20.0]), np.array([0.5]))[0] == pytest.approx(13.7, abs=0.1)


def test_dew_point_and_humidity_are_inverse():
    assert humidity_frac(np.array([28.4]), dew_point_c(28.4, 0.82))[0] == pytest.approx(0.82)


def test_july_normals_have_their_mean_range_and_hottest_hour():
    normals = MonthNormals.of(base_scenario().weather, 7)
    wave = normals.dry_bulb_c(HOURS)
    assert wave.mean() == pytest.approx(28.4, abs=0.01)
    assert wave.max() - wave.min() == pytest.approx(31.8 - 25.0, abs=0.1)
    assert int(wave.argmax()) in (14, 15)
    wet = wet_bulb_c(wave, humidity_frac(wave, normals.dew_c))
    assert wet.mean() == pytest.approx(25.8, abs=0.3)


def truth(seed: int) -> WeatherTruth:
    s = base_scenario()
    return WeatherTruth(s.weather, s.month, s.start_s, s.drain_end_s, s.utc_offset_s, seed)


def test_weather_follows_its_seed_and_stays_near_the_normals():
    assert (truth(1).dry_bulb_c == truth(1).dry_bulb_c).all()
    assert (truth(1).dry_bulb_c != truth(2).dry_bulb_c).any()
    start = base_scenario().start_s
    minutes = np.arange(len(truth(1).dry_bulb_c))
    normal = truth(1).normals.dry_bulb_c(((minutes * 60 + start + 8 * 3600) / 3600) % 24)
    assert np.abs(truth(1).dry_bulb_c - normal).max() < 2.0
    assert np.abs(truth(1).dry_bulb_c - normal).max() > 0.1


def test_a_forecast_errs_more_the_further_it_looks():
    near, far = [], []
    for seed in range(20):
        weather, start = truth(seed), base_scenario().start_s
        forecast = weather.forecast(start, 24)
        real = weather.dry_bulb_c[: 24 * 60 : 60]
        error = np.abs(np.array(forecast.dry_bulb_c) - real)
        assert error[0] < 0.01, "what is forecast for now is what is measured now"
        near.append(error[1])
        far.append(error[18:].mean())
    assert np.mean(near) < 0.5 * np.mean(far)
    assert np.mean(far) > 0.2


def test_the_planner_reads_a_forecast_at_the_hours_it_was_made_for():
    weather, start = truth(3), base_scenario().start_s
    topology = build_topology(base_scenario().fleet())
    for hour in (0, 5, 13):
        at_s = start + hour * 3600
        outlook = CalendarOutlook(topology, weather.forecast(at_s, 24).model_dump(mode="json"))
        assert outlook.dry_bulb_c(at_s) == pytest.approx(weather.dry_bulb_c[hour * 60], abs=0.01)
        assert outlook.wet_bulb_c(at_s) == pytest.approx(weather.wet_bulb_c()[hour * 60], abs=0.01)


# ---------------------------------------------------------------- tariff and carbon
def test_hours_of_a_span_go_over_midnight():
    assert hours_of("22-6") == (22, 23, 0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="not a span"):
        hours_of("6-6")


def test_every_hour_belongs_to_one_period():
    with pytest.raises(ValueError, match="belongs to a and b"):
        period_by_hour({"a": ["0-12"], "b": ["11-24"]})
    with pytest.raises(ValueError, match="no period"):
        period_by_hour({"a": ["0-12"]})


def test_only_the_floating_share_moves_with_the_multiplier():
    prices = prices_by_hour(0.66, 0.55, {"low": 0.4, "flat": 1.0}, {"low": ["0-6"], "flat": ["6-24"]})
    assert prices[0] == pytest.approx(0.66 * (1 - 0.55 * 0.6))
    assert prices[12] == 0.66


@pytest.mark.parametrize(("month", "mean"), [(7, 1.171), (9, 1.133), (1, 1.038), (4, 0.983)])
def test_two_part_multipliers_average_to_the_published_day_means(month, mean):
    spec = base_scenario().tariffs.rows["two_part"]
    season = next(s for s in spec.seasons if month in s.months)
    prices = prices_by_hour(1.0, 1.0, season.multipliers, season.hours)
    assert sum(prices) / 24 == pytest.approx(mean, abs=6e-4)


def test_every_tariff_covers_every_month():
    for tariff in base_scenario().fleet().tariffs:
        assert sorted(tariff.price_yuan_per_kwh_by_month) == list(range(1, 13))


def test_carbon_keeps_its_mean():
    hourly = carbon_g_by_hour(584.9, [("11-14", 0.88), ("18-22", 1.06)])
    assert sum(hourly) / 24 == pytest.approx(584.9, abs=0.01)
    assert hourly[12] < hourly[3] < hourly[19]
