"""What of a policy cannot come true: told to the operator, and set all the same, because a limit is a wish.

1. an hourly cap below the best iPUE that the plant can reach with all its machines, in the weather of the horizon
2. a reserved floor that leaves nothing for other work
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.limits import limits_in_force, overrides_of
from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import ClusterState
from scheduler.planner.learn import scaled, thetas
from suanli.model import FieldProblem, Policy, Site
from suanli.model.units import SECONDS_PER_HOUR, W_PER_KW

CAP_DIGITS = 1000
"""Nearest caps are told to three decimals, rounded up."""
MOST_LISTED = 8


def policy_warnings(policy: Policy, state: ClusterState, now_s: int) -> list[FieldProblem]:
    """What could be set and never be kept, each at its field; [] before a fleet is registered."""
    if state.topology is None:
        return []
    best = best_ipue(policy, state, now_s)
    found: list[FieldProblem] = []
    for i, override in enumerate(policy.sites):
        if override.caps is not None and override.caps.ipue_cap_hourly is not None:
            bound_here = [
                j for j, site in enumerate(state.topology.sites) if _cap_comes_from(site, policy) == i
            ]
            sites = [state.topology.site_ids[j] for j in bound_here]
            found += _cap_warning(
                f"sites[{i}].caps.ipue_cap_hourly", override.caps.ipue_cap_hourly, sites, best[bound_here]
            )
        if override.reserved_floor_frac == 1.0:
            found.append(_floor_warning(f"sites[{i}].reserved_floor_frac", override.target))
    return found


def best_ipue(policy: Policy, state: ClusterState, now_s: int) -> NDArray[np.float64]:
    """(S, T) least iPUE of an open site in each hour of the horizon, at the IT power P ≤ P_max that makes it least.

    iPUE(P) = 1 + a + F/P + q·P/R is least at P = √(F·R/q); P_max is what all machines can draw within the power limit.
    """
    topology = state.topology
    assert topology is not None
    outlook = CalendarOutlook(topology, state.forecast)
    middles_s = [now_s + (2 * h + 1) * SECONDS_PER_HOUR // 2 for h in range(policy.horizon_hours)]
    dry_c = np.array([outlook.dry_bulb_c(t) for t in middles_s])
    wet_c = np.array([outlook.wet_bulb_c(t) for t in middles_s])
    theta = thetas(topology, state.learner)
    out = np.empty((topology.site_count, len(middles_s)))
    for i, site in enumerate(topology.registered.sites):
        plant = scaled(site, theta[i], dry_c, wet_c)
        machines_kw = sum(g.node_count * g.max_w for g in site.groups) / W_PER_KW
        most_kw = min(machines_kw, limits_in_force(site, policy).power_limit_kw)
        with np.errstate(divide="ignore"):
            best_kw = np.minimum(most_kw, np.sqrt(plant.fixed_kw * site.rated_it_kw / plant.loss_square))
        best_kw = np.where(best_kw > 0, best_kw, most_kw)
        out[i] = (
            1.0 + plant.loss_slope + plant.fixed_kw / best_kw + plant.loss_square * best_kw / site.rated_it_kw
        )
    return out


def _cap_comes_from(site: Site, policy: Policy) -> int | None:
    """Index of the override whose hourly cap holds at the site."""
    naming = [
        o for o in overrides_of(site, policy) if o.caps is not None and o.caps.ipue_cap_hourly is not None
    ]
    return next(i for i, o in enumerate(policy.sites) if o is naming[-1]) if naming else None


def _cap_warning(
    field: str, cap: float, site_ids: Sequence[str], best: NDArray[np.float64]
) -> Iterator[FieldProblem]:
    """`best` is (sites, T) of the sites that the cap binds."""
    missed = best > cap
    worst = (
        [i for i in np.argsort(-best.max(axis=1), kind="stable").tolist() if missed[i].any()]
        if len(best)
        else []
    )
    if not worst:
        return
    told = [
        f"{site_ids[i]} in {int(missed[i].sum())} of the next {best.shape[1]} hours "
        f"({best[i].min():.3f} in the coolest, {best[i].max():.3f} in the warmest)"
        for i in worst[:MOST_LISTED]
    ]
    more = f" and {len(worst) - MOST_LISTED} more" if len(worst) > MOST_LISTED else ""
    yield FieldProblem(
        field=field,
        problem=f"{cap:g} is below the best iPUE that these can reach while open: {', '.join(told)}{more}",
        expected="at least what the warmest hour allows",
        nearest=f"{math.ceil(best.max() * CAP_DIGITS) / CAP_DIGITS:g}",
        code="cap_out_of_reach",
    )


def _floor_warning(field: str, target: str) -> FieldProblem:
    return FieldProblem(
        field=field,
        problem=f"all of {target} is kept free for public services: other work will never be placed there",
        expected="below 1",
        code="floor_leaves_nothing",
    )
