"""The annual energy ledger of each site: balance, reference balance, and what is released to a horizon.

B = Π·E_IT − E_fac since 1 January. The seasonal rule lets summer use what winter saved: allowed iPUE in an hour is Π·φ,
with φ from the site's nominal plant at its reference load over a mean year (formulas in `solvers.facility`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import LOCAL_OFFSET_HOURS, local_day
from solvers.facility import (
    cooling_coefficient,
    facility_coefficients,
    ipue,
    ledger_release_kwh,
    reference_balance_kwh,
    seasonal_release,
    year_of_cooling_hours,
)
from suanli.model import Site
from suanli.model.units import HOURS_PER_DAY, HOURS_PER_YEAR, SECONDS_PER_HOUR, epoch_s, utc

HOURS, MONTHS = 24, 12


@dataclass(frozen=True)
class SeasonalRule:
    """φ of each (month, hour) and the reference load it was made for."""

    phi: NDArray[np.float64]
    """(12, 24)."""
    reference_kw: float
    cap: float


@lru_cache(maxsize=256)
def _rule(site_json: str) -> SeasonalRule:
    site = Site.model_validate_json(site_json)
    dry, wet, days = year_of_cooling_hours()
    f = site.facility
    k = cooling_coefficient(
        f.cooling.value,
        dry,
        wet,
        factor=f.cooling_factor,
        constant=f.cooling_constant,
        liquid_share=f.liquid_share,
    )
    coefficients = facility_coefficients(
        site.rated_it_kw, f.e0, f.e1, f.e2, f.lighting, f.cooling_fixed, k, f.off_share
    )
    reference_kw = site.caps.reference_load_frac * site.rated_it_kw
    reference = ipue(coefficients, site.rated_it_kw, np.full(dry.shape, reference_kw))
    phi = seasonal_release(reference, reference_kw, np.broadcast_to(days[:, None], dry.shape))
    return SeasonalRule(phi, reference_kw, site.caps.pue_cap_annual or np.inf)


def seasonal_rule(site: Site) -> SeasonalRule:
    """The rule of a site with an annual cap; cached on the site's content."""
    return _rule(site.model_dump_json())


def year_start_s(at_s: int) -> int:
    """1 January 00:00 local of the year of `at_s`."""
    local = utc(at_s + LOCAL_OFFSET_HOURS * SECONDS_PER_HOUR)
    return (
        epoch_s(local.replace(month=1, day=1, hour=0, minute=0, second=0))
        - LOCAL_OFFSET_HOURS * SECONDS_PER_HOUR
    )


def day_start_s(at_s: int) -> int:
    """The last local midnight at or before `at_s`."""
    return local_day(at_s) * HOURS_PER_DAY * SECONDS_PER_HOUR - LOCAL_OFFSET_HOURS * SECONDS_PER_HOUR


def _phi_at(rule: SeasonalRule, starts_s: NDArray[np.int64]) -> NDArray[np.float64]:
    local_s = np.asarray(starts_s, np.int64) + LOCAL_OFFSET_HOURS * SECONDS_PER_HOUR
    month = local_s.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % MONTHS
    hour = local_s // SECONDS_PER_HOUR % HOURS
    return rule.phi[month, hour]


@lru_cache(maxsize=4096)
def _reference_balance(site_json: str, hour_index: int, start_s: int) -> float:
    rule = _rule(site_json)
    starts = start_s + SECONDS_PER_HOUR * np.arange(hour_index)
    return (
        reference_balance_kwh(rule.cap, _phi_at(rule, starts), rule.reference_kw, 1.0) if hour_index else 0.0
    )


def reference_balance(site: Site, at_s: int) -> float:
    """B_ref at `at_s`: balance of a site that followed the release rule exactly (kWh)."""
    start_s = year_start_s(at_s)
    return _reference_balance(site.model_dump_json(), (at_s - start_s) // SECONDS_PER_HOUR, start_s)


def released_kwh(
    site: Site, balance_kwh: float, now_s: int, starts_s: NDArray[np.int64], hours: NDArray[np.float64]
) -> float:
    """β_H of a horizon given as slots: seasonal part plus this horizon's share of the deviation from B_ref."""
    rule = seasonal_rule(site)
    elapsed_hours = (now_s - year_start_s(now_s)) / SECONDS_PER_HOUR
    return ledger_release_kwh(
        rule.cap,
        _phi_at(rule, starts_s),
        rule.reference_kw,
        hours,
        balance_kwh=balance_kwh,
        reference_balance_kwh=reference_balance(site, now_s),
        horizon_hours=float(hours.sum()),
        hours_left_in_year=max(1.0, HOURS_PER_YEAR - elapsed_hours),
    )


def overdrawn_kwh(site: Site, balance_kwh: float, used_kwh: float, since_s: int, now_s: int) -> float:
    """What the site has used since an instant beyond what the release rule gave it up to now; negative: saved.

    `balance_kwh` is the balance now, `used_kwh` = E_fac − Π·E_IT since then.
    """
    starts_s = np.arange(since_s, now_s, SECONDS_PER_HOUR, dtype=np.int64)
    if not len(starts_s):
        return 0.0
    hours = np.minimum(now_s - starts_s, SECONDS_PER_HOUR) / SECONDS_PER_HOUR
    return used_kwh - released_kwh(site, balance_kwh + used_kwh, since_s, starts_s, hours)
