"""A very large bulk problem in parts: partition the sites, share out the work, solve the parts, reconcile, prove.

`solve_large` reads as the process:

1. partition   sites that serve the same local classes stay together, in parts of about `PART_SITES`
2. shares      one coarse relaxation, parts as sites and alike groups as one, says how much of each class each part gets
3. parts       every part is a `PlacementProblem` of its own and is planned by `solve_bulk`, inline or as Ray tasks
4. reconcile   placements side by side on the whole fleet; what a part could not place goes where prices say, anywhere
5. bound       the parts' duals priced on the whole program: a Lagrangian bound of the undivided problem

Exactness: the plan holds every rule of the whole problem (what parts share is divided between them, spread and floors
hold in each part and so in sum). Approximation: the shares of step 2; the bound counts what they cost.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk import BulkPlan, Clock, counted, solve_bulk
from solvers.bulk_fill import WHOLE, Filling
from solvers.bulk_model import BulkSets, Cuts, build, bulk_sets
from solvers.bulk_relax import BulkLimits, Relaxation, Simplex, lower_bound, relax, side_rows
from solvers.node_fill import Booked, FleetState
from solvers.problem import Flows, Groups, Network, Pairs, Paths, PlacementProblem, Sites

PART_SITES = 50
LOCAL_SITES_FACTOR = 1.5
"""A class whose candidates span at most so many parts' worth of sites is local: its sites should stay together."""
PRICE_BANDS = 4
COARSE_LOAD_FRAC = 0.97
"""Share of its nodes that the coarse relaxation may fill: parts have whole nodes and their own limits."""
A = TypeVar("A")
B = TypeVar("B")


class Runner(Protocol):
    """Where parts are solved."""

    def map(self, function: Callable[[A], B], arguments: Sequence[A]) -> list[B]:
        """function of each argument, in order."""


class InlineRunner:
    """One part after the other, in this process."""

    def map(self, function: Callable[[A], B], arguments: Sequence[A]) -> list[B]:
        """function of each argument, in order."""
        return [function(argument) for argument in arguments]


@dataclass(frozen=True, eq=False)
class Part:
    """A part as a problem, and where its axes lie in the whole."""

    problem: PlacementProblem
    sites: IntArray
    groups: IntArray
    classes: IntArray
    links: IntArray
    pairs: IntArray
    """[K of the part] candidate of the whole (position in `BulkSets.pair`)."""


@dataclass(frozen=True, eq=False)
class PartPlan:
    """What comes back from a part: bookings in its own numbering, and its prices with what their rows stand for."""

    booked: Booked
    group: IntArray
    """[rows] group of each booking's node, and below its number in the group."""
    index: IntArray
    local_pair: IntArray
    """[V of the part] pair of the part behind each candidate of its plan."""
    site_on: FloatArray
    duals: dict[str, tuple[IntArray, FloatArray]]
    """Block of rows → (keys, duals); only rows with a dual."""
    cuts: tuple[Cuts, ...]
    seconds: float
    iterations: int


@dataclass(frozen=True, eq=False)
class LargePlan:
    """The plan of the whole with the figures of its parts."""

    plan: BulkPlan
    part_count: int
    part_seconds: tuple[float, ...]
    """Wall clock of each part's own solve."""


def solve_large(
    problem: PlacementProblem,
    runner: Runner | None = None,
    *,
    limits: BulkLimits | None = None,
    part_sites: int = PART_SITES,
) -> LargePlan:
    """Plan one slot of a very large problem onto nodes. `NotBulk` as `solve_bulk`; `bulk_relax.Unsolved` if the coarse
    relaxation cannot be solved.
    """
    limits, clock = limits or BulkLimits(), Clock()
    with clock.phase("total"):
        with clock.phase("sets"):
            sets = bulk_sets(problem)
        with clock.phase("partition"):
            part_of_site = partition(sets, part_sites)
        with clock.phase("shares"):
            share = shares(sets, part_of_site, limits)
        with clock.phase("split"):
            parts = split(sets, part_of_site, share)
        with clock.phase("parts"):
            plans = (runner or InlineRunner()).map(solve_part, [(part.problem, limits) for part in parts])
        with clock.phase("reconcile"):
            relaxation = joined_relaxation(sets, parts, plans)
            filling = joined_filling(relaxation, parts, plans)
            filling.place_few()
            filling.keep_padding()
        with clock.phase("count"):
            solution = counted(filling)
    plan = BulkPlan(replace(solution, seconds=clock.seconds), filling)
    return LargePlan(plan, len(parts), tuple(p.seconds for p in plans))


# -- 1. partition ------------------------------------------------------------------------------------------------


def partition(sets: BulkSets, part_sites: int) -> IntArray:
    """[S] part of each site: components tied by local classes, cut where too large, gathered where small."""
    sites = sets.problem.site_count
    key = np.unique(sets.pair_class * sites + sets.pair_site)
    c, s = key // sites, key % sites
    reach = np.bincount(c, minlength=len(sets.demand))
    local = reach[c] <= LOCAL_SITES_FACTOR * part_sites
    tied = local[1:] & (c[1:] == c[:-1]) & local[:-1]
    links = coo_array((np.ones(int(tied.sum())), (s[:-1][tied], s[1:][tied])), shape=(sites, sites))
    _, component = connected_components(links, directed=False)
    order = np.argsort(component, kind="stable")
    size = np.bincount(component)
    part, filled, out = 0, 0, np.zeros(sites, dtype=np.int64)
    for members in np.split(order, np.cumsum(size)[:-1]):
        if filled and filled + len(members) > part_sites * 1.2:
            part, filled = part + 1, 0
        for chunk in np.array_split(members, max(1, round(len(members) / part_sites))):
            if filled and filled + len(chunk) > part_sites * 1.2:
                part, filled = part + 1, 0
            out[chunk] = part
            filled += len(chunk)
    return out


# -- 2. shares ---------------------------------------------------------------------------------------------------


def shares(sets: BulkSets, part_of_site: IntArray, limits: BulkLimits) -> IntArray:
    """[C, parts] whole replicas (whole gangs) of each class per part; a class of one part is there altogether."""
    parts = int(part_of_site.max()) + 1
    part_of_pair = part_of_site[sets.pair_site]
    table = np.zeros((len(sets.demand), parts))
    np.add.at(table, (sets.pair_class, part_of_pair), 1.0)
    if parts > 1 and np.any((table > 0).sum(axis=1) > 1):
        band_of_site, part_of_band = bands(sets, part_of_site)
        coarse = coarse_problem(sets, band_of_site)
        relaxation = relax(bulk_sets(coarse), Simplex(limits), trials=0)
        s = relaxation.sets
        table = np.zeros(table.shape)
        np.add.at(table, (s.pair_class, part_of_band[s.pair_site]), relaxation.x)
        short = sets.demand - table.sum(
            axis=1
        )  # what the coarse model could not serve: the parts may still try
        biggest = table.argmax(axis=1)
        reach = np.zeros(table.shape)
        np.add.at(reach, (sets.pair_class, part_of_pair), 1.0)
        biggest = np.where(table.max(axis=1) > 0, biggest, reach.argmax(axis=1))
        table[np.arange(len(table)), biggest] += np.maximum(short, 0.0)
    else:
        table = (table > 0) * sets.demand[:, None]
    return _whole(table, sets.demand, sets.problem.classes.gang_size)


def _whole(table: FloatArray, demand: FloatArray, gang: IntArray) -> IntArray:
    """Rows rounded to whole gangs by largest remainder; each sums to the demand's whole gangs."""
    units = table / gang[:, None]
    base = np.floor(units + WHOLE)
    left = np.floor(demand / gang + WHOLE) - base.sum(axis=1)
    rank = np.argsort(np.argsort(-(units - base), axis=1, kind="stable"), axis=1, kind="stable")
    up = rank < left[:, None]
    return np.asarray((base + up) * gang[:, None], dtype=np.int64)


def bands(sets: BulkSets, part_of_site: IntArray) -> tuple[IntArray, IntArray]:
    """([S] band of each site, [bands] its part): each part's sites in `PRICE_BANDS` by the price of a kWh of IT energy.

    A part is not one price but a supply curve; without bands the cheapest part on average would take all it can hold.
    """
    p = sets.problem
    price = sets.energy_yuan_per_kwh * (1 + p.sites.loss_slope[:, 0])
    order = np.lexsort((price, part_of_site))
    nodes = np.bincount(p.groups.site, weights=sets.nodes, minlength=p.site_count)[order]
    part = part_of_site[order]
    total = np.bincount(part, weights=nodes)
    before = np.cumsum(nodes) - nodes
    before -= before[np.searchsorted(part, part)]
    band = np.minimum(
        (before / np.maximum(total[part], 1e-9) * PRICE_BANDS).astype(np.int64), PRICE_BANDS - 1
    )
    distinct, number = np.unique(part * PRICE_BANDS + band, return_inverse=True)
    out = np.zeros(p.site_count, dtype=np.int64)
    out[order] = number
    return out, distinct // PRICE_BANDS


def coarse_problem(sets: BulkSets, part_of_site: IntArray) -> PlacementProblem:
    """Bands of parts as sites that stay open, groups of one band with the same nodes and GPU model as one group, means
    weighted by nodes. A model for shares only: no bound is taken from it.
    """
    p = sets.problem
    parts = int(part_of_site.max()) + 1
    kinds, kind = np.unique(
        np.column_stack(
            [part_of_site[p.groups.site], p.groups.capacity, p.groups.gpu_memory_mib,
             np.unique(np.array(p.groups.gpu_model), return_inverse=True)[1], p.groups.idle_w.astype(np.int64)]
        ),
        axis=0, return_inverse=True,
    )  # fmt: skip
    kind = np.ravel(kind)
    first = np.array([np.argmax(kind == k) for k in range(len(kinds))])
    nodes = np.bincount(kind, weights=sets.nodes, minlength=len(kinds))
    per_site = np.bincount(p.groups.site, weights=sets.nodes, minlength=p.site_count)

    def mean(values: FloatArray) -> FloatArray:
        total = np.bincount(part_of_site, weights=values * per_site, minlength=parts)
        return np.asarray(
            total / np.maximum(np.bincount(part_of_site, weights=per_site, minlength=parts), 1e-9)
        )

    def total(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(part_of_site, weights=values, minlength=parts))

    key, pair_kind = np.unique(sets.pair_class * len(kinds) + kind[sets.pair_group], return_inverse=True)
    weight = np.maximum(sets.nodes[sets.pair_group], 1e-9)
    one = np.zeros(len(key), dtype=np.int64)
    one[pair_kind] = np.arange(len(sets.pair))
    dynamic = np.bincount(pair_kind, weights=sets.dynamic_kw * 1000.0 * weight) / np.bincount(
        pair_kind, weights=weight
    )
    column = np.newaxis
    none = np.full(parts, np.nan)
    zero = np.zeros(parts)
    sites = Sites(
        site_id=tuple(f"part{i}" for i in range(parts)), labels=tuple({} for _ in range(parts)),
        is_edge=np.zeros(parts, dtype=bool), may_close=np.zeros(parts, dtype=bool),
        initially_on=np.ones(parts, dtype=bool), start_yuan=zero, rated_kw=total(p.sites.rated_kw),
        power_limit_kw=total(sets.power_limit_kw)[:, column], fixed_kw=total(p.sites.fixed_kw[:, 0])[:, column],
        off_kw=total(p.sites.off_kw[:, 0])[:, column], loss_slope=mean(p.sites.loss_slope[:, 0])[:, column],
        loss_square=mean(p.sites.loss_square[:, 0])[:, column],
        price_yuan_per_kwh=mean(sets.energy_yuan_per_kwh)[:, column], carbon_g_per_kwh=np.zeros((parts, 1)),
        ipue_cap_hourly=none, hourly_is_hard=np.zeros(parts, dtype=bool), pue_cap_annual=none,
        annual_is_hard=np.zeros(parts, dtype=bool), ledger_beta_kwh=zero, debt_yuan_per_kwh=zero,
        demand_yuan_per_kw=zero, demand_peak_kw=zero, reserved_floor_frac=zero,
    )  # fmt: skip
    g = p.groups
    groups = Groups(
        group_id=tuple(f"kind{i}" for i in range(len(kinds))), gpu_model=tuple(g.gpu_model[i] for i in first),
        site=kinds[:, 0], node_count=np.floor(nodes * COARSE_LOAD_FRAC).astype(np.int64)[:, column],
        capacity=g.capacity[first], gpu_memory_mib=g.gpu_memory_mib[first], idle_w=g.idle_w[first],
        wake_yuan=np.zeros(len(kinds)), initial_on_count=np.zeros(len(kinds)),
        island_node_count=np.zeros(len(kinds), dtype=np.int64), packing_yield=g.packing_yield[first],
    )  # fmt: skip
    c = p.classes
    count = len(sets.demand)
    classes = replace(
        c, require_any=tuple(() for _ in range(count)), allowed_site_ids=tuple(() for _ in range(count)),
        gang_size=np.ones(count, dtype=np.int64), spread_site_min=np.zeros(count, dtype=np.int64),
        single_site=np.zeros(count, dtype=bool), single_group=np.zeros(count, dtype=bool),
        single_island=np.zeros(count, dtype=bool),
    )  # fmt: skip
    pairs = Pairs(
        class_index=key // len(kinds), group_index=key % len(kinds), need=p.pairs.need[sets.pair[one]],
        dynamic_w=dynamic, processing_p99_ms=np.full(len(key), np.nan), running_count=np.zeros(len(key)),
        other_yuan_per_replica_h=p.pairs.other_yuan_per_replica_h[sets.pair[one]],
    )  # fmt: skip
    ints, floats = np.zeros(0, dtype=np.int64), np.zeros(0)
    network = Network(
        leg_id=(), link_id=(), leg_rtt_p99_ms=np.zeros((0, parts)), site_rtt_p99_ms=np.zeros((parts, parts)),
        link_capacity_mbps=floats, route_origin=ints, route_site=ints, route_link=ints,
        transfer_yuan_per_gb=np.zeros((parts, parts)),
    )  # fmt: skip
    return PlacementProblem(
        problem_id=f"{p.problem_id}/coarse", slots=p.slots, sites=sites, groups=groups, classes=classes, pairs=pairs,
        flows=Flows(ints, ints, floats, floats), paths=Paths(ints, ints, ints, floats), network=network,
        terms=replace(p.terms, portfolio_pue_cap_annual=None, carbon_yuan_per_kg=0.0),
    )  # fmt: skip


# -- 3. parts ----------------------------------------------------------------------------------------------------


def split(sets: BulkSets, part_of_site: IntArray, share: IntArray) -> list[Part]:
    """One problem per part, over its sites and the classes that have a share there."""
    parts = int(part_of_site.max()) + 1
    link_parts = _link_weight(sets.problem, part_of_site, parts)
    edge_kw = np.where(sets.problem.sites.is_edge, sets.problem.sites.rated_kw, 0.0)
    edges = np.bincount(part_of_site, weights=edge_kw, minlength=parts) / max(float(edge_kw.sum()), 1e-9)
    return [
        _part(sets, part_of_site == i, share[:, i], link_parts[:, i], float(edges[i]), i)
        for i in range(parts)
    ]


def _link_weight(p: PlacementProblem, part_of_site: IntArray, parts: int) -> FloatArray:
    """[L, parts] share of a link's capacity per part: by the nodes of the sites whose routes load it."""
    n = p.network
    nodes = np.bincount(p.groups.site, weights=p.groups.node_count[:, 0], minlength=p.site_count)
    weight = np.zeros((len(n.link_id), parts))
    key = np.unique(n.route_link * p.site_count + n.route_site)
    link, site = key // max(p.site_count, 1), key % max(p.site_count, 1)
    np.add.at(weight, (link, part_of_site[site]), nodes[site] + 1e-9)
    return np.asarray(weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12))


def _part(
    sets: BulkSets,
    inside: BoolArray,
    demand: IntArray,
    link_share: FloatArray,
    edge_share: float,
    number: int,
) -> Part:
    p = sets.problem
    sites = np.flatnonzero(inside)
    groups = np.flatnonzero(inside[p.groups.site])
    classes = np.flatnonzero(demand > 0)
    wanted = demand > 0
    candidate = np.flatnonzero(inside[sets.pair_site] & wanted[sets.pair_class])
    links = np.flatnonzero(link_share > 0)
    new_site, new_group, new_class, new_link = (
        _renumbered(n, kept)
        for n, kept in (
            (p.site_count, sites), (p.group_count, groups), (p.class_count, classes), (len(p.network.link_id), links)
        )
    )  # fmt: skip
    pair = sets.pair[candidate]
    site_table = _rows(p.sites, sites, p.site_count)
    group_table = replace(_rows(p.groups, groups, p.group_count), site=new_site[p.groups.site[groups]])
    class_table = replace(
        _rows(p.classes, classes, p.class_count), demand_count=demand[classes].astype(float)[:, np.newaxis]
    )
    pair_table = replace(
        _rows(p.pairs, pair, p.pair_count), class_index=new_class[p.pairs.class_index[pair]],
        group_index=new_group[p.pairs.group_index[pair]],
    )  # fmt: skip
    flow = np.flatnonzero(wanted[p.flows.class_index])
    path = np.flatnonzero(wanted[p.paths.class_index])
    n, legs = p.network, len(p.network.leg_id)
    route = np.flatnonzero(inside[n.route_site] & (n.route_origin < legs))
    problem = PlacementProblem(
        problem_id=f"{p.problem_id}/{number}",
        slots=p.slots,
        sites=site_table,
        groups=group_table,
        classes=class_table,
        pairs=pair_table,
        flows=replace(
            _rows(p.flows, flow, len(p.flows.mbps)), class_index=new_class[p.flows.class_index[flow]]
        ),
        paths=replace(
            _rows(p.paths, path, len(p.paths.budget_ms)), class_index=new_class[p.paths.class_index[path]]
        ),
        network=Network(
            leg_id=n.leg_id,
            link_id=tuple(n.link_id[i] for i in links),
            leg_rtt_p99_ms=n.leg_rtt_p99_ms[:, sites],
            site_rtt_p99_ms=n.site_rtt_p99_ms[np.ix_(sites, sites)],
            link_capacity_mbps=(n.link_capacity_mbps * link_share)[links],
            route_origin=n.route_origin[route],
            route_site=new_site[n.route_site[route]],
            route_link=new_link[n.route_link[route]],
            transfer_yuan_per_gb=n.transfer_yuan_per_gb[np.ix_(sites, sites)],
            planning_load_frac=n.planning_load_frac,
        ),
        terms=replace(p.terms, portfolio_beta_kwh=p.terms.portfolio_beta_kwh * edge_share),
    )
    return Part(problem, sites, groups, classes, links, candidate)


def _renumbered(count: int, kept: IntArray) -> IntArray:
    out = np.full(count, -1, dtype=np.int64)
    out[kept] = np.arange(len(kept))
    return out


def _rows(table: Any, rows: IntArray, count: int) -> Any:
    """A table with some of its rows: every array or tuple whose first axis is the table's."""
    fields: dict[str, Any] = {}
    for name, value in vars(table).items():
        if isinstance(value, np.ndarray) and value.shape[0] == count:
            fields[name] = value[rows]
        elif isinstance(value, tuple) and len(value) == count:
            fields[name] = tuple([value[i] for i in rows.tolist()])
    return replace(table, **fields)


def solve_part(argument: tuple[PlacementProblem, BulkLimits]) -> PartPlan:
    """Plan one part; what comes back is small."""
    problem, limits = argument
    plan = solve_bulk(problem, limits=limits)
    filling, r = plan.filling, plan.relaxation
    booked = filling.all_booked()
    duals = {}
    for name, block in r.model.rows.items():
        if name != "demand":
            dual = r.duals[block.slice]
            held = np.flatnonzero(dual)
            duals[name] = (r.model.keys[name][held], dual[held])
    return PartPlan(
        booked=booked, group=filling.fleet.group[booked.node], index=filling.fleet.index[booked.node],
        local_pair=r.sets.pair, site_on=plan.solution.site_on[:, 0].astype(float), duals=duals, cuts=r.model.cuts,
        seconds=plan.solution.seconds["total"], iterations=r.iterations,
    )  # fmt: skip


# -- 4. reconcile, 5. bound --------------------------------------------------------------------------------------


def joined_relaxation(sets: BulkSets, parts: Sequence[Part], plans: Sequence[PartPlan]) -> Relaxation:
    """The parts' prices on the program of the whole, and the bound that they prove there."""
    cuts = _joined_cuts(sets, parts, plans)
    model = build(sets, cuts=cuts)
    exact = model.lp.program()
    duals = np.zeros(exact.matrix.shape[0])
    for part, plan in zip(parts, plans, strict=True):
        for name, (keys, values) in plan.duals.items():
            if name in model.rows:
                at = _places(model.keys[name], _whole_keys(sets, part, plan, name, keys))
                held = at >= 0
                duals[model.rows[name].start + at[held]] = values[held]
    site_on = np.zeros(sets.problem.site_count, dtype=bool)
    for part, plan in zip(parts, plans, strict=True):
        site_on[part.sites] = plan.site_on > 0.5
    side, upper = side_rows(model, exact)
    return Relaxation(
        model, exact, duals, np.zeros(exact.matrix.shape[1]), site_on, lower_bound(model, exact, duals), side,
        upper, sum(plan.iterations for plan in plans),
    )  # fmt: skip


def _places(keys: IntArray, wanted: IntArray) -> IntArray:
    """Position of each wanted key among the keys, −1 where absent."""
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], wanted)
    at = np.minimum(at, max(len(keys) - 1, 0))
    found = keys[order][at] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
    return np.where(found, order[at] if len(keys) else 0, -1)


def _joined_cuts(sets: BulkSets, parts: Sequence[Part], plans: Sequence[PartPlan]) -> list[Cuts]:
    rounds = max((len(plan.cuts) for plan in plans), default=0)
    out = []
    for i in range(rounds):
        held = [(part, plan) for part, plan in zip(parts, plans, strict=True) if len(plan.cuts) > i]
        sharp = [_whole_keys(sets, part, plan, "sharp", plan.cuts[i].sharp) for part, plan in held]
        pairs = [_whole_keys(sets, part, plan, "open_pairs", plan.cuts[i].open_pairs) for part, plan in held]
        out.append(Cuts(np.concatenate(sharp), np.concatenate(pairs)))
    return out


def _whole_keys(sets: BulkSets, part: Part, plan: PartPlan, name: str, keys: IntArray) -> IntArray:
    """What rows of a part stand for, in the numbering of the whole."""
    p = sets.problem
    kind = name.rstrip("0123456789").rstrip("_")
    if kind in ("capacity", "floor", "sharp"):
        width = sets.sharp.shape[1] if kind == "sharp" else sets.share.shape[1]
        return np.asarray(part.groups[keys // width] * width + keys % width)
    if kind in ("open_nodes", "padding", "wake"):
        return np.asarray(part.groups[keys])
    if kind == "spread":
        here = len(part.sites)
        return np.asarray(part.classes[keys // here] * p.site_count + part.sites[keys % here])
    if kind == "links":
        return np.asarray(part.links[keys])
    if kind == "open_pairs":
        return np.asarray(part.pairs[plan.local_pair[keys]])
    if kind == "portfolio":
        return np.full(len(keys), int(np.flatnonzero(p.sites.is_edge)[0]))
    return np.asarray(part.sites[keys])


def joined_filling(relaxation: Relaxation, parts: Sequence[Part], plans: Sequence[PartPlan]) -> Filling:
    """All parts' bookings on the whole fleet."""
    fleet = FleetState.empty(relaxation.sets.problem)
    filling = Filling(relaxation, fleet)
    gangs = np.zeros(relaxation.sets.problem.class_count, dtype=np.int64)
    joined = []
    for part, plan in zip(parts, plans, strict=True):
        pair = part.pairs[plan.local_pair[plan.booked.pair]]
        node = fleet.first[part.groups[plan.group]] + plan.index
        c = relaxation.sets.pair_class[pair]
        in_gang = filling.gang[c] > 1
        gang = np.where(in_gang, plan.booked.gang + gangs[c], 0)
        np.maximum.at(gangs, c[in_gang], gang[in_gang] + 1)
        joined.append(Booked(pair, node, plan.booked.device_mask, gang))
    booked = Booked.joined(joined)
    fleet.take(booked, filling.need[booked.pair])
    filling.adopt(booked)
    return filling


# -- Ray -----------------------------------------------------------------------------------------------------------

OBJECT_STORE_BYTES = 160 * 1024 * 1024
START_ATTEMPTS = 3
TOKEN_BYTES = 32


class RayRunner:
    """Parts as tasks of a private Ray on this machine: own token file, own short folder, loopback, no dashboard.

    Use as a context; the end stops Ray, removes its folder and puts the environment back.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._ray: Any = None

    def __enter__(self) -> Self:
        # a socket path has 107 bytes, of which Ray needs 66 below its folder: keep the folder short
        root = next(
            (r for r in ("/tmp", "/var/tmp") if os.access(r, os.W_OK | os.X_OK)), tempfile.gettempdir()
        )
        self._folder = Path(tempfile.mkdtemp(prefix="sd", dir=root))
        token = self._folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(TOKEN_BYTES), encoding="utf-8")
        wanted = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }  # fmt: skip
        self._before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            import ray  # here, because it reads its environment when first imported

            self._ray = ray
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def _start(self) -> None:
        """Start Ray; on a busy machine its head may miss Ray's own 30 s, so it is tried again."""
        for attempt in range(START_ATTEMPTS):
            try:
                self._ray.init(
                    address="local", num_cpus=self.workers, num_gpus=0, include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES, _temp_dir=str(self._folder / f"r{attempt}"),
                    _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.ERROR,
                    configure_logging=False,
                )  # fmt: skip
            except Exception:
                self._ray.shutdown()
                if attempt + 1 == START_ATTEMPTS:
                    raise
            else:
                # workers import the solvers before the first part is timed
                self._ray.get([self._ray.remote(num_cpus=1)(_warm).remote() for _ in range(self.workers)])
                return

    def map(self, function: Callable[[A], B], arguments: Sequence[A]) -> list[B]:
        """function of each argument as tasks, one core each, in order."""
        task = self._ray.remote(num_cpus=1)(function)
        return list(self._ray.get([task.remote(argument) for argument in arguments]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()
        self._clean_up()

    def _clean_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _warm() -> None:
    """Nothing but the imports of this module."""
