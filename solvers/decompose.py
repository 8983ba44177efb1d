"""A very large bulk problem in parts: one rough relaxation of the whole, exact plans of its parts, placed side by side.

`solve_large` reads as the process:

1. relaxation  of the undivided problem by first-order steps (`bulk_relax.relax_nearly`): prices, and a bound that its
               duals prove
2. partition   sites that serve the same local classes stay together, in parts of about `PART_SITES`
3. shares      how much of each class each part gets, in whole gangs, as the relaxation has it
4. parts       every part is a `PlacementProblem` of its own and is planned by `solve_bulk`, inline or as Ray tasks
5. reconcile   placements side by side on the whole fleet; what a part could not place goes where prices say, anywhere

Exactness: the plan holds every rule of the whole problem (what parts share is divided between them, spread and floors
hold in each part and so in sum). Approximation: the shares of step 3; the gap counts what they cost, as the bound
speaks of the undivided problem. Deterministic for a problem and equal for every runner.
"""

from __future__ import annotations

import logging
import os
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
from solvers.bulk import BulkPlan, counted, solve_bulk
from solvers.bulk_certificate import with_certificate
from solvers.bulk_fill import WHOLE, Filling
from solvers.bulk_model import BulkSets, bulk_sets
from solvers.bulk_relax import BulkLimits, Relaxation, relax_nearly
from solvers.clock import Clock
from solvers.node_fill import Booked, FleetState
from solvers.problem import Network, PlacementProblem
from solvers.ray_token import TOKEN_VARIABLE, token_file

PART_SITES = 50
LOCAL_SITES_FACTOR = 1.5
"""A class whose candidates span at most so many parts' worth of sites is local: its sites should stay together."""
A = TypeVar("A")
B = TypeVar("B")


class Runner(Protocol):
    """Where parts are solved."""

    workers: int
    """Cores that it may use."""

    def map(self, function: Callable[[A], B], arguments: Sequence[A]) -> list[B]:
        """function of each argument, in order."""


class InlineRunner:
    """One part after the other, in this process."""

    workers = 1

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
    """What comes back from a part: bookings in its own numbering."""

    booked: Booked
    group: IntArray
    """[rows] group of each booking's node, and below its number in the group."""
    index: IntArray
    local_pair: IntArray
    """[V of the part] pair of the part behind each candidate of its plan."""
    site_on: BoolArray
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
    """Plan one slot of a very large problem onto nodes. `NotBulk` as `solve_bulk`."""
    limits, runner, clock = limits or BulkLimits(), runner or InlineRunner(), Clock()
    with clock.phase("total"):
        with clock.phase("sets"):
            sets = bulk_sets(problem)
        with clock.phase("relaxation"):
            relaxation = relax_nearly(sets, threads=runner.workers)
        with clock.phase("split"):
            part_of_site = partition(sets, part_sites)
            parts = split(sets, part_of_site, shares(relaxation, part_of_site))
        with clock.phase("parts"):
            plans = runner.map(solve_part, [(part.problem, limits) for part in parts])
        with clock.phase("reconcile"):
            site_on = open_sites(parts, plans, problem.site_count)
            iterations = relaxation.iterations + sum(plan.iterations for plan in plans)
            relaxation = replace(relaxation, site_on=site_on, iterations=iterations)
            filling = joined_filling(relaxation, parts, plans)
            filling.place_few()
            filling.meet_minimum_loads()
            filling.keep_padding()
            filling.make_room()
            filling.keep_padding()
            filling.settle()
        with clock.phase("count"):
            solution = counted(filling)
        with clock.phase("certificate"):
            solution = with_certificate(relaxation, solution)
    plan = BulkPlan(replace(solution, seconds=clock.seconds), filling)
    return LargePlan(plan, len(parts), tuple(p.seconds for p in plans))


# -- 2. partition ------------------------------------------------------------------------------------------------


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


# -- 3. shares ---------------------------------------------------------------------------------------------------


def shares(relaxation: Relaxation, part_of_site: IntArray) -> IntArray:
    """[C, parts] whole replicas (whole gangs) of each class per part, as the relaxation divides them.

    What the relaxation leaves unserved goes to the part with most of the class: it may still find room.
    """
    sets, parts = relaxation.sets, int(part_of_site.max()) + 1
    part_of_pair = part_of_site[sets.pair_site]
    table = np.zeros((len(sets.demand), parts))
    np.add.at(table, (sets.pair_class, part_of_pair), np.maximum(relaxation.x, 0.0))
    total = table.sum(axis=1)
    table *= np.minimum(sets.demand / np.maximum(total, 1e-9), 1.0)[:, None]
    reach = np.zeros(table.shape)
    np.add.at(reach, (sets.pair_class, part_of_pair), 1.0)
    biggest = np.where(total > 0, table.argmax(axis=1), reach.argmax(axis=1))
    table[np.arange(len(table)), biggest] += np.maximum(sets.demand - table.sum(axis=1), 0.0)
    return _whole(table, sets.demand, sets.problem.classes.gang_size)


def _whole(table: FloatArray, demand: FloatArray, gang: IntArray) -> IntArray:
    """Rows rounded to whole gangs by largest remainder; each sums to the demand's whole gangs."""
    units = table / gang[:, None]
    base = np.floor(units + WHOLE)
    left = np.floor(demand / gang + WHOLE) - base.sum(axis=1)
    rank = np.argsort(np.argsort(-(units - base), axis=1, kind="stable"), axis=1, kind="stable")
    up = rank < left[:, None]
    return np.asarray((base + up) * gang[:, None], dtype=np.int64)


# -- 4. parts ----------------------------------------------------------------------------------------------------


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
    # bound and certificate are the whole fleet's
    plan = solve_bulk(problem, limits=replace(limits, branchings=0), certify=False)
    filling = plan.filling
    booked = filling.all_booked()
    return PartPlan(
        booked=booked, group=filling.fleet.group[booked.node], index=filling.fleet.index[booked.node],
        local_pair=filling.sets.pair, site_on=plan.solution.site_on[:, 0].copy(),
        seconds=plan.solution.seconds["total"], iterations=plan.relaxation.iterations,
    )  # fmt: skip


# -- 5. reconcile ------------------------------------------------------------------------------------------------


def open_sites(parts: Sequence[Part], plans: Sequence[PartPlan], site_count: int) -> BoolArray:
    """[S] sites that the parts' plans open."""
    site_on = np.zeros(site_count, dtype=bool)
    for part, plan in zip(parts, plans, strict=True):
        site_on[part.sites] = plan.site_on
    return site_on


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
        wanted = {
            "RAY_AUTH_MODE": "token", TOKEN_VARIABLE: str(token_file(self._folder)), "RAY_USAGE_STATS_ENABLED": "0",
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
