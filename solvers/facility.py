"""Facility power, PUE caps and the energy ledger in the linear form that planning models use.

1. weather: a day's temperature from monthly normals, wet bulb from dry bulb and dew point
2. cooling: k(weather), power per unit of heat, per kind of plant
3. coefficients: (e0, e1, e2, lighting, cooling fixed, k) → F, F_off, a, q of
   P_fac = F_off + (F − F_off)·on + (1 + a)·P + (q/R)·P²
4. caps: the hourly cap as an interval of IT load, exact; the annual cap as a budget with a seasonal release
5. chords: the square term from above, for budgets, with its error

Losses per component follow Rasmussen, "Electrical efficiency modeling for data centers" (APC/Schneider
WP113); cooling plants follow Lei & Masanet (2020/2022), the Frontier digital twin RAPS (warm-water cold
plate)
and published DX curves. All functions are vectorised over numpy arrays that broadcast; powers in kW,
energies in kWh,
temperatures in °C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from solvers.archive import BoolArray, FloatArray

Floats = npt.ArrayLike
CoolingPlantName = Literal[
    "water_economiser_mid", "water_economiser_poor", "chiller_fixed", "dx_mechanical", "dx_economiser"
]

# Shanghai, CMA normals 1971–2000: mean daily high and low, mean, °C; relative humidity is assumed, dew
# point follows.
SHANGHAI_HIGH_C = (8.1, 9.2, 12.8, 19.1, 24.1, 27.6, 31.8, 31.3, 27.2, 22.6, 17.0, 11.1)
SHANGHAI_LOW_C = (1.1, 2.2, 5.6, 10.9, 16.1, 20.8, 25.0, 24.9, 20.6, 15.1, 9.0, 3.0)
SHANGHAI_MEAN_C = (4.6, 5.7, 9.2, 15.0, 20.1, 24.2, 28.4, 28.1, 23.9, 18.9, 13.0, 7.0)
SHANGHAI_HUMIDITY_FRAC = (0.75, 0.75, 0.76, 0.76, 0.76, 0.82, 0.82, 0.81, 0.78, 0.75, 0.74, 0.73)
DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
HOURS_PER_DAY = 24
HOURS_PER_YEAR = 8760
WARMEST_HOUR = 15

# Lei–Masanet tool at mid and at poor parameters: (wet bulb °C, cooling power per unit heat), flat outside.
_ECONOMISER_MID = ((19.5, 23.0, 25.0, 27.0, 28.0), (0.061, 0.129, 0.180, 0.237, 0.250))
_ECONOMISER_POOR = ((14.0, 18.0, 20.0, 28.0), (0.081, 0.212, 0.254, 0.300))
_COLD_PLATE_K = 0.058  # warm-water cold plate, cooling efficiency 0.945
_DX_SLOPE, _DX_BASE, _DX_MIN_C = 0.0064, 0.075, 15.0
_DX_ECONOMISER = (7.1705e-5, 0.0041, 0.0743)


# -- 1. weather ------------------------------------------------------------------------------------------


def monthly_dry_bulb_c(month: int, hour: Floats, warming_c: float = 0.0) -> FloatArray:
    """Dry bulb at an hour of day (0..24) of a mean day in `month` (1..12): mean + half range · cos(2π(h −
    15)/24).
    """
    half_range = (SHANGHAI_HIGH_C[month - 1] - SHANGHAI_LOW_C[month - 1]) / 2
    phase = 2 * np.pi * (np.asarray(hour, dtype=float) - WARMEST_HOUR) / HOURS_PER_DAY
    return np.asarray(SHANGHAI_MEAN_C[month - 1] + warming_c + half_range * np.cos(phase))


def monthly_dew_point_c(month: int, warming_c: float = 0.0) -> float:
    """Dew point of a mean day in `month`, constant over the day: that of mean temperature and mean
    humidity.
    """
    return float(dew_point_c(SHANGHAI_MEAN_C[month - 1] + warming_c, SHANGHAI_HUMIDITY_FRAC[month - 1]))


def saturation_pressure_hpa(temperature_c: Floats) -> FloatArray:
    """Magnus formula over water, Alduchov & Eskridge (1996): 6.1094·exp(17.625 T / (T + 243.04)) hPa."""
    t = np.asarray(temperature_c, dtype=float)
    return np.asarray(6.1094 * np.exp(17.625 * t / (t + 243.04)))


def dew_point_c(dry_bulb_c: Floats, humidity_frac: Floats) -> FloatArray:
    """Dew point from dry bulb and relative humidity, the inverse of the Magnus formula."""
    vapour = np.log(saturation_pressure_hpa(dry_bulb_c) * np.asarray(humidity_frac, dtype=float) / 6.1094)
    return np.asarray(243.04 * vapour / (17.625 - vapour))


def wet_bulb_c(dry_bulb_c: Floats, dew_point_c: Floats) -> FloatArray:
    """Wet bulb at sea level from dry bulb and dew point.

    Solves the psychrometer equation e(T_d) = e_s(T_w) − 6.6e-4·(1 + 0.00115·T_w)·p·(T − T_w) with p =
    1013.25 hPa (WMO-No. 8, annex 4.B) by bisection: 40 halvings of [T_d, T] leave less than 1e-9 K.
    """
    dry, dew = np.broadcast_arrays(np.asarray(dry_bulb_c, dtype=float), np.asarray(dew_point_c, dtype=float))
    vapour = saturation_pressure_hpa(np.minimum(dew, dry))
    low, high = np.minimum(dew, dry).copy(), dry.copy()
    for _ in range(40):
        middle = (low + high) / 2
        psychrometric = 6.6e-4 * (1 + 0.00115 * middle) * 1013.25 * (dry - middle)
        too_high = saturation_pressure_hpa(middle) - psychrometric > vapour
        high = np.where(too_high, middle, high)
        low = np.where(too_high, low, middle)
    return np.asarray((low + high) / 2)


# -- 2. cooling ------------------------------------------------------------------------------------------


def cooling_coefficient(
    plant: CoolingPlantName | str,
    dry_bulb_c: Floats,
    wet_bulb_c: Floats,
    *,
    factor: float = 1.0,
    constant: float = 0.0,
    liquid_share: float = 0.0,
) -> FloatArray:
    """k(weather): cooling power per unit of heat, no dimension.

    `constant` is the k of a `chiller_fixed` plant; `factor` scales the air part (0.8: outdoor cabinet);
    the share `liquid_share` of the heat leaves by warm-water cold plates at k = 0.058. ValueError for an
    unknown plant.
    """
    dry, wet = np.asarray(dry_bulb_c, dtype=float), np.asarray(wet_bulb_c, dtype=float)
    match plant:
        case "water_economiser_mid":
            air = np.asarray(np.interp(wet, *_ECONOMISER_MID))
        case "water_economiser_poor":
            air = np.interp(wet, *_ECONOMISER_POOR)
        case "chiller_fixed":
            air = np.full(np.broadcast_shapes(dry.shape, wet.shape), constant)
        case "dx_mechanical":
            air = _DX_SLOPE * np.maximum(dry, _DX_MIN_C) + _DX_BASE
        case "dx_economiser":
            square, slope, base = _DX_ECONOMISER
            air = square * dry**2 + slope * dry + base
        case _:
            raise ValueError(f"unknown cooling plant {plant!r}")
    return np.asarray(liquid_share * _COLD_PLATE_K + (1 - liquid_share) * factor * air)


# -- 3. coefficients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FacilityCoefficients:
    """P_fac = off_kw + (fixed_kw − off_kw)·on + (1 + loss_slope)·P + (loss_square / rated_kw)·P²."""

    fixed_kw: FloatArray
    off_kw: FloatArray
    loss_slope: FloatArray
    loss_square: FloatArray


def facility_coefficients(
    rated_kw: Floats,
    e0: Floats,
    e1: Floats,
    e2: Floats,
    lighting: Floats,
    cooling_fixed: Floats,
    cooling_k: Floats,
    off_share: Floats = 0.1,
) -> FacilityCoefficients:
    """F = R·[(e0 + l)(1 + k) + k0], a = e1 + k(1 + e1), q = e2(1 + k), F_off = off_share·F.

    Derived from P_fac = P + R·L(u) + l·R + R·k0 + k·(P + R·L(u) + l·R) with L(u) = e0 + e1·u + e2·u².
    """
    rated, k = np.asarray(rated_kw, dtype=float), np.asarray(cooling_k, dtype=float)
    e0, e1, e2 = np.asarray(e0, dtype=float), np.asarray(e1, dtype=float), np.asarray(e2, dtype=float)
    fixed = rated * ((e0 + np.asarray(lighting)) * (1 + k) + np.asarray(cooling_fixed))
    return FacilityCoefficients(
        fixed_kw=np.asarray(fixed),
        off_kw=np.asarray(fixed * np.asarray(off_share)),
        loss_slope=np.asarray(e1 + k * (1 + e1)),
        loss_square=np.asarray(e2 * (1 + k)),
    )


def facility_power_kw(
    coefficients: FacilityCoefficients, rated_kw: Floats, it_kw: Floats, on: Floats = 1.0
) -> FloatArray:
    """Facility power at IT power `it_kw`; `on` is 0 or 1."""
    c, it = coefficients, np.asarray(it_kw, dtype=float)
    open_part = (c.fixed_kw - c.off_kw) * np.asarray(on, dtype=float)
    return np.asarray(
        c.off_kw + open_part + (1 + c.loss_slope) * it + c.loss_square / np.asarray(rated_kw) * it**2
    )


def ipue(coefficients: FacilityCoefficients, rated_kw: Floats, it_kw: Floats) -> FloatArray:
    """Facility power over IT power of an open site; nan where IT power is zero."""
    it = np.asarray(it_kw, dtype=float)
    power = facility_power_kw(coefficients, rated_kw, it)
    ratio = np.full(np.shape(power), np.nan)
    np.divide(power, it, out=ratio, where=np.broadcast_to(it > 0, power.shape))
    return ratio


def year_of_cooling_hours() -> tuple[FloatArray, FloatArray, FloatArray]:
    """A mean day of each month: ([12, 24] dry bulb, [12, 24] wet bulb, [12] days per month)."""
    hours = np.arange(HOURS_PER_DAY)
    dry = np.stack([monthly_dry_bulb_c(month, hours) for month in range(1, 13)])
    dew = np.array([monthly_dew_point_c(month) for month in range(1, 13)])[:, None]
    return dry, wet_bulb_c(dry, dew), np.asarray(DAYS_IN_MONTH, dtype=float)


# -- 4. caps ---------------------------------------------------------------------------------------------


def hourly_cap_interval(
    fixed_kw: Floats, loss_slope: Floats, loss_square: Floats, rated_kw: Floats, ipue_cap: Floats
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """IT loads at which an open site meets an hourly iPUE cap: (low_kw, high_kw, feasible).

    F + (1 + a)P + (q/R)P² ≤ Π·P  ⇔  low ≤ P ≤ high, with b = Π − 1 − a, D = b² − 4qF/R: feasible iff b >
    0 and D ≥ 0, low, high = R(b ∓ √D)/(2q). `low` is computed as 2F/(b + √D), the same root without
    cancellation and
    valid for q = 0, where high is infinite. Where not feasible low is inf and high is 0; a nan cap (none)
    gives low
    0, high inf.
    """
    fixed, a, q, rated, cap = np.broadcast_arrays(
        *(np.asarray(v, dtype=float) for v in (fixed_kw, loss_slope, loss_square, rated_kw, ipue_cap))
    )
    none = np.isnan(cap)
    b = np.where(none, 1.0, cap - 1 - a)
    discriminant = np.where(none, 0.0, b**2 - 4 * q * fixed / rated)
    feasible = np.asarray((b > 0) & (discriminant >= 0))
    root = np.sqrt(np.maximum(discriminant, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        low = 2 * fixed / (b + root)
        high = np.where(q > 0, rated * (b + root) / (2 * q), np.inf)
    low = np.where(feasible, low, np.inf)
    high = np.where(feasible, high, 0.0)
    return np.where(none, 0.0, low), np.where(none, np.inf, high), feasible | none


def seasonal_release(ipue_reference: Floats, reference_kw: Floats, hours: Floats = 1.0) -> FloatArray:
    """φ_t: the allowed iPUE in hour t is Π·φ_t, so that summer may use more than winter and the year meets Π.

    φ_t = iPUE_ref(t)·Σ P_ref / Σ (iPUE_ref·P_ref), sums over the year weighted by `hours` (how often the
    hour occurs).
    """
    reference, power = np.asarray(ipue_reference, dtype=float), np.asarray(reference_kw, dtype=float)
    weight = np.broadcast_to(power * np.asarray(hours, dtype=float), reference.shape)
    return np.asarray(reference * weight.sum() / (reference * weight).sum())


def ledger_release_kwh(
    pue_cap_annual: float,
    phi: Floats,
    reference_kw: Floats,
    hours: Floats,
    *,
    balance_kwh: float,
    reference_balance_kwh: float,
    horizon_hours: float,
    hours_left_in_year: float,
) -> float:
    """β_H: what the ledger releases to a horizon, kWh.

    β_H = Σ_H (Π·φ_t − Π)·P_ref·Δt + (B − B_ref)·|H| / (hours left in the year). φ already spends the
    winter surplus; what is carried is only the deviation of the balance B from the reference balance
    B_ref.
    """
    seasonal = pue_cap_annual * (np.asarray(phi) - 1) * np.asarray(reference_kw) * np.asarray(hours)
    share = min(1.0, horizon_hours / max(hours_left_in_year, horizon_hours))
    return float(seasonal.sum() + (balance_kwh - reference_balance_kwh) * share)


def reference_balance_kwh(
    pue_cap_annual: float, phi_past: Floats, reference_kw: Floats, hours: Floats
) -> float:
    """B_ref = Σ_past (Π − Π·φ_τ)·P_ref·Δτ: the balance of a site that has exactly followed the release
    rule.
    """
    return float(
        (pue_cap_annual * (1 - np.asarray(phi_past)) * np.asarray(reference_kw) * np.asarray(hours)).sum()
    )


# -- 5. chords -------------------------------------------------------------------------------------------


def square_chords(
    loss_square: Floats, rated_kw: Floats, limit_kw: Floats, segments: int
) -> tuple[FloatArray, FloatArray]:
    """K chords of (q/R)·P² over K equal parts of [0, limit]: (slopes [..., K], intercepts [..., K]) in
    kW.

    The square is at most the largest chord value; the overestimate is at most q·limit²/(4·K²·R)
    (`square_chord_error_kw`). Intercepts are ≤ 0; multiplied by `on` the chords hold for a closed site too.
    """
    q_over_r = np.asarray(np.asarray(loss_square, dtype=float) / np.asarray(rated_kw, dtype=float))
    edges = np.linspace(0.0, 1.0, segments + 1) * np.asarray(limit_kw, dtype=float)[..., None]
    left, right = edges[..., :-1], edges[..., 1:]
    return np.asarray(q_over_r[..., None] * (left + right)), np.asarray(-q_over_r[..., None] * left * right)


def square_chord_error_kw(
    loss_square: Floats, rated_kw: Floats, limit_kw: Floats, segments: int
) -> FloatArray:
    """Largest overestimate of `square_chords`: q·limit² / (4·K²·R), reached in the middle of a segment."""
    limit = np.asarray(limit_kw, dtype=float)
    return np.asarray(np.asarray(loss_square) * limit**2 / (4.0 * segments**2 * np.asarray(rated_kw)))
