"""Proof of a plan by arithmetic: from a problem's raw facts and stored multipliers, a bound on every plan's cost.

Weak duality. Charge each rule that ties a plan's parts together (capacity, power balance, ledgers, links …) with the
certificate's multiplier; what is left falls apart into small problems that are solved exactly here, with numpy alone:

1. a service class: the cheapest route over node groups and blocks, or nothing   (`_routes_yuan`)
2. batch work: the cheapest slots, as much in each as may run in parallel          (`_batch_yuan`)
3. a stage graph: the cheapest valid pattern, or nothing                           (`_graphs_yuan`)
4. a site: per slot the best IT power on the *true* facility curve with its caps and the nodes worth powering, and
   over blocks which to be open                                                    (`_sites_yuan`)

Plans on nodes (`NODES_MODEL`) have whole replicas on whole nodes of one slot: their multipliers also price rows of
`solvers.node_rows`, and of a class that shrank only those count as moved that are still wanted.

The sum of their optima is no more than the cost of any plan whose levels are no worse, whatever the multipliers are:
they need not be trusted, only their signs are enforced, and every term is `lowered` by what rounding may do to it.
Nothing is shared with the model that plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from solvers.alone import alone_on_node, takes_whole_node
from solvers.node_rows import is_node_row, node_row
from solvers.problem import NODE_COLUMNS, RESOURCES, Graph, PlacementProblem
from solvers.rounding import lowered
from solvers.solution import (
    BLOCK_MODEL,
    NODES_MODEL,
    WHOLE_MODEL,
    Certificate,
    Leaf,
    Multipliers,
    PlanSolution,
)
from solvers.verify import Violation, site_allowed
from solvers.whole_bound import WHOLE, misfits, whole_bound_yuan

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LEVEL_COUNT = 5
LEVEL_HARD_SAFETY, LEVEL_HARD_CAPS = 0, 1
LEVEL_OF_RANK = (LEVEL_HARD_SAFETY, 2, 3, 4)
UNFINISHED_MARKUP = 1.02
"""Work left at the end costs its cheapest pair and slot of the last day and this much more (docs/mathematics.md)."""
OVER_BUDGET_FACTOR = 10.0
"""A move over the budget costs so many times the dearest migration."""
MOST_PATTERNS = 400_000
"""A graph with more combinations of options is bounded stage by stage, which is lower."""
RELATIVE, ABSOLUTE = 1e-6, 1e-6
GB_PER_H_PER_MBPS = 3600.0 / 8 / 1000


def certified_bound_yuan(
    problem: PlacementProblem, plan: PlanSolution, leaves: Sequence[Leaf], *, on_nodes: bool = False
) -> float:
    """Least cost of any plan whose levels are no worse than `plan`'s; −inf where the leaves leave choices out.

    `on_nodes`: of plans of one slot with whole replicas on whole nodes, without stage graphs and batch work.
    """
    if not leaves or not all_choices(problem, leaves):
        return -np.inf
    facts, levels = derived_facts(problem), level_values(problem, plan)
    return min(leaf_bound_yuan(problem, facts, levels, leaf, on_nodes=on_nodes) for leaf in leaves)


def leaf_bound_yuan(
    problem: PlacementProblem, facts: DerivedFacts, levels: Floats, leaf: Leaf, charged: Charged | None = None,
    *, on_nodes: bool = False,
) -> float:  # fmt: skip
    """Least cost of plans with no worse levels whose open sites lie in a leaf.

    `charged`: what its multipliers charge, where that is known already.
    """
    blocks = leaf.multipliers.block_of_slot
    if charged is None:
        charged = charge(problem, facts, leaf.multipliers, blocks, on_nodes=on_nodes)
    value = charged.yuan + _sites_yuan(problem, charged.signed, blocks, leaf)
    bound = value + _levels_yuan(charged.signed, levels)
    return bound if np.isfinite(bound) else -np.inf


def free_slots_bound_yuan(problem: PlacementProblem, plan: PlanSolution, multipliers: Multipliers) -> float:
    """The same for plans that may change shares and open sites at every slot, not only between blocks."""
    blocks = np.arange(problem.slot_count)
    charged = charge(problem, derived_facts(problem), multipliers, blocks)
    value = charged.yuan + _sites_yuan(problem, charged.signed, blocks, None)
    return value + _levels_yuan(charged.signed, level_values(problem, plan))


def _levels_yuan(m: _Signed, levels: Floats) -> float:
    """What plans with these levels pay for them at their weights, taken off."""
    return float(lowered(-m.level_yuan * levels).sum())


def all_choices(problem: PlacementProblem, leaves: Sequence[Leaf]) -> bool:
    """Whether leaves with the same blocks share no choice of open sites and leave none out.

    A leaf that fixes n of the switches holds 2⁻ⁿ of all choices; parts without overlap that add up to 1 are all.
    """
    closable = problem.sites.may_close[:, None]
    blocks = leaves[0].multipliers.block_of_slot
    share = Fraction(0)
    for leaf in leaves:
        if not np.array_equal(leaf.multipliers.block_of_slot, blocks) or np.any(
            leaf.must_open & ~leaf.may_open
        ):
            return False
        fixed = int((closable & (leaf.must_open | ~leaf.may_open)).sum())
        share += Fraction(1, 2**fixed)
    apart = all(
        np.any(closable & ((a.must_open & ~b.may_open) | (b.must_open & ~a.may_open)))
        for a, b in combinations(leaves, 2)
    )
    return apart and share == 1


@dataclass(frozen=True, eq=False)
class Charged:
    """What multipliers charge wherever sites are open."""

    signed: _Signed
    yuan: float
    """Constants and the least of routes, batch work and graphs: the dual value but for the sites."""


def charge(
    problem: PlacementProblem, facts: DerivedFacts, multipliers: Multipliers, block_of_slot: Ints,
    *, on_nodes: bool = False,
) -> Charged:  # fmt: skip
    """Least of cost + Σ level_yuan · level + multipliers · violations over all but the sites."""
    m = _signed(problem, multipliers, on_nodes=on_nodes)
    unit = _unit_yuan(problem, facts, m)
    total = _constants_yuan(problem, facts, m)
    total += _routes_yuan(problem, facts, m, unit, block_of_slot)
    total += _batch_yuan(problem, facts, m, unit)
    total += _graphs_yuan(problem, facts, m, unit)
    return Charged(m, total)


# -- derived from the facts --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DerivedFacts:
    """What the parts share."""

    may_use: Bools
    """[K] no rule that one pair decides alone forbids it."""
    share: Floats
    """[K,R+1] nodes that a replica takes of each resource; last, 1 where no two of its like share one."""
    filled: Floats
    """[K] share of a node that counts as filled: the largest, or all where no second replica fits beside it."""
    useful_kw: Floats
    counted_kw: Floats
    """[K] as useful_kw, but by the share of the scarce resource alone: what ledgers credit."""
    dynamic_kw: Floats
    demand: Floats
    """[C,T] replicas wanted, stages of graphs included."""
    is_stage: Bools
    is_batch: Bools
    energy_yuan: Floats
    """[S,T] per kWh of facility energy, carbon included."""
    unfinished_yuan: Floats
    """[C] per replica-hour left."""
    patterns: dict[int, tuple[Ints, ...]] = field(default_factory=dict)
    """Per graph, once asked for: the options of every valid pattern, which no multiplier changes."""
    options: dict[tuple[int, bool], tuple[Ints, Floats, Ints]] = field(default_factory=dict)
    """Per stage's class, and whether a path counts its time, once asked for: pairs and options (`_options_of`)."""


def derived_facts(p: PlacementProblem) -> DerivedFacts:
    """What the parts of a bound share."""
    group = p.pairs.group_index
    installed = p.groups.capacity[group].astype(float)
    usable = installed * p.groups.packing_yield[group]
    share = np.divide(p.pairs.need, usable, out=np.zeros(usable.shape), where=usable > 0)
    share = np.column_stack([share, alone_on_node(p)])
    dominant = _dominant_share(p)
    useful_kw = (dominant * p.groups.idle_w[group] + p.pairs.dynamic_w) / 1000.0
    counted_kw = useful_kw
    if p.groups.scarce_resource:
        scarce = np.array(p.groups.scarce_resource, dtype=np.int64)[group]
        here = (np.arange(len(group)), scarce)
        of_scarce = np.divide(
            p.pairs.need[here], installed[here], out=np.zeros(len(group)), where=installed[here] > 0
        )
        counted_kw = (of_scarce * p.groups.idle_w[group] + p.pairs.dynamic_w) / 1000.0
    demand = np.array(p.classes.demand_count, dtype=float)
    is_stage = np.zeros(p.class_count, dtype=bool)
    for graph in p.graphs:
        for i, c in enumerate(graph.stage_class):
            is_stage[c] = True
            if not graph.fixed_site or graph.fixed_site[i] < 0:
                demand[c] += np.asarray(graph.count) * graph.stage_replicas[i]
    may_use = usable_pairs(p)
    carbon = p.sites.carbon_g_per_kwh / 1000.0 * p.terms.carbon_yuan_per_kg
    energy = p.sites.price_yuan_per_kwh + carbon
    return DerivedFacts(
        may_use=may_use, share=share, filled=filled_share(p), useful_kw=useful_kw, counted_kw=counted_kw,
        dynamic_kw=p.pairs.dynamic_w / 1000.0, demand=demand, is_stage=is_stage,
        is_batch=p.classes.work_replica_h > 0, energy_yuan=energy,
        unfinished_yuan=_unfinished_yuan(p, may_use, energy, useful_kw),
    )  # fmt: skip


def _dominant_share(p: PlacementProblem) -> Floats:
    """[K] of an installed node that a replica takes, by its largest resource."""
    installed = p.groups.capacity[p.pairs.group_index].astype(float)
    share = np.divide(p.pairs.need, installed, out=np.zeros(installed.shape), where=installed > 0)
    return np.asarray(share.max(axis=1, initial=0.0))


def filled_share(p: PlacementProblem) -> Floats:
    """[K] share of a node that counts as filled."""
    return np.where(takes_whole_node(p), 1.0, _dominant_share(p))


def usable_pairs(p: PlacementProblem) -> Bools:
    """[K] pairs that names, labels, RTT, GPU model and memory, node size, path budgets and room for a gang allow."""
    c, g = p.pairs.class_index, p.pairs.group_index
    site = p.groups.site[g]
    allowed = np.array([site_allowed(p, i) for i in range(p.class_count)], dtype=bool)
    allowed = allowed.reshape(p.class_count, p.site_count)
    models = np.array(
        [[not wanted or m in wanted for m in p.groups.gpu_model] for wanted in p.classes.gpu_milli_by_model],
        dtype=bool,
    ).reshape(p.class_count, p.group_count)
    memory = p.classes.gpu_memory_mib[c]
    may = allowed[c, site] & models[c, g] & ((memory <= 0) | (memory <= p.groups.gpu_memory_mib[g]))
    may &= _gang_room(p, may) >= p.classes.gang_size[c]
    may &= (p.pairs.need <= p.groups.capacity[g]).all(axis=1)
    may &= p.groups.node_count.max(axis=1, initial=0)[g] > 0
    for b in range(len(p.paths.class_index)):
        total_ms = np.array(p.pairs.processing_p99_ms)
        for leg in (int(p.paths.leg_in_index[b]), int(p.paths.leg_out_index[b])):
            total_ms = total_ms + (p.network.leg_rtt_p99_ms[leg, site] if leg >= 0 else 0.0)
        may &= (c != p.paths.class_index[b]) | (total_ms <= p.paths.budget_ms[b] + 1e-9)
    return np.asarray(may)


def replicas_per_node(p: PlacementProblem) -> Floats:
    """[K] replicas of a class that one empty node holds; a share of a device lies on one device."""
    g, need = p.pairs.group_index, p.pairs.need
    per = np.full(len(g), np.inf)
    for r in range(len(RESOURCES)):
        asks = need[:, r] > 0
        count = p.groups.capacity[g, r] // np.maximum(need[:, r], 1)
        per = np.where(asks, np.minimum(per, count), per)
    part = (need[:, 2] > 0) & (need[:, 2] < 1000)
    on_devices = (p.groups.capacity[g, 2] // 1000) * (1000 // np.maximum(need[:, 2], 1))
    return np.where(part, np.minimum(per, on_devices), per)


def _gang_room(p: PlacementProblem, may: Bools) -> Floats:
    """[K] most replicas of the pair's class that empty nodes hold where a gang must lie together; 1: no gang."""
    c, g = p.pairs.class_index, p.pairs.group_index
    nodes = p.groups.node_count.max(axis=1, initial=0)
    island = np.where(p.groups.island_node_count > 0, np.minimum(p.groups.island_node_count, nodes), nodes)
    per_node = np.minimum(replicas_per_node(p), 1e9)
    on_site = np.zeros((p.class_count, p.site_count))
    np.add.at(on_site, (c[may], p.groups.site[g[may]]), (per_node * nodes[g])[may])
    room = np.where(p.classes.single_site[c], on_site[c, p.groups.site[g]], np.inf)
    room = np.where(p.classes.single_group[c], np.minimum(room, per_node * nodes[g]), room)
    room = np.where(p.classes.single_island[c], np.minimum(room, per_node * island[g]), room)
    return np.where(p.classes.gang_size[c] > 1, room, np.inf)


def _unfinished_yuan(p: PlacementProblem, may_use: Bools, energy: Floats, useful_kw: Floats) -> Floats:
    end_s = p.slots.start_s[-1] + p.slots.hours[-1] * 3600
    last_day = p.slots.start_s >= end_s - 24 * 3600
    per_kwh = (energy * (1 + p.sites.loss_slope))[p.groups.site]
    per_kwh = np.where((p.groups.node_count > 0) & last_day, per_kwh, np.inf).min(axis=1, initial=np.inf)
    with np.errstate(invalid="ignore"):
        per_pair = per_kwh[p.pairs.group_index] * useful_kw + p.pairs.other_yuan_per_replica_h
    least = np.full(p.class_count, np.inf)
    np.minimum.at(least, p.pairs.class_index[may_use], per_pair[may_use])
    return np.where(np.isfinite(least), least * UNFINISHED_MARKUP, 0.0)


def eras(p: PlacementProblem) -> Ints:
    """[T] era of each slot: a new one where nodes of some group come or go; stages of graphs move only there."""
    changes = (np.diff(p.groups.node_count, axis=1) != 0).any(axis=0)
    return np.concatenate([[0], np.cumsum(changes)]).astype(np.int64)


def _level_of_class(p: PlacementProblem) -> Ints:
    return np.array(LEVEL_OF_RANK, dtype=np.int64)[p.classes.priority_rank]


def _graph_level(p: PlacementProblem, graph: Graph) -> int:
    """That of its most urgent stage."""
    ranks = [int(p.classes.priority_rank[c]) for c in graph.stage_class]
    return LEVEL_OF_RANK[min(ranks, default=len(LEVEL_OF_RANK) - 1)]


def _graph_penalty(p: PlacementProblem, graph: Graph) -> float:
    """Yuan per hour in which one graph is not served."""
    stages = zip(graph.stage_class, graph.stage_replicas, strict=True)
    return float(sum(p.classes.unserved_yuan_per_replica_h[c] * n for c, n in stages))


def level_values(p: PlacementProblem, plan: PlanSolution) -> Floats:
    """[V] what each level sums up: penalties of work unserved by rank, kWh over hard caps."""
    hours, values = p.slots.hours, np.zeros(LEVEL_COUNT)
    stage = np.zeros(p.class_count, dtype=bool)
    stage[[c for graph in p.graphs for c in graph.stage_class]] = True
    yuan = (plan.unserved_count * hours).sum(axis=1) * p.classes.unserved_yuan_per_replica_h
    np.add.at(values, _level_of_class(p)[~stage], yuan[~stage])
    for j, graph in enumerate(p.graphs):
        left = np.array(graph.count, dtype=float)
        for pattern in plan.graph_patterns:
            if pattern.graph_index == j:
                left -= np.asarray(pattern.count)
        values[_graph_level(p, graph)] += _graph_penalty(p, graph) * float(np.maximum(left, 0.0) @ hours)
    hard = (plan.cap_excess_kw * hours).sum(axis=1)[p.sites.hourly_is_hard].sum()
    hard += plan.ledger_debt_kwh[p.sites.annual_is_hard].sum()
    if p.terms.portfolio_is_hard:
        hard += plan.portfolio_debt_kwh
    values[LEVEL_HARD_CAPS] += float(hard)
    return values


# -- multipliers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Signed:
    """Multipliers with signs and limits enforced, so that no part is unbounded."""

    raw: Multipliers
    level_yuan: Floats
    capacity: Floats
    floor: Floats
    padding: Floats
    ledger: Floats
    """[S] the site's own and its share of the portfolio's, times Π per kWh of counted load is `load_yuan`."""
    facility_yuan: Floats
    """[S,T] yuan per kW of facility power in the slot: energy, ledgers, peak."""
    load_yuan: Floats
    """[S,T] yuan per kW of counted IT load in the slot that ledgers give back."""
    excess_yuan: Floats
    """[S,T] yuan per kW above the hourly cap in the slot."""
    peak: Floats
    portfolio: float
    link: Floats
    stay: Floats
    stay_batch: Floats
    wake: Floats
    move_budget: float
    cut_paid: Floats
    """[C,S,T] yuan that a class pays per share on a site in a slot, for the site to be open."""
    cut_gain: Floats
    """[S,T] yuan that an open site gains from them."""
    spread_yuan: Floats
    on_nodes: bool
    """Whether the multipliers speak of plans with whole replicas on whole nodes of one slot."""
    node_rows: dict[tuple[str, int], Floats]
    """[G] yuan per node by function and parameter."""


def _signed(p: PlacementProblem, m: Multipliers, *, on_nodes: bool = False) -> _Signed:
    s, hours, terms = p.sites, p.slots.hours, p.terms
    level = np.maximum(_finite(m.level_yuan), 0.0)
    hard = level[LEVEL_HARD_CAPS]
    capped = ~np.isnan(s.pue_cap_annual)
    ledger = np.clip(
        _finite(m.ledger), 0.0, np.where(s.annual_is_hard, hard, np.maximum(s.debt_yuan_per_kwh, 0.0))
    )
    ledger = np.where(capped, ledger, 0.0)
    has_portfolio = terms.portfolio_pue_cap_annual is not None and bool(s.is_edge.any())
    debt = hard if terms.portfolio_is_hard else max(terms.portfolio_debt_yuan_per_kwh, 0.0)
    portfolio = float(np.clip(m.portfolio, 0.0, debt)) if has_portfolio and np.isfinite(m.portfolio) else 0.0
    peak = np.maximum(_finite(m.peak), 0.0)
    total = peak.sum(axis=1)
    room = np.maximum(s.demand_yuan_per_kw, 0.0)
    peak = (
        peak * np.divide(np.minimum(total, room), total, out=np.zeros(len(total)), where=total > 0)[:, None]
    )
    energy = s.price_yuan_per_kwh + s.carbon_g_per_kwh / 1000.0 * terms.carbon_yuan_per_kg
    both = ledger + portfolio * s.is_edge
    cap = np.where(capped, s.pue_cap_annual, 0.0)
    returned = ledger * cap + portfolio * s.is_edge * (terms.portfolio_pue_cap_annual or 0.0)
    dearest = float(p.classes.migration_yuan.max(initial=1.0))
    budget = (
        float(np.clip(m.move_budget, 0.0, OVER_BUDGET_FACTOR * dearest))
        if np.isfinite(m.move_budget)
        else 0.0
    )
    if terms.move_budget_count is None or on_nodes:
        budget = 0.0
    c = p.pairs.class_index
    now = _facts_demand(p)[:, 0]
    per_share = np.maximum((p.classes.migration_yuan + budget)[c] * now[c], 0.0)
    is_batch = (p.classes.work_replica_h > 0)[c]
    excess = np.where(s.hourly_is_hard, hard, s.debt_yuan_per_kwh)[:, None] * hours
    cut_paid, cut_gain = _open_cuts(p, m)
    return _Signed(
        raw=m, level_yuan=level, capacity=np.maximum(_finite(m.capacity), 0.0),
        floor=np.maximum(_finite(m.floor), 0.0), padding=np.maximum(_finite(m.padding), 0.0), ledger=ledger,
        facility_yuan=(energy + both[:, None]) * hours + peak, load_yuan=returned[:, None] * hours,
        excess_yuan=np.where(np.isnan(s.ipue_cap_hourly)[:, None], 0.0, excess), peak=peak, portfolio=portfolio,
        link=np.maximum(_finite(m.link), 0.0),
        stay=np.where(is_batch, 0.0, np.clip(_finite(m.stay), 0.0, per_share)),
        stay_batch=np.where(
            is_batch, np.clip(_finite(m.stay_batch), 0.0, np.maximum(p.classes.migration_yuan[c], 0.0)), 0.0
        ),
        wake=np.clip(_finite(m.wake), 0.0, np.maximum(p.groups.wake_yuan, 0.0)[:, None]), move_budget=budget,
        cut_paid=cut_paid, cut_gain=cut_gain, spread_yuan=np.maximum(_finite(m.spread_yuan), 0.0), on_nodes=on_nodes,
        node_rows=_node_rows(p, m) if on_nodes else {},
    )  # fmt: skip


def _node_rows(p: PlacementProblem, m: Multipliers) -> dict[tuple[str, int], Floats]:
    """[G] yuan per node of every function that is dual feasible."""
    rows: dict[tuple[str, int], Floats] = {}
    for group, function, parameter, yuan in m.node_rows:
        if is_node_row(function, parameter) and np.isfinite(yuan):
            of_group = rows.setdefault((function, parameter), np.zeros(p.group_count))
            of_group[group] += max(yuan, 0.0)
    return rows


def _open_cuts(p: PlacementProblem, m: Multipliers) -> tuple[Floats, Floats]:
    """([C,S,T] paid per share, [S,T] gained when open) for: share of a class on a site in a slot ≤ most · open.

    The rule holds where the class has demand in the slot, for none of it may then lie on a closed site; most is what
    one site may hold of a service that must lie on several. Work without slots of demand has no shares.
    """
    c = m.cut_class
    holds = (_facts_demand(p)[c, m.cut_slot] > 0) & (p.classes.work_replica_h[c] <= 0)
    yuan = np.where(holds, np.maximum(_finite(m.cut_yuan), 0.0), 0.0)
    paid, gain = np.zeros((p.class_count, p.site_count, p.slot_count)), np.zeros((p.site_count, p.slot_count))
    np.add.at(paid, (c, m.cut_site, m.cut_slot), yuan)
    stage = np.isin(c, [i for graph in p.graphs for i in graph.stage_class])
    most = np.where(stage, 1.0, 1.0 / np.maximum(p.classes.spread_site_min[c], 1))
    np.add.at(gain, (m.cut_site, m.cut_slot), yuan * most)
    return paid, gain


def _finite(values: Floats) -> Floats:
    return np.asarray(np.nan_to_num(np.asarray(values, dtype=float), nan=0.0, posinf=0.0, neginf=0.0))


def _facts_demand(p: PlacementProblem) -> Floats:
    demand = np.array(p.classes.demand_count, dtype=float)
    for graph in p.graphs:
        for i, c in enumerate(graph.stage_class):
            if not graph.fixed_site or graph.fixed_site[i] < 0:
                demand[c] += np.asarray(graph.count) * graph.stage_replicas[i]
    return demand


def _unit_yuan(p: PlacementProblem, f: DerivedFacts, m: _Signed) -> Floats:
    """[K,T] what one replica on a pair costs in a slot, at the multipliers of the rules that it loads."""
    g, c = p.pairs.group_index, p.pairs.class_index
    site, hours = p.groups.site[g], p.slots.hours
    power = _finite(m.raw.power)[site]
    unit = lowered(f.dynamic_kw[:, None] * power) + lowered(p.pairs.other_yuan_per_replica_h[:, None] * hours)
    low = p.classes.priority_rank[c] >= 2
    floors = np.where(low[:, None, None], _floors(p, m)[g], 0.0)
    for r in range(len(NODE_COLUMNS)):
        per_node = m.capacity[g, r] + (floors[:, r] if r < len(RESOURCES) else 0.0)
        unit = unit + lowered(f.share[:, r, None] * per_node)
    for (function, parameter), yuan in m.node_rows.items():
        unit = unit + lowered(node_row(p, function, parameter) * yuan[g])[:, None]
    unit = unit + lowered(-p.terms.padding_factor * f.filled[:, None] * m.padding[g])
    if p.terms.ledger_load == "useful":
        unit = unit + lowered(-f.counted_kw[:, None] * m.load_yuan[site])
    if m.link.any():
        unit = unit + lowered(_link_yuan(p, m)[c, site])
    return np.asarray(unit)


def _floors(p: PlacementProblem, m: _Signed) -> Floats:
    """Multipliers of reserved floors, only where a site reserves something."""
    return m.floor * (p.sites.reserved_floor_frac[p.groups.site] > 0)[:, None, None]


def _link_yuan(p: PlacementProblem, m: _Signed) -> Floats:
    """[C,S,T] what the zone traffic of one replica pays on its links."""
    n, legs = p.network, len(p.network.leg_id)
    from_zone = n.route_origin < legs
    paid = np.zeros((legs, p.site_count, p.slot_count))
    np.add.at(paid, (n.route_origin[from_zone], n.route_site[from_zone]), m.link[n.route_link[from_zone]])
    yuan = np.zeros((p.class_count, p.site_count, p.slot_count))
    np.add.at(yuan, p.flows.class_index, p.flows.mbps[:, None, None] * paid[p.flows.leg_index])
    return yuan


def kept_share(p: PlacementProblem, f: DerivedFacts) -> Floats:
    """[K] share of a service's demand (batch: replicas) that runs on a pair now and need not end anyway."""
    c = p.pairs.class_index
    running = np.where(f.may_use, p.pairs.running_count, 0.0)
    total = np.zeros(p.class_count)
    np.add.at(total, c, running)
    now = f.demand[:, 0]
    most = np.maximum(total, now)[c]
    of_service = np.divide(running, most, out=np.zeros(len(c)), where=(most > 0) & (now[c] > 0))
    possible = np.minimum(p.classes.max_parallel_count, p.classes.work_replica_h / p.slots.hours[0])[c]
    keep = np.divide(possible, total[c], out=np.zeros(len(c)), where=total[c] > 0)
    starts = (p.classes.release_slot[c] <= 0) & (p.groups.node_count[p.pairs.group_index, 0] > 0)
    of_batch = np.where(starts, running * np.minimum(1.0, keep), 0.0)
    return np.where(f.is_batch[c], of_batch, of_service)


def _constants_yuan(p: PlacementProblem, f: DerivedFacts, m: _Signed) -> float:
    """Right-hand sides of the charged rules."""
    usable = p.network.link_capacity_mbps * p.network.planning_load_frac
    floor_room = (1 - p.sites.reserved_floor_frac[p.groups.site])[:, None, None] * p.groups.node_count[
        :, None
    ]
    kept = kept_share(p, f)
    taken_off = (
        m.padding * p.terms.padding_node_count,
        _floors(p, m) * floor_room,
        m.ledger * np.where(m.ledger > 0, p.sites.ledger_beta_kwh, 0.0),
        m.portfolio * p.terms.portfolio_beta_kwh,
        m.peak * p.sites.demand_peak_kw[:, None],
        m.link * usable[:, None],
        m.spread_yuan * _most_on_a_site(p, f, m),
        m.wake[:, 0] * p.groups.initial_on_count,
        m.move_budget * (p.terms.move_budget_count or 0),
    )
    saved = _staying_yuan(p, f, m) if m.on_nodes else (m.stay * kept, m.stay_batch * kept)
    return float(
        sum(lowered(np.negative(yuan)).sum() for yuan in taken_off) + sum(lowered(y).sum() for y in saved)
    )


def _most_on_a_site(p: PlacementProblem, f: DerivedFacts, m: _Signed) -> Floats:
    """[X] share of a class that one site may hold where it must lie on several; on nodes in whole replicas."""
    most = 1.0 / np.maximum(p.classes.spread_site_min[m.raw.spread_class], 1)
    demand = f.demand[m.raw.spread_class, 0]
    if not m.on_nodes:
        return np.asarray(most)
    return np.asarray(np.divide(np.floor(demand * most + 1e-9), demand, out=most, where=demand > 0))


def _staying_yuan(p: PlacementProblem, f: DerivedFacts, m: _Signed) -> tuple[Floats, Floats]:
    """What whole replicas that stay save, [K] and [C]; of a class as many leave for free as it has more than it wants.

    Of class c move Σ_k max(run[k] − x[k], 0) + e − s, where e runs on pairs that forbid it and s is surplus. For
    multipliers z[k] ≤ w ≤ the price of a move that costs Σ z[k]·(run[k] − x[k]) + w·(e − s) or more: w is that price
    where e > s, and else the largest z.
    """
    c = p.pairs.class_index
    demand, price = f.demand[:, 0], np.maximum(p.classes.migration_yuan, 0.0)
    per_replica = np.divide(m.stay, demand[c], out=np.zeros(len(c)), where=demand[c] > 0)
    largest = np.zeros(p.class_count)
    np.maximum.at(largest, c, per_replica)
    leave_anyway = _forced_less_surplus(p, f)
    weight = np.where(leave_anyway > 0, price, largest)
    running = np.where(f.may_use, p.pairs.running_count, 0.0)
    return per_replica * running, weight * leave_anyway


def _forced_less_surplus(p: PlacementProblem, f: DerivedFacts) -> Floats:
    """[C] replicas on pairs that rules forbid, less those beyond what the class wants."""
    forced, running = np.zeros(p.class_count), np.zeros(p.class_count)
    np.add.at(forced, p.pairs.class_index, np.where(f.may_use, 0.0, p.pairs.running_count))
    np.add.at(running, p.pairs.class_index, p.pairs.running_count)
    return np.asarray(forced - np.maximum(running - f.demand[:, 0], 0.0))


# -- 1. services -------------------------------------------------------------------------------------------------


def _routes_yuan(
    p: PlacementProblem, f: DerivedFacts, m: _Signed, unit: Floats, block_of_slot: Ints
) -> float:
    """Σ over service classes of their cheapest route: a shortest path over (node group or nothing) × block."""
    wanted = np.flatnonzero((f.demand.max(axis=1, initial=0.0) > 0) & ~f.is_stage)
    if not len(wanted):
        return 0.0
    hours, c = p.slots.hours, p.pairs.class_index
    held = np.flatnonzero(f.may_use & np.isin(c, wanted))
    cost = _sum_over(block_of_slot, f.demand[c[held]] * unit[held])
    cost[:, 0] += lowered(-m.stay[held])
    same_blocks = np.array_equal(block_of_slot, m.raw.block_of_slot)
    _charge_cuts_and_spread(p, m, held, cost, block_of_slot, same_blocks)
    demand_h = _sum_over(block_of_slot, f.demand * hours)
    needs_nodes = f.share[held].max(axis=1, initial=0.0) > 0
    no_node = (p.groups.node_count[p.pairs.group_index[held]] == 0) & (f.demand[c[held]] > 0)
    blocked = needs_nodes[:, None] & (_sum_over(block_of_slot, no_node.astype(float)) > 0)
    cost = np.where(blocked, np.inf, cost)
    blocks = demand_h.shape[1]
    at_group = np.full((p.class_count, p.group_count, blocks), np.inf)
    at_group[c[held], p.pairs.group_index[held]] = cost
    at_group = np.where((demand_h > 0)[:, None, :], at_group, 0.0)
    nothing = demand_h * (m.level_yuan[_level_of_class(p)] * p.classes.unserved_yuan_per_replica_h)[:, None]
    state = np.concatenate([at_group, lowered(nothing)[:, None]], axis=1)[wanted]
    mean = demand_h / _sum_over(block_of_slot, hours)
    move = p.classes.migration_yuan[:, None] * np.minimum(mean[:, :-1], mean[:, 1:])
    path = state[:, :, 0]
    for b in range(1, blocks):
        from_group = path[:, :-1].min(axis=1, initial=np.inf)
        moved = np.repeat(
            (from_group + np.maximum(move[wanted, b - 1], 0.0))[:, None], state.shape[1], axis=1
        )
        moved[:, -1] = from_group
        path = np.minimum(np.minimum(path, moved), path[:, -1:]) + state[:, :, b]
    return float(path.min(axis=1).sum())


def _charge_cuts_and_spread(
    p: PlacementProblem, m: _Signed, held: Ints, cost: Floats, block_of_slot: Ints, same_blocks: bool
) -> None:
    """Rules that speak of one block: as they are, or spread evenly over the block's slots if blocks are finer now."""
    site = p.pair_site[held]
    cost += _sum_over(block_of_slot, lowered(m.cut_paid[p.pairs.class_index[held], site]))
    weight = _block_weights(m.raw.block_of_slot, block_of_slot, same_blocks)
    rules = zip(
        m.raw.spread_class.tolist(), m.raw.spread_site.tolist(), m.raw.spread_block.tolist(),
        lowered(m.spread_yuan).tolist(), strict=True,
    )  # fmt: skip
    for c, s, b, yuan in rules:
        cost[(p.pairs.class_index[held] == c) & (site == s)] += yuan * weight[b]


def _block_weights(stored: Ints, used: Ints, same: bool) -> Floats:
    """[stored blocks, used blocks] how a charge on a stored block falls on the blocks in use; rows add up to 1."""
    stored_count, used_count = int(stored[-1]) + 1, int(used[-1]) + 1
    if same:
        return np.eye(stored_count)
    table = np.zeros((stored_count, used_count))
    np.add.at(table, (stored, used), 1.0)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


# -- 2. batch work -----------------------------------------------------------------------------------------------


def _batch_yuan(p: PlacementProblem, f: DerivedFacts, m: _Signed, unit: Floats) -> float:
    """Σ over batch classes: work goes to its cheapest slots, `max_parallel · hours` in each, the rest is left over."""
    batch = np.flatnonzero(f.is_batch)
    if not len(batch):
        return 0.0
    c, hours, slots = p.pairs.class_index, p.slots.hours, np.arange(p.slot_count)
    held = np.flatnonzero(f.may_use & f.is_batch[c])
    cost = np.array(unit[held])
    cost[:, 0] += lowered(-m.stay_batch[held])
    usable = (p.groups.node_count[p.pairs.group_index[held]] > 0) & (
        slots >= p.classes.release_slot[c[held], None]
    )
    per_h = np.full((p.class_count, p.slot_count), np.inf)
    np.minimum.at(per_h, c[held], np.where(usable, cost / hours, np.inf))
    dated = p.classes.deadline_slot < p.slot_count
    late = np.where(dated, p.classes.lateness_yuan_per_replica_h, 0.0)
    per_h = per_h + np.where(slots >= p.classes.deadline_slot[:, None], late[:, None], 0.0)
    left = f.unfinished_yuan + late
    order = np.argsort(per_h[batch], axis=1, kind="stable")
    price = np.take_along_axis(per_h[batch], order, axis=1)
    work = p.classes.work_replica_h[batch, None]
    room = np.minimum(np.maximum(p.classes.max_parallel_count, 0.0)[batch, None] * hours[order], work)
    amount = np.clip(work - (np.cumsum(room, axis=1) - room), 0.0, room)
    pays = price < left[batch, None]
    done = np.where(pays, amount, 0.0)
    yuan = np.where(done > 0, done * np.where(pays, price, 0.0), 0.0).sum(axis=1)
    return float((yuan + (p.classes.work_replica_h[batch] - done.sum(axis=1)) * left[batch]).sum())


# -- 3. graphs ---------------------------------------------------------------------------------------------------


def _graphs_yuan(p: PlacementProblem, f: DerivedFacts, m: _Signed, unit: Floats) -> float:
    """Σ over graphs and eras: the cheapest valid pattern with each stage on its cheapest pair, or nothing."""
    era = eras(p)
    return sum(_graph_yuan(p, f, m, unit, j, era) for j in range(len(p.graphs)))


def _graph_yuan(
    p: PlacementProblem, f: DerivedFacts, m: _Signed, unit: Floats, index: int, era: Ints
) -> float:
    graph = p.graphs[index]
    count = np.asarray(graph.count, dtype=float)
    count_h = _sum_over(era, count * p.slots.hours)
    nothing = lowered(count_h * m.level_yuan[_graph_level(p, graph)] * _graph_penalty(p, graph))
    sites, processing, costs = [], [], []
    budgeted = {i for path in graph.paths for i in path.via if i >= 0}
    for i, c in enumerate(graph.stage_class):
        site, ms, cost = _stage_options(p, f, m, unit, graph, i, c, i in budgeted, era)
        sites.append(site)
        processing.append(ms)
        costs.append(cost)
    combinations = int(np.prod([len(s) for s in sites], dtype=float))
    if combinations > MOST_PATTERNS:
        best = np.sum([cost.min(axis=0, initial=np.inf) for cost in costs], axis=0)
    else:
        if index not in f.patterns:
            f.patterns[index] = _valid_options(p, graph, sites, processing)
        best = _pattern_yuan(p, m, graph, sites, costs, f.patterns[index], era).min(axis=0, initial=np.inf)
    return float(np.where(count_h > 0, np.minimum(best, nothing), 0.0).sum())


def _stage_options(
    p: PlacementProblem, f: DerivedFacts, m: _Signed, unit: Floats, graph: Graph, stage: int, c: int, counts: bool,
    era: Ints,
) -> tuple[Ints, Floats, Floats]:  # fmt: skip
    """([O] site, [O] processing ms, [O, eras] cost of running all of the stage there)."""
    era_count = int(era[-1]) + 1
    pairs = np.flatnonzero(p.pairs.class_index == c)
    fixed = graph.fixed_site[stage] if graph.fixed_site else -1
    if fixed >= 0:
        pairs = pairs[p.pair_site[pairs] == fixed]
        known = p.pairs.processing_p99_ms[pairs] if counts else np.zeros(0)
        slowest = float(np.max(known[~np.isnan(known)], initial=0.0))
        return np.array([fixed]), np.array([slowest]), np.zeros((1, era_count))
    if (c, counts) not in f.options:
        f.options[c, counts] = _options_of(p, pairs[f.may_use[pairs]], counts)
    pairs, keys, option = f.options[c, counts]
    cost = _sum_over(era, f.demand[c] * unit[pairs] + lowered(m.cut_paid[c, p.pair_site[pairs]]))
    cost[:, 0] += lowered(-m.stay[pairs])
    least = np.full((keys.shape[1], era_count), np.inf)
    np.minimum.at(least, option, cost)
    return keys[0].astype(np.int64), keys[1], least


def _options_of(p: PlacementProblem, pairs: Ints, counts: bool) -> tuple[Ints, Floats, Ints]:
    """(pairs whose time is known, [2,O] site and processing ms of each option, option of each of these pairs)."""
    ms = p.pairs.processing_p99_ms[pairs] if counts else np.zeros(len(pairs))
    pairs, ms = pairs[~np.isnan(ms)], ms[~np.isnan(ms)]
    keys, option = np.unique(np.stack([p.pair_site[pairs], ms]), axis=1, return_inverse=True)
    return pairs, keys, np.ravel(option)


def _valid_options(
    p: PlacementProblem, graph: Graph, sites: list[Ints], processing: list[Floats]
) -> tuple[Ints, ...]:
    """Index of the option of each stage, for every combination that flows, colocation and path budgets allow."""
    grid = np.meshgrid(*[np.arange(len(s)) for s in sites], indexing="ij")
    option = [axis.ravel() for axis in grid]
    at = [s[o] for s, o in zip(sites, option, strict=True)]
    keeps = np.ones(len(option[0]) if option else 0, dtype=bool)
    for flow in graph.flows:
        if flow.rtt_p99_max_ms is not None:
            rtt_ms = p.network.site_rtt_p99_ms[at[flow.from_stage], at[flow.to_stage]]
            keeps &= rtt_ms <= flow.rtt_p99_max_ms + 1e-9
    for a, b in graph.colocate:
        keeps &= at[a] == at[b]
    for path in graph.paths:
        total_ms = np.zeros(len(keeps))
        for i in path.via:
            if i >= 0:
                total_ms = total_ms + processing[i][option[i]]
        for a, b in pairwise(path.via):
            if a >= 0 and b >= 0:
                total_ms = total_ms + p.network.site_rtt_p99_ms[at[a], at[b]]
            elif a >= 0 or b >= 0:
                leg, stage = (-1 - a, b) if a < 0 else (-1 - b, a)
                total_ms = total_ms + p.network.leg_rtt_p99_ms[leg, at[stage]]
        keeps &= total_ms <= path.budget_ms + 1e-9
    return tuple(o[keeps] for o in option)


def _pattern_yuan(
    p: PlacementProblem, m: _Signed, graph: Graph, sites: list[Ints], costs: list[Floats],
    option: tuple[Ints, ...], era: Ints,
) -> Floats:  # fmt: skip
    """[patterns, eras] stages, transfer between sites, and what the traffic between them pays on links."""
    count = np.asarray(graph.count, dtype=float)
    count_h = _sum_over(era, count * p.slots.hours)
    total = np.zeros((len(option[0]) if option else 0, len(count_h)))
    for cost, o in zip(costs, option, strict=True):
        total = total + cost[o]
    paid_per_mbps = _paid_between_sites(p, _sum_over(era, count * m.link)) if m.link.any() else None
    for flow in graph.flows:
        a = sites[flow.from_stage][option[flow.from_stage]]
        b = sites[flow.to_stage][option[flow.to_stage]]
        per_h = p.network.transfer_yuan_per_gb * flow.mbps * GB_PER_H_PER_MBPS
        np.fill_diagonal(per_h, 0.0)
        total = total + lowered(per_h[a, b][:, None] * count_h)
        if paid_per_mbps is not None and flow.mbps > 0:
            total = total + lowered(flow.mbps * paid_per_mbps[a, b])
    return np.asarray(total)


def _paid_between_sites(p: PlacementProblem, link_yuan: Floats) -> Floats:
    """[S,S,eras] what 1 Mbps from a site to another pays over a route's links, of [links, eras] prices."""
    n, legs = p.network, len(p.network.leg_id)
    source = n.route_origin - legs
    between = (source >= 0) & (source != n.route_site)
    paid = np.zeros((p.site_count, p.site_count, link_yuan.shape[1]))
    np.add.at(paid, (source[between], n.route_site[between]), link_yuan[n.route_link[between]])
    return paid


# -- 4. sites ----------------------------------------------------------------------------------------------------


def _sites_yuan(p: PlacementProblem, m: _Signed, block_of_slot: Ints, leaf: Leaf | None) -> float:
    """Σ over sites: open or closed per block as the leaf allows, with what starting costs, each slot at its best."""
    open_yuan = _sum_over(block_of_slot, open_site_yuan(p, m))
    closed_yuan = _sum_over(block_of_slot, lowered(m.facility_yuan * p.sites.off_kw))
    open_yuan = open_yuan + _sum_over(block_of_slot, lowered(-m.cut_gain))
    stays = ~p.sites.may_close
    closed_yuan = np.where(stays[:, None], np.inf, closed_yuan)
    if leaf is not None:
        closed_yuan = np.where(leaf.must_open, np.inf, closed_yuan)
        open_yuan = np.where(leaf.may_open | stays[:, None], open_yuan, np.inf)
    start = np.where(stays, 0.0, p.sites.start_yuan)
    is_open = np.where(p.sites.initially_on | stays, 0.0, start) + open_yuan[:, 0]
    is_closed = closed_yuan[:, 0]
    for b in range(1, open_yuan.shape[1]):
        is_open, is_closed = (
            np.minimum(is_open, is_closed + start) + open_yuan[:, b],
            np.minimum(is_open, is_closed) + closed_yuan[:, b],
        )
    return float(np.minimum(is_open, is_closed).sum())


def open_site_yuan(p: PlacementProblem, m: _Signed) -> Floats:
    """[S,T] least cost of an open site in a slot over its IT power and the nodes that are on.

    Over P in [0, limit]: A·(F + (1 + a)P + qP²/R) − (λ + legal ledger)·P + E·max(0, F − (Π − 1 − a)P + qP²/R).
    Piecewise quadratic: its least value lies at an end, where the excess begins or ends, or where a piece is flat.
    """
    s = p.sites
    shape = (p.site_count, p.slot_count)
    limit = np.maximum(s.power_limit_kw, 0.0)
    curve = np.broadcast_to(s.loss_square / s.rated_kw[:, None], shape)
    slope = 1 + s.loss_slope
    given = _finite(m.raw.power) + (m.load_yuan if p.terms.ledger_load == "legal" else 0.0)
    cap = np.broadcast_to(np.where(np.isnan(s.ipue_cap_hourly), 0.0, s.ipue_cap_hourly)[:, None], shape)
    a, e = m.facility_yuan, m.excess_yuan
    candidates = [np.zeros(shape), limit]
    with np.errstate(divide="ignore", invalid="ignore"):
        b = cap - slope
        root = np.sqrt(np.maximum(b**2 - 4 * curve * s.fixed_kw, 0.0))
        candidates += [2 * s.fixed_kw / (b + root), 2 * s.fixed_kw / (b - root), s.fixed_kw / b]
        candidates.append((given - a * slope) / (2 * a * curve))
        candidates.append((given - a * slope + e * b) / (2 * (a + e) * curve))
    best = np.full(shape, np.inf)
    for power in candidates:
        at = np.clip(np.where(np.isfinite(power), power, 0.0), 0.0, limit)
        facility_kw = s.fixed_kw + slope * at + curve * at**2
        excess_kw = np.maximum(lowered(facility_kw) + lowered(-cap * at), 0.0)
        yuan = lowered(a * facility_kw) + lowered(-given * at) + lowered(e * excess_kw)
        best = np.minimum(best, yuan)
    return best + _nodes_yuan(p, m)


def _nodes_yuan(p: PlacementProblem, m: _Signed) -> Floats:
    """[S,T] nodes on where their worth to the work exceeds their idle power, as many as there are."""
    site = p.groups.site
    later = np.concatenate([m.wake[:, 1:], np.zeros((p.group_count, 1))], axis=1)
    each = lowered(p.groups.idle_w[:, None] / 1000.0 * _finite(m.raw.power)[site])
    each = each + lowered(-m.capacity).sum(axis=1) + lowered(m.padding) + lowered(m.wake) + lowered(-later)
    for yuan in m.node_rows.values():
        each = each + lowered(-yuan)[:, None]
    total = np.zeros((p.site_count, p.slot_count))
    np.add.at(total, site, np.minimum(each, 0.0) * p.groups.node_count)
    return total


def _sum_over(span_of_slot: Ints, values: Floats) -> Floats:
    """[…, spans] sums over contiguous spans of slots; a fresh array."""
    out = np.zeros((*values.shape[:-1], int(span_of_slot[-1]) + 1))
    for t, span in enumerate(span_of_slot.tolist()):
        out[..., span] += values[..., t]
    return out


# -- the plan's own cost -----------------------------------------------------------------------------------------


def objective_yuan(
    problem: PlacementProblem, plan: PlanSolution, block_of_slot: Ints, facts: DerivedFacts | None = None,
    *, on_nodes: bool = False,
) -> float:  # fmt: skip
    """Cost of a plan, from its arrays and the facts alone: everything but the penalties of the levels.

    `on_nodes`: a plan on nodes pays for its moves, and holds the move budget as far as moves are not forced.
    """
    p, s, hours = problem, problem.sites, problem.slots.hours
    f = derived_facts(p) if facts is None else facts
    kwh = plan.facility_kw * hours
    total = float((kwh * f.energy_yuan).sum())
    total += float(plan.ledger_debt_kwh @ np.where(s.annual_is_hard, 0.0, s.debt_yuan_per_kwh))
    if not p.terms.portfolio_is_hard:
        total += plan.portfolio_debt_kwh * p.terms.portfolio_debt_yuan_per_kwh
    peaks = np.maximum(plan.facility_kw.max(axis=1) - s.demand_peak_kw, 0.0)
    total += float(peaks @ s.demand_yuan_per_kw)
    total += float(plan.late_replica_h @ p.classes.lateness_yuan_per_replica_h)
    total += float(plan.unfinished_replica_h @ f.unfinished_yuan)
    before = np.concatenate([s.initially_on[:, None], plan.site_on[:, :-1]], axis=1)
    total += float((plan.site_on & ~before & s.may_close[:, None]).sum(axis=1) @ s.start_yuan)
    on_before = np.concatenate([p.groups.initial_on_count[:, None], plan.nodes_on[:, :-1]], axis=1)
    total += float((np.maximum(plan.nodes_on - on_before, 0.0) * p.groups.wake_yuan[:, None]).sum())
    total += float((plan.running_count * hours * p.pairs.other_yuan_per_replica_h[:, None]).sum())
    soft = np.where(s.hourly_is_hard, 0.0, s.debt_yuan_per_kwh)[:, None]
    total += float((plan.cap_excess_kw * hours * soft).sum())
    total += transfer_yuan(p, plan)
    if on_nodes:
        return total + float(plan.moved_count @ p.classes.migration_yuan[p.pairs.class_index])
    return total + migration_yuan(p, f, plan, block_of_slot)


def transfer_yuan(p: PlacementProblem, plan: PlanSolution) -> float:
    """Traffic between stages on different sites, at the price of transfer."""
    total = 0.0
    for pattern in plan.graph_patterns:
        hours = float(np.asarray(pattern.count) @ p.slots.hours)
        for flow in p.graphs[pattern.graph_index].flows:
            a, b = pattern.stage_site[flow.from_stage], pattern.stage_site[flow.to_stage]
            if a != b:
                total += float(p.network.transfer_yuan_per_gb[a, b]) * flow.mbps * GB_PER_H_PER_MBPS * hours
    return total


def migration_yuan(p: PlacementProblem, f: DerivedFacts, plan: PlanSolution, block_of_slot: Ints) -> float:
    """What moving costs: replicas that leave their group now, and shares that change group between blocks.

    A share that begins in a group was elsewhere before, or unserved as far as that much was: then nothing moved.
    """
    c = p.pairs.class_index
    first = float(plan.moved_count @ p.classes.migration_yuan[c]) + over_budget_yuan(p, f, plan)
    blocks = int(block_of_slot[-1]) + 1
    hours = _sum_over(block_of_slot, p.slots.hours)
    demand_h = _sum_over(block_of_slot, f.demand * p.slots.hours)
    placed_h = _sum_over(block_of_slot, plan.running_count * p.slots.hours)
    share = np.divide(placed_h, demand_h[c], out=np.zeros(placed_h.shape), where=demand_h[c] > 0)
    mean = demand_h / hours
    served = np.zeros((p.class_count, blocks))
    np.add.at(served, c, share)
    total = 0.0
    for b in range(1, blocks):
        change = np.where(f.is_batch[c] | f.is_stage[c], 0.0, share[:, b] - share[:, b - 1])
        more = np.zeros(p.class_count)
        np.add.at(more, c, np.maximum(change, 0.0))
        unserved = np.maximum(1.0 - served[:, b - 1], 0.0)
        moved = np.maximum(more - unserved, 0.0) * np.minimum(mean[:, b - 1], mean[:, b])
        total += float(moved @ p.classes.migration_yuan)
    return first + total


def over_budget_yuan(p: PlacementProblem, f: DerivedFacts, plan: PlanSolution) -> float:
    """What moves of services over the budget cost beside their price: no term of a plan's cost, for nobody pays it."""
    if p.terms.move_budget_count is None:
        return 0.0
    services = float(plan.moved_count[~f.is_batch[p.pairs.class_index]].sum())
    dearest = float(p.classes.migration_yuan.max(initial=1.0))
    return OVER_BUDGET_FACTOR * dearest * max(0.0, services - p.terms.move_budget_count)


# -- verdict -----------------------------------------------------------------------------------------------------


def verify_certificate(problem: PlacementProblem, plan: PlanSolution) -> list[Violation]:
    """Everything wrong with a plan's certificate; a plan without one has nothing wrong here."""
    if plan.certificate is None or not plan.has_plan:
        return []
    if plan.problem_sha256 != problem.content_hash():
        return [Violation("problem_hash", "the plan answers another problem")]
    broken = [v for leaf in plan.certificate.leaves for v in _shapes(problem, leaf)]
    return broken or list(_certificate(problem, plan, plan.certificate))


def _certificate(p: PlacementProblem, plan: PlanSolution, stated: Certificate) -> Iterator[Violation]:
    if stated.policy_revision != p.policy_revision:
        yield Violation("policy_revision", "certificate", stated.policy_revision, p.policy_revision)
    if stated.base_revision != p.base_revision:
        yield Violation("base_revision", "certificate", stated.base_revision, p.base_revision)
    if not stated.leaves or not all_choices(p, stated.leaves):
        yield Violation("leaves", "some choices of open sites lie in no leaf, or in several")
        return
    on_nodes = stated.model == NODES_MODEL
    reasons = _not_on_nodes(p, plan) if on_nodes else []
    if reasons:
        yield Violation("certified_model", f"{stated.model}: {', '.join(reasons)}")
        return
    block_of_slot = stated.leaves[0].multipliers.block_of_slot
    facts = derived_facts(p)
    objective = objective_yuan(p, plan, block_of_slot, facts, on_nodes=on_nodes)
    if _differ(stated.objective_yuan, objective):
        yield Violation("certified_objective", "certificate", stated.objective_yuan, objective)
    # added up without the penalties, beside which all else may be lost in rounding
    told = sum(yuan for term, yuan in asdict(plan.cost).items() if term != "unserved_yuan")
    if not on_nodes:
        told += over_budget_yuan(p, facts, plan)
    if _differ(told, objective):
        yield Violation("cost", "terms, unfinished work and moves among them", told, objective)
    if not on_nodes and stated.model != (WHOLE_MODEL if stated.whole_class_yuan else BLOCK_MODEL):
        yield Violation("certified_model", stated.model)
    bound = certified_bound_yuan(p, plan, stated.leaves, on_nodes=on_nodes)
    if stated.whole_class_yuan:
        reasons = misfits(p, plan)
        if reasons:
            yield Violation("whole_classes", ", ".join(reasons))
        else:
            bound = max(bound, whole_bound_yuan(p, usable_pairs(p), stated.whole_class_yuan))
    if not stated.bound_yuan <= bound + RELATIVE * abs(bound) + ABSOLUTE:
        yield Violation("certified_bound", "claims more than the multipliers prove", stated.bound_yuan, bound)
    if refutes(bound, objective):
        yield Violation("refuted_by_bound", "no plan of this model costs so little", objective, bound)
    yield from _moves_counted_per_class(p, plan) if on_nodes else _moves_counted(p, plan)


def refutes(bound_yuan: float, objective_yuan: float) -> bool:
    """Whether a plan costs less than what is proven of all plans, it among them: then it is none of the plans that the
    proof speaks of, or the proof is wrong.
    """
    return bound_yuan > objective_yuan + RELATIVE * abs(objective_yuan) + ABSOLUTE


def _not_on_nodes(p: PlacementProblem, plan: PlanSolution) -> list[str]:
    """Why a proof for plans on nodes says nothing about a plan; empty: it does."""
    tests = {
        "more than one slot": p.slot_count != 1,
        "batch work": bool((p.classes.work_replica_h > 0).any()),
        "stage graphs": bool(p.graphs),
        "parts of nodes": not _is_whole(plan.nodes_on),
        "parts of replicas": not _is_whole(plan.running_count),
    }
    return [name for name, is_so in tests.items() if is_so]


def _is_whole(count: Floats) -> bool:
    return bool((np.abs(count - np.rint(count)) <= WHOLE).all())


def _moves_counted_per_class(p: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Of each class as many are counted as moved as leave their group, less those that it no longer wants."""
    left, ran, moved = np.zeros(p.class_count), np.zeros(p.class_count), np.zeros(p.class_count)
    c = p.pairs.class_index
    np.add.at(left, c, np.maximum(p.pairs.running_count - plan.running_count[:, 0], 0.0))
    np.add.at(ran, c, p.pairs.running_count)
    np.add.at(moved, c, plan.moved_count)
    least = left - np.maximum(ran - p.classes.demand_count[:, 0], 0.0)
    for i in np.flatnonzero(least > moved + 1e-4 + 1e-5 * np.abs(least)).tolist():
        yield Violation("moved_count", p.classes.class_id[i], float(moved[i]), float(least[i]))


def _moves_counted(p: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """A move is counted for what runs now and does not stay: moved ≥ kept − placed, in replicas."""
    f = derived_facts(p)
    c = p.pairs.class_index
    per_share = np.where(f.is_batch[c], 1.0, f.demand[:, 0][c])
    left = kept_share(p, f) * per_share - plan.running_count[:, 0]
    for k in np.flatnonzero(left > plan.moved_count + 1e-4 + 1e-5 * np.abs(left)).tolist():
        name = f"{p.classes.class_id[c[k]]},{p.groups.group_id[p.pairs.group_index[k]]}"
        yield Violation("moved_count", name, float(plan.moved_count[k]), float(left[k]))


def _shapes(p: PlacementProblem, leaf: Leaf) -> Iterator[Violation]:
    m = leaf.multipliers
    shapes = {
        "level_yuan": (LEVEL_COUNT,), "capacity": (p.group_count, len(NODE_COLUMNS), p.slot_count),
        "power": (p.site_count, p.slot_count), "ledger": (p.site_count,), "stay": (p.pair_count,),
        "link": (len(p.network.link_id), p.slot_count),
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(m, name).shape != shape:
            yield Violation(
                "shape", f"multipliers.{name}", float(getattr(m, name).size), float(np.prod(shape))
            )
    for name, index, end in (
        ("cut_class", m.cut_class, p.class_count), ("cut_site", m.cut_site, p.site_count),
        ("cut_slot", m.cut_slot, p.slot_count),
        ("spread_class", m.spread_class, p.class_count), ("spread_site", m.spread_site, p.site_count),
        ("spread_block", m.spread_block, p.slot_count),
    ):  # fmt: skip
        if index.size and (int(index.min()) < 0 or int(index.max()) >= end):
            yield Violation("reference", f"multipliers.{name}", float(index.max()), float(end - 1))
    for group, function, parameter, _ in m.node_rows:
        if not (0 <= group < p.group_count and is_node_row(function, parameter)):
            yield Violation("reference", f"multipliers.node_rows: {function}, {parameter}, group {group}")
    blocks = m.block_of_slot
    steps = np.diff(blocks)
    if blocks[0] != 0 or np.any((steps < 0) | (steps > 1)):
        yield Violation("blocks", "multipliers.block_of_slot")
    elif m.spread_block.size and int(m.spread_block.max()) > int(blocks[-1]):
        yield Violation(
            "reference", "multipliers.spread_block", float(m.spread_block.max()), float(blocks[-1])
        )


def _differ(a: float, b: float) -> bool:
    return not abs(a - b) <= RELATIVE * max(abs(a), abs(b)) + 1e-4
