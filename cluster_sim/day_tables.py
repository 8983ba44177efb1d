"""The tables of a day: one function per table, all of them on columns.

Order: energy and money, forecasts, sites, workloads, moves and flows, plans.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cluster_sim.day_log import (
    CAP_TOLERANCE_FRAC,
    F64,
    FORECAST_GOAL_FRAC,
    I64,
    NEVER_S,
    POWER_BIN_S,
    SAMPLE_S,
    STATE_CODE,
    STATES,
    Bool,
    DayLog,
    DayWindow,
    MeterColumns,
    RunColumns,
    StateIntervals,
)
from cluster_sim.day_values import (
    Breach,
    ClassWait,
    CutOff,
    Flows,
    GpuModelDay,
    LatencyMeasured,
    LearnedError,
    MoveCount,
    Outage,
    PlanProof,
    PowerCurves,
    Series,
    SiteDay,
    Totals,
    tightest_first,
)
from cluster_sim.day_words import saved_in_words, small_amount
from scheduler.domain.ledger import released_kwh
from scheduler.domain.limits import caps_in_force
from suanli.model import (
    Bound,
    Event,
    EventKind,
    Fleet,
    MoveMode,
    Policy,
    PueCap,
    Site,
    SiteKind,
    SolveStatus,
    WorkloadState,
)
from suanli.model.units import HOURS_PER_DAY, MILLI, SECONDS_PER_HOUR, SECONDS_PER_MINUTE

# --------------------------------------------------------------------------------------------------- energy


def _energy_per_bin(log: DayLog, values: F64, edges_s: I64) -> F64:
    """(S, B) energy between consecutive edges; a meter window spreads its energy evenly, gaps hold none."""
    out = np.zeros((len(log.fleet.sites), edges_s.size - 1))
    for s in range(out.shape[0]):
        mine = log.meters.site == s
        if not mine.any():
            continue
        total = np.cumsum(values[mine])
        at_s = np.column_stack((log.meters.from_s[mine], log.meters.until_s[mine])).ravel()
        sums = np.column_stack((np.concatenate(([0.0], total[:-1])), total)).ravel()
        out[s] = np.diff(np.interp(edges_s, at_s, sums))
    return out


def _hour_edges(from_s: int, until_s: int, offset_s: int = 0) -> I64:
    """From, every whole local hour between, until: prices change on the local hour."""
    first = -(-(from_s + offset_s + 1) // SECONDS_PER_HOUR) * SECONDS_PER_HOUR - offset_s
    inner = np.arange(first, until_s, SECONDS_PER_HOUR, dtype=np.int64)
    return np.concatenate(([from_s], inner, [until_s])).astype(np.int64)


def price_yuan_per_kwh(fleet: Fleet, at_s: I64) -> F64:
    """(S, T) published price of facility energy at those instants, the site's mark-up included."""
    tariffs = {t.tariff_id: t for t in fleet.tariffs}
    out = np.empty((len(fleet.sites), at_s.size))
    for i, site in enumerate(fleet.sites):
        tariff = tariffs[site.tariff_id]
        local_s = at_s + tariff.utc_offset_hours * SECONDS_PER_HOUR
        month = local_s.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12 + 1
        hour = (local_s // SECONDS_PER_HOUR) % HOURS_PER_DAY
        table = np.full((13, HOURS_PER_DAY), np.nan)
        for m, prices in tariff.price_yuan_per_kwh_by_month.items():
            table[m] = prices
        out[i] = table[month, hour] * (1.0 + site.price_markup_frac)
        if np.isnan(out[i]).any():
            missing = sorted(set(month[np.isnan(out[i])].tolist()))
            raise ValueError(f"tariff {tariff.tariff_id!r} has no prices for month {missing}")
    return out


def _carbon_kg_per_kwh(fleet: Fleet, at_s: I64) -> F64:
    """(T,) grid intensity by local hour; zeros when the fleet gives none."""
    if not fleet.carbon_g_per_kwh_by_hour:
        return np.zeros(at_s.size)
    offset_s = fleet.utc_offset_hours * SECONDS_PER_HOUR
    by_hour = np.array(fleet.carbon_g_per_kwh_by_hour)
    return np.asarray(by_hour[((at_s + offset_s) // SECONDS_PER_HOUR) % by_hour.size] / MILLI)


def _energy_account(log: DayLog, from_s: int, until_s: int) -> tuple[F64, F64, F64, F64, F64]:
    """(S,) IT, useful IT and facility kWh, yuan, kg CO₂ of a span."""
    offset_s = log.fleet.utc_offset_hours * SECONDS_PER_HOUR
    edges = _hour_edges(from_s, until_s, offset_s)
    it = _energy_per_bin(log, log.meters.it_kwh, edges)
    useful = _energy_per_bin(log, log.meters.useful_it_kwh, edges)
    facility = _energy_per_bin(log, log.meters.facility_kwh, edges)
    price = price_yuan_per_kwh(log.fleet, edges[:-1])
    carbon = _carbon_kg_per_kwh(log.fleet, edges[:-1])
    return (
        it.sum(axis=1),
        useful.sum(axis=1),
        facility.sum(axis=1),
        (facility * price).sum(axis=1),
        (facility * carbon).sum(axis=1),
    )


def power_curves(log: DayLog, window: DayWindow) -> PowerCurves:
    """Mean power of each bin, iPUE, price, forecast and weather over the day."""
    edges = np.arange(window.start_s, window.day_end_s + POWER_BIN_S, POWER_BIN_S, dtype=np.int64)
    edges[-1] = window.day_end_s
    edges = np.unique(edges)
    hours = np.diff(edges) / SECONDS_PER_HOUR
    it_kw = _energy_per_bin(log, log.meters.it_kwh, edges) / hours
    facility_kw = _energy_per_bin(log, log.meters.facility_kwh, edges) / hours
    with np.errstate(divide="ignore", invalid="ignore"):
        ipue = np.where(it_kw > 0, facility_kw / it_kw, np.nan)
    return PowerCurves(
        at_s=edges[:-1],
        it_kw=it_kw,
        facility_kw=facility_kw,
        ipue=ipue,
        price_yuan_per_kwh=price_yuan_per_kwh(log.fleet, edges[:-1]),
        forecast_kw=_forecast_kw(log, edges[:-1]),
        dry_bulb_c=_dry_bulb(log.meters, edges),
    )


def _dry_bulb(meters: MeterColumns, edges: I64) -> F64:
    """(B,) mean of what sensors read in windows that start in the bin."""
    into = np.searchsorted(edges, meters.from_s, side="right") - 1
    fits = (into >= 0) & (into < edges.size - 1) & ~np.isnan(meters.dry_bulb_c)
    count = np.bincount(into[fits], minlength=edges.size - 1)
    total = np.bincount(into[fits], weights=meters.dry_bulb_c[fits], minlength=edges.size - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# ------------------------------------------------------------------------------------------------ forecasts


def _forecast_kw(log: DayLog, at_s: I64) -> F64:
    """(S, B) what the newest plan at each instant promises for it.

    Slots are the plan's `slot_start_s` and `slot_hours`, or equal parts of its horizon when it names none; a plan
    that was cut off promises nothing and leaves the one before in force.
    """
    out = np.full((len(log.fleet.sites), at_s.size), np.nan)
    plans = [e for e in log.by_kind[EventKind.PLAN_COMMITTED] if e.body.get("forecast_facility_kw")]
    if not plans:
        return out
    newest = np.searchsorted(np.array([p.at_s for p in plans]), at_s, side="right") - 1
    for p in np.unique(newest[newest >= 0]).tolist():
        body = plans[p].body
        mine = newest == p
        for site_id, forecast in body["forecast_facility_kw"].items():
            slots = np.array(forecast, np.float64)
            edges = _slot_edges_s(body, slots.size)
            slot = np.searchsorted(edges, at_s[mine], side="right") - 1
            known = (slot >= 0) & (slot < slots.size)
            values = np.full(slot.size, np.nan)
            values[known] = slots[slot[known]]
            out[log.site_index[site_id], mine] = values
    return out


def _slot_edges_s(body: Mapping[str, Any], slot_count: int) -> F64:
    """(slots + 1,) instants at which the plan's slots begin, and the end of the last."""
    starts = body.get("slot_start_s")
    if starts:
        return np.array([*starts, starts[-1] + body["slot_hours"][-1] * SECONDS_PER_HOUR], np.float64)
    return np.linspace(float(body["at_s"]), float(body["at_s"] + body["horizon_s"]), slot_count + 1)


def forecast_errors(log: DayLog, power: PowerCurves) -> dict[str, float]:
    """Site id → Σ|forecast − measured| / Σ measured facility power, where a plan had spoken."""
    said = ~np.isnan(power.forecast_kw)
    measured = np.where(said, power.facility_kw, 0.0).sum(axis=1)
    missed = np.where(said, np.abs(np.nan_to_num(power.forecast_kw) - power.facility_kw), 0.0).sum(axis=1)
    return {
        site_id: float(missed[i] / measured[i]) for site_id, i in log.site_index.items() if measured[i] > 0
    }


def learned_errors(log: DayLog, window: DayWindow) -> LearnedError:
    """Errors of the learned site models as the service published them, absolute."""
    events = [
        e for e in log.by_kind[EventKind.SITE_MODEL_LEARNED] if window.start_s <= e.at_s <= window.day_end_s
    ]
    at_s = np.array([e.at_s for e in events], np.int64)
    error = np.array(
        [[e.body["error_frac"].get(s, np.nan) for s in log.site_index] for e in events], np.float64
    ).reshape(len(events), len(log.site_index))
    error = np.abs(error)
    settled: list[int | None] = []
    for column in error.T:
        above = np.flatnonzero(~(column < FORECAST_GOAL_FRAC))
        first = 0 if above.size == 0 else int(above[-1]) + 1
        settled.append(int(at_s[first]) if first < at_s.size else None)
    return LearnedError(at_s, error, tuple(settled))


# ---------------------------------------------------------------------------------------------------- sites


def effective_caps(site: Site, policy: Policy) -> PueCap:
    """Caps in force at a site: its own, overridden by the policy for fleet, class, or the site itself."""
    return caps_in_force(site, policy)


def site_table(
    log: DayLog,
    window: DayWindow,
    released: Mapping[str, float],
    breaches: Sequence[Breach],
    outages: Sequence[Outage],
    latency: LatencyMeasured | None,
) -> tuple[SiteDay, ...]:
    """One row per site, tightest cap first."""
    it, useful, facility, cost, carbon = _energy_account(log, window.start_s, window.day_end_s)
    placed = _placed_per_site(log, window)
    predicted = _predicted_rtt_p99(log, window)
    rows = []
    for i, site in enumerate(log.fleet.sites):
        caps = effective_caps(site, log.policy)
        before = _balance_kwh(
            caps, site.ledger_opening.it_energy_kwh, site.ledger_opening.facility_energy_kwh
        )
        day_kwh = _balance_kwh(caps, float(it[i]), float(facility[i]))
        mine = [b for b in breaches if b.site_id == site.site_id]
        measured = latency.site_p99_ms.get(site.site_id) if latency is not None else None
        peaks = log.meters.peak_kw[
            (log.meters.site == i)
            & (log.meters.from_s >= window.start_s)
            & (log.meters.from_s < window.day_end_s)
        ]
        rows.append(
            SiteDay(
                site_id=site.site_id,
                name=site.display_name,
                name_zh=site.display_name_zh,
                kind=site.kind,
                pue_cap_annual=caps.pue_cap_annual,
                ipue_cap_hourly=caps.ipue_cap_hourly,
                placed_count=int(placed[i]),
                it_kwh=float(it[i]),
                facility_kwh=float(facility[i]),
                useful_it_kwh=float(useful[i]),
                cost_yuan=float(cost[i]),
                carbon_kg=float(carbon[i]),
                balance_before_kwh=before,
                balance_after_kwh=None if before is None or day_kwh is None else before + day_kwh,
                released_kwh=released.get(site.site_id),
                hours_over_cap=_hours_over(log, i, caps.ipue_cap_hourly, window),
                breach_debt_kwh=sum(b.debt_kwh for b in mine),
                breach_count=len(mine),
                rtt_p99_ms=measured if measured is not None else predicted[i],
                rtt_is_measured=measured is not None,
                outage_min=sum(o.until_s - o.from_s for o in outages if o.site_id == site.site_id)
                / SECONDS_PER_MINUTE,
                peak_facility_kw=float(peaks.max()) if peaks.size else 0.0,
            )
        )
    return tightest_first(rows)


def _balance_kwh(caps: PueCap, it_kwh: float, facility_kwh: float) -> float | None:
    """B = Π·E_IT − E_fac, the legal ledger."""
    return None if caps.pue_cap_annual is None else caps.pue_cap_annual * it_kwh - facility_kwh


def _hours_over(log: DayLog, site: int, cap: float | None, window: DayWindow) -> int:
    """Whole local hours, open throughout, in which E_fac > Π·E_IT."""
    if cap is None:
        return 0
    offset_s = log.fleet.utc_offset_hours * SECONDS_PER_HOUR
    edges = _hour_edges(window.start_s, window.day_end_s, offset_s)
    it = _energy_per_bin(log, log.meters.it_kwh, edges)[site]
    facility = _energy_per_bin(log, log.meters.facility_kwh, edges)[site]
    closed = (log.meters.site == site) & ~log.meters.is_open
    first = np.searchsorted(edges, log.meters.from_s[closed], side="right") - 1
    last = np.searchsorted(edges, log.meters.until_s[closed], side="left") - 1
    was_closed = np.zeros(edges.size - 1, np.bool_)
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        was_closed[max(a, 0) : b + 1] = True
    whole = np.diff(edges) == SECONDS_PER_HOUR
    return int((whole & ~was_closed & (it > 0) & (facility > cap * it * (1 + CAP_TOLERANCE_FRAC))).sum())


def ran_within(runs: RunColumns, from_s: int, until_s: int) -> Bool:
    """Placements that ran for some of [from, until)."""
    return (runs.ran_s < until_s) & (np.maximum(runs.ended_s, runs.ran_s + 1) > from_s)


def _placed_per_site(log: DayLog, window: DayWindow) -> I64:
    runs = log.runs
    ran = ran_within(runs, window.start_s, window.day_end_s)
    pairs = np.unique(runs.site[ran] * max(len(log.workloads.names), 1) + runs.workload[ran])
    return np.bincount(pairs // max(len(log.workloads.names), 1), minlength=len(log.fleet.sites))


def _predicted_rtt_p99(log: DayLog, window: DayWindow) -> list[float | None]:
    """(S,) RTT that the placer had predicted for what ran at each site, 99 % quantile; None without one."""
    runs = log.runs
    ran = ran_within(runs, window.start_s, window.day_end_s) & (runs.rtt_p99_ms > 0)
    values = [runs.rtt_p99_ms[ran & (runs.site == s)] for s in range(len(log.fleet.sites))]
    return [float(np.quantile(v, 0.99)) if v.size else None for v in values]


def seasonal_release(fleet: Fleet, policy: Policy, window: DayWindow) -> dict[str, float]:
    """β_H of the day per site with an annual cap, by the service's own seasonal rule from the opening balance.

    What any policy's day may take is a matter of city and season alone: no plan that it makes has a say in it.
    """
    starts_s = np.arange(window.start_s, window.day_end_s, SECONDS_PER_HOUR, dtype=np.int64)
    hours = np.diff(np.append(starts_s, window.day_end_s)) / SECONDS_PER_HOUR
    out = {}
    for site in fleet.sites:
        caps = effective_caps(site, policy)
        opening = site.ledger_opening
        balance = _balance_kwh(caps, opening.it_energy_kwh, opening.facility_energy_kwh)
        if balance is not None:
            capped = site.model_copy(update={"caps": caps})
            out[site.site_id] = released_kwh(capped, balance, window.start_s, starts_s, hours)
    return out


def breaches_of(log: DayLog, window: DayWindow) -> tuple[Breach, ...]:
    """`cap.breached` events whose period touches the day."""
    return tuple(
        Breach(
            site_id=e.subject.removeprefix("sites/"),
            from_s=e.body["from_s"],
            until_s=e.body["until_s"],
            cause=e.body["cause"],
            debt_kwh=e.body["debt_kwh"],
            ipue=e.body.get("ipue"),
        )
        for e in log.by_kind[EventKind.CAP_BREACHED]
        if e.body["from_s"] < window.day_end_s and e.body["until_s"] > window.start_s
    )


def outages_of(log: DayLog, window: DayWindow) -> tuple[Outage, ...]:
    """Down spells within the day, in order of site and time."""
    spells: list[Outage] = []
    open_at: dict[str, Event] = {}
    changes = sorted(
        log.by_kind[EventKind.SITE_DOWN] + log.by_kind[EventKind.SITE_UP], key=lambda e: e.revision
    )
    for event in changes:
        if event.kind is EventKind.SITE_DOWN:
            open_at.setdefault(event.subject, event)
        elif event.subject in open_at:
            down = open_at.pop(event.subject)
            spells.append(_spell(down, event.at_s))
    spells += [_spell(down, window.drained_until_s) for down in open_at.values()]
    inside = (o for o in spells if o.from_s < window.day_end_s and o.until_s > window.start_s)
    cut = (
        replace(o, from_s=max(o.from_s, window.start_s), until_s=min(o.until_s, window.day_end_s))
        for o in map(partial(_with_losses, log), inside)
    )
    return tuple(sorted(cut, key=lambda o: (o.site_id, o.from_s)))


def _with_losses(log: DayLog, outage: Outage) -> Outage:
    """The outage with what it cost: whatever ran there as it began is lost, and runs again or not."""
    runs = log.runs
    here = runs.site == log.site_index[outage.site_id]
    in_outage = (outage.from_s <= runs.ended_s) & (runs.ended_s <= outage.until_s)
    lost = here & runs.is_lost & (runs.ran_s <= outage.from_s) & in_outage
    again = (runs.ran_s < NEVER_S) & (runs.ended_s > outage.from_s) & ~lost
    restarted = np.isin(runs.replica_key[lost], runs.replica_key[again])
    return replace(outage, lost_count=int(lost.sum()), restarted_count=int(restarted.sum()))


def _spell(down: Event, until_s: int) -> Outage:
    return Outage(down.subject.removeprefix("sites/"), down.at_s, until_s, down.body.get("cause", ""))


# ------------------------------------------------------------------------------------------------ workloads
def _count_at(from_s: I64, until_s: I64, at_s: I64, weight: F64 | None = None) -> F64:
    """(T,) how many intervals [from, until) hold each instant, or the sum of their weights."""
    weight = np.ones(from_s.size) if weight is None else weight

    def upto(edge: I64) -> F64:
        order = np.argsort(edge, kind="stable")
        total = np.concatenate(([0.0], np.cumsum(weight[order])))
        return np.asarray(total[np.searchsorted(edge[order], at_s, side="right")])

    return upto(from_s) - upto(until_s)


def _in_state(states: StateIntervals, at_s: I64, *wanted: WorkloadState) -> F64:
    mine = np.isin(states.state, [STATE_CODE[s] for s in wanted])
    return _count_at(states.from_s[mine], states.until_s[mine], at_s)


def state_counts_at(states: StateIntervals, at_s: int) -> dict[WorkloadState, int]:
    """Workloads per state at one instant."""
    instant = np.array([at_s], np.int64)
    return {s: int(_in_state(states, instant, s)[0]) for s in STATES}


def _samples(window: DayWindow) -> I64:
    return np.arange(window.start_s, window.day_end_s + 1, SAMPLE_S, dtype=np.int64)


def queue_curves(states: StateIntervals, window: DayWindow) -> Series:
    """Pending, planned and running workloads over the day."""
    at_s = _samples(window)
    return Series(
        at_s,
        {
            "pending": _in_state(states, at_s, WorkloadState.PENDING),
            "planned": _in_state(states, at_s, WorkloadState.PLANNED),
            "starting": _in_state(states, at_s, WorkloadState.STARTING),
            "running": _in_state(states, at_s, WorkloadState.RUNNING),
        },
    )


def placed_mask(log: DayLog, until_s: int) -> Bool:
    """(W,) workloads of which every replica was given a node by then."""
    runs = log.runs
    ordered = runs.ordered_s < until_s
    first_of_key = np.unique(runs.replica_key[ordered], return_index=True)[1]
    placed = np.bincount(runs.workload[ordered][first_of_key], minlength=len(log.workloads.names))
    return np.asarray((placed >= log.workloads.replica_count) & (log.workloads.replica_count > 0))


def _all_ran_s(log: DayLog) -> I64:
    """(W,) when the last of a workload's replicas ran for the first time; NEVER_S if one never did."""
    runs, work = log.runs, log.workloads
    first_s = np.full(int(runs.replica_key.max()) + 1 if runs.replica_key.size else 0, NEVER_S, np.int64)
    np.minimum.at(first_s, runs.replica_key, runs.ran_s)
    owner = np.zeros(first_s.size, np.int64)
    owner[runs.replica_key] = runs.workload
    known = np.bincount(owner[first_s < NEVER_S], minlength=len(work.names))
    last_s = np.zeros(len(work.names), np.int64)
    np.maximum.at(last_s, owner, first_s)
    return np.where(known >= work.replica_count, last_s, NEVER_S)


def waits_by_class(log: DayLog, window: DayWindow) -> tuple[ClassWait, ...]:
    """Waiting times per class; work cancelled before it ran counts until it was cancelled."""
    work = log.workloads
    due_s = np.maximum(work.submitted_s, work.not_before_s)
    cancelled = {e.subject: e.at_s for e in log.by_kind[EventKind.WORKLOAD_CANCELLED]}
    left_s = np.array([cancelled.get(name, NEVER_S) for name in work.names], np.int64)
    horizon_s = np.minimum(left_s, window.day_end_s)
    ran_s = _all_ran_s(log)
    waited = (np.minimum(ran_s, horizon_s) - due_s).clip(min=0)
    waits_still = (ran_s > window.day_end_s) & (left_s > window.day_end_s)
    counts = (work.replica_count > 0) & (due_s < window.day_end_s)
    rows = []
    for code, name in enumerate(work.classes):
        mine = counts & (work.class_code == code)
        if mine.any():
            p50, p90 = np.quantile(waited[mine], (0.5, 0.9))
            rows.append(
                ClassWait(name, int(mine.sum()), int((mine & waits_still).sum()), float(p50), float(p90))
            )
    return tuple(rows)


def _delivered_gpu_h(log: DayLog, from_s: int, until_s: int, drained_s: int) -> float:
    """Reference-GPU hours delivered in [from, until).

    The figure of an ended replica is what its site said, spread evenly over its run; one that still runs
    counts its reference GPUs since it ran.
    """
    _, delivered_gpu_s = _delivered_per_run(log, from_s, until_s, drained_s)
    return float(delivered_gpu_s.sum() / SECONDS_PER_HOUR)


def _delivered_per_run(log: DayLog, from_s: int, until_s: int, drained_s: int) -> tuple[I64, F64]:
    """Site and reference-GPU seconds in [from, until) of each run that ran."""
    runs = log.runs
    ran = runs.ran_s < NEVER_S
    begin, end = runs.ran_s[ran], np.minimum(runs.ended_s[ran], drained_s)
    running = runs.ended_s[ran] >= NEVER_S
    length = np.maximum(end - begin, 1)
    total = np.where(
        running, runs.reference_gpu_milli[ran] / MILLI * (end - begin), runs.delivered_gpu_s[ran]
    )
    overlap = (np.minimum(np.maximum(end, begin + 1), until_s) - np.maximum(begin, from_s)).clip(min=0)
    return runs.site[ran], total * overlap / length


def drained_by_site(log: DayLog, window: DayWindow) -> tuple[F64, F64]:
    """(S,) energy cost in yuan and delivered reference-GPU hours of each site, day and drain together."""
    *_, cost_yuan, _ = _energy_account(log, window.start_s, window.drained_until_s)
    site, gpu_s = _delivered_per_run(log, window.start_s, window.drained_until_s, window.drained_until_s)
    return cost_yuan, np.bincount(site, gpu_s, minlength=len(log.fleet.sites)) / SECONDS_PER_HOUR


def totals(log: DayLog, states: StateIntervals, window: DayWindow, until_s: int) -> Totals:
    """Sums from the start of the day until `until_s`."""
    it, _, facility, cost, carbon = _energy_account(log, window.start_s, until_s)
    counts = state_counts_at(states, until_s)
    return Totals(
        it_kwh=float(it.sum()),
        facility_kwh=float(facility.sum()),
        cost_yuan=float(cost.sum()),
        carbon_kg=float(carbon.sum()),
        delivered_gpu_h=_delivered_gpu_h(log, window.start_s, until_s, window.drained_until_s),
        pending_count=counts[WorkloadState.PENDING] + counts[WorkloadState.PLANNED],
        running_count=counts[WorkloadState.RUNNING],
    )


def gpu_allocation(log: DayLog, window: DayWindow) -> Series:
    """GPUs promised to replicas, from the order until the end, by tier."""
    at_s = _samples(window)
    is_edge = np.array([s.kind is SiteKind.EDGE for s in log.fleet.sites])[log.runs.site]
    runs = log.runs
    return Series(
        at_s,
        {
            tier: _count_at(runs.ordered_s[mine], runs.ended_s[mine], at_s, runs.gpu_milli[mine] / MILLI)
            for tier, mine in (("cloud", ~is_edge), ("edge", is_edge))
        },
    )


def gpu_installed(fleet: Fleet) -> dict[str, int]:
    """GPUs per tier."""
    out = {"cloud": 0, "edge": 0}
    for site in fleet.sites:
        out[site.kind.value] += sum(g.gpu_count * g.node_count for g in site.groups)
    return out


def gpu_models_of(log: DayLog, window: DayWindow) -> tuple[GpuModelDay, ...]:
    """Allocation per GPU model, the most numerous first; a replica's model is that of the node it was ordered to."""
    groups = {(s.site_id, g.group_id): g for s in log.fleet.sites for g in s.groups}
    installed: dict[str, int] = {}
    for group in groups.values():
        if group.gpu_count:
            installed[group.gpu_model] = (
                installed.get(group.gpu_model, 0) + group.gpu_count * group.node_count
            )
    at_s, runs = _samples(window), log.runs
    orders = [e.body["command"] for e in log.by_kind[EventKind.REPLICA_START_ORDERED]]
    model = np.array([groups[c["site_id"], c["group_id"]].gpu_model for c in orders], dtype=str)
    rows = []
    for name, count in sorted(installed.items(), key=lambda item: (-item[1], item[0])):
        mine = model == name
        curve = _count_at(runs.ordered_s[mine], runs.ended_s[mine], at_s, runs.gpu_milli[mine] / MILLI)
        rows.append(GpuModelDay(name, count, float(curve.mean()), float(curve.max())))
    return tuple(rows)


# ---------------------------------------------------------------------------------------------------- moves


def moves_by_mode(
    log: DayLog, window: DayWindow, class_names: Mapping[str, tuple[str, str]]
) -> tuple[MoveCount, ...]:
    """Moves of the day in the three modes of the plan, each with the most telling example."""
    by_mode: dict[MoveMode, list[Event]] = {mode: [] for mode in MoveMode}
    for event in log.by_kind[EventKind.REPLICA_MOVED]:
        if window.start_s <= event.at_s < window.day_end_s:
            by_mode[MoveMode(event.body["mode"])].append(event)
    return tuple(
        MoveCount(
            mode=mode,
            count=len(moved),
            cost_yuan=sum(e.body.get("cost_yuan", 0.0) for e in moved),
            gain_yuan=sum(e.body.get("gain_yuan", 0.0) for e in moved),
            example=_move_in_words(log, max(moved, key=_telling), class_names) if moved else "",
            within_site_count=sum(not _is_between_sites(e) for e in moved),
            saved_wait_gpu_h=sum(e.body.get("saved_wait_gpu_h", 0.0) for e in moved),
            saved_lateness_yuan=sum(e.body.get("saved_lateness_yuan", 0.0) for e in moved),
        )
        for mode, moved in by_mode.items()
    )


def _is_between_sites(event: Event) -> bool:
    return bool(event.body["from_site_id"] != event.body["to_site_id"])


def _telling(event: Event) -> tuple[bool, float, int]:
    """A move between sites if there is one; of those the one worth most, of equals the earliest."""
    worth_yuan = event.body.get("gain_yuan", 0.0) + event.body.get("saved_lateness_yuan", 0.0)
    return _is_between_sites(event), worth_yuan, -event.revision


def _move_in_words(log: DayLog, event: Event, class_names: Mapping[str, tuple[str, str]]) -> str:
    body = event.body
    origin, target = log.fleet.site(body["from_site_id"]), log.fleet.site(body["to_site_id"])
    name = body["workload"].split("/")[-1]
    row = log.workloads.row[body["workload"]]
    workload_class = log.workloads.classes[int(log.workloads.class_code[row])]
    what = log.workloads.displays[row] or class_names.get(workload_class, (workload_class, ""))[0]
    who = f"{name} ({what})" if what != name else name
    saved = saved_in_words(
        body.get("gain_yuan", 0.0),
        body.get("saved_wait_gpu_h", 0.0),
        body.get("saved_lateness_yuan", 0.0),
        decimals=2,
    )
    here = origin.display_name or origin.site_id
    way = f"from {here} to {target.display_name or target.site_id}"
    return (
        f"at {clock(log.fleet, event.at_s)} replica {body['replica_index']} of {who} went "
        f"{way if _is_between_sites(event) else f'to another node of {here}'}: "
        f"{body['reason'].replace('_', ' ')}; the move cost ¥{small_amount(body.get('cost_yuan', 0.0))} and "
        f"saves {saved}"
    )


def clock(fleet: Fleet, at_s: float) -> str:
    """Local wall clock of the fleet, HH:MM."""
    offset_s = fleet.utc_offset_hours * SECONDS_PER_HOUR
    minutes = int(at_s + offset_s) // SECONDS_PER_MINUTE
    return f"{minutes // 60 % HOURS_PER_DAY:02d}:{minutes % 60:02d}"


def flows_between(log: DayLog, window: DayWindow) -> Flows:
    """Placements per (zone, site) that serve a zone directly, moves per (site, site)."""
    zones = [z.zone_id for z in log.fleet.zones]
    zone_code = {z: i for i, z in enumerate(zones)}
    touches = np.zeros((len(log.shape_stages), len(zones)), np.int64)
    for code, (shape, stage_id) in enumerate(log.shape_stages):
        for flow in log.shapes[shape].get("flows", ()):
            ends = {flow["source"], flow["target"]}
            if f"stages/{stage_id}" in ends:
                for zone in (e.removeprefix("zones/") for e in ends if e.startswith("zones/")):
                    touches[code, zone_code[zone]] = 1
    runs = log.runs
    ran = ran_within(runs, window.start_s, window.day_end_s)
    pair = runs.shape_stage[ran] * len(log.fleet.sites) + runs.site[ran]
    per_stage = np.bincount(pair, minlength=len(log.shape_stages) * len(log.fleet.sites))
    counts = touches.T @ per_stage.reshape(len(log.shape_stages), len(log.fleet.sites))
    site_ids = list(log.site_index)
    moved: dict[tuple[str, str], int] = defaultdict(int)
    for event in log.by_kind[EventKind.REPLICA_MOVED]:
        if window.start_s <= event.at_s < window.day_end_s and _is_between_sites(event):
            moved[event.body["from_site_id"], event.body["to_site_id"]] += 1
    return Flows(
        zone_to_site=tuple(
            (zones[z], site_ids[s], int(counts[z, s])) for z, s in zip(*np.nonzero(counts), strict=True)
        ),
        site_to_site=tuple((a, b, n) for (a, b), n in sorted(moved.items())),
    )


# ---------------------------------------------------------------------------------------------------- plans


def plan_proofs(log: DayLog, window: DayWindow) -> tuple[PlanProof, ...]:
    """The day's plans with their bounds."""
    return tuple(
        PlanProof(
            plan_id=e.body["plan_id"],
            at_s=e.at_s,
            status=SolveStatus(e.body["status"]),
            bounds=tuple(Bound.model_validate(b) for b in e.body.get("bounds", ())),
            violations=e.body.get("violations", 0),
            unplaced_count=sum(e.body.get("unplaced", {}).values()),
        )
        for e in log.by_kind[EventKind.PLAN_COMMITTED]
        if window.start_s <= e.at_s < window.day_end_s
    )


def cut_offs_of(log: DayLog, window: DayWindow) -> tuple[CutOff, ...]:
    """Solvers that were stopped during the day."""
    return tuple(
        CutOff(e.subject, e.at_s, e.body["status"], e.body["cause"])
        for e in log.by_kind[EventKind.SOLVER_CUT_OFF]
        if window.start_s <= e.at_s < window.day_end_s
    )


def last_pending_by_reason(log: DayLog, window: DayWindow) -> dict[str, int]:
    """Reason → replicas, of the day's last round, most frequent first."""
    rounds = [e for e in log.by_kind[EventKind.ROUND_COMMITTED] if e.at_s < window.day_end_s]
    reasons = rounds[-1].body.get("pending_by_reason", {}) if rounds else {}
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
