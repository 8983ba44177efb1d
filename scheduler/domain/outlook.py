"""What is known of the hours ahead: published tariffs, reported weather forecast, grid carbon shape.

Where the reported forecast ends (or none came) the month's normals stand in.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.topology import Topology
from solvers.facility import monthly_dew_point_c, monthly_dry_bulb_c, wet_bulb_c
from suanli.model import Tariff
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR, utc

LOCAL_OFFSET_HOURS = 8
"""Asia/Shanghai has no daylight saving."""


def local_hour(at_s: int, utc_offset_hours: int = LOCAL_OFFSET_HOURS) -> tuple[int, float]:
    """(month, hour of day with fraction) of an instant in local time."""
    local = utc(at_s) + timedelta(hours=utc_offset_hours)
    return local.month, local.hour + local.minute / 60


def local_day(at_s: int) -> int:
    """Local days since the epoch."""
    return (at_s + LOCAL_OFFSET_HOURS * SECONDS_PER_HOUR) // (HOURS_PER_DAY * SECONDS_PER_HOUR)


def lowest_prices_yuan_per_kwh(topology: Topology, at_s: int) -> NDArray[np.float64]:
    """(24,) lowest tariff of any site, hour by hour from the whole hour of `at_s`, all of the month of `at_s`."""
    month, _ = local_hour(at_s)
    by_utc_hour = topology.lowest_price_yuan_per_kwh[month - 1]
    return np.roll(by_utc_hour, -(at_s // SECONDS_PER_HOUR % HOURS_PER_DAY))


class CalendarOutlook:
    """Prices from the fleet's tariffs, weather from the last forecast; the `Outlook` port of the service."""

    def __init__(self, topology: Topology, forecast: dict[str, object] | None = None) -> None:
        self._topology = topology
        self._forecast = forecast or {}
        self._tariff: dict[str, Tariff] = {t.tariff_id: t for t in topology.fleet.tariffs}

    def price_yuan_per_kwh(self, site_id: str, at_s: int) -> float:
        """Tariff of the site's hour with its mark-up."""
        site = self._topology.sites[self._topology.site_index[site_id]]
        tariff = self._tariff[site.tariff_id]
        month, hour = local_hour(at_s, tariff.utc_offset_hours)
        return tariff.price_yuan_per_kwh_by_month[month][int(hour)] * (1.0 + site.price_markup_frac)

    def prices_yuan_per_kwh(self, starts_s: NDArray[np.int64]) -> NDArray[np.float64]:
        """(S, T) prices at the start of each slot."""
        return np.array(
            [[self.price_yuan_per_kwh(s, int(t)) for t in starts_s] for s in self._topology.site_ids]
        )

    def dry_bulb_c(self, at_s: int) -> float:
        """Forecast, else the month's normal day."""
        reported = self._reported("dry_bulb_c", at_s)
        if reported is not None:
            return reported
        month, hour = local_hour(at_s)
        return float(monthly_dry_bulb_c(month, hour))

    def wet_bulb_c(self, at_s: int) -> float:
        """Forecast, else the month's normal day."""
        reported = self._reported("wet_bulb_c", at_s)
        if reported is not None:
            return reported
        month, hour = local_hour(at_s)
        return float(wet_bulb_c(monthly_dry_bulb_c(month, hour), monthly_dew_point_c(month)))

    def carbon_g_per_kwh(self, at_s: int) -> float:
        """Grid intensity by local hour; 0 when the fleet names none."""
        by_hour = self._topology.fleet.carbon_g_per_kwh_by_hour
        return by_hour[int(local_hour(at_s)[1])] if by_hour else 0.0

    def _reported(self, name: str, at_s: int) -> float | None:
        values = self._forecast.get(name)
        from_s = self._forecast.get("from_s")
        if not isinstance(values, list | tuple) or not isinstance(from_s, int):
            return None
        position = (at_s - from_s) / SECONDS_PER_HOUR
        if position < 0 or position > len(values) - 1:
            return None
        return float(np.interp(position, np.arange(len(values)), values))
