"""From the program's answer to a `PlanSolution`: everything is counted again from shares, nodes and open sites.

The program overestimates the square term by chords; the solution states the true facility power, cost and ledger. The
bounds speak of the program (`model` says which), prices are its duals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.archive import BoolArray, FloatArray
from solvers.certify import Search
from solvers.linear import LpResult
from solvers.pipelines import patterns_transfer_yuan
from solvers.plan_master import Master
from solvers.plan_rules import PlanModel, block_move_yuan, sum_over, unfinished_yuan_per_replica_h
from solvers.problem import NODE, NODE_COLUMNS, RESOURCES, W_PER_KW
from solvers.solution import Bound, Cost, GraphPattern, PlanSolution, SolveStatus

NEGLIGIBLE = 1e-7
"""Shares and counts below this are solver noise."""
OPTIMAL_GAP_FRAC = 1e-4


@dataclass(frozen=True, eq=False)
class PlanParts:
    """What a finished search hands over."""

    model: PlanModel
    master: Master
    result: LpResult
    fixed_on: FloatArray
    objective_yuan: float
    """Of the program, levels left out."""
    bound_yuan: float
    """No plan of the model costs less at these levels."""
    evidence: tuple[Search, ...]
    """Duals of programs of this model: what a certificate is made of."""


def make_solution(parts: PlanParts) -> PlanSolution:
    """The plan in full."""
    p = parts.model.sets.problem
    values = parts.master.base_values(parts.result.x)
    running = _running_count(parts.model, values)
    site_on = _open_by_slot(parts.model, parts.fixed_on)
    nodes_on = _nodes_on(parts.model, values, running)
    it_kw, useful_kw = _it_power(parts.model, running, nodes_on)
    facility_kw = _facility_power(parts.model, it_kw, site_on)
    used, debt, portfolio_debt = _ledger(parts.model, facility_kw, it_kw, useful_kw)
    unserved = _unserved(parts.model, running)
    unfinished, late = _batch_left(parts.model, running)
    moved, moved_yuan = _moves(parts, values, running)
    excess_kw = np.where(
        site_on, np.maximum(facility_kw - p.sites.ipue_cap_hourly[:, None] * it_kw, 0.0), 0.0
    )
    cap_excess_kw = np.where(np.isnan(excess_kw) | (excess_kw < NEGLIGIBLE), 0.0, excess_kw)
    patterns = _graph_patterns(parts.model, values)
    cost = _cost(
        parts, running, nodes_on, site_on, facility_kw, debt, portfolio_debt, unserved, unfinished, late,
        moved_yuan, cap_excess_kw, patterns,
    )  # fmt: skip
    bounds = _bounds(parts, facility_kw, debt, portfolio_debt)
    gap = bounds[0].gap_frac
    return PlanSolution(
        problem_sha256=p.content_hash(),
        status=SolveStatus.OPTIMAL if gap is not None and gap <= OPTIMAL_GAP_FRAC else SolveStatus.FEASIBLE,
        running_count=running,
        nodes_on=nodes_on,
        site_on=site_on,
        unserved_count=unserved,
        unfinished_replica_h=unfinished,
        late_replica_h=late,
        it_kw=it_kw,
        useful_it_kw=useful_kw,
        facility_kw=facility_kw,
        cap_excess_kw=cap_excess_kw,
        ledger_used_kwh=used,
        ledger_debt_kwh=debt,
        price_yuan_per_unit_h=_prices(parts),
        energy_yuan_per_kwh_it=_energy_prices(parts),
        moved_count=moved,
        graph_patterns=patterns,
        portfolio_debt_kwh=portfolio_debt,
        cost=cost,
        bounds=bounds,
    )


def _running_count(model: PlanModel, values: FloatArray) -> FloatArray:
    p = model.sets.problem
    running = np.zeros((p.pair_count, p.slot_count))
    amount = np.where(values < NEGLIGIBLE, 0.0, values)[model.load_column] * model.load_factor
    np.add.at(running, (model.load_pair, model.load_slot), amount)
    return running


def _open_by_slot(model: PlanModel, fixed_on: FloatArray) -> BoolArray:
    p = model.sets.problem
    is_open = np.repeat(~p.sites.may_close[:, None], p.slot_count, axis=1)
    closable = model.on_column >= 0
    on_columns = model.columns_of("on")
    first = int(on_columns[0]) if len(on_columns) else 0
    is_open[closable] = fixed_on[model.on_column[closable] - first] > 0.5
    return is_open


def _nodes_on(model: PlanModel, values: FloatArray, running: FloatArray) -> FloatArray:
    """Nodes that the placed work needs; the program's own count only where a cap rewards more (padding, ≤ the rule)."""
    sets, p = model.sets, model.sets.problem
    needed = np.zeros((p.group_count, len(NODE_COLUMNS), p.slot_count))
    filled = np.zeros((p.group_count, p.slot_count))
    np.add.at(needed, p.pairs.group_index, sets.share[:, :, None] * running[:, None, :])
    np.add.at(filled, p.pairs.group_index, sets.filled[:, None] * running)
    nodes = needed.max(axis=1)
    tempted = np.zeros(p.group_count, dtype=bool)
    if "padding" in model.keys:
        tempted[model.keys["padding"][0]] = True
    g, t = model.keys["nodes_on"]
    planned = np.zeros_like(nodes)
    planned[g, t] = values[model.columns_of("nodes_on")]
    allowed = p.terms.padding_factor * filled + p.terms.padding_node_count
    kept: FloatArray = np.where(tempted[:, None], np.maximum(nodes, np.minimum(planned, allowed)), nodes)
    return kept


def _it_power(model: PlanModel, running: FloatArray, nodes_on: FloatArray) -> tuple[FloatArray, FloatArray]:
    sets, p = model.sets, model.sets.problem
    it_kw, useful_kw = np.zeros((p.site_count, p.slot_count)), np.zeros((p.site_count, p.slot_count))
    np.add.at(it_kw, p.groups.site, p.groups.idle_w[:, None] * nodes_on / W_PER_KW)
    np.add.at(it_kw, p.pair_site, p.pairs.dynamic_w[:, None] * running / W_PER_KW)
    np.add.at(useful_kw, p.pair_site, sets.counted_kw[:, None] * running)
    return it_kw, useful_kw


def _facility_power(model: PlanModel, it_kw: FloatArray, site_on: BoolArray) -> FloatArray:
    s = model.sets.problem.sites
    square = s.loss_square / s.rated_kw[:, None] * it_kw**2
    return np.asarray(np.where(site_on, s.fixed_kw, s.off_kw) + (1 + s.loss_slope) * it_kw + square)


def _ledger(
    model: PlanModel, facility_kw: FloatArray, it_kw: FloatArray, useful_kw: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """([S] used kWh, nan without a cap; [S] debt kWh; debt of the portfolio)."""
    p = model.sets.problem
    hours = p.slots.hours
    counted = useful_kw if p.terms.ledger_load == "useful" else it_kw
    used = ((facility_kw - p.sites.pue_cap_annual[:, None] * counted) * hours).sum(axis=1)
    debt = np.where(np.isnan(used), 0.0, np.maximum(used - p.sites.ledger_beta_kwh, 0.0))
    portfolio = 0.0
    edge = p.sites.is_edge
    if p.terms.portfolio_pue_cap_annual is not None and edge.any():
        edge_used = ((facility_kw - p.terms.portfolio_pue_cap_annual * counted) * hours)[edge].sum()
        portfolio = max(0.0, float(edge_used) - p.terms.portfolio_beta_kwh)
    return used, debt, portfolio


def _unserved(model: PlanModel, running: FloatArray) -> FloatArray:
    sets, p = model.sets, model.sets.problem
    placed = np.zeros((p.class_count, p.slot_count))
    np.add.at(placed, p.pairs.class_index, running)
    missing = np.where(sets.demand > 0, sets.demand - placed, 0.0)
    return np.where(missing <= NEGLIGIBLE * np.maximum(sets.demand, 1.0), 0.0, missing)


def _batch_left(model: PlanModel, running: FloatArray) -> tuple[FloatArray, FloatArray]:
    p = model.sets.problem
    done = np.zeros((p.class_count, p.slot_count))
    np.add.at(done, p.pairs.class_index, running * p.slots.hours)
    work, deadline = p.classes.work_replica_h, p.classes.deadline_slot
    in_time = np.where(np.arange(p.slot_count) < deadline[:, None], done, 0.0).sum(axis=1)
    is_batch = work > 0
    left = np.where(is_batch, np.maximum(work - done.sum(axis=1), 0.0), 0.0)
    late = np.where(is_batch & (deadline < p.slot_count), np.maximum(work - in_time, 0.0), 0.0)
    return np.where(left < NEGLIGIBLE, 0.0, left), np.where(late < NEGLIGIBLE, 0.0, late)


def _moves(parts: PlanParts, values: FloatArray, running: FloatArray) -> tuple[FloatArray, float]:
    """([K] replicas that leave the pair's group in the first slot, cost of all moves planned)."""
    model, p = parts.model, parts.model.sets.problem
    moved = np.zeros(p.pair_count)
    per_share = model.sets.demand[:, 0][p.pairs.class_index]
    for name, count in (("moved", per_share), ("moved_batch", np.ones(p.pair_count))):
        if name in model.keys:
            (k,) = model.keys[name]
            amount = values[model.columns_of(name)]
            moved[k] += np.where(amount < NEGLIGIBLE, 0.0, amount) * count[k]
    first_yuan = float(moved @ p.classes.migration_yuan[p.pairs.class_index])
    return moved, first_yuan + _block_moves_yuan(model, running)


def _block_moves_yuan(model: PlanModel, running: FloatArray) -> float:
    """What shares of services that change group between blocks cost; what was unserved before begins for nothing.

    The least that any routes with these shares cost; those of the program, which lacks some, may cost more.
    """
    sets, p = model.sets, model.sets.problem
    c, of_service = p.pairs.class_index, np.zeros(p.pair_count, dtype=bool)
    of_service[sets.service_pairs] = True
    demand_h = sum_over(sets.block_of_slot, sets.demand * p.slots.hours)[c]
    running_h = sum_over(sets.block_of_slot, running * p.slots.hours)
    share = np.divide(running_h, demand_h, out=np.zeros_like(running_h), where=demand_h > 0)
    share[~of_service] = 0.0
    served, more = np.zeros((2, p.class_count, sets.block_count))
    np.add.at(served, c, share)
    np.add.at(more[:, 1:], c, np.maximum(np.diff(share, axis=1), 0.0))
    moved = np.maximum(more[:, 1:] - np.maximum(1.0 - served[:, :-1], 0.0), 0.0)
    return float((moved * block_move_yuan(sets)).sum())


def _cost(
    parts: PlanParts, running: FloatArray, nodes_on: FloatArray, site_on: BoolArray, facility_kw: FloatArray,
    debt: FloatArray, portfolio_debt: float, unserved: FloatArray, unfinished: FloatArray, late: FloatArray,
    moved_yuan: float, cap_excess_kw: FloatArray, patterns: tuple[GraphPattern, ...],
) -> Cost:  # fmt: skip
    sets, p = parts.model.sets, parts.model.sets.problem
    hours, sites = p.slots.hours, p.sites
    energy_kwh = facility_kw * hours
    before = np.concatenate([p.groups.initial_on_count[:, None], nodes_on[:, :-1]], axis=1)
    was_open = np.concatenate([sites.initially_on[:, None], site_on[:, :-1]], axis=1)
    opened = (site_on & ~was_open & sites.may_close[:, None]).sum(axis=1)
    soft = ~sites.hourly_is_hard[:, None] & (cap_excess_kw > 0)
    return Cost(
        energy_yuan=float((energy_kwh * sites.price_yuan_per_kwh).sum()),
        carbon_yuan=float((energy_kwh * (sets.energy_yuan_per_kwh - sites.price_yuan_per_kwh)).sum()),
        debt_yuan=float((debt * sites.debt_yuan_per_kwh)[~sites.annual_is_hard].sum())
        + (0.0 if p.terms.portfolio_is_hard else portfolio_debt * p.terms.portfolio_debt_yuan_per_kwh),
        demand_charge_yuan=float(
            (np.maximum(facility_kw.max(axis=1) - sites.demand_peak_kw, 0.0) * sites.demand_yuan_per_kw).sum()
        ),
        lateness_yuan=float(late @ p.classes.lateness_yuan_per_replica_h),
        unfinished_yuan=float(unfinished @ unfinished_yuan_per_replica_h(sets)),
        start_yuan=float(opened @ sites.start_yuan),
        wake_yuan=float((np.maximum(nodes_on - before, 0.0) * p.groups.wake_yuan[:, None]).sum()),
        migration_yuan=moved_yuan,
        other_yuan=float((running * hours * p.pairs.other_yuan_per_replica_h[:, None]).sum())
        + patterns_transfer_yuan(p, patterns),
        unserved_yuan=float((unserved * hours).sum(axis=1) @ p.classes.unserved_yuan_per_replica_h),
        cap_excess_yuan=float(
            (np.where(soft, cap_excess_kw, 0.0) * hours * sites.debt_yuan_per_kwh[:, None]).sum()
        ),
    )


def _bounds(
    parts: PlanParts, facility_kw: FloatArray, debt: FloatArray, portfolio_debt: float
) -> tuple[Bound, ...]:
    """Fleet: program against its relaxation. Edge: what the fleet's bound leaves, if the rest is held at its cost.

    Any plan whose cost outside the edge sites is at most this plan's has an edge cost ≥ edge cost − (objective −
    bound): total' ≥ bound, hence edge' ≥ bound − other' ≥ bound − other = edge − (objective − bound).
    """
    sets, p = parts.model.sets, parts.model.sets.problem
    open_gap = max(0.0, parts.objective_yuan - parts.bound_yuan)
    size = f"blocks={sets.block_count},chords={sets.options.chord_count},nodes continuous"
    fleet = Bound(
        model=f"horizon plan with site switching ({size})",
        scope="fleet",
        objective_yuan=parts.objective_yuan,
        bound_yuan=parts.objective_yuan - open_gap,
        gap_frac=open_gap / max(abs(parts.objective_yuan), 1e-9),
    )
    edge = p.sites.is_edge
    if not edge.any():
        return (fleet,)
    at_edge_yuan = _edge_yuan(parts.model, facility_kw, debt, portfolio_debt)
    return (
        fleet,
        Bound(
            model=f"edge sites, cost elsewhere held at this plan's ({size})",
            scope="edge",
            objective_yuan=at_edge_yuan,
            bound_yuan=at_edge_yuan - open_gap,
            gap_frac=open_gap / max(at_edge_yuan, 1e-9),
        ),
    )


def edge_yuan(master: Master, result: LpResult, fixed_on: FloatArray) -> float:
    """What a plan's edge sites cost: energy and priced debt."""
    model, values = master.model, master.base_values(result.x)
    running = _running_count(model, values)
    it_kw, useful_kw = _it_power(model, running, _nodes_on(model, values, running))
    facility_kw = _facility_power(model, it_kw, _open_by_slot(model, fixed_on))
    _, debt, portfolio_debt = _ledger(model, facility_kw, it_kw, useful_kw)
    return _edge_yuan(model, facility_kw, debt, portfolio_debt)


def _edge_yuan(model: PlanModel, facility_kw: FloatArray, debt: FloatArray, portfolio_debt: float) -> float:
    sets, p = model.sets, model.sets.problem
    energy = (facility_kw * sets.energy_yuan_per_kwh * p.slots.hours).sum(axis=1)
    soft_debt = np.where(p.sites.annual_is_hard, 0.0, debt * p.sites.debt_yuan_per_kwh)
    at_edges = float((energy + soft_debt)[p.sites.is_edge].sum())
    shared = 0.0 if p.terms.portfolio_is_hard else portfolio_debt * p.terms.portfolio_debt_yuan_per_kwh
    return at_edges + shared


def _prices(parts: PlanParts) -> FloatArray:
    """[G,R,T] yuan per unit and hour: dual of the capacity row per node, over units of one node and hours
    of the slot. What a whole node is worth to work that shares it with none of its like is no resource's price.
    """
    model, p = parts.model, parts.model.sets.problem
    prices = np.zeros((p.group_count, len(RESOURCES), p.slot_count))
    g, r, t = model.keys["capacity"]
    per_node = -parts.result.duals[model.rows_of("capacity")]
    if "floor" in model.keys:
        # work below public service pays the floor's dual too; it is the price that rounds compare
        floor_duals = -parts.result.duals[model.rows_of("floor")]
        floor = dict(zip(zip(*model.keys["floor"], strict=True), floor_duals, strict=True))
        per_node = per_node + np.array([floor.get(key, 0.0) for key in zip(g, r, t, strict=True)])
    of_resource = r != NODE
    g, r, t, per_node = g[of_resource], r[of_resource], t[of_resource], per_node[of_resource]
    units = p.groups.capacity[g, r] * p.groups.packing_yield[g, r]
    prices[g, r, t] = np.maximum(per_node, 0.0) / np.maximum(units, 1) / p.slots.hours[t]
    return prices


def _energy_prices(parts: PlanParts) -> FloatArray:
    """[S,T] yuan per kWh of IT energy that work causes: dual of the power balance over hours, less what ledgers credit.

    Below 0 where debt is dearer than the energy that would repay it.
    """
    model, p = parts.model, parts.model.sets.problem
    duals = parts.result.duals[model.rows_of("it_power")].reshape(p.site_count, p.slot_count)
    return np.asarray(np.abs(duals) / p.slots.hours) - _credit_yuan_per_kwh(parts)[:, None]


def _credit_yuan_per_kwh(parts: PlanParts) -> FloatArray:
    """[S] what ledgers give back for a kWh of useful load: Π times their dual; the legal form credits P itself."""
    model, p = parts.model, parts.model.sets.problem
    credit = np.zeros(p.site_count)
    if p.terms.ledger_load != "useful":
        return credit
    capped = np.flatnonzero(~np.isnan(p.sites.pue_cap_annual))
    if len(capped):
        own = np.maximum(-parts.result.duals[model.rows_of("ledger")], 0.0)
        credit[capped] += p.sites.pue_cap_annual[capped] * own
    if p.terms.portfolio_pue_cap_annual is not None and p.sites.is_edge.any():
        shared = max(0.0, -float(parts.result.duals[model.rows_of("portfolio_ledger")][0]))
        credit[p.sites.is_edge] += p.terms.portfolio_pue_cap_annual * shared
    return credit


def _graph_patterns(model: PlanModel, values: FloatArray) -> tuple[GraphPattern, ...]:
    sets, p = model.sets, model.sets.problem
    found = []
    for j, (graph, held) in enumerate(zip(p.graphs, sets.graphs, strict=True)):
        n, era = model.keys[f"pattern_{j}"]
        share = np.zeros((len(held.columns), sets.era_count))
        amount = values[model.columns_of(f"pattern_{j}")]
        share[n, era] = np.where(amount < NEGLIGIBLE, 0.0, amount)
        for row in np.flatnonzero(share.max(axis=1, initial=0.0) > 0):
            option = held.patterns.option[held.columns[row]]
            count = share[row, sets.era_of_slot] * np.array(graph.count)
            found.append(
                GraphPattern(
                    graph_index=j,
                    stage_site=tuple(int(o.site[i]) for o, i in zip(held.options, option, strict=True)),
                    stage_processing_ms=tuple(
                        float(o.processing_ms[i]) for o, i in zip(held.options, option, strict=True)
                    ),
                    count=tuple(float(v) for v in count),
                )
            )
    return tuple(found)
