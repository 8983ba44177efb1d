"""Prove that a scenario can be played before a day is spent on it.

    suanli simulate songjiang-s --check          or: python -m cluster_sim.scenarios.check songjiang-s

    1 demand     mean replicas of the day per shape, from the arrivals themselves
    2 hosts      which node groups each shape may use: labels, GPU model and memory, network p99 at planning load
    3 loads      per site: offered (nearest first), reachable (all that may come), needed by its cap per month
    4 together   one linear program per month: all demand served and all caps held at once, at the least energy cost
    5 months     slack to the cap per site and month; energy cost of a blind and of an aware day per month
    6 verdict    a month without price, no host, no room for a gang, a cap that cannot be held, no cap that binds,
                 nothing to gain: exit 1

Loads are shares of rated IT power in the mean of the day. The linear program is fluid (shares of replicas,
no packing) and takes the day's mean plant coefficients, so it judges the scenario, not a planner.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

from cluster_sim.day_words import number, percent
from cluster_sim.scenarios.derive import days_by_month
from cluster_sim.scenarios.loader import ScenarioError, load_scenario
from cluster_sim.scenarios.schema import Scenario, StatelessPattern, TrainingPattern
from cluster_sim.world.arrivals import Arrivals, arrivals
from cluster_sim.world.network import Routes
from solvers.facility import (
    DAYS_IN_MONTH,
    FacilityCoefficients,
    cooling_coefficient,
    facility_coefficients,
    facility_power_kw,
    ipue,
    ledger_release_kwh,
    reference_balance_kwh,
    seasonal_release,
    year_of_cooling_hours,
)
from suanli.model import Fleet, NodeGroup, PriorityClass, Site, Stage, Workload
from suanli.model.units import HOURS_PER_DAY, HOURS_PER_YEAR, MILLI, W_PER_KW

F64 = NDArray[np.float64]
MONTHS = range(1, 13)
CHECK_SEED = 1
UNSERVED_YUAN_PER_KWH = 100.0
DEBT_YUAN_PER_KWH = 5.0
SMALLEST_ROOM_FRAC = 0.01
NEED_STEP = 0.005
SMALLEST_LOAD = 1e-4
ROUNDING_KW = 1e-3
CORE_MILLI = 1000


# ---------------------------------------------------------------------------------------------- demand and hosts
@dataclass(frozen=True, slots=True)
class Shape:
    """Replicas that are alike in every respect that decides where they may run."""

    class_id: str
    priority: PriorityClass
    zone_id: str
    access_id: str
    limit_ms: float
    cpu_milli: float
    memory_mib: float
    gpu_milli: tuple[tuple[str, int], ...]
    gpu_memory_mib: int
    utilization_frac: float
    require_any: tuple[tuple[tuple[str, str], ...], ...]
    data_site: str
    mbps: float


@dataclass(frozen=True, slots=True)
class Host:
    """A node group of a site for one shape: share of a node, watts per replica."""

    site: int
    group: int
    node_frac: float
    watts: float


@dataclass(slots=True)
class SiteLoad:
    """One row of the check."""

    site_id: str
    cap: float | None
    may_close: bool
    rated_kw: float
    offered: float = 0.0
    blind: float = 0.0
    reachable: float = 0.0
    needed: dict[int, float | None] = field(default_factory=dict)
    closed_holds: dict[int, bool] = field(default_factory=dict)
    aware: float = 0.0

    def slack(self, month: int) -> float | None:
        """Reachable minus needed load; None without a cap; minus infinity when no load meets the cap."""
        if self.cap is None:
            return None
        needed = self.needed[month]
        return -np.inf if needed is None else self.reachable - needed

    def is_holdable(self, month: int) -> bool:
        """Some load that can come meets the cap, or the empty, closed site does."""
        slack = self.slack(month)
        return slack is None or slack >= 0 or (self.may_close and self.closed_holds[month])

    def binds(self, month: int) -> bool:
        """Left to itself (nearest first, or spread evenly) the open site would break its cap."""
        if self.cap is None:
            return False
        needed = self.needed[month]
        loads = [load for load in (self.offered, self.blind) if load > SMALLEST_LOAD or not self.may_close]
        return any(needed is None or load < needed for load in loads)


@dataclass(slots=True)
class Verdict:
    """What the check found."""

    scenario_id: str
    month: int
    sites: list[SiteLoad]
    hosts_by_class: dict[str, tuple[int, int]]
    largest_gang: tuple[int, str]
    blind_yuan: float
    aware_yuan: float
    problems: list[str]
    unplayable: list[str] = field(default_factory=list)
    """Those of the problems that prove the played day impossible; the rest leave it little to show, or break in another
    month."""
    yuan_by_month: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Month → energy cost of a (blind, aware) day, for the months that were asked for."""

    @property
    def room_frac(self) -> float:
        """Share of the blind plan's energy cost that an aware one can save."""
        return 1 - self.aware_yuan / self.blind_yuan if self.blind_yuan else 0.0


def mean_demand(scenario: Scenario, day: Arrivals) -> dict[Shape, float]:
    """Mean replicas over the day per shape, as if everything started when it may.

    Stateless services of all sizes fold into replicas of one core.
    """
    demand: dict[Shape, float] = defaultdict(float)
    cancelled = {name: at for at, name in day.cancellations}
    for at_s, workload in day.items:
        for stage in workload.stages:
            if stage.shared_with is None:
                shape, per_replica = _shape(scenario, workload, stage)
                demand[shape] += (
                    stage.replicas * per_replica * _day_share(scenario, day, workload, stage, at_s, cancelled)
                )
    return dict(demand)


def _day_share(
    scenario: Scenario, day: Arrivals, workload: Workload, stage: Stage, at_s: int, cancelled: dict[str, int]
) -> float:
    """Share of the day during which the stage runs."""
    start_s = max(at_s, int(workload.not_before_at.timestamp()) if workload.not_before_at else at_s)
    fate = day.fates.get(workload.name)
    ends = [scenario.end_s]
    if not stage.is_service and fate is not None:
        ends.append(start_s + fate.work_s[stage.stage_id])
        if fate.fails_after_s is not None:
            ends.append(start_s + fate.fails_after_s)
    if workload.name in cancelled:
        ends.append(cancelled[workload.name])
    return max(0, min(ends) - start_s) / (scenario.end_s - scenario.start_s)


def _shape(scenario: Scenario, workload: Workload, stage: Stage) -> tuple[Shape, float]:
    flows = [f for f in workload.flows if f"stages/{stage.stage_id}" in (f.source, f.target)]
    zone_flows = [(f, e) for f in flows for e in (f.source, f.target) if e.startswith("zones/")]
    limits = [f.rtt_p99_max_ms for f, _ in zone_flows if f.rtt_p99_max_ms is not None]
    data_sites = [
        scenario.datasets.rows[d].sites[0] for d in stage.dataset_ids if d in scenario.datasets.rows
    ]
    fold = stage.cpu_milli / CORE_MILLI if workload.workload_class == "W15" else 1.0
    shape = Shape(
        class_id=workload.workload_class,
        priority=workload.priority_class,
        zone_id=zone_flows[0][1].removeprefix("zones/") if zone_flows else "",
        access_id=zone_flows[0][0].access_id if zone_flows else "",
        limit_ms=min(limits, default=np.inf),
        cpu_milli=stage.cpu_milli / fold,
        memory_mib=3072.0 if fold != 1.0 or workload.workload_class == "W15" else stage.memory_mib,
        gpu_milli=tuple(stage.gpu_milli.items()),
        gpu_memory_mib=stage.gpu_memory_mib,
        utilization_frac=stage.utilization_frac,
        require_any=tuple(tuple(sorted(labels.items())) for labels in stage.require_any),
        data_site=data_sites[0] if data_sites else "",
        mbps=sum(f.mbps for f, _ in zone_flows),
    )
    return shape, fold


class Hosts:
    """Which groups of which sites each shape may use."""

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        self.fleet = fleet
        self.routes = Routes(fleet)
        load = np.full(len(fleet.network.links), fleet.network.planning_load_frac)
        self._rtt_ms = self.routes.rtt_ms(load)
        self._access = {a.access_id: a for a in fleet.network.access}
        self._zones = {z.zone_id: z for z in fleet.zones}

    def of(self, shape: Shape) -> list[Host]:
        """All hosts of the shape, nearest site first."""
        hosts = [
            Host(i, g, node_frac(group, need, shape), replica_watts(group, need, shape))
            for i, site in enumerate(self.fleet.sites)
            if allows(site, shape) and self.rtt_p99_ms(shape, site) <= shape.limit_ms
            for g, group in enumerate(site.groups)
            if (need := gpu_need(group, shape)) is not None and fits(group, need, shape)
        ]
        return sorted(
            hosts, key=lambda h: (self.rtt_p99_ms(shape, self.fleet.sites[h.site]), h.site, h.group)
        )

    def rtt_p99_ms(self, shape: Shape, site: Site) -> float:
        """p99 RTT from the shape's zone at planning load, slowest access of the mix; 0 without a zone."""
        if not shape.zone_id:
            return 0.0
        zone = self._zones[shape.zone_id]
        route_ms = float(self._rtt_ms[self.routes.index[zone.hub_id], self.routes.index[site.site_id]])
        profiles = [self._access[a] for a in ([shape.access_id] if shape.access_id else zone.access_mix)]
        hairpin_ms = 0.0 if site.has_upf else self.fleet.network.hairpin_p99_ms
        return max(p.rtt_p99_ms + (hairpin_ms if p.via_upf else 0.0) for p in profiles) + route_ms


def allows(site: Site, shape: Shape) -> bool:
    """All labels of one alternative match."""
    return not shape.require_any or any(
        all(site.labels.get(k) == v for k, v in alt) for alt in shape.require_any
    )


def gpu_need(group: NodeGroup, shape: Shape) -> int | None:
    """Milli-GPUs of one replica in that group; None when its model is not allowed or too small."""
    if not shape.gpu_milli:
        return 0
    need = dict(shape.gpu_milli).get(group.gpu_model)
    return None if need is None or group.gpu_memory_mib < shape.gpu_memory_mib else need


def fits(group: NodeGroup, gpu_milli: int, shape: Shape) -> bool:
    """One replica fits an empty node."""
    return (
        shape.cpu_milli <= group.cpu_milli
        and shape.memory_mib <= group.memory_mib
        and gpu_milli <= group.gpu_count * MILLI
    )


def node_frac(group: NodeGroup, gpu_milli: int, shape: Shape) -> float:
    """Dominant share of a node that one replica takes."""
    gpu_frac = gpu_milli / (group.gpu_count * MILLI) if group.gpu_count else 0.0
    return max(shape.cpu_milli / group.cpu_milli, shape.memory_mib / group.memory_mib, gpu_frac)


def replica_watts(group: NodeGroup, gpu_milli: int, shape: Shape) -> float:
    """Idle of the share of the node it takes, and what it draws by working."""
    working = group.gpu_dynamic_w * gpu_milli / MILLI + group.core_dynamic_w * shape.cpu_milli / MILLI
    return node_frac(group, gpu_milli, shape) * group.idle_w + shape.utilization_frac * working


# ---------------------------------------------------------------------------------------------- loads
def fill_nearest(
    shapes: Sequence[tuple[Shape, float, list[Host]]], fleet: Fleet, home: dict[str, list[str]]
) -> F64:
    """Mean IT watts per site when all go to the nearest host with room (home sites of the class first)."""
    free = [[float(g.node_count) for g in s.groups] for s in fleet.sites]
    watts = np.zeros(len(fleet.sites))
    for shape, count, hosts in sorted(
        shapes, key=lambda row: (row[0].priority.rank, row[0].class_id, row[0].zone_id)
    ):
        preferred = set(home.get(shape.class_id, [shape.data_site]))
        at_home = [h for h in hosts if fleet.sites[h.site].site_id in preferred]
        left = _spread(at_home, count, free, watts)
        for host in hosts:
            left = _spread([host], left, free, watts)
    return watts


def _spread(hosts: Sequence[Host], count: float, free: list[list[float]], watts: F64) -> float:
    """Place `count` replicas over hosts in proportion to their room; returns what finds none."""
    room = [free[h.site][h.group] / h.node_frac for h in hosts]
    placed = min(count, sum(room))
    for host, share in zip(hosts, room, strict=True):
        replicas = placed * share / sum(room) if placed > 0 else 0.0
        free[host.site][host.group] -= replicas * host.node_frac
        watts[host.site] += replicas * host.watts
    return count - placed


def spread_evenly(shapes: Sequence[tuple[Shape, float, list[Host]]], fleet: Fleet) -> F64:
    """Mean IT watts per site when all work spreads over all that may host it, by their size (least loaded)."""
    watts = np.zeros(len(fleet.sites))
    for _, count, hosts in shapes:
        room = np.array([fleet.sites[h.site].groups[h.group].node_count / h.node_frac for h in hosts])
        for host, share in zip(hosts, room / room.sum() if len(hosts) else room, strict=True):
            watts[host.site] += count * share * host.watts
    return watts


def reachable_watts(shapes: Sequence[tuple[Shape, float, list[Host]]], fleet: Fleet) -> F64:
    """Mean IT watts per site if everything that may run there came, best watts per node first, up to its nodes."""
    by_group: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for _, count, hosts in shapes:
        for host in hosts:
            by_group[host.site, host.group].append(
                (host.watts / host.node_frac, host.node_frac * count, host.watts * count)
            )
    watts = np.zeros(len(fleet.sites))
    for (site, group), rows in sorted(by_group.items()):
        nodes = float(fleet.sites[site].groups[group].node_count)
        for _, wanted, all_watts in sorted(rows, reverse=True):
            taken = min(nodes, wanted)
            watts[site] += all_watts * taken / wanted if wanted else 0.0
            nodes -= taken
    return watts


@dataclass(frozen=True, slots=True)
class PlantYear:
    """Linear plant of one site by [month, hour] and the daily release of its ledger by month, per kW of rating."""

    coefficients: FacilityCoefficients
    release: F64

    def month(self, month: int) -> FacilityCoefficients:
        """24 hours of one month."""
        c = self.coefficients
        return FacilityCoefficients(
            *(a[month - 1] for a in (c.fixed_kw, c.off_kw, c.loss_slope, c.loss_square))
        )

    def used_kwh(self, month: int, load: float, cap: float, on: float = 1.0) -> float:
        """What a day at constant load takes from the ledger, per kW of rating."""
        return float((facility_power_kw(self.month(month), 1.0, load, on) - cap * load).sum())

    def needed_load(self, month: int, cap: float) -> float | None:
        """Smallest constant load at which the day keeps within its release; None if there is none."""
        for load in np.arange(NEED_STEP, 1 + NEED_STEP, NEED_STEP):
            if self.used_kwh(month, float(load), cap) <= self.release[month - 1]:
                return float(load)
        return None


def plant_year(scenario: Scenario, site: Site) -> PlantYear:
    """Plant under the monthly normals (the played month with its failures); the ledger kept to its reference."""
    f, (dry, wet, _) = site.facility, year_of_cooling_hours()
    k = cooling_coefficient(
        f.cooling.value,
        dry,
        wet,
        factor=f.cooling_factor,
        constant=f.cooling_constant,
        liquid_share=f.liquid_share,
    )
    c = facility_coefficients(1.0, f.e0, f.e1, f.e2, f.lighting, f.cooling_fixed, k, f.off_share)
    k_played = k.copy()
    k_played[scenario.month - 1] *= degradation_by_hour(scenario, site.site_id)
    played = facility_coefficients(1.0, f.e0, f.e1, f.e2, f.lighting, f.cooling_fixed, k_played, f.off_share)
    cap, load = site.caps.pue_cap_annual, site.caps.reference_load_frac
    if cap is None:
        return PlantYear(played, np.full(12, np.inf))
    days = np.array(DAYS_IN_MONTH, dtype=np.float64)[:, None] * np.ones((12, HOURS_PER_DAY))
    reference = ipue(c, 1.0, load)
    phi = seasonal_release(reference, load, days)
    release = []
    for month in MONTHS:
        past = days.copy()
        past[month - 1 :] = 0
        if month == scenario.month:
            past = np.array([days_by_month(scenario).get(m, 0) for m in MONTHS], dtype=np.float64)[
                :, None
            ] * np.ones_like(days)
        balance = float(((cap - reference) * load * past).sum())
        release.append(
            ledger_release_kwh(
                cap,
                phi[month - 1],
                load,
                1.0,
                balance_kwh=balance,
                reference_balance_kwh=reference_balance_kwh(cap, phi, load, past),
                horizon_hours=HOURS_PER_DAY,
                hours_left_in_year=HOURS_PER_YEAR - float(past.sum()),
            )
        )
    return PlantYear(played, np.array(release))


def degradation_by_hour(scenario: Scenario, site_id: str) -> F64:
    """Factor on the cooling power in the 24 hours of the played day."""
    factor = np.ones(HOURS_PER_DAY)
    for span in scenario.failures.cooling_degradations:
        if span.site == site_id:
            hours = [scenario.local_hour(scenario.clock_s(clock)) for clock in (span.from_, span.until)]
            factor[int(hours[0]) : int(np.ceil(hours[1]))] *= span.cooling_factor
    return factor


# ---------------------------------------------------------------------------------------------- together
@dataclass(frozen=True, slots=True)
class Together:
    """Fluid optimum of one month: cost of a day, IT power and debt per site, work not served per priority."""

    energy_yuan: float
    it_kw: F64
    debt_kwh: F64
    unserved_kw: dict[PriorityClass, float]


def serve_all(
    fleet: Fleet, shapes: Sequence[tuple[Shape, float, list[Host]]], years: Sequence[PlantYear], month: int
) -> Together:
    """Serve all mean demand and hold all ledgers at the least energy cost of a day in that month.

    Variables: replicas per (shape, host), unserved replicas, on per site (fluid), debt per site. Square losses are
    linearised at half load.
    """
    sites = len(fleet.sites)
    columns = [(i, h) for i, (_, _, hosts) in enumerate(shapes) for h in hosts]
    n, m = len(columns), len(shapes)
    rated = np.array([s.rated_it_kw for s in fleet.sites])
    hours = float(HOURS_PER_DAY)
    plants = [y.month(month) for y in years]
    slope = np.array([1 + float((p.loss_slope + p.loss_square / 2).mean()) for p in plants])
    fixed = rated * np.array([float((p.fixed_kw - p.off_kw).mean()) for p in plants])
    off = rated * np.array([float(p.off_kw.mean()) for p in plants])
    price = np.array([mean_price(fleet, s, month) for s in fleet.sites])
    kw = np.array([h.watts / W_PER_KW for _, h in columns])
    at = np.array([h.site for _, h in columns], dtype=np.int64)
    lost_kw = np.array([max((h.watts for h in hosts), default=1.0) / W_PER_KW for _, _, hosts in shapes])
    cost = np.concatenate(
        [
            hours * price[at] * slope[at] * kw,
            hours * UNSERVED_YUAN_PER_KWH * lost_kw,
            hours * price * fixed,
            np.full(sites, DEBT_YUAN_PER_KWH),
        ]
    )
    rows, cols, values, limit = _upper_rows(
        fleet, shapes, columns, kw, at, rated, years, month, slope, fixed, off
    )
    a_ub: Any = coo_array((values, (rows, cols)), shape=(len(limit), n + m + 2 * sites)).tocsr()
    eq_rows = np.concatenate([[i for i, _ in columns], np.arange(m)]).astype(np.int64)
    a_eq: Any = coo_array((np.ones(n + m), (eq_rows, np.arange(n + m))), shape=(m, n + m + 2 * sites)).tocsr()
    lower_on = np.array([0.0 if s.may_close else 1.0 for s in fleet.sites])
    bounds = [(0, None)] * (n + m) + [(low, 1) for low in lower_on] + [(0, None)] * sites
    result: Any = linprog(
        cost,
        A_ub=a_ub,
        b_ub=np.array(limit),
        A_eq=a_eq,
        b_eq=np.array([c for _, c, _ in shapes]),
        bounds=bounds,
        method="highs",
    )
    if result.status != 0:
        raise RuntimeError(f"month {month}: {result.message}")
    x = np.asarray(result.x, dtype=np.float64)
    it_kw = np.bincount(at, weights=kw * x[:n], minlength=sites).astype(np.float64)
    unserved: dict[PriorityClass, float] = defaultdict(float)
    for (shape, _, _), lost, watts_kw in zip(shapes, x[n : n + m], lost_kw, strict=True):
        unserved[shape.priority] += float(lost * watts_kw)
    on = x[n + m : n + m + sites]
    energy = hours * float((price * (slope * it_kw + fixed * on + off)).sum())
    return Together(energy, it_kw, x[n + m + sites :], dict(unserved))


def _upper_rows(
    fleet: Fleet,
    shapes: Sequence[tuple[Shape, float, list[Host]]],
    columns: Sequence[tuple[int, Host]],
    kw: F64,
    at: NDArray[np.int64],
    rated: F64,
    years: Sequence[PlantYear],
    month: int,
    slope: F64,
    fixed: F64,
    off: F64,
) -> tuple[list[int], list[int], list[float], list[float]]:
    """≤ rows: capacity of each group per resource, load only where a site is on, ledgers with priced debt."""
    n, m, sites = len(columns), len(shapes), len(fleet.sites)
    rows: list[int] = []
    cols: list[int] = []
    values: list[float] = []
    limit: list[float] = []

    def add(entries: Iterable[tuple[int, float]], at_most: float) -> None:
        for column, value in entries:
            rows.append(len(limit))
            cols.append(column)
            values.append(value)
        limit.append(at_most)

    by_group: dict[tuple[int, int], list[int]] = defaultdict(list)
    for c, (_, host) in enumerate(columns):
        by_group[host.site, host.group].append(c)
    for (site, g), members in sorted(by_group.items()):
        group = fleet.sites[site].groups[g]
        shape_of = [shapes[columns[c][0]][0] for c in members]
        add(
            ((c, s.cpu_milli) for c, s in zip(members, shape_of, strict=True)),
            group.node_count * group.cpu_milli,
        )
        add(
            ((c, s.memory_mib) for c, s in zip(members, shape_of, strict=True)),
            group.node_count * group.memory_mib,
        )
        if group.gpu_count:
            needs = ((c, float(gpu_need(group, s) or 0)) for c, s in zip(members, shape_of, strict=True))
            add(needs, group.node_count * group.gpu_count * MILLI)
    for s in range(sites):
        here = np.flatnonzero(at == s)
        add([*((int(c), kw[c]) for c in here), (n + m + s, -rated[s])], 0.0)
        cap = fleet.sites[s].caps.pue_cap_annual
        if cap is not None:
            release = years[s].release[month - 1] * rated[s] - HOURS_PER_DAY * off[s]
            load = ((int(c), HOURS_PER_DAY * (slope[s] - cap) * kw[c]) for c in here)
            add([*load, (n + m + s, HOURS_PER_DAY * fixed[s]), (n + m + sites + s, -1.0)], release)
    return rows, cols, values, limit


def blind_yuan(
    fleet: Fleet, shapes: Sequence[tuple[Shape, float, list[Host]]], years: Sequence[PlantYear], month: int
) -> float:
    """Energy cost of a day when work spreads over all that may host it and every site stays on."""
    watts = spread_evenly(shapes, fleet)
    return sum(
        mean_price(fleet, s, month)
        * float((facility_power_kw(y.month(month), 1.0, w / W_PER_KW / s.rated_it_kw)).sum())
        * s.rated_it_kw
        for s, y, w in zip(fleet.sites, years, watts, strict=True)
    )


def mean_price(fleet: Fleet, site: Site, month: int) -> float:
    """Mean price of the site's tariff over the day, mark-up included, yuan/kWh."""
    tariff = next(t for t in fleet.tariffs if t.tariff_id == site.tariff_id)
    prices = tariff.price_yuan_per_kwh_by_month[month]
    return sum(prices) / len(prices) * (1 + site.price_markup_frac)


# ---------------------------------------------------------------------------------------------- verdict
def check(scenario: Scenario, months: Sequence[int] = tuple(MONTHS)) -> Verdict:
    """Everything the module promises; `problems` is empty for a playable scenario."""
    fleet = scenario.fleet(exact=True)
    priceless = _tariff_problems(fleet)
    if priceless:
        return Verdict(scenario.scenario_id, scenario.month, [], {}, (0, ""), 0.0, 0.0, priceless, priceless)
    hosts = Hosts(scenario, fleet)
    day = arrivals(scenario, CHECK_SEED)
    shapes = [
        (shape, count, hosts.of(shape)) for shape, count in mean_demand(scenario, day).items() if count > 0
    ]
    years = [plant_year(scenario, site) for site in fleet.sites]
    sites = _site_loads(scenario, fleet, shapes, years)
    problems = [
        f"{s.class_id} from {s.zone_id or 'anywhere'}: no site may host it" for s, _, h in shapes if not h
    ]
    problems += _gang_problems(fleet, day)
    played = scenario.month
    unplayable = [*problems]
    together = {month: serve_all(fleet, shapes, years, month) for month in sorted({*months, played})}
    for row, kw in zip(sites, together[played].it_kw, strict=True):
        row.aware = float(kw) / row.rated_kw
    unplayable += _cap_problems(sites, {played: together[played]}, (played,))
    problems += [*_cap_problems(sites, together, MONTHS), *_nothing_binds(sites, played)]
    by_month = {m: (blind_yuan(fleet, shapes, years, m), plan.energy_yuan) for m, plan in together.items()}
    verdict = Verdict(
        scenario.scenario_id,
        played,
        sites,
        _hosts_by_class(shapes),
        _largest_gang(day),
        *by_month[played],
        problems,
        unplayable,
        by_month,
    )
    if verdict.room_frac < SMALLEST_ROOM_FRAC:
        problems.append(
            f"an aware plan saves only {verdict.room_frac:.1%} against a blind one: nothing to show"
        )
    return verdict


def _tariff_problems(fleet: Fleet) -> list[str]:
    """Every tariff that a site uses has a price in every month: ledgers are judged over the whole year."""
    used = {site.tariff_id for site in fleet.sites}
    return [
        f"tariff {tariff.tariff_id} has no price in month {month}: its seasons must cover all twelve"
        for tariff in fleet.tariffs
        if tariff.tariff_id in used
        for month in MONTHS
        if month not in tariff.price_yuan_per_kwh_by_month
    ]


def _site_loads(
    scenario: Scenario,
    fleet: Fleet,
    shapes: Sequence[tuple[Shape, float, list[Host]]],
    years: Sequence[PlantYear],
) -> list[SiteLoad]:
    offered = fill_nearest(shapes, fleet, _homes(scenario))
    blind, reachable = spread_evenly(shapes, fleet), reachable_watts(shapes, fleet)
    rows = []
    for site, year, near_w, blind_w, all_w in zip(fleet.sites, years, offered, blind, reachable, strict=True):
        cap, rated_w = site.caps.pue_cap_annual, site.rated_it_kw * W_PER_KW
        row = SiteLoad(
            site.site_id,
            cap,
            site.may_close,
            site.rated_it_kw,
            offered=near_w / rated_w,
            blind=blind_w / rated_w,
            reachable=min(1.0, all_w / rated_w),
        )
        if cap is not None:
            row.needed = {m: year.needed_load(m, cap) for m in MONTHS}
            row.closed_holds = {m: year.used_kwh(m, 0.0, cap, on=0.0) <= year.release[m - 1] for m in MONTHS}
        rows.append(row)
    return rows


def _homes(scenario: Scenario) -> dict[str, list[str]]:
    """Sites where a class runs before it looks elsewhere: those its load was sized for."""
    return {
        class_id: list(spec.pattern.load_sites)
        for class_id, spec in scenario.classes.rows.items()
        if isinstance(spec.pattern, TrainingPattern | StatelessPattern)
    }


def _hosts_by_class(shapes: Sequence[tuple[Shape, float, list[Host]]]) -> dict[str, tuple[int, int]]:
    """Fewest and most sites that a shape of the class may use."""
    counts: dict[str, list[int]] = defaultdict(list)
    for shape, _, hosts in shapes:
        counts[shape.class_id].append(len({h.site for h in hosts}))
    return {class_id: (min(c), max(c)) for class_id, c in sorted(counts.items())}


def _gang_problems(fleet: Fleet, day: Arrivals) -> list[str]:
    """Gangs that no site could hold even if it were empty."""
    problems = []
    for shape, example in sorted(
        {_gang_key(s): w.name for _, w in day.items for s in w.stages if s.gang}.items()
    ):
        replicas, cpu, memory, needs = shape
        if not any(replicas <= _seats(site, cpu, memory, dict(needs)) for site in fleet.sites):
            problems.append(f"{example}: a gang of {replicas} replicas of {dict(needs)} fits no site")
    return problems


def _gang_key(stage: Stage) -> tuple[int, int, int, tuple[tuple[str, int], ...]]:
    return stage.replicas, stage.cpu_milli, stage.memory_mib, tuple(stage.gpu_milli.items())


def _seats(site: Site, cpu_milli: int, memory_mib: int, needs: dict[str, int]) -> int:
    """Replicas that an empty site holds."""
    return sum(
        g.node_count
        * min(
            g.cpu_milli // max(cpu_milli, 1),
            g.memory_mib // max(memory_mib, 1),
            g.gpu_count * MILLI // needs[g.gpu_model],
        )
        for g in site.groups
        if g.gpu_model in needs
    )


def _largest_gang(day: Arrivals) -> tuple[int, str]:
    gangs = [
        (s.replicas * s.reference_gpu_milli // MILLI, w.name)
        for _, w in day.items
        for s in w.stages
        if s.gang
    ]
    return max(gangs, default=(0, ""))


def _cap_problems(
    sites: Sequence[SiteLoad], together: dict[int, Together], months: Iterable[int]
) -> list[str]:
    problems = [
        f"{row.site_id}: cap {row.cap:g} cannot be held in month {month}: "
        f"needs load {_number(row.needed[month])}, reachable {row.reachable:.2f}"
        for row in sites
        for month in months
        if not row.is_holdable(month)
    ]
    for month, plan in together.items():
        problems += [
            f"{row.site_id}: {debt:.1f} kWh of debt a day in month {month} when all sites hold their caps at once"
            for row, debt in zip(sites, plan.debt_kwh, strict=True)
            if debt > ROUNDING_KW * HOURS_PER_DAY
        ]
        problems += [
            f"month {month}: {kw:.1f} kW of {priority.value} work finds no room"
            for priority, kw in plan.unserved_kw.items()
            if kw > ROUNDING_KW and priority is not PriorityClass.BATCH
        ]
    return problems


def _nothing_binds(sites: Sequence[SiteLoad], played: int) -> list[str]:
    if any(row.binds(played) for row in sites):
        return []
    return [f"no cap binds in month {played}: left to itself every site would hold its own"]


def table(verdict: Verdict, beside: Verdict | None = None) -> str:
    """The check as text within 100 columns (112 with `beside`, which adds the offered load of another scale)."""
    lines = [f"{verdict.scenario_id}: loads are shares of rated IT power, mean of the day"]
    if verdict.sites:
        lines += [*_load_lines(verdict, beside), "", *_month_lines(verdict), ""]
        lines += _wrapped("sites that may host a class: ", _hosts_in_words(verdict))
        lines += [
            f"largest gang: {verdict.largest_gang[0]} GPUs",
            f"energy cost of a day: blind ¥{number(verdict.blind_yuan)}, aware ¥{number(verdict.aware_yuan)}, "
            f"room {percent(verdict.room_frac)}",
        ]
    lines += [f"PROBLEM {p}" for p in verdict.problems] or ["playable"]
    return "\n".join(lines)


def _load_lines(verdict: Verdict, beside: Verdict | None) -> list[str]:
    """Per site: the loads of the day and what the cap needs in the played month."""
    other = {row.site_id: row.offered for row in beside.sites} if beside else {}
    name = f" {'in ' + beside.scenario_id.removeprefix('songjiang-'):>6s}" if beside else ""
    head = f"{'site':15s} {'cap':>5s} {'offered':>8s}{name} {'blind':>6s} {'reach':>6s} {'need':>6s} {'slack':>6s}"
    lines = [f"{head} {'aware':>6s}  note"]
    for row in verdict.sites:
        notes = ["binds"] if row.binds(verdict.month) else []
        notes += ["may close"] if row.may_close else []
        notes += [] if row.is_holdable(verdict.month) else ["NOT HOLDABLE"]
        lines.append(
            f"{row.site_id:15s} {_number(row.cap):>5s} {row.offered:8.2f}"
            + (f" {other.get(row.site_id, 0):6.2f}" if beside else "")
            + f" {row.blind:6.2f} {row.reachable:6.2f} {_number(row.needed.get(verdict.month)):>6s}"
            f" {_number(row.slack(verdict.month)):>6s} {row.aware:6.2f}  {', '.join(notes)}".rstrip()
        )
    return lines


def _month_lines(verdict: Verdict) -> list[str]:
    """Per capped site and month: reachable load minus the load its cap needs; `closed`: held by closing only."""
    capped = [row for row in verdict.sites if row.cap is not None]
    lines = [
        "slack to the cap by month = reachable − needed load (what is offered and reachable is the same in all months)",
        f"{'month':15s} " + " ".join(f"{m:>6d}" for m in MONTHS),
    ]
    for row in capped:
        cells = []
        for month in MONTHS:
            slack = row.slack(month)
            held_open = slack is not None and slack >= 0
            cells.append(_number(slack) if held_open else "closed" if row.is_holdable(month) else "NO")
        lines.append(f"{row.site_id:15s} " + " ".join(f"{c:>6s}" for c in cells))
    if set(verdict.yuan_by_month) >= set(MONTHS):
        room = [1 - aware / blind if blind else 0.0 for blind, aware in _in_months(verdict)]
        lines.append(
            f"{'aware ¥1000/day':15s} " + " ".join(f"{a / 1000:6.1f}" for _, a in _in_months(verdict))
        )
        lines.append(f"{'room to blind':15s} " + " ".join(f"{r:6.1%}" for r in room))
    return lines


def _in_months(verdict: Verdict) -> list[tuple[float, float]]:
    return [verdict.yuan_by_month[m] for m in MONTHS]


def _hosts_in_words(verdict: Verdict) -> list[str]:
    counts = verdict.hosts_by_class.items()
    return [f"{c} {low}" if low == high else f"{c} {low}-{high}" for c, (low, high) in counts]


def _wrapped(head: str, parts: Sequence[str]) -> list[str]:
    return textwrap.wrap(head + ", ".join(parts), 100, subsequent_indent="  ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when the scenario is playable."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_sim.scenarios.check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("scenario", help="shipped scenario or YAML file")
    parser.add_argument(
        "--beside",
        default="",
        help="another scenario whose offered loads are shown beside (default: s and m)",
    )
    arguments = parser.parse_args(argv)
    twin = {"songjiang-s": "songjiang-m", "songjiang-m": "songjiang-s"}.get(arguments.scenario, "")
    beside = arguments.beside or twin
    try:
        verdict = check(load_scenario(arguments.scenario))
        other = check(load_scenario(beside), months=()) if beside else None
    except ScenarioError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(verdict, other))
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
