"""A plan without a solver: the last rung of the ladder (`solvers.fallback`).

Arithmetic on arrays: it always ends, and its time grows with pairs × slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.candidates import candidates
from solvers.dual_bound import DerivedFacts, derived_facts, eras, kept_share, transfer_yuan
from solvers.pipelines import StageOptions, best_patterns, stage_options, valid_patterns
from solvers.problem import NODE, NODE_COLUMNS, RANK_INTERACTIVE, RESOURCES, Graph, PlacementProblem
from solvers.solution import Cost, GraphPattern, PlanSolution, SolveStatus

GREEDY_PATTERNS = 40
"""Patterns of a graph that are tried, cheapest first."""
SPARE = 1.0 - 1e-7
"""Share of what is left that is filled, so that rounding never passes a limit."""


def greedy_plan(problem: PlacementProblem) -> PlanSolution:
    """Work by rank, each class on its cheapest pairs as far as every limit leaves room; never asks for a solver.

    What already runs stays where it is first. Twins take whole patterns before the other work of their rank. Without a
    bound, for a greedy plan proves nothing about others.
    """
    room = Room(problem)
    rank = problem.classes.priority_rank
    is_stage = np.isin(np.arange(problem.class_count), problem.stage_classes())
    patterns: list[GraphPattern] = []
    for level in np.unique(rank).tolist():
        for j, graph in enumerate(problem.graphs):
            if min((int(rank[c]) for c in graph.stage_class), default=-1) == level:
                patterns += _place_graph(room, j, graph)
        for c in np.flatnonzero((rank == level) & ~is_stage).tolist():
            _place_class(room, c)
    return count_plan(problem, room.running, tuple(patterns))


class Room:
    """What is left of every limit, [.., T]; the running counts so far."""

    def __init__(self, p: PlacementProblem) -> None:
        self.problem = p
        self.facts: DerivedFacts = derived_facts(p)
        self.passes = candidates(p).passes & self.facts.may_use
        self.running = np.zeros((p.pair_count, p.slot_count))
        nodes = p.groups.node_count.astype(float)
        self.nodes = np.repeat(nodes[:, None, :], len(NODE_COLUMNS), axis=1)
        reserved = 1 - p.sites.reserved_floor_frac[p.groups.site]
        self.low_nodes = self.nodes * reserved[:, None, None]
        self.low_nodes[:, NODE] = np.inf
        self.filled = np.repeat(_most_filled(p)[:, None], p.slot_count, axis=1)
        self.power_kw = np.array(p.sites.power_limit_kw)
        usable = p.network.link_capacity_mbps * p.network.planning_load_frac
        self.link_mbps = np.repeat(usable[:, None], p.slot_count, axis=1)
        self.share = self.facts.share.max(axis=1, initial=0.0)
        self.kw = self.facts.dynamic_kw + self.share * p.groups.idle_w[p.pairs.group_index] / 1000.0
        self.links = _links_by_origin(p)
        price = (self.facts.energy_yuan * (1 + p.sites.loss_slope)).mean(axis=1)
        self.pair_yuan = price[p.pair_site] * self.facts.useful_kw + p.pairs.other_yuan_per_replica_h

    def most(self, k: int) -> FloatArray:
        """[T] replicas of a pair's class that still fit."""
        p = self.problem
        g, s, c = int(p.pairs.group_index[k]), int(p.pair_site[k]), int(p.pairs.class_index[k])
        fits = np.full(p.slot_count, np.inf)
        rooms = [self.nodes[g]]
        if p.classes.priority_rank[c] >= RANK_INTERACTIVE:
            rooms.append(self.low_nodes[g])
        for r in np.flatnonzero(self.facts.share[k] > 0).tolist():
            for left in rooms:
                fits = np.minimum(fits, left[r] / self.facts.share[k, r])
        if self.facts.filled[k] > 0:
            fits = np.minimum(fits, self.filled[g] / self.facts.filled[k])
        if self.kw[k] > 0:
            fits = np.minimum(fits, self.power_kw[s] / self.kw[k])
        for link, mbps in self.link_rates(c, s).items():
            fits = np.minimum(fits, self.link_mbps[link] / mbps)
        fits = np.where(p.groups.node_count[g] > 0, fits, 0.0)
        return np.maximum(fits * SPARE, 0.0)

    def link_rates(self, c: int, s: int) -> dict[int, float]:
        """Mbps per replica on each link that the zone traffic of a class to a site loads."""
        p, rates = self.problem, {}  # type: ignore[var-annotated]
        for f in np.flatnonzero((p.flows.class_index == c) & (p.flows.mbps > 0)).tolist():
            for link in self.links.get((int(p.flows.leg_index[f]), s), ()):
                rates[link] = rates.get(link, 0.0) + float(p.flows.mbps[f])
        return rates

    def take(self, k: int, count: FloatArray) -> None:
        """Place replicas on a pair."""
        p = self.problem
        g, s, c = int(p.pairs.group_index[k]), int(p.pair_site[k]), int(p.pairs.class_index[k])
        self.running[k] += count
        used = self.facts.share[k][:, None] * count
        self.nodes[g] -= used
        if p.classes.priority_rank[c] >= RANK_INTERACTIVE:
            self.low_nodes[g] -= used
        self.filled[g] -= self.facts.filled[k] * count
        self.power_kw[s] -= self.kw[k] * count
        for link, mbps in self.link_rates(c, s).items():
            self.link_mbps[link] -= mbps * count

    def stage_rates(self, graph: Graph, options: tuple[StageOptions, ...], row: IntArray) -> dict[int, float]:
        """Mbps that one graph puts on each link between its stages, in a pattern of options."""
        site = [int(o.site[i]) for o, i in zip(options, row, strict=True)]
        rates: dict[int, float] = {}
        for flow in graph.flows:
            a, b = site[flow.from_stage], site[flow.to_stage]
            if a != b and flow.mbps > 0:
                for link in self.links.get((len(self.problem.network.leg_id) + a, b), ()):
                    rates[link] = rates.get(link, 0.0) + flow.mbps
        return rates

    def pairs_in_order(self, c: int) -> list[int]:
        """Usable pairs of a class: where it runs now first, then by price."""
        p = self.problem
        mine = np.flatnonzero((p.pairs.class_index == c) & self.passes)
        return [
            int(k) for k in mine[np.lexsort((mine, self.pair_yuan[mine], p.pairs.running_count[mine] <= 0))]
        ]


def _most_filled(p: PlacementProblem) -> FloatArray:
    """[G] share of its nodes that a group may fill before the nodes its yield asks for count as padding."""
    loose = 1.0 / p.groups.packing_yield.min(axis=1, initial=1.0) - p.terms.padding_factor
    most = np.full(p.group_count, np.inf)
    return np.asarray(np.divide(p.terms.padding_node_count, loose, out=most, where=loose > 0))


def _links_by_origin(p: PlacementProblem) -> dict[tuple[int, int], list[int]]:
    n, links = p.network, {}  # type: ignore[var-annotated]
    for origin, site, link in zip(n.route_origin, n.route_site, n.route_link, strict=True):
        links.setdefault((int(origin), int(site)), []).append(int(link))
    return links


def _place_class(room: Room, c: int) -> None:
    p = room.problem
    if p.classes.work_replica_h[c] > 0:
        _place_batch(room, c)
        return
    left = np.array(p.classes.demand_count[c], dtype=float)
    apart = int(p.classes.spread_site_min[c])
    on_site = np.zeros((p.site_count, p.slot_count))
    for k in room.pairs_in_order(c):
        if left.max(initial=0.0) <= 0:
            return
        count = np.minimum(left, room.most(k))
        if apart > 1:
            s = int(p.pair_site[k])
            count = np.clip(p.classes.demand_count[c] / apart * SPARE - on_site[s], 0.0, count)
            on_site[s] += count
        room.take(k, count)
        left = left - count


def _place_batch(room: Room, c: int) -> None:
    """As early as it may run, on the cheapest pairs: late work costs more than dear hours."""
    p, hours = room.problem, room.problem.slots.hours
    left_h = float(p.classes.work_replica_h[c])
    open_slots = np.arange(p.slot_count) >= p.classes.release_slot[c]
    parallel = np.where(
        open_slots, min(float(p.classes.max_parallel_count[c]), left_h / float(hours.min())), 0.0
    )
    for k in room.pairs_in_order(c):
        if left_h <= 0:
            return
        count = np.minimum(parallel, room.most(k))
        done_before = np.cumsum(count * hours) - count * hours
        count = np.minimum(count, np.maximum(left_h - done_before, 0.0) / hours)
        room.take(k, count)
        parallel = parallel - count
        left_h -= float(count @ hours)


def _place_graph(room: Room, j: int, graph: Graph) -> list[GraphPattern]:
    """Patterns of one graph, cheapest first, each as often as all of its stages fit together."""
    p = room.problem
    options = stage_options(p, graph, room.passes)
    known = valid_patterns(p, graph, options)
    if not len(known.option):
        return []
    cost = [_option_yuan(room, stage, n) for stage, n in zip(options, graph.stage_replicas, strict=True)]
    chosen, _ = best_patterns(p, graph, options, cost, keep=GREEDY_PATTERNS, patterns=known)
    left, placed = np.asarray(graph.count, dtype=float), []
    for row in chosen:
        pairs = _pairs_of(room, graph, options, row)
        if left.max(initial=0.0) <= 0:
            break
        count = _as_often_as_fits(room, graph, options, row, pairs, left)
        if count.max(initial=0.0) <= 0:
            continue
        for k, n in pairs:
            room.take(k, count * n)
        for link, mbps in room.stage_rates(graph, options, row).items():
            room.link_mbps[link] -= mbps * count
        left = left - count
        sites = tuple(int(o.site[i]) for o, i in zip(options, row, strict=True))
        processing = tuple(float(o.processing_ms[i]) for o, i in zip(options, row, strict=True))
        placed.append(GraphPattern(j, sites, processing, tuple(float(x) for x in count)))
    return placed


def _option_yuan(room: Room, stage: StageOptions, replicas: int) -> FloatArray:
    cost = np.full(len(stage.site), 0.0 if stage.is_fixed else np.inf)
    held = np.flatnonzero(stage.pair_option >= 0)
    np.minimum.at(cost, stage.pair_option[held], replicas * room.pair_yuan[held])
    return cost


def _pairs_of(
    room: Room, graph: Graph, options: tuple[StageOptions, ...], row: IntArray
) -> list[tuple[int, int]]:
    """(pair, replicas) of each free stage in a pattern: the cheapest pair of its option."""
    pairs = []
    for stage, option, replicas in zip(options, row, graph.stage_replicas, strict=True):
        if not stage.is_fixed:
            held = np.flatnonzero(stage.pair_option == option)
            pairs.append((int(held[np.argmin(room.pair_yuan[held])]), replicas))
    return pairs


def _as_often_as_fits(
    room: Room, graph: Graph, options: tuple[StageOptions, ...], row: IntArray, pairs: list[tuple[int, int]],
    left: FloatArray,
) -> FloatArray:  # fmt: skip
    """[T] constant over each era: stages move only where nodes come or go.

    Stages of one group or site share what is left there: each gets its even part, which is safe and may be too little.
    """
    p = room.problem
    count = left
    for k, n in pairs:
        if n > 0:
            sharing = sum(p.pair_site[other] == p.pair_site[k] for other, _ in pairs)
            count = np.minimum(count, room.most(k) / (n * sharing))
    for link, mbps in room.stage_rates(graph, options, row).items():
        count = np.minimum(count, room.link_mbps[link] / mbps / (1 + len(pairs)))
    era = eras(p)
    asked = np.asarray(graph.count, dtype=float)
    share = np.divide(count, asked, out=np.full(len(asked), np.inf), where=asked > 0)
    least = np.full(int(era[-1]) + 1, np.inf)
    np.minimum.at(least, era, share)
    return np.maximum(np.where(asked > 0, np.minimum(least[era], 1.0) * asked, 0.0), 0.0)


def count_plan(
    problem: PlacementProblem, running: FloatArray, patterns: tuple[GraphPattern, ...] = ()
) -> PlanSolution:
    """What follows from where work runs: nodes, power, ledgers, cost. Sites without work close if they may."""
    p, s, hours = problem, problem.sites, problem.slots.hours
    f = derived_facts(p)
    c, g = p.pairs.class_index, p.pairs.group_index
    needed = np.zeros((p.group_count, len(NODE_COLUMNS), p.slot_count))
    np.add.at(needed, g, f.share[:, :, None] * running[:, None, :])
    nodes_on = np.minimum(needed.max(axis=1, initial=0.0), p.groups.node_count)
    it_kw, useful_kw = np.zeros((p.site_count, p.slot_count)), np.zeros((p.site_count, p.slot_count))
    np.add.at(it_kw, p.groups.site, p.groups.idle_w[:, None] * nodes_on / 1000.0)
    np.add.at(it_kw, p.pair_site, f.dynamic_kw[:, None] * running)
    np.add.at(useful_kw, p.pair_site, f.counted_kw[:, None] * running)
    used = np.zeros((p.site_count, p.slot_count))
    np.add.at(used, p.pair_site, running)
    np.add.at(used, p.groups.site, nodes_on)
    site_on = (used > 0) | ~s.may_close[:, None]
    fixed = np.where(site_on, s.fixed_kw, s.off_kw)
    facility_kw = fixed + it_kw * (1 + s.loss_slope) + s.loss_square * it_kw**2 / s.rated_kw[:, None]
    cap = np.broadcast_to(np.nan_to_num(s.ipue_cap_hourly, nan=0.0)[:, None], it_kw.shape)
    over = np.maximum(facility_kw - cap * it_kw, 0.0)
    excess = np.where(np.isnan(s.ipue_cap_hourly)[:, None] | ~site_on, 0.0, over)
    counted = useful_kw if p.terms.ledger_load == "useful" else it_kw
    ledger = ((facility_kw - s.pue_cap_annual[:, None] * counted) * hours).sum(axis=1)
    debt = np.where(np.isnan(ledger), 0.0, np.maximum(np.nan_to_num(ledger) - s.ledger_beta_kwh, 0.0))
    portfolio = 0.0
    if p.terms.portfolio_pue_cap_annual is not None and s.is_edge.any():
        edge = ((facility_kw - p.terms.portfolio_pue_cap_annual * counted) * hours)[s.is_edge].sum()
        portfolio = max(0.0, float(edge) - p.terms.portfolio_beta_kwh)
    placed = np.zeros((p.class_count, p.slot_count))
    np.add.at(placed, c, running)
    unserved = np.where(f.is_batch[:, None], 0.0, np.maximum(f.demand - placed, 0.0))
    done = (placed * hours).sum(axis=1)
    in_time = np.where(np.arange(p.slot_count) < p.classes.deadline_slot[:, None], placed, 0.0) @ hours
    work = p.classes.work_replica_h
    unfinished = np.where(f.is_batch, np.maximum(work - done, 0.0), 0.0)
    late = np.where(
        f.is_batch & (p.classes.deadline_slot < p.slot_count), np.maximum(work - in_time, 0.0), 0.0
    )
    per_share = np.where(f.is_batch[c], 1.0, f.demand[:, 0][c])
    moved = np.maximum(kept_share(p, f) * per_share - running[:, 0], 0.0)
    plan = PlanSolution(
        problem_sha256=p.content_hash(), status=SolveStatus.FEASIBLE, running_count=running, nodes_on=nodes_on,
        site_on=site_on, unserved_count=unserved, unfinished_replica_h=unfinished, late_replica_h=late,
        it_kw=it_kw, useful_it_kw=useful_kw, facility_kw=facility_kw, cap_excess_kw=excess,
        ledger_used_kwh=ledger, ledger_debt_kwh=debt,
        price_yuan_per_unit_h=np.zeros((p.group_count, len(RESOURCES), p.slot_count)),
        energy_yuan_per_kwh_it=np.abs(f.energy_yuan * (1 + s.loss_slope)), moved_count=moved,
        graph_patterns=patterns, portfolio_debt_kwh=portfolio, method="greedy",
    )  # fmt: skip
    return replace(plan, cost=_cost(p, f, plan))


def _cost(p: PlacementProblem, f: DerivedFacts, plan: PlanSolution) -> Cost:
    s, hours = p.sites, p.slots.hours
    kwh = plan.facility_kw * hours
    was_open = np.concatenate([s.initially_on[:, None], plan.site_on[:, :-1]], axis=1)
    were_on = np.concatenate([p.groups.initial_on_count[:, None], plan.nodes_on[:, :-1]], axis=1)
    peaks = np.maximum(plan.facility_kw.max(axis=1, initial=0.0) - s.demand_peak_kw, 0.0)
    soft_debt = np.where(s.annual_is_hard, 0.0, s.debt_yuan_per_kwh)
    portfolio = 0.0 if p.terms.portfolio_is_hard else p.terms.portfolio_debt_yuan_per_kwh
    soft_cap = np.where(s.hourly_is_hard, 0.0, s.debt_yuan_per_kwh)
    other = float((plan.running_count * hours * p.pairs.other_yuan_per_replica_h[:, None]).sum())
    return Cost(
        energy_yuan=float((kwh * s.price_yuan_per_kwh).sum()),
        carbon_yuan=float((kwh * (f.energy_yuan - s.price_yuan_per_kwh)).sum()),
        debt_yuan=float(plan.ledger_debt_kwh @ soft_debt) + plan.portfolio_debt_kwh * portfolio,
        demand_charge_yuan=float(peaks @ s.demand_yuan_per_kw),
        lateness_yuan=float(plan.late_replica_h @ p.classes.lateness_yuan_per_replica_h),
        unfinished_yuan=float(plan.unfinished_replica_h @ f.unfinished_yuan),
        start_yuan=float((plan.site_on & ~was_open & s.may_close[:, None]).sum(axis=1) @ s.start_yuan),
        wake_yuan=float((np.maximum(plan.nodes_on - were_on, 0.0) * p.groups.wake_yuan[:, None]).sum()),
        migration_yuan=float(plan.moved_count @ p.classes.migration_yuan[p.pairs.class_index]),
        other_yuan=other + transfer_yuan(p, plan),
        unserved_yuan=float(
            (plan.unserved_count * hours).sum(axis=1) @ p.classes.unserved_yuan_per_replica_h
        ),
        cap_excess_yuan=float((plan.cap_excess_kw * hours * soft_cap[:, None]).sum()),
    )
