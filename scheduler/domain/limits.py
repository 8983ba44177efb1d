"""Limits in force: what a site declares, as overridden by the policy for the fleet, its class or the site itself.

The most special target wins, form by form: an override that names an annual cap brings hardness, debt price and
reference load along with it; one that names an hourly cap leaves the annual one as it is. A power limit can only be
tightened: the room's own limit stands in any case. Of two overrides with one target the later wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suanli.model import Fleet, Policy, PueCap, Site, SitePolicy

DEFAULT_DEBT_YUAN_PER_KWH: float = PueCap.model_fields["debt_price_yuan_per_kwh"].default
"""A price left at its default says nothing, so that the next wider word on it stands."""


@dataclass(frozen=True)
class SiteLimits:
    """What binds one site now."""

    caps: PueCap
    power_limit_kw: float
    """Of IT power."""
    reserved_floor_frac: float
    """Share of each node group that work ranked below public service leaves free."""


def limits_in_force(site: Site, policy: Policy) -> SiteLimits:
    """Caps in both forms, power limit and floor of a registered site under a policy revision."""
    overrides = overrides_of(site, policy)
    limits_kw = [o.power_limit_kw for o in overrides if o.power_limit_kw is not None]
    floors = [o.reserved_floor_frac for o in overrides if o.reserved_floor_frac > 0]
    return SiteLimits(
        caps=_caps_in_force(site.caps, overrides, policy),
        power_limit_kw=min(limits_kw[-1], site.power_limit_kw) if limits_kw else site.power_limit_kw,
        reserved_floor_frac=floors[-1] if floors else 0.0,
    )


def caps_in_force(site: Site, policy: Policy) -> PueCap:
    """Only the caps of `limits_in_force`."""
    return _caps_in_force(site.caps, overrides_of(site, policy), policy)


def fleet_in_force(registered: Fleet, policy: Policy) -> Fleet:
    """The registered fleet with the caps and power limits that hold under the policy."""
    sites = []
    for site in registered.sites:
        limits = limits_in_force(site, policy)
        update = {"caps": limits.caps, "power_limit_kw": limits.power_limit_kw}
        is_overridden = any(getattr(site, name) != value for name, value in update.items())
        sites.append(site.model_copy(update=update) if is_overridden else site)
    return registered.model_copy(update={"sites": tuple(sites)})


def floors_in_force(registered: Fleet, policy: Policy) -> NDArray[np.float64]:
    """(S,) reserved floor of each site."""
    return np.array([limits_in_force(s, policy).reserved_floor_frac for s in registered.sites], np.float64)


def overrides_of(site: Site, policy: Policy) -> list[SitePolicy]:
    """Overrides that speak of the site, the most special last."""
    targets = ("fleet", f"class:{site.kind.value}", f"sites/{site.site_id}")
    return [o for target in targets for o in policy.sites if o.target == target]


def _caps_in_force(own: PueCap, overrides: list[SitePolicy], policy: Policy) -> PueCap:
    caps = own
    if policy.debt_price_yuan_per_kwh != DEFAULT_DEBT_YUAN_PER_KWH:
        caps = caps.model_copy(update={"debt_price_yuan_per_kwh": policy.debt_price_yuan_per_kwh})
    for given in [o.caps for o in overrides if o.caps is not None]:
        update: dict[str, object] = {}
        if given.ipue_cap_hourly is not None:
            update["ipue_cap_hourly"] = given.ipue_cap_hourly
        if given.pue_cap_annual is not None:
            update["pue_cap_annual"] = given.pue_cap_annual
            update["annual_is_hard"] = given.annual_is_hard
            update["reference_load_frac"] = given.reference_load_frac
        if given.debt_price_yuan_per_kwh != DEFAULT_DEBT_YUAN_PER_KWH:
            update["debt_price_yuan_per_kwh"] = given.debt_price_yuan_per_kwh
        caps = caps.model_copy(update=update)
    return caps


__all__ = [
    "SiteLimits", "caps_in_force", "fleet_in_force", "floors_in_force", "limits_in_force", "overrides_of",
]  # fmt: skip
