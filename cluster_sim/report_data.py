"""What the report's charts are drawn from: one plain JSON document per story, figures rounded to what a screen shows.

Curves are lists over a common axis of local minutes since the day began; `None` is a gap in a curve. Nothing is
computed here that the tables of `DayResult` do not already hold, except places on the map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.day_log import FORECAST_GOAL_FRAC
from cluster_sim.day_tables import clock
from cluster_sim.day_values import DayResult
from cluster_sim.day_words import MODE_NAMES, in_order, outage_in_words
from cluster_sim.result import DayStory
from suanli.model import SiteKind
from suanli.model.units import SECONDS_PER_MINUTE

SIGNIFICANT_DIGITS = 5
DRAWN_SHARE = 0.8
"""Share of the placements whose flows the map draws; the table below it holds all."""
FAR_FACTOR = 1.6
"""A place farther out than this times the three-quarter radius is drawn at the rim, with its true distance."""


def chart_data(story: DayStory) -> dict[str, Any]:
    """Everything the charts need, ready for `json.dumps`."""
    day = story.comparison.ours
    return {
        "sites": _sites(day),
        "power": _power(day),
        "prices": _prices(day),
        "queue": _series(day, day.queue.at_s, day.queue.values),
        "gpus": {**_series(day, day.gpus.at_s, day.gpus.values), "installed": dict(day.gpu_installed)},
        "waits": [
            {
                "name": w.workload_class,
                "label": day.class_name(w.workload_class),
                "p50": round(w.p50_s),
                "p90": round(w.p90_s),
            }
            for w in day.waits
        ],
        "latency": _latency(day),
        "learned": _learned(day),
        "ledger": [
            {"id": s.site_id, "name": s.name or s.site_id, "room": _r(s.room_frac), "held": s.cap_held}
            for s in day.sites
            if s.room_frac is not None
        ],
        "comparison": [
            {
                "policy": r.policy,
                "mwh": _r(r.facility_kwh / 1000),
                "yuan": _r(r.cost_yuan),
                "yuanPerGpuH": _r(r.yuan_per_gpu_h),
                "gpuH": _r(r.delivered_gpu_h),
                "capsHeld": r.caps_held,
                "caps": r.caps_count,
                "outside": r.outside_count,
            }
            for r in story.comparison.rows
        ],
        "moves": [
            {"mode": MODE_NAMES[m.mode][0], "zh": MODE_NAMES[m.mode][1], "count": m.count} for m in day.moves
        ],
        "plans": [
            {"at": _minute(day, p.at_s), "gaps": {b.scope: _r(b.gap_frac) for b in p.bounds}}
            for p in day.plans
        ],
        "map": _map(day),
        "events": _marks(day),
        "startClock": clock(day.fleet, day.window.start_s),
    }


def _r(value: float | None) -> float | None:
    """Rounded to what a chart can show; NaN becomes a gap."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _curve(values: Iterable[float] | NDArray[np.float64]) -> list[float | None]:
    return [_r(float(v)) for v in values]


def _minute(day: DayResult, at_s: int) -> int:
    """Minutes since the day began."""
    return (at_s - day.window.start_s) // SECONDS_PER_MINUTE


def _minutes(day: DayResult, at_s: NDArray[np.int64]) -> list[int]:
    return [_minute(day, int(t)) for t in at_s]


def _series(
    day: DayResult, at_s: NDArray[np.int64], values: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    return {"at": _minutes(day, at_s), **{name: _curve(v) for name, v in values.items()}}


def _sites(day: DayResult) -> list[dict[str, Any]]:
    """In the order of the power curves, that is, of the fleet."""
    rows = {s.site_id: s for s in day.sites}
    return [
        {
            "id": site.site_id,
            "name": site.display_name or site.site_id,
            "zh": site.display_name_zh,
            "kind": site.kind.value,
            "cap": rows[site.site_id].pue_cap_annual,
            "capHourly": rows[site.site_id].ipue_cap_hourly,
            "forecastError": _r(day.forecast_error_frac.get(site.site_id)),
        }
        for site in day.fleet.sites
    ]


def _power(day: DayResult) -> dict[str, Any]:
    p = day.power
    return {
        "at": _minutes(day, p.at_s),
        "it": [_curve(row) for row in p.it_kw],
        "facility": [_curve(row) for row in p.facility_kw],
        "forecast": [_curve(row) for row in p.forecast_kw],
        "dryBulb": _curve(p.dry_bulb_c),
    }


def _prices(day: DayResult) -> list[dict[str, Any]]:
    """Different price curves, each with the sites that pay it."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for site, row in zip(day.fleet.sites, day.power.price_yuan_per_kwh, strict=True):
        groups.setdefault(tuple(float(v) for v in row), []).append(site.display_name or site.site_id)
    return [
        {
            "name": names[0] if len(names) == 1 else f"{len(names)} sites",
            "sites": names,
            "price": _curve(prices),
        }
        for prices, names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _latency(day: DayResult) -> list[dict[str, Any]]:
    if day.latency is None:
        return []
    return [
        {
            "name": c.workload_class,
            "label": day.class_name(c.workload_class),
            "hard": c.is_hard,
            "p99": _r(c.p99_ms),
            "budget": _r(c.budget_ms),
            "hours": [None if v is None else _r(v) for v in c.hour_p99_ms],
        }
        for c in in_order(day.latency.classes)
    ]


def _learned(day: DayResult) -> dict[str, Any]:
    return {
        "at": _minutes(day, day.learned.at_s),
        "error": [_curve(column) for column in day.learned.error_frac.T],
        "goal": FORECAST_GOAL_FRAC,
    }


def _marks(day: DayResult) -> list[dict[str, Any]]:
    """Spans to shade in a site's curves: outages, what the scenario broke, breaches."""
    end_s = day.window.day_end_s
    outages = [(o.site_id, o.from_s, o.until_s, "down", outage_in_words(o)) for o in day.outages]
    told = {(o.site_id, o.from_s, o.until_s) for o in day.outages}
    marks = [
        (m.site_id, m.from_s, m.until_s, "mark", m.label)
        for m in day.marks
        if (m.site_id, m.from_s, m.until_s) not in told
    ]
    breaches = [(b.site_id, b.from_s, b.until_s, "breach", b.cause) for b in day.breaches if b.debt_kwh > 0]
    return [
        {
            "site": site,
            "from": _minute(day, a),
            "until": _minute(day, min(b, end_s)),
            "kind": kind,
            "label": label,
        }
        for site, a, b, kind, label in outages + marks + breaches
    ]


def _map(day: DayResult) -> dict[str, Any]:
    places = _places(day)
    kwh = {s.site_id: s.facility_kwh for s in day.sites}
    down = {o.site_id for o in day.outages}
    return {
        "sites": [
            {
                "id": s.site_id,
                "name": s.display_name or s.site_id,
                "zh": s.display_name_zh,
                "kind": s.kind.value,
                "kwh": _r(kwh[s.site_id]),
                "down": s.site_id in down,
                **places[s.site_id],
            }
            for s in day.fleet.sites
        ],
        "zones": [
            {
                "id": z.zone_id,
                "name": z.display_name or z.zone_id,
                "zh": z.display_name_zh,
                **places[z.zone_id],
            }
            for z in day.fleet.zones
        ],
        "serves": _strongest(day.flows.zone_to_site),
        "moves": [[a, b, n] for a, b, n in day.flows.site_to_site],
        "kinds": {SiteKind.CLOUD.value: "cloud", SiteKind.EDGE.value: "edge"},
    }


def _strongest(flows: Iterable[tuple[str, str, int]]) -> list[list[str | int]]:
    """The largest flows that together make up `DRAWN_SHARE` of all placements; more would hide them."""
    ordered = sorted(flows, key=lambda f: (-f[2], f[0], f[1]))
    wanted = DRAWN_SHARE * sum(n for _, _, n in ordered)
    drawn: list[list[str | int]] = []
    total = 0
    for zone, site, n in ordered:
        if total >= wanted:
            break
        drawn.append([zone, site, n])
        total += n
    return drawn


def _places(day: DayResult) -> dict[str, dict[str, float | None]]:
    """id → x, y in km on the map; what lies far out is drawn at the rim and keeps its distance as `far`."""
    named = [(s.site_id, s.x_km, s.y_km) for s in day.fleet.sites] + [
        (z.zone_id, z.x_km, z.y_km) for z in day.fleet.zones
    ]
    xy = np.array([(x, y) for _, x, y in named], np.float64)
    centre = np.median(xy, axis=0)
    radius_km = np.hypot(*(xy - centre).T)
    rim_km = FAR_FACTOR * float(np.quantile(radius_km, 0.75))
    is_far = (radius_km > rim_km) & (rim_km > 0)
    shrink = np.where(is_far, rim_km / np.maximum(radius_km, 1e-9), 1.0)
    drawn = centre + (xy - centre) * shrink[:, None]
    return {
        name: {"x": _r(drawn[i, 0]), "y": _r(drawn[i, 1]), "far": _r(radius_km[i]) if is_far[i] else None}
        for i, (name, _, _) in enumerate(named)
    }
