"""Learning the plants: three factors per site, fitted to its own meters, that say how far the nominal plant is off.

Overhead P_fac − P_IT is regressed on the nominal parts F(k), a(k)·P and q(k)·P²/R by recursive least squares with
forgetting and a weak prior at 1, so that the forecast follows a plant that changes within hours. The learner's whole
state travels in `site.model_learned` events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.topology import Topology
from solvers.facility import FacilityCoefficients, cooling_coefficient, facility_coefficients
from suanli.model import Site
from suanli.model.units import SECONDS_PER_HOUR

PARTS = 3
MEMORY_HOURS = 0.75
"""Old meters count 1/e after this long: a cooling fault shows within the hour, noise still averages out (ASSUMED)."""
PRIOR_WEIGHT = 0.02
"""Weight of the prior "as declared" beside one hour of meters."""
MIN_WINDOW_S = 60


def nominal(site: Site, dry_bulb_c: Any, wet_bulb_c: Any) -> FacilityCoefficients:
    """The declared plant at that weather, in linear form."""
    f = site.facility
    k = cooling_coefficient(
        f.cooling.value,
        dry_bulb_c,
        wet_bulb_c,
        factor=f.cooling_factor,
        constant=f.cooling_constant,
        liquid_share=f.liquid_share,
    )
    return facility_coefficients(
        site.rated_it_kw, f.e0, f.e1, f.e2, f.lighting, f.cooling_fixed, k, f.off_share
    )


def scaled(site: Site, theta: NDArray[np.float64], dry_bulb_c: Any, wet_bulb_c: Any) -> FacilityCoefficients:
    """The plant as learned: nominal parts times their factors."""
    c = nominal(site, dry_bulb_c, wet_bulb_c)
    return FacilityCoefficients(
        fixed_kw=c.fixed_kw * theta[0],
        off_kw=c.off_kw * theta[0],
        loss_slope=c.loss_slope * theta[1],
        loss_square=c.loss_square * theta[2],
    )


def thetas(topology: Topology, learner: dict[str, Any]) -> NDArray[np.float64]:
    """(S, 3) factors now; 1 where nothing is learned yet."""
    known = learner.get("theta", {})
    return np.array([known.get(s, [1.0] * PARTS) for s in topology.site_ids])


def learn(topology: Topology, learner: dict[str, Any], meters: list[dict[str, Any]]) -> dict[str, Any]:
    """Fold meters since the last update; the body of the next `site.model_learned` event."""
    state = {s: _Fit.load(learner.get("state", {}).get(s)) for s in topology.site_ids}
    errors: dict[str, list[float]] = {s: [] for s in topology.site_ids}
    theta_before = {s: f.theta() for s, f in state.items()}
    for meter in meters:
        site = topology.sites[topology.site_index[meter["site_id"]]]
        seconds = meter["until_s"] - meter["from_s"]
        if seconds < MIN_WINDOW_S or not (meter["open"] and meter["up"]):
            continue
        hours = seconds / SECONDS_PER_HOUR
        it_kw, facility_kw = meter["it_energy_kwh"] / hours, meter["facility_energy_kwh"] / hours
        if it_kw <= 0 or facility_kw <= it_kw:
            continue
        features = _features(site, it_kw, meter["dry_bulb_c"], meter["wet_bulb_c"])
        forecast_kw = it_kw + float(features @ theta_before[site.site_id])
        errors[site.site_id].append((forecast_kw - facility_kw) / facility_kw)
        state[site.site_id].add(features, facility_kw - it_kw, hours)
    return {
        "theta": {s: [round(float(x), 9) for x in f.theta()] for s, f in state.items()},
        "error_frac": {s: round(float(np.mean(np.abs(e))), 9) for s, e in errors.items() if e},
        "state": {s: f.dump() for s, f in state.items()},
    }


def _features(site: Site, it_kw: float, dry_bulb_c: float, wet_bulb_c: float) -> NDArray[np.float64]:
    c = nominal(site, dry_bulb_c, wet_bulb_c)
    square_kw = float(c.loss_square) / site.rated_it_kw * it_kw**2
    return np.array([float(c.fixed_kw), float(c.loss_slope) * it_kw, square_kw])


@dataclass
class _Fit:
    """Weighted normal equations of one site, in units of its own overhead so that the prior has one meaning."""

    gram: NDArray[np.float64]
    moment: NDArray[np.float64]

    @classmethod
    def load(cls, dumped: list[float] | None) -> _Fit:
        if dumped is None:
            return cls(np.zeros((PARTS, PARTS)), np.zeros(PARTS))
        return cls(np.array(dumped[: PARTS * PARTS]).reshape(PARTS, PARTS), np.array(dumped[PARTS * PARTS :]))

    def dump(self) -> list[float]:
        return [round(float(x), 12) for x in (*self.gram.ravel(), *self.moment)]

    def add(self, features: NDArray[np.float64], overhead_kw: float, hours: float) -> None:
        scale = float(features.sum())
        x, y = features / scale, overhead_kw / scale
        keep = np.exp(-hours / MEMORY_HOURS)
        self.gram = keep * self.gram + hours * np.outer(x, x)
        self.moment = keep * self.moment + hours * y * x

    def theta(self) -> NDArray[np.float64]:
        prior = PRIOR_WEIGHT * np.eye(PARTS)
        solved = np.linalg.solve(self.gram + prior, self.moment + prior @ np.ones(PARTS))
        return np.clip(solved, 0.2, 5.0)
