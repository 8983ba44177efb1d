"""Marginal iPUE: facility energy that one more kilowatt-hour of IT energy takes at a site, at its present load; and
what that costs at the tariff of the hour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import ClusterState
from scheduler.planner.learn import scaled, thetas


def marginal_ipue(state: ClusterState, now_s: int) -> NDArray[np.float64]:
    """(S,) dP_fac/dP_IT = 1 + a + 2·q·P/R of the learned plant in the weather of `now_s`, at the last metered load."""
    topology = state.topology
    assert topology is not None
    outlook = CalendarOutlook(topology, state.forecast)
    theta = thetas(topology, state.learner)
    dry_c, wet_c = outlook.dry_bulb_c(now_s), outlook.wet_bulb_c(now_s)
    out = []
    for i, site in enumerate(topology.sites):
        plant = scaled(site, theta[i], dry_c, wet_c)
        load_frac = state.last_meter.get(site.site_id, {}).get("it_power_kw", 0.0) / site.rated_it_kw
        out.append(1.0 + float(plant.loss_slope) + 2.0 * float(plant.loss_square) * load_frac)
    return np.array(out)


def marginal_yuan_per_kwh(state: ClusterState, now_s: int, *, pue_blind: bool = False) -> NDArray[np.float64]:
    """(S,) tariff of `now_s` · marginal iPUE: one more kilowatt-hour of IT energy; of the tariff alone if PUE-blind."""
    topology = state.topology
    assert topology is not None
    tariff = CalendarOutlook(topology, state.forecast).prices_yuan_per_kwh(np.array([now_s]))[:, 0]
    return tariff if pue_blind else tariff * marginal_ipue(state, now_s)
