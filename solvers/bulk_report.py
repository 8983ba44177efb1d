"""From replicas on nodes to a `PlanSolution` and `NodePlacements`: everything is counted again from the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.bulk_model import HARD_CAP_YUAN, SHARP_RESOURCE, BulkSets, padded_groups
from solvers.bulk_relax import Relaxation
from solvers.node_fill import Booked, FleetState
from solvers.problem import RESOURCES, W_PER_KW, PlacementProblem
from solvers.solution import BULK_MODEL, Bound, Cost, NodePlacements, PlanSolution, SolveStatus

MODEL = BULK_MODEL
NEGLIGIBLE = 1e-9
NOISE_FRAC = 1e-7


@dataclass(frozen=True, eq=False)
class Powers:
    """Powers of sites, kW."""

    it_kw: FloatArray
    useful_kw: FloatArray
    facility_kw: FloatArray


def node_placements(sets: BulkSets, fleet: FleetState, booked: Booked) -> NodePlacements:
    """One row per replica, devices as tuples; gangs are workloads of their own."""
    masks, which = np.unique(booked.device_mask, return_inverse=True)
    devices = [tuple(d for d in range(m.bit_length()) if m >> d & 1) for m in masks.tolist()]
    return NodePlacements(
        class_index=sets.pair_class[booked.pair],
        group_index=fleet.group[booked.node],
        node_index=fleet.index[booked.node],
        workload_index=booked.gang,
        gpu_ids=tuple([devices[i] for i in which.tolist()]),
    )


def make_solution(
    relaxation: Relaxation, nodes_occupied: IntArray, running: FloatArray, bound_yuan: float | None
) -> PlanSolution:
    """The plan in full. `running` [V] replicas per candidate pair, `nodes_occupied` [G]."""
    sets, site_on = relaxation.sets, relaxation.site_on
    p = sets.problem
    nodes = nodes_on(sets, nodes_occupied, running, site_on)
    powers = site_powers(sets, nodes, running, site_on)
    excess = cap_excess_kw(p, powers, site_on)
    used, debt, portfolio = ledgers(p, powers, sets.hours)
    unserved = sets.demand - np.bincount(sets.pair_class, weights=running, minlength=p.class_count)
    per_pair = np.zeros(p.pair_count)
    per_pair[sets.pair] = running
    moved = moved_count(p, per_pair, sets.demand)
    cost = _cost(sets, nodes, per_pair, site_on, powers, excess, debt, portfolio, unserved, moved)
    levels_yuan = float((sets.unserved_yuan - p.classes.unserved_yuan_per_replica_h * sets.hours) @ unserved)
    objective = cost.total_yuan
    levels_yuan += HARD_CAP_YUAN * hard_excess_kwh(p, excess * sets.hours, debt, portfolio)
    # the program also weighs ranks and hard caps; its bound speaks of the cost of plans that break no more of them
    bounds: tuple[Bound, ...] = ()
    if bound_yuan is not None:
        proven = bound_yuan - levels_yuan
        if objective < proven <= objective * (1 + NOISE_FRAC):
            proven = objective
        gap = (objective - proven) / max(abs(objective), NEGLIGIBLE)
        bounds = (Bound(MODEL, "fleet", objective, proven, gap),)
    column = np.newaxis
    return PlanSolution(
        problem_sha256=p.content_hash(),
        status=SolveStatus.FEASIBLE,
        running_count=per_pair[:, column],
        nodes_on=nodes[:, column],
        site_on=site_on[:, column],
        unserved_count=np.maximum(unserved, 0.0)[:, column],
        unfinished_replica_h=np.zeros(p.class_count),
        late_replica_h=np.zeros(p.class_count),
        it_kw=powers.it_kw[:, column],
        useful_it_kw=powers.useful_kw[:, column],
        facility_kw=powers.facility_kw[:, column],
        cap_excess_kw=excess[:, column],
        ledger_used_kwh=used,
        ledger_debt_kwh=debt,
        price_yuan_per_unit_h=_prices(relaxation)[:, :, column],
        energy_yuan_per_kwh_it=(relaxation.kw_yuan / sets.hours)[:, column],
        moved_count=moved,
        portfolio_debt_kwh=portfolio,
        cost=cost,
        bounds=bounds,
        work={"lp_iterations": float(relaxation.iterations)},
    )


def hard_excess_kwh(
    p: PlacementProblem, cap_excess_kwh: FloatArray, debt: FloatArray, portfolio: float
) -> float:
    """Energy above caps that the policy makes hard: hourly, annual, of the portfolio."""
    hard = cap_excess_kwh @ p.sites.hourly_is_hard + debt @ p.sites.annual_is_hard
    return float(hard) + (portfolio if p.terms.portfolio_is_hard else 0.0)


def nodes_on(sets: BulkSets, occupied: IntArray, running: FloatArray, site_on: BoolArray) -> FloatArray:
    """[G] nodes powered: the occupied ones, what stated yields ask for, and where an hourly cap needs more load, empty
    nodes up to the padding rule.
    """
    p = sets.problem
    needed = np.zeros((p.group_count, len(RESOURCES)))
    np.add.at(needed, sets.pair_group, sets.share * running[:, None])
    nodes = np.minimum(np.maximum(occupied, np.ceil(needed.max(axis=1) - 1e-9)), sets.nodes)
    low = np.where(site_on & np.isfinite(sets.cap_low_kw), sets.cap_low_kw, 0.0)
    if not low.any():
        return np.asarray(nodes)
    dominant = np.bincount(sets.pair_group, weights=sets.dominant * running, minlength=p.group_count)
    allowed = np.minimum(np.floor(p.terms.padding_factor * dominant + p.terms.padding_node_count), sets.nodes)
    it_kw = site_powers(sets, nodes, running, site_on).it_kw
    short_kw = low - it_kw
    room_kw = sets.power_limit_kw - it_kw
    idle_kw = p.groups.idle_w / W_PER_KW
    for g in np.flatnonzero(
        padded_groups(p) & (short_kw[p.groups.site] > 0) & (allowed > nodes) & (idle_kw > 0)
    ):
        s = int(p.groups.site[g])
        wanted = np.ceil(max(short_kw[s], 0.0) / idle_kw[g] - 1e-9)
        more = max(0.0, min(allowed[g] - nodes[g], wanted, np.floor(room_kw[s] / idle_kw[g])))
        nodes[g] += more
        short_kw[s] -= more * idle_kw[g]
        room_kw[s] -= more * idle_kw[g]
    return np.asarray(nodes)


def site_powers(sets: BulkSets, nodes: FloatArray, running: FloatArray, site_on: BoolArray) -> Powers:
    """IT, useful and facility power, the square term exact."""
    p = sets.problem
    count = p.site_count
    it = np.bincount(p.groups.site, weights=p.groups.idle_w / W_PER_KW * nodes, minlength=count)
    it = it + np.bincount(sets.pair_site, weights=sets.dynamic_kw * running, minlength=count)
    useful = np.bincount(sets.pair_site, weights=sets.useful_kw * running, minlength=count)
    fixed = np.where(site_on, p.sites.fixed_kw[:, 0], p.sites.off_kw[:, 0])
    square = p.sites.loss_square[:, 0] / p.sites.rated_kw * it**2
    facility = fixed + (1 + p.sites.loss_slope[:, 0]) * it + square
    return Powers(np.asarray(it), np.asarray(useful), np.asarray(facility))


def cap_excess_kw(p: PlacementProblem, powers: Powers, site_on: BoolArray) -> FloatArray:
    """[S] facility power above the hourly cap of open sites."""
    cap = p.sites.ipue_cap_hourly
    over = np.maximum(powers.facility_kw - np.where(np.isnan(cap), 0.0, cap) * powers.it_kw, 0.0)
    return np.where(np.isnan(cap) | ~site_on | (over < NEGLIGIBLE), 0.0, over)


def ledgers(p: PlacementProblem, powers: Powers, hours: float) -> tuple[FloatArray, FloatArray, float]:
    """(used [S], owed [S], owed by the edge portfolio), kWh."""
    counted = powers.useful_kw if p.terms.ledger_load == "useful" else powers.it_kw
    used = (powers.facility_kw - p.sites.pue_cap_annual * counted) * hours
    owed = np.where(np.isnan(used), 0.0, np.maximum(used - p.sites.ledger_beta_kwh, 0.0))
    portfolio, cap = 0.0, p.terms.portfolio_pue_cap_annual
    if cap is not None and p.sites.is_edge.any():
        edge_used = float(((powers.facility_kw - cap * counted) * hours)[p.sites.is_edge].sum())
        portfolio = max(0.0, edge_used - p.terms.portfolio_beta_kwh)
    return used, owed, portfolio


def moved_count(p: PlacementProblem, per_pair: FloatArray, demand: FloatArray) -> FloatArray:
    """[K] running replicas that leave their group and are still wanted: leaving less what the class lost anyway."""
    leaving = np.maximum(p.pairs.running_count - per_pair, 0.0)
    c = p.pairs.class_index
    left = np.bincount(c, weights=leaving, minlength=p.class_count)
    ran = np.bincount(c, weights=p.pairs.running_count, minlength=p.class_count)
    moves = np.maximum(left - np.maximum(ran - demand, 0.0), 0.0)
    share = np.divide(moves, left, out=np.zeros(len(left)), where=left > 0)
    return np.asarray(leaving * share[c])


def moves_over_budget(p: PlacementProblem, per_pair: FloatArray) -> float:
    """Replicas that change group beyond the policy's budget: of each class, what leaves groups and joins others."""
    if p.terms.move_budget_count is None:
        return 0.0
    step = per_pair - p.pairs.running_count
    left = np.bincount(p.pairs.class_index, weights=np.maximum(-step, 0.0), minlength=p.class_count)
    joined = np.bincount(p.pairs.class_index, weights=np.maximum(step, 0.0), minlength=p.class_count)
    return max(0.0, float(np.minimum(left, joined).sum()) - p.terms.move_budget_count)


def _cost(
    sets: BulkSets, nodes: FloatArray, per_pair: FloatArray, site_on: BoolArray, powers: Powers, excess: FloatArray,
    debt: FloatArray, portfolio: float, unserved: FloatArray, moved: FloatArray,
) -> Cost:  # fmt: skip
    p, sites, h = sets.problem, sets.problem.sites, sets.hours
    kwh = powers.facility_kw * h
    soft_debt = np.where(sites.annual_is_hard, 0.0, sites.debt_yuan_per_kwh)
    soft_cap = np.where(sites.hourly_is_hard, 0.0, sites.debt_yuan_per_kwh)
    portfolio_yuan = 0.0 if p.terms.portfolio_is_hard else p.terms.portfolio_debt_yuan_per_kwh
    peak = np.maximum(powers.facility_kw - sites.demand_peak_kw, 0.0)
    return Cost(
        energy_yuan=float(kwh @ sites.price_yuan_per_kwh[:, 0]),
        carbon_yuan=float(kwh @ sites.carbon_g_per_kwh[:, 0]) / 1000.0 * p.terms.carbon_yuan_per_kg,
        debt_yuan=float(debt @ soft_debt) + portfolio * portfolio_yuan,
        demand_charge_yuan=float(peak @ sites.demand_yuan_per_kw),
        start_yuan=float(sites.start_yuan[site_on & ~sites.initially_on & sites.may_close].sum()),
        wake_yuan=float(p.groups.wake_yuan @ np.maximum(nodes - p.groups.initial_on_count, 0.0)),
        migration_yuan=float((moved * p.classes.migration_yuan[p.pairs.class_index]).sum()),
        other_yuan=float((per_pair * p.pairs.other_yuan_per_replica_h).sum()) * h,
        unserved_yuan=float(unserved @ p.classes.unserved_yuan_per_replica_h) * h,
        cap_excess_yuan=float(excess @ soft_cap) * h,
    )


def _prices(relaxation: Relaxation) -> FloatArray:
    """[G, R] yuan per unit of a resource and hour: duals of capacity, and of sharp rows for what they ration."""
    sets, m = relaxation.sets, relaxation.model
    p = sets.problem
    out = np.zeros((p.group_count, len(RESOURCES)))
    sharp = [(name, SHARP_RESOURCE) for name in m.rows if name.startswith("sharp")]
    for name, resource in (("capacity", range(len(RESOURCES))), *sharp):
        width = len(resource)
        dual = np.maximum(-m.duals(name, relaxation.duals), 0.0)
        g, r = m.keys[name] // width, np.array(resource)[m.keys[name] % width]
        per_node = p.groups.capacity[g, r] * p.groups.packing_yield[g, r] * sets.hours
        np.add.at(out, (g, r), np.divide(dual, per_node, out=np.zeros(len(g)), where=per_node > 0))
    return out
