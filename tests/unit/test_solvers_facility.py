"""Facility power and PUE caps in linear form, against the published table for Shanghai and against brute
force.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from solvers import facility

# Derived independently for Shanghai (monthly normals of 1971–2000, mean day of a month): plant (e0, e1, e2, lighting,
# cooling fixed, cooling, options), annual PUE at five mean loads, iPUE of the worst hour at half load,
# the least mean
# load for annual 1.25/1.3/1.5, the least load of every hour for the same caps (None: no load will do).


class Plant(NamedTuple):
    losses: tuple[float, float, float, float, float]
    cooling: str
    options: dict[str, Any]
    annual: tuple[float, ...]
    worst_hour: float
    mean_load: tuple[float | None, ...]
    every_hour: tuple[float | None, ...]
    slope: tuple[float, float]  # a in January and in July


MID = "water_economiser_mid"
N = None
PLANTS = {
    "ai_hyper": Plant(
        (0.0163, 0.0064, 0.0188, 0.001, 0.010),
        MID,
        {"liquid_share": 0.4},
        (1.23, 1.19, 1.15, 1.14, 1.14),
        1.24,
        (0.18, 0.14, 0.07),
        (0.41, 0.24, 0.09),
        (0.067, 0.154),
    ),
    "wse_mid": Plant(
        (0.0163, 0.0064, 0.0188, 0.002, 0.012),
        MID,
        {},
        (1.26, 1.21, 1.17, 1.16, 1.15),
        1.32,
        (0.22, 0.16, 0.08),
        (N, 0.72, 0.13),
        (0.068, 0.214),
    ),
    "wse_poor": Plant(
        (0.025, 0.020, 0.015, 0.005, 0.03),
        "water_economiser_poor",
        {},
        (1.51, 1.40, 1.32, 1.29, 1.27),
        1.47,
        (N, 0.60, 0.21),
        (N, N, 0.40),
        (0.102, 0.313),
    ),
    "wp113": Plant(
        (0.058, 0.050, 0.030, 0.010, 0.16),
        "chiller_fixed",
        {"constant": 0.27},
        (2.57, 2.17, 1.85, 1.71, 1.64),
        1.85,
        (N, N, N),
        (N, N, N),
        (0.334, 0.334),
    ),
    "dx_room": Plant(
        (0.030, 0.040, 0.010, 0.010, 0.05),
        "dx_mechanical",
        {},
        (1.74, 1.58, 1.45, 1.40, 1.37),
        1.54,
        (N, N, 0.40),
        (N, N, 0.62),
        (0.218, 0.307),
    ),
    "econ_micro": Plant(
        (0.0163, 0.010, 0.015, 0.005, 0.03),
        "dx_economiser",
        {},
        (1.46, 1.37, 1.30, 1.27, 1.26),
        1.41,
        (N, 0.49, 0.17),
        (N, N, 0.28),
        (0.106, 0.262),
    ),
    "cabinet": Plant(
        (0.020, 0.050, 0.010, 0, 0.03),
        "dx_economiser",
        {"factor": 0.8},
        (1.46, 1.37, 1.30, 1.27, 1.26),
        1.40,
        (N, 0.51, 0.17),
        (N, N, 0.26),
        (0.130, 0.259),
    ),
}
CAPS = (1.25, 1.30, 1.50)
PUE_TOLERANCE = (
    0.0101  # the table has two decimals; wet bulbs differ by 0.1 K (Stull there, psychrometer here)
)
LOAD_TOLERANCE = 0.021
# wse_mid at 1.30 sits where the discriminant is nearly zero: 0.1 K of wet bulb moves the least load by 0.09
LOOSE = {("wse_mid", 1.30): 0.10}


def coefficients_over_the_year(plant: Plant) -> tuple[facility.FacilityCoefficients, np.ndarray]:
    dry, wet, days = facility.year_of_cooling_hours()
    k = facility.cooling_coefficient(plant.cooling, dry, wet, **plant.options)
    return facility.facility_coefficients(1.0, *plant.losses, k), np.broadcast_to(days[:, None], k.shape)


@pytest.mark.parametrize("name", PLANTS)
def test_annual_pue_and_worst_hour_match_the_published_table(name):
    plant = PLANTS[name]
    c, weight = coefficients_over_the_year(plant)
    for load, expected in zip((0.2, 0.3, 0.5, 0.7, 0.9), plant.annual, strict=True):
        annual = (facility.facility_power_kw(c, 1.0, load) * weight).sum() / (load * weight.sum())
        assert annual == pytest.approx(expected, abs=PUE_TOLERANCE)
    assert facility.ipue(c, 1.0, 0.5).max() == pytest.approx(plant.worst_hour, abs=PUE_TOLERANCE)
    slope = c.loss_slope.mean(axis=1)
    assert (slope[0], slope[6]) == pytest.approx(plant.slope, abs=0.0015)


@pytest.mark.parametrize("name", PLANTS)
def test_least_loads_for_the_caps_match_the_published_table(name):
    plant = PLANTS[name]
    c, weight = coefficients_over_the_year(plant)
    loads = np.linspace(0.002, 1.0, 500)
    annual = np.array(
        [(facility.facility_power_kw(c, 1.0, u) * weight).sum() / (u * weight.sum()) for u in loads]
    )
    for cap, mean_load, every_hour in zip(CAPS, plant.mean_load, plant.every_hour, strict=True):
        if mean_load is None:
            assert not np.any(annual <= cap)
        else:
            assert loads[annual <= cap][0] == pytest.approx(mean_load, abs=LOAD_TOLERANCE)
        low, _, feasible = facility.hourly_cap_interval(c.fixed_kw, c.loss_slope, c.loss_square, 1.0, cap)
        if every_hour is None:
            assert not feasible.all() or low.max() > 1.0
        else:
            assert feasible.all()
            assert low.max() == pytest.approx(every_hour, abs=LOOSE.get((name, cap), LOAD_TOLERANCE))


def test_the_cap_interval_is_exact_on_200_000_random_cases():
    rng = np.random.default_rng(20260715)
    n = 200_000
    rated = 10 ** rng.uniform(0, 4, n)
    fixed = rated * rng.uniform(0.005, 0.3, n)
    slope = rng.uniform(0.05, 0.5, n)
    square = np.where(rng.random(n) < 0.1, 0.0, rng.uniform(0.0, 0.05, n))
    cap = rng.uniform(1.05, 2.0, n)
    power = rated * rng.uniform(1e-3, 1.5, n)
    low, high, feasible = facility.hourly_cap_interval(fixed, slope, square, rated, cap)
    excess = fixed + (1 + slope) * power + square / rated * power**2 - cap * power
    inside = feasible & (low <= power) & (power <= high)
    clear = np.abs(excess) > 1e-9 * rated
    assert clear.mean() > 0.999
    assert np.array_equal((excess <= 0)[clear], inside[clear])
    assert 0.2 < inside.mean() < 0.8  # both answers were tested


def test_the_interval_ends_meet_the_cap_with_equality():
    low, high, feasible = facility.hourly_cap_interval(5.0, 0.2, 0.02, 100.0, 1.5)
    c = facility.FacilityCoefficients(np.array(5.0), np.array(0.5), np.array(0.2), np.array(0.02))
    assert bool(feasible)
    assert facility.ipue(c, 100.0, np.array([low, high])) == pytest.approx([1.5, 1.5])


def test_no_cap_is_no_limit_and_an_impossible_one_closes_the_site():
    low, high, feasible = facility.hourly_cap_interval([5.0, 5.0], 0.3, 0.02, 100.0, [np.nan, 1.2])
    assert (low[0], high[0], bool(feasible[0])) == (0.0, np.inf, True)
    assert (low[1], high[1], bool(feasible[1])) == (np.inf, 0.0, False)


def test_wet_bulb_reproduces_known_psychrometric_points():
    # ASHRAE chart at sea level: 30 °C and 50 % → 22.0; 20 °C and 60 % → 15.1; saturated air → dry bulb
    dew = facility.dew_point_c([30.0, 20.0, 25.0], [0.5, 0.6, 1.0])
    assert facility.wet_bulb_c([30.0, 20.0, 25.0], dew) == pytest.approx([22.0, 15.1, 25.0], abs=0.15)
    dry, wet, _ = facility.year_of_cooling_hours()
    derived = (2.8, 3.8, 7.2, 12.5, 17.2, 21.9, 25.8, 25.4, 21.0, 16.0, 10.5, 4.9)
    assert wet.mean(axis=1) == pytest.approx(derived, abs=0.15)
    assert np.all(wet <= dry)


def test_the_warmest_hour_of_a_mean_july_day_is_three_in_the_afternoon():
    day = facility.monthly_dry_bulb_c(7, np.arange(24))
    assert (day.argmax(), day.max()) == (15, pytest.approx(28.4 + (31.8 - 25.0) / 2))


def test_an_unknown_plant_is_refused():
    with pytest.raises(ValueError, match="unknown cooling plant"):
        facility.cooling_coefficient("ice_cave", 20.0, 15.0)


def test_the_seasonal_release_spends_exactly_the_cap_over_the_year():
    c, weight = coefficients_over_the_year(PLANTS["dx_room"])
    reference = facility.ipue(c, 1.0, 0.42)
    phi = facility.seasonal_release(reference, 0.42, weight)
    assert (phi * weight).sum() / weight.sum() == pytest.approx(1.0)
    assert phi[6].mean() > 1.03 > phi.mean() > phi[0].mean()
    year = facility.ledger_release_kwh(
        1.5,
        phi,
        0.42,
        weight,
        balance_kwh=0,
        reference_balance_kwh=0,
        horizon_hours=8760,
        hours_left_in_year=8760,
    )
    assert year == pytest.approx(0.0, abs=1e-9 * weight.sum())


def test_the_ledger_releases_the_deviation_from_the_reference_balance_evenly():
    released = facility.ledger_release_kwh(
        1.5,
        [1.1, 1.0],
        10.0,
        [1.0, 1.0],
        balance_kwh=500.0,
        reference_balance_kwh=300.0,
        horizon_hours=2,
        hours_left_in_year=100,
    )
    assert released == pytest.approx(1.5 * 0.1 * 10.0 + (500 - 300) * 2 / 100)


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_chords_lie_above_the_square_by_no_more_than_their_error(segments):
    power = np.linspace(0, 80, 801)
    slopes, intercepts = facility.square_chords(0.02, 100.0, 80.0, segments)
    chord = (slopes[:, None] * power + intercepts[:, None]).max(axis=0)
    over = chord - 0.02 / 100 * power**2
    assert over.min() >= -1e-12
    assert over.max() == pytest.approx(facility.square_chord_error_kw(0.02, 100.0, 80.0, segments), rel=1e-3)
