"""Compile: the state as a `PlacementProblem`: specs folded into classes, nodes into groups, the day into slots.

Facts only; which pairs are candidates is the solver's and the verifier's own business. Work that must run as it comes
(services, running and waiting non-deferrable work) is demand per slot; deferrable work is replica-hours with a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.ledger import day_start_s, overdrawn_kwh, released_kwh
from scheduler.domain.outlook import CalendarOutlook, lowest_prices_yuan_per_kwh
from scheduler.domain.state import ClusterState, NodeResources, Phase
from scheduler.domain.topology import Topology
from scheduler.planner.deferral import SHORT_S, may_be_put_off, may_rest, owed_running, rests, running_frac
from scheduler.planner.feasibility import Views, site_labels, zone_legs
from scheduler.planner.folds import Folds, folds_of
from scheduler.planner.forecast import expected_arrivals
from scheduler.planner.learn import scaled, thetas
from scheduler.planner.patterns import CPU_PROCESSING
from solvers.problem import (
    Classes,
    Flows,
    Graph,
    GraphFlow,
    GraphPath,
    Groups,
    Network,
    Pairs,
    Paths,
    PlacementProblem,
    Sites,
    Slots,
    Terms,
)
from suanli.model import PriorityClass, Site, Stage, Workload
from suanli.model.units import HOURS_PER_DAY, MILLI, SECONDS_PER_HOUR

FINE_HOURS = 2
"""Slots of one hour this far ahead; after that they break with the tariff, four hours at most."""
COARSE_HOURS = 4
UNSERVED_YUAN_PER_REPLICA_H = {
    PriorityClass.HARD_SAFETY: 1e5,
    PriorityClass.PUBLIC_SERVICE: 1e3,
    PriorityClass.INTERACTIVE: 100.0,
}
"""Penalties of the reference scenario (domain notes, ASSUMED); batch pays lateness per GPU-hour."""
PACKING_YIELD = 0.97
"""Share of a group that mixed shapes fill before fragments stop them (measured on replays; ASSUMED until learned)."""
LEDGER_MARGIN_FRAC = 0.03
"""Share of the reference energy that a plan leaves unspent: forecasts of facility power err by up to 3 %. With it the
tightest room of the reference day ended 1 % of its facility energy below its release (measured, songjiang-s)."""
DEADLINE_BUCKET_S = 6 * SECONDS_PER_HOUR
PLANNED_WITHIN_S = 12 * SECONDS_PER_HOUR
"""What is due later than so long after it may begin is planned as if due then (18 h, by buckets): far enough to reach
the cheap night from any hour of the day, and not the night after the one that has begun, to which every plan would put
off what is left."""
NAN = float("nan")


@dataclass(frozen=True)
class Compiled:
    """A problem with the way back: which fold of specs each class is, and whether it waits for a price."""

    problem: PlacementProblem
    class_fold: NDArray[np.int64]
    class_deferrable: NDArray[np.bool_]
    owed_running: dict[int, float]
    """fold → deferrable replicas to run now at least (`deferral.owed_running`)."""


@dataclass(frozen=True)
class _Folded:
    """Rows folded into classes; `spec` stands for its fold in every fact but size, which is the mean of the rows."""

    fold: NDArray[np.int64]
    spec: NDArray[np.int64]
    members: NDArray[np.int64]
    """(C, specs) rows of each spec."""
    deferrable: NDArray[np.bool_]
    bucket: NDArray[np.int64]
    release: NDArray[np.int64]
    """First slot in which work that waits may run."""
    demand: NDArray[np.float64]
    work_h: NDArray[np.float64]
    parallel: NDArray[np.float64]
    running: NDArray[np.float64]
    """(C, G)."""


def slots_from(now_s: int, horizon_hours: int, outlook: CalendarOutlook, topology: Topology) -> Slots:
    """Whole local hours at first (the first slot may be a part of one), then until the tariff changes."""
    first_cut = now_s - now_s % SECONDS_PER_HOUR + SECONDS_PER_HOUR
    cuts = [now_s, *range(first_cut, now_s + horizon_hours * SECONDS_PER_HOUR, SECONDS_PER_HOUR)]
    end_s = now_s + horizon_hours * SECONDS_PER_HOUR
    prices = outlook.prices_yuan_per_kwh(np.array(cuts))
    starts = [cuts[0]]
    for i in range(1, len(cuts)):
        fine = cuts[i] < now_s + FINE_HOURS * SECONDS_PER_HOUR
        tariff_breaks = bool((prices[:, i] != prices[:, i - 1]).any())
        long_enough = cuts[i] - starts[-1] >= COARSE_HOURS * SECONDS_PER_HOUR
        if fine or tariff_breaks or long_enough:
            starts.append(cuts[i])
    hours = np.diff([*starts, end_s]) / SECONDS_PER_HOUR
    return Slots(start_s=np.array(starts), hours=hours)


def compile_problem(
    state: ClusterState,
    views: Views,
    now_s: int,
    *,
    pue_blind: bool = False,
    slots: Slots | None = None,
    all_wait: bool = False,
    shared_sites: Mapping[tuple[str, str], int] | None = None,
) -> Compiled:
    """The whole planning problem at `now_s`; `pue_blind` drops plants and caps, for the baseline of that name.

    `slots` replaces those of the policy's horizon; with `all_wait` even long deferrable work may be split over hours.
    `shared_sites`: (owner, stage id) → site of stages that others share (`round.shared_stage_sites`). Graphs that share
    a stage without a known site are counted stage by stage, which is a relaxation.
    """
    topology = views.topology
    outlook = CalendarOutlook(topology, state.forecast)
    slots = slots or slots_from(now_s, state.policy.horizon_hours, outlook, topology)
    shared = _Shared(state, shared_sites or {})
    folded = shared.with_classes(_fold(state, views, slots, now_s, all_wait), folds_of(views))
    legs = _Legs(topology)
    graphs = _graphs(state, folded, shared, legs, slots)
    problem = PlacementProblem(
        problem_id=f"plans/{now_s}",
        slots=slots,
        sites=_sites(state, topology, outlook, slots, now_s, pue_blind),
        groups=_groups(state, topology, slots),
        classes=_classes(state, topology, folded, shared, slots, graphs, now_s),
        pairs=_pairs(state, views, folded),
        flows=_flows(state, folded, legs),
        paths=_paths(state, folded, legs),
        network=legs.network(),
        graphs=graphs,
        terms=Terms(
            portfolio_pue_cap_annual=None if pue_blind else state.policy.edge_portfolio_cap_annual,
            ledger_load=state.policy.ledger_load,
            carbon_yuan_per_kg=state.policy.carbon_price_yuan_per_kg,
        ),
        policy_revision=state.policy.revision,
        base_revision=state.revision,
    )
    fold_of = folds_of(views).all(len(state.shapes.specs))
    return Compiled(problem, folded.fold, folded.deferrable, owed_running(state, fold_of, now_s))


# ---------------------------------------------------------------------- fold rows into classes


def _fold(state: ClusterState, views: Views, slots: Slots, now_s: int, all_wait: bool) -> _Folded:
    """Work that waits may be put into any hours; what may not be put off runs from now."""
    topology, replicas = views.topology, state.replicas
    live = np.flatnonzero(state.active_mask() & (replicas["phase"] != Phase.DONE))
    spec = replicas["spec"][live].astype(np.int64)
    owner = replicas["workload"][live]
    left_s = replicas["work_s"][live] - replicas["done_work_s"][live]
    running = np.isin(replicas["phase"][live], (Phase.ORDERED, Phase.RUNNING))
    ran_s = np.where(replicas["phase"][live] == Phase.RUNNING, now_s - replicas["running_s"][live], 0)
    left_s = np.maximum(left_s - ran_s, 60.0)
    start_s = np.maximum(state.workloads["not_before_s"][owner], now_s)
    is_deferrable = (
        np.array([s.workload.deferrable for s in state.shapes.specs] or [False])[spec]
        if len(spec)
        else np.zeros(0, bool)
    )
    waits = is_deferrable & ~running
    in_pieces = may_rest(state, live) & (not all_wait)
    if not all_wait:
        waits &= (start_s > now_s) | may_be_put_off(state, live, now_s)
        waits &= ~in_pieces | (left_s <= SHORT_S)
        running &= ~rests(state, live, now_s)  # they are about to pause, and keep no node
    due_s = state.workloads["deadline_s"][owner] - now_s
    if not all_wait:
        due_s = np.minimum(due_s, start_s - now_s + PLANNED_WITHIN_S)
    bucket = np.where(waits, due_s // DEADLINE_BUCKET_S, -1)
    bucket = np.clip(bucket, -1, 4 * state.policy.horizon_hours)
    release = np.where(waits, np.searchsorted(slots.start_s, start_s, side="right") - 1, 0)
    fold_of = folds_of(views).all(len(state.shapes.specs))
    runs_frac = _in_one_piece(start_s, left_s, slots) * ~waits[:, None]
    pieces = np.flatnonzero(in_pieces & ~waits)
    price = lowest_prices_yuan_per_kwh(topology, now_s)
    deadline_s = state.workloads["deadline_s"][owner[pieces]]
    runs_frac[pieces] = running_frac(price, now_s, start_s[pieces], left_s[pieces], deadline_s, slots)
    arriving = expected_arrivals(state, slots, now_s)
    hub_of = _crowded_hub(views, spec, runs_frac, arriving)
    keys = (
        np.stack([fold_of[spec], waits, bucket, release, hub_of[spec]], axis=1)
        if len(spec)
        else np.zeros((0, 5), np.int64)
    )
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    count = len(unique)
    members = np.zeros((count, len(fold_of)), np.int64)
    np.add.at(members, (inverse, spec), 1)
    demand = _summed(inverse, runs_frac, count)
    class_of = {(int(f), int(hub)): c for c, (f, waits_too, _, _, hub) in enumerate(unique) if not waits_too}
    for s, expected in arriving.items():
        c = class_of.get((int(fold_of[s]), int(hub_of[s])))
        if c is not None and not state.spec(s).workload.deferrable:
            demand[c] += expected
    work_h = np.bincount(inverse, np.where(waits, left_s, 0.0), minlength=count) / SECONDS_PER_HOUR
    parallel = np.bincount(inverse, waits.astype(float), minlength=count).astype(np.float64)
    on = np.zeros((count, len(topology.group_ids)))
    node = replicas["node"][live]
    np.add.at(on, (inverse[running], topology.node_group[node[running]]), 1.0)
    return _Folded(
        fold=unique[:, 0],
        spec=members.argmax(axis=1) if count else np.zeros(0, np.int64),
        members=members,
        deferrable=unique[:, 1].astype(bool),
        bucket=unique[:, 2],
        release=unique[:, 3],
        demand=demand,
        work_h=work_h,
        parallel=parallel,
        running=on,
    )


def _in_one_piece(
    start_s: NDArray[np.int64], left_s: NDArray[np.float64], slots: Slots
) -> NDArray[np.float64]:
    """(rows, T) share of each slot in which work runs that starts at `start_s` and goes on until it is done."""
    ends_s = slots.start_s + slots.hours * SECONDS_PER_HOUR
    overlap_s = np.minimum((start_s + left_s)[:, None], ends_s) - np.maximum(start_s[:, None], slots.start_s)
    return np.clip(overlap_s / (slots.hours * SECONDS_PER_HOUR), 0.0, 1.0)


def _summed(kind: NDArray[np.int64], rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count, T) sums of (rows, T) by kind."""
    columns = [np.bincount(kind, column, minlength=count) for column in rows.T]
    return np.stack(columns, axis=1).astype(float)


def _crowded_hub(
    views: Views,
    spec: NDArray[np.int64],
    runs_frac: NDArray[np.float64],
    arriving: Mapping[int, NDArray[np.float64]],
) -> NDArray[np.int64]:
    """(specs,) the crowded hub, if any, with whose zones a replica of the spec exchanges traffic; −1: none.

    A fold's mean traffic comes from many zones. Where the uplink of one is full, a class of that mean could run nowhere
    although the users of all other zones have room: those of a crowded hub are counted by themselves. `runs_frac`:
    (rows, T) the share of each slot in which a row of `spec` is to run.
    """
    hub_mbps = views.hub_mbps()
    running = _summed(spec, runs_frac, len(hub_mbps))
    for s, expected in arriving.items():
        running[s] += expected
    load_mbps = (hub_mbps.T @ running).max(axis=1, initial=0.0)
    crowded = load_mbps > uplink_spare_mbps(views.topology)
    shared = np.where(crowded, hub_mbps, 0.0)
    return np.where(shared.any(axis=1), shared.argmax(axis=1), -1)


def uplink_spare_mbps(topology: Topology) -> NDArray[np.float64]:
    """(hubs,) what the narrowest link may carry between a hub and most of the sites; inf without such a link."""
    spare = []
    for route in topology.hub_routes.values():
        is_uplink = route.sum(axis=0) > topology.site_count / 2
        spare.append(topology.link_spare_mbps[is_uplink].min(initial=np.inf))
    return np.array(spare)


class _Shared:
    """Stages that live workloads share, where their site is known: fixed for the sharers, kept there for the owner."""

    def __init__(self, state: ClusterState, sites: Mapping[tuple[str, str], int]) -> None:
        self._state, self._sites = state, sites
        shapes = state.workloads["shape"]
        self.count_of_shape = np.bincount(
            shapes[state.active_workloads()], minlength=len(state.shapes.templates)
        )
        owner_shape = {name: int(shapes[state.index_of[name]]) for name, _ in sites}
        self._kept = {
            (owner_shape[name], stage_id): site
            for (name, stage_id), site in sites.items()
            if self.count_of_shape[owner_shape[name]]
            == 1  # a class of several workloads may lie at several sites
        }

    def site_of(self, stage: Stage) -> int | None:
        """Where a stage that is another workload's lies; None when that is not known."""
        return self._sites.get((stage.shared_with, stage.stage_id)) if stage.shared_with else None

    def is_known(self, shape: int) -> bool:
        """Whether every stage that the shape shares with others has a site."""
        stages = self._state.shapes.templates[shape].stages
        return all(s.shared_with is None or self.site_of(s) is not None for s in stages)

    def with_classes(self, folded: _Folded, folds: Folds) -> _Folded:
        """A class without demand for each stage that is another workload's: its facts, for paths run over it."""
        state = self._state
        specs = [
            spec
            for shape in np.flatnonzero(self.count_of_shape).tolist()
            if self.is_known(shape)
            for spec in state.shapes.specs_of_shape[shape]
            if state.spec(spec).stage.shared_with is not None
        ]
        if not specs:
            return folded
        more = len(specs)
        members = np.zeros((more, folded.members.shape[1]), np.int64)
        members[np.arange(more), specs] = 1

        def without_work(of: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([of, np.zeros((more, *of.shape[1:]), of.dtype)])

        return _Folded(
            fold=np.concatenate([folded.fold, [folds.of(s) for s in specs]]),
            spec=np.concatenate([folded.spec, specs]),
            members=np.concatenate([folded.members, members]),
            deferrable=without_work(folded.deferrable),
            bucket=np.concatenate([folded.bucket, np.full(more, -1)]),
            release=without_work(folded.release),
            demand=without_work(folded.demand),
            work_h=without_work(folded.work_h),
            parallel=without_work(folded.parallel),
            running=without_work(folded.running),
        )

    def allowed_site_ids(self, spec: int, stage: Stage) -> tuple[str, ...]:
        """Named sites of a stage; only the known one if others share it."""
        topology = self._state.topology
        assert topology is not None
        site = self._kept.get((self._state.spec(spec).shape, stage.stage_id))
        return stage.site_ids if site is None or stage.shared_with else (topology.site_ids[site],)


# ---------------------------------------------------------------------- tables


def _sites(
    state: ClusterState,
    topology: Topology,
    outlook: CalendarOutlook,
    slots: Slots,
    now_s: int,
    pue_blind: bool,
) -> Sites:
    sites, count = topology.sites, len(slots.hours)
    middle = slots.start_s + (slots.hours * SECONDS_PER_HOUR / 2).astype(np.int64)
    dry = np.array([outlook.dry_bulb_c(int(t)) for t in middle])
    wet = np.array([outlook.wet_bulb_c(int(t)) for t in middle])
    theta = thetas(topology, state.learner)
    plants = [scaled(s, theta[i], dry, wet) for i, s in enumerate(sites)]
    zero = np.zeros((len(sites), count))
    fixed = zero if pue_blind else np.array([np.broadcast_to(p.fixed_kw, count) for p in plants])
    off = zero if pue_blind else np.array([np.broadcast_to(p.off_kw, count) for p in plants])
    assert state.nodes is not None
    busy = state.nodes.cpu_milli < topology.group_capacity[topology.node_group, 0]
    site_busy = np.bincount(topology.node_site, busy, minlength=len(sites)) > 0
    annual = np.array(
        [NAN if pue_blind or s.caps.pue_cap_annual is None else s.caps.pue_cap_annual for s in sites]
    )
    hourly = np.array(
        [NAN if pue_blind or s.caps.ipue_cap_hourly is None else s.caps.ipue_cap_hourly for s in sites]
    )
    return Sites(
        site_id=topology.site_ids,
        labels=tuple(site_labels(topology, i) for i in range(len(sites))),
        is_edge=topology.site_is_edge,
        may_close=np.array([s.may_close for s in sites]),
        initially_on=site_busy,
        start_yuan=np.full(len(sites), 0.5),
        rated_kw=np.array([s.rated_it_kw for s in sites]),
        power_limit_kw=np.repeat(np.array([[s.power_limit_kw] for s in sites]), count, axis=1),
        fixed_kw=fixed,
        off_kw=off,
        loss_slope=zero if pue_blind else np.array([np.broadcast_to(p.loss_slope, count) for p in plants]),
        loss_square=zero if pue_blind else np.array([np.broadcast_to(p.loss_square, count) for p in plants]),
        price_yuan_per_kwh=outlook.prices_yuan_per_kwh(slots.start_s),
        carbon_g_per_kwh=np.tile([outlook.carbon_g_per_kwh(int(t)) for t in slots.start_s], (len(sites), 1)),
        ipue_cap_hourly=hourly,
        hourly_is_hard=np.full(len(sites), True),
        pue_cap_annual=annual,
        annual_is_hard=np.array([s.caps.annual_is_hard for s in sites]),
        ledger_beta_kwh=np.array(
            [
                0.0
                if np.isnan(annual[i])
                else released_kwh(
                    s, balance_kwh(state, s.site_id, annual[i]), now_s, slots.start_s, slots.hours
                )
                + saved_today_kwh(state, s, now_s)
                - set_aside_kwh(state, s, float(slots.hours.sum()), now_s)
                for i, s in enumerate(sites)
            ]
        ),
        debt_yuan_per_kwh=np.array([s.caps.debt_price_yuan_per_kwh for s in sites]),
        demand_yuan_per_kw=np.zeros(len(sites)),
        demand_peak_kw=np.zeros(len(sites)),
        reserved_floor_frac=topology.site_reserved_floor_frac,
    )


def set_aside_kwh(state: ClusterState, site: Site, hours: float, now_s: int) -> float:
    """What a plan of that many hours leaves unspent of its release: a margin, and what was overdrawn since midnight.

    The release rule spreads a deviation over the rest of the year; plans keep to it day by day, so an overdraft is
    repaid at the pace that makes it good by midnight.
    """
    margin_kwh = LEDGER_MARGIN_FRAC * site.caps.reference_load_frac * site.rated_it_kw * hours
    left_h = max(1.0, HOURS_PER_DAY - (now_s - day_start_s(now_s)) / SECONDS_PER_HOUR)
    return margin_kwh + max(0.0, _overdrawn_today_kwh(state, site, now_s)) * max(1.0, hours / left_h)


def saved_today_kwh(state: ClusterState, site: Site, now_s: int) -> float:
    """What a site has left of its release since midnight; the plans of the day may spend it."""
    return max(0.0, -_overdrawn_today_kwh(state, site, now_s))


def _overdrawn_today_kwh(state: ClusterState, site: Site, now_s: int) -> float:
    """As metered since midnight, energy counted as in `balance_kwh`; 0 before there is an hour of meters."""
    energy, cap = state.energy[site.site_id], site.caps.pue_cap_annual
    assert cap is not None, f"{site.site_id} has no annual cap"
    if not energy.is_of_day(now_s) or now_s - energy.today_from_s < SECONDS_PER_HOUR:
        return 0.0
    it_kwh = energy.day_useful_it_kwh if state.policy.ledger_load == "useful" else energy.day_it_kwh
    used_kwh = energy.day_facility_kwh - cap * it_kwh
    return overdrawn_kwh(site, balance_kwh(state, site.site_id, cap), used_kwh, energy.today_from_s, now_s)


def balance_kwh(state: ClusterState, site_id: str, cap: float) -> float:
    """B = Π·E − E_fac since 1 January; E is useful IT energy where the policy counts useful load, else all of it."""
    energy = state.energy[site_id]
    it_kwh = energy.useful_it_kwh if state.policy.ledger_load == "useful" else energy.it_kwh
    return cap * it_kwh - energy.facility_kwh


def _groups(state: ClusterState, topology: Topology, slots: Slots) -> Groups:
    assert state.nodes is not None
    usable = state.nodes.up & ~state.nodes.cordoned
    busy = state.nodes.cpu_milli < topology.group_capacity[topology.node_group, 0]
    count = len(topology.group_ids)
    nodes = np.bincount(topology.node_group, usable | (busy & state.nodes.up), minlength=count).astype(
        np.int64
    )
    return Groups(
        group_id=tuple("/".join(g) for g in topology.group_ids),
        gpu_model=topology.group_gpu_model,
        site=topology.group_site,
        node_count=np.repeat(nodes[:, None], len(slots.hours), axis=1),
        capacity=topology.group_capacity,
        gpu_memory_mib=topology.group_gpu_memory_mib,
        idle_w=topology.group_idle_w,
        wake_yuan=np.zeros(count),
        initial_on_count=np.bincount(topology.node_group, busy, minlength=count).astype(float),
        island_node_count=topology.group_island_nodes,
        packing_yield=np.full((count, 4), PACKING_YIELD),
        scarce_resource=tuple(scarce_resources(state.nodes, topology).tolist()),
    )


def scarce_resources(nodes: NodeResources, topology: Topology) -> NDArray[np.int64]:
    """(G,) index into `RESOURCES` of what decides how many nodes of a group are on: the fullest of what is taken now.

    An empty group is decided by its GPUs, or by its cores where it has none.
    """
    group, count = topology.node_group, len(topology.group_ids)
    free = np.stack(
        [nodes.cpu_milli, nodes.memory_mib, np.maximum(nodes.gpu_milli, 0).sum(axis=1), nodes.storage_gib],
        axis=1,
    )
    taken = topology.group_capacity[group] - free
    per_node = np.maximum(topology.group_capacity, 1)
    filled = (
        np.stack([np.bincount(group, taken[:, r], minlength=count) for r in range(free.shape[1])], axis=1)
        / per_node
    )
    by_kind = np.where(topology.group_capacity[:, 2] > 0, 2, 0)
    return np.where(filled.max(axis=1) > 0, filled.argmax(axis=1), by_kind)


def _classes(
    state: ClusterState,
    topology: Topology,
    folded: _Folded,
    shared: _Shared,
    slots: Slots,
    graphs: tuple[Graph, ...],
    now_s: int,
) -> Classes:
    specs = [state.spec(int(s)) for s in folded.spec]
    stages = [s.stage for s in specs]
    in_graph = np.zeros(len(specs), bool)
    in_graph[[c for g in graphs for c in g.stage_class]] = True
    deadline_s = now_s + (folded.bucket + 1) * DEADLINE_BUCKET_S
    deadline_slot = np.searchsorted(slots.start_s, deadline_s, side="left")
    gpus = np.array([s.reference_gpu_milli / MILLI for s in stages]) if stages else np.zeros(0)
    return Classes(
        class_id=tuple(
            f"{s.workload.workload_class or s.workload.kind.value}/{s.stage.stage_id}/{s.spec}/{int(b)}"
            + (f"/{int(r)}" if r else "")
            for s, b, r in zip(specs, folded.bucket, folded.release, strict=True)
        ),
        require_any=tuple(s.require_any for s in stages),
        allowed_site_ids=tuple(
            shared.allowed_site_ids(int(spec), stage) for spec, stage in zip(folded.spec, stages, strict=True)
        ),
        gpu_milli_by_model=tuple(s.gpu_milli for s in stages),
        gpu_memory_mib=np.array([s.gpu_memory_mib for s in stages], np.int64),
        priority_rank=np.array([s.workload.priority_class.rank for s in specs], np.int64),
        demand_count=np.where(in_graph[:, None], 0.0, folded.demand),
        unserved_yuan_per_replica_h=np.array([_unserved(s.workload, s.stage) for s in specs], float),
        work_replica_h=folded.work_h,
        release_slot=folded.release,
        deadline_slot=np.where(
            folded.deferrable, np.minimum(deadline_slot, len(slots.hours)), len(slots.hours)
        ),
        max_parallel_count=folded.parallel,
        lateness_yuan_per_replica_h=np.array([s.workload.lateness_yuan_per_gpu_hour for s in specs], float)
        * np.maximum(gpus, 0.1),
        gang_size=np.ones(len(specs), np.int64),
        single_site=np.zeros(len(specs), bool),
        single_group=np.zeros(len(specs), bool),
        single_island=np.zeros(len(specs), bool),
        spread_site_min=np.array([_spread(s, "site") for s in stages], np.int64),
        spread_node_min=np.array([_spread(s, "node") for s in stages], np.int64),
        migration_yuan=np.maximum(0.1, state.policy.migration_yuan_per_gpu * gpus),
    )


def _unserved(workload: Workload, stage: Stage) -> float:
    known = UNSERVED_YUAN_PER_REPLICA_H.get(workload.priority_class)
    if known is not None:
        return known
    return workload.lateness_yuan_per_gpu_hour * max(1.0, stage.reference_gpu_milli / MILLI)


def _spread(stage: Stage, over: str) -> int:
    return stage.spread.min_domains if stage.spread is not None and stage.spread.over == over else 0


def _pairs(state: ClusterState, views: Views, folded: _Folded) -> Pairs:
    topology = views.topology
    models = np.array(topology.group_gpu_model)
    class_index, group_index, need, watts, processing, running = [], [], [], [], [], []
    for c, spec in enumerate(folded.spec):
        view = views[int(spec)]
        stage = view.spec.stage
        defined = np.isin(models, list(stage.gpu_milli)) if stage.gpu_milli else np.ones(len(models), bool)
        groups = np.flatnonzero(defined)
        class_index.append(np.full(len(groups), c))
        group_index.append(groups)
        weight = folded.members[c] / folded.members[c].sum()
        alike = np.flatnonzero(weight)
        mean_need = np.sum([weight[i] * views[int(i)].need[groups] for i in alike], axis=0)
        need.append(np.ceil(mean_need - 1e-6).astype(np.int64))
        watts.append(np.sum([weight[i] * views[int(i)].watts[groups] for i in alike], axis=0))
        processing.append(_processing_ms(stage, models[groups]))
        running.append(folded.running[c, groups])
    if not class_index:
        empty = np.zeros(0)
        return Pairs(
            empty.astype(int), empty.astype(int), np.zeros((0, 4), np.int64), empty, empty, empty, empty
        )
    total = sum(len(g) for g in group_index)
    return Pairs(
        class_index=np.concatenate(class_index),
        group_index=np.concatenate(group_index),
        need=np.concatenate(need),
        dynamic_w=np.concatenate(watts),
        processing_p99_ms=np.concatenate(processing),
        running_count=np.concatenate(running),
        other_yuan_per_replica_h=np.zeros(total),
    )


def _processing_ms(stage: Stage, models: NDArray[Any]) -> NDArray[np.float64]:
    declared = stage.processing_p99_ms
    if not declared:
        return np.zeros(len(models))
    key = [m if stage.gpu_milli else CPU_PROCESSING for m in models]
    return np.array([declared.get(str(k), max(declared.values())) for k in key])


# ---------------------------------------------------------------------- network


class _Legs:
    """Access legs met so far, and the links each route loads."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.index: dict[tuple[str, str], int] = {}

    def leg(self, zone_id: str, access_id: str) -> int:
        key = (zone_id, self.topology.access_of(zone_id, access_id))
        return self.index.setdefault(key, len(self.index))

    def network(self) -> Network:
        t = self.topology
        legs = sorted(self.index, key=self.index.__getitem__)
        entries: list[tuple[int, int, int]] = []
        for a, (zone_id, _) in enumerate(legs):
            hub = t.zones[zone_id].hub_id
            entries += [(a, s, k) for s, site in enumerate(t.site_ids) for k in t.route_links(hub, site)]
        for o, origin in enumerate(t.site_ids):
            entries += [
                (len(legs) + o, s, k)
                for s, site in enumerate(t.site_ids)
                if s != o
                for k in t.route_links(origin, site)
            ]
        network = t.fleet.network
        transfer = np.full((t.site_count, t.site_count), network.transfer_yuan_per_gb)
        for site_id, price in network.transfer_yuan_per_gb_by_site.items():
            transfer[t.site_index[site_id], :] = transfer[:, t.site_index[site_id]] = price
        np.fill_diagonal(transfer, 0.0)
        array = np.array(entries, np.int64).reshape(len(entries), 3)
        return Network(
            leg_id=tuple(f"{z}/{a}" for z, a in legs),
            link_id=tuple(k.link_id for k in network.links),
            leg_rtt_p99_ms=np.array([t.leg_rtt_p99_ms(z, a) for z, a in legs]).reshape(
                len(legs), t.site_count
            ),
            site_rtt_p99_ms=t.site_site_rtt_ms,
            link_capacity_mbps=t.link_capacity_mbps,
            planning_load_frac=network.planning_load_frac,
            route_origin=array[:, 0],
            route_site=array[:, 1],
            route_link=array[:, 2],
            transfer_yuan_per_gb=transfer,
        )


def _flows(state: ClusterState, folded: _Folded, legs: _Legs) -> Flows:
    """Traffic of one replica in the mean of its fold: light flows come from many zones, each has its share."""
    class_leg: list[tuple[int, int, float]] = []
    mbps: list[float] = []
    for c, members in enumerate(folded.members):
        rate: dict[tuple[int, float], float] = {}
        for spec_index in np.flatnonzero(members):
            weight = float(members[spec_index] / members.sum())
            for leg, limit, flow_mbps in _zone_flows(state, int(spec_index), legs):
                rate[leg, limit] = rate.get((leg, limit), 0.0) + weight * flow_mbps
        class_leg.extend((c, leg, limit) for leg, limit in rate)
        mbps.extend(rate.values())
    return Flows(
        class_index=np.array([r[0] for r in class_leg], np.int64),
        leg_index=np.array([r[1] for r in class_leg], np.int64),
        rtt_p99_max_ms=np.array([NAN if r[2] < 0 else r[2] for r in class_leg], float),
        mbps=np.array(mbps, float),
    )


def _zone_flows(state: ClusterState, spec_index: int, legs: _Legs) -> list[tuple[int, float, float]]:
    """(leg, RTT limit in ms or −1, Mbps) of the flows between a spec's stage and zones."""
    spec = state.spec(spec_index)
    me = f"stages/{spec.stage.stage_id}"
    found = []
    for flow in spec.workload.flows:
        ends = (flow.source, flow.target)
        zone = next((e.removeprefix("zones/") for e in ends if e.startswith("zones/")), None)
        if zone is not None and me in ends:
            limit = -1.0 if flow.rtt_p99_max_ms is None else flow.rtt_p99_max_ms
            found.append((legs.leg(zone, flow.access_id), limit, flow.mbps))
    return found


def _paths(state: ClusterState, folded: _Folded, legs: _Legs) -> Paths:
    rows: list[tuple[int, int, int, float]] = []
    for c, spec_index in enumerate(folded.spec):
        spec = state.spec(int(spec_index))
        if len(spec.workload.stages) > 1:
            continue
        access = {z: a for z, a, _ in zone_legs(spec)}
        for path in spec.workload.paths:
            zones = [v.removeprefix("zones/") for v in path.via]
            leg = [
                legs.leg(z, access.get(z, "")) if v.startswith("zones/") else -1
                for v, z in ((path.via[0], zones[0]), (path.via[-1], zones[-1]))
            ]
            rows.append((c, leg[0], leg[1], path.budget_ms))
    return Paths(
        class_index=np.array([r[0] for r in rows], np.int64),
        leg_in_index=np.array([r[1] for r in rows], np.int64),
        leg_out_index=np.array([r[2] for r in rows], np.int64),
        budget_ms=np.array([r[3] for r in rows], float),
    )


# ---------------------------------------------------------------------- graphs


def _graphs(
    state: ClusterState, folded: _Folded, shared: _Shared, legs: _Legs, slots: Slots
) -> tuple[Graph, ...]:
    class_of = {int(s): c for c, s in enumerate(folded.spec) if not folded.deferrable[c]}
    graphs: list[Graph] = []
    for shape, template in enumerate(state.shapes.templates):
        count = int(shared.count_of_shape[shape])
        specs = state.shapes.specs_of_shape[shape]
        if len(template.stages) < 2 or not count or any(s not in class_of for s in specs):
            continue
        graph = _graph(template, [class_of[s] for s in specs], count, legs, slots)
        fixed = [shared.site_of(s) for s in template.stages]
        if any(site is not None for site in fixed):
            graph = replace(graph, fixed_site=tuple(-1 if site is None else site for site in fixed))
        graphs.append(graph)
    return tuple(graphs)


def _graph(template: Workload, classes: list[int], count: int, legs: _Legs, slots: Slots) -> Graph:
    index = {s.stage_id: i for i, s in enumerate(template.stages)}
    access = {
        frozenset((f.source, f.target)): f.access_id
        for f in template.flows
        if "zones/" in f.source + f.target
    }
    flows = tuple(
        GraphFlow(
            index[f.source.removeprefix("stages/")],
            index[f.target.removeprefix("stages/")],
            f.mbps,
            f.rtt_p99_max_ms,
        )
        for f in template.flows
        if f.source.startswith("stages/") and f.target.startswith("stages/")
    )
    paths = tuple(GraphPath(tuple(_via(p.via, index, access, legs)), p.budget_ms) for p in template.paths)
    colocate = tuple(
        (i, index[s.colocate_with]) for i, s in enumerate(template.stages) if s.colocate_with is not None
    )
    return Graph(
        graph_id=f"{template.workload_class or template.kind.value}/{classes[0]}",
        count=(float(count),) * len(slots.hours),
        stage_class=tuple(classes),
        stage_replicas=tuple(s.replicas for s in template.stages),
        flows=flows,
        paths=paths,
        colocate=colocate,
    )


def _via(
    via: tuple[str, ...], index: dict[str, int], access: dict[frozenset[str], str], legs: _Legs
) -> list[int]:
    out = []
    for i, hop in enumerate(via):
        if hop.startswith("stages/"):
            out.append(index[hop.removeprefix("stages/")])
            continue
        neighbour = via[i + 1] if i + 1 < len(via) else via[i - 1]
        leg = legs.leg(hop.removeprefix("zones/"), access.get(frozenset((hop, neighbour)), ""))
        out.append(-1 - leg)
    return out


__all__ = ["HOURS_PER_DAY", "Compiled", "balance_kwh", "compile_problem", "slots_from"]
