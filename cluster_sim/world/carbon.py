"""Carbon intensity of the grid by local hour: a mean and a shape whose mean over the day is 1."""

from __future__ import annotations

from collections.abc import Iterable

from cluster_sim.world.tariff import hours_of
from suanli.model.units import HOURS_PER_DAY


def carbon_g_by_hour(mean_g_per_kwh: float, shape: Iterable[tuple[str, float]]) -> tuple[float, ...]:
    """24 intensities in g/kWh; `shape` gives factors of some spans of hours, all other hours count 1."""
    factors = [1.0] * HOURS_PER_DAY
    for span, factor in shape:
        for hour in hours_of(span):
            factors[hour] = factor
    mean_factor = sum(factors) / HOURS_PER_DAY
    return tuple(round(mean_g_per_kwh * f / mean_factor, 3) for f in factors)
