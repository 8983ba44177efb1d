"""Weather of the played day: monthly normals, a daily wave, a little seeded noise; and a forecast that errs.

dry bulb    T(h) = mean + (high − low)/2 · cos(2π(h − hottest)/24) + noise          °C
dew point   constant over the day, from the month's mean and relative humidity (Magnus)
wet bulb    from dry bulb and relative humidity (Stull 2011, fit at sea level, ±0.3 K between 5 and 99 %)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.scenarios.schema import Weather
from suanli.model import WeatherForecast
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR, SECONDS_PER_MINUTE

F64 = NDArray[np.float64]
MAGNUS_A, MAGNUS_B_C = 17.62, 243.12
FORECAST_MATURES_HOURS = 6.0
NOISE_SEED_TAG, FORECAST_SEED_TAG = 101, 102


def dew_point_c(dry_bulb_c: float, humidity_frac: float) -> float:
    """Dew point by the Magnus formula."""
    gamma = math.log(humidity_frac) + MAGNUS_A * dry_bulb_c / (MAGNUS_B_C + dry_bulb_c)
    return MAGNUS_B_C * gamma / (MAGNUS_A - gamma)


def humidity_frac(dry_bulb_c: F64, dew_c: float) -> F64:
    """Relative humidity 0..1 of air with that dew point; saturated air where the dry bulb is below it."""
    dew = MAGNUS_A * dew_c / (MAGNUS_B_C + dew_c)
    return np.asarray(np.minimum(1.0, np.exp(dew - MAGNUS_A * dry_bulb_c / (MAGNUS_B_C + dry_bulb_c))))


def wet_bulb_c(dry_bulb_c: F64, humidity: F64) -> F64:
    """Wet bulb in °C (Stull 2011); humidity as 0..1. Never above the dry bulb."""
    rh = 100.0 * humidity
    wet = (
        dry_bulb_c * np.arctan(0.151977 * np.sqrt(rh + 8.313659))
        + np.arctan(dry_bulb_c + rh)
        - np.arctan(rh - 1.676331)
        + 0.00391838 * rh**1.5 * np.arctan(0.023101 * rh)
        - 4.686035
    )
    return np.asarray(np.minimum(wet, dry_bulb_c))


@dataclass(frozen=True, slots=True)
class MonthNormals:
    """Normals of one month, °C; humidity 0..1."""

    mean_c: float
    high_c: float
    low_c: float
    humidity_frac: float
    hottest_hour: int

    @classmethod
    def of(cls, weather: Weather, month: int) -> MonthNormals:
        """Normals of month 1..12 with the warming since their period."""
        i, warmer = month - 1, weather.present_warming_k
        return cls(
            weather.mean_c[i] + warmer,
            weather.mean_high_c[i] + warmer,
            weather.mean_low_c[i] + warmer,
            weather.relative_humidity_frac[i],
            weather.hottest_hour,
        )

    def dry_bulb_c(self, local_hour: F64) -> F64:
        """Normal daily wave."""
        half_range_k = (self.high_c - self.low_c) / 2
        return np.asarray(
            self.mean_c + half_range_k * np.cos(2 * np.pi * (local_hour - self.hottest_hour) / HOURS_PER_DAY)
        )

    @property
    def dew_c(self) -> float:
        """Dew point of the whole day."""
        return dew_point_c(self.mean_c, self.humidity_frac)


class WeatherTruth:
    """Weather by the minute from `start_s`, the same under every policy and engine for one seed."""

    def __init__(
        self, weather: Weather, month: int, start_s: int, end_s: int, utc_offset_s: int, seed: int
    ) -> None:
        self.normals = MonthNormals.of(weather, month)
        self.start_s = start_s
        self._spec = weather
        self._utc_offset_s = utc_offset_s
        self._seed = seed
        minutes = math.ceil((end_s - start_s) / SECONDS_PER_MINUTE) + 1
        at_s = start_s + SECONDS_PER_MINUTE * np.arange(minutes, dtype=np.float64)
        self.dry_bulb_c = self.normals.dry_bulb_c(self._local_hour(at_s)) + self._noise_k(at_s)

    def wet_bulb_c(self, microclimate_k: float = 0.0) -> F64:
        """Wet bulb by the minute at a site that is `microclimate_k` warmer than the station."""
        dry = self.dry_bulb_c + microclimate_k
        return wet_bulb_c(dry, humidity_frac(dry, self.normals.dew_c))

    def forecast(self, at_s: int, hours: int) -> WeatherForecast:
        """Outlook for each whole hour from that of `at_s`: near hours are nearly right, later ones err by bias, noise.

        Values hold at the whole hour, as the API defines them; between two of them the reader interpolates.
        """
        first_s = at_s - at_s % SECONDS_PER_HOUR
        instants = first_s + SECONDS_PER_HOUR * np.arange(hours, dtype=np.float64)
        lead_h = np.maximum(0.0, (instants - at_s) / SECONDS_PER_HOUR)
        dry = self._truth_at(instants) + self._forecast_error_k(first_s, hours) * (
            1 - np.exp(-lead_h / FORECAST_MATURES_HOURS)
        )
        wet = wet_bulb_c(dry, humidity_frac(dry, self.normals.dew_c))
        return WeatherForecast(
            from_s=first_s,
            dry_bulb_c=tuple(round(float(t), 2) for t in dry),
            wet_bulb_c=tuple(round(float(t), 2) for t in wet),
        )

    def _truth_at(self, instants_s: F64) -> F64:
        """True dry bulb; beyond the prepared minutes the normals hold."""
        minutes = (instants_s - self.start_s) / SECONDS_PER_MINUTE
        inside = (minutes >= 0) & (minutes <= len(self.dry_bulb_c) - 1)
        truth = np.interp(minutes, np.arange(len(self.dry_bulb_c)), self.dry_bulb_c)
        return np.asarray(np.where(inside, truth, self.normals.dry_bulb_c(self._local_hour(instants_s))))

    def _forecast_error_k(self, first_s: int, hours: int) -> F64:
        bias_rng = np.random.default_rng([self._seed, FORECAST_SEED_TAG])
        bias_k = self._spec.forecast_bias_k * (1 if bias_rng.random() < 0.5 else -1)
        noise_rng = np.random.default_rng([self._seed, FORECAST_SEED_TAG, first_s])
        return np.asarray(bias_k + self._spec.forecast_noise_k * noise_rng.standard_normal(hours))

    def _noise_k(self, at_s: F64) -> F64:
        """Smooth noise: normal values every `noise_hours`, straight lines between them."""
        step_s = self._spec.noise_hours * SECONDS_PER_HOUR
        knots = math.ceil((at_s[-1] - at_s[0]) / step_s) + 2
        values = self._spec.noise_k * np.random.default_rng([self._seed, NOISE_SEED_TAG]).standard_normal(
            knots
        )
        return np.asarray(np.interp((at_s - at_s[0]) / step_s, np.arange(knots), values))

    def _local_hour(self, at_s: F64) -> F64:
        return np.asarray(((at_s + self._utc_offset_s) / SECONDS_PER_HOUR) % HOURS_PER_DAY)
