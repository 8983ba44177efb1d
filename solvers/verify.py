"""Independent checker of plans and placements: re-derives every rule from the raw facts of a problem.

Shares nothing with the model that plans (imports the problem, the solution and numpy only), so that a
mistake there does not excuse itself here. An empty list means: nothing found. Comparisons allow for
rounding, see `Tolerance`.

1. `verify_plan`: a horizon plan (mean counts per slot)
2. `verify_placements`: replicas on nodes at one instant
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers.problem import MILLI_PER_GPU, RESOURCES, Graph, PlacementProblem
from solvers.solution import GraphPattern, NodePlacements, PlanSolution, SolveStatus

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RELATIVE, ABSOLUTE = 1e-5, 1e-4
"""A quantity may pass its limit by this share of the limit plus this much (replicas, nodes, kW, kWh, yuan)."""
LARGEST = 1e100
"""No count, power or energy is larger: its square must stay a number."""
OPTIMAL_GAP_FRAC = 1e-4
"""Of the objective: a plan may be called optimal up to this gap."""
PRESENT = 1e-6
"""Fewer replicas than this are none."""


@dataclass(frozen=True)
class Violation:
    """A broken rule: which, by whom, the value found and the limit."""

    rule: str
    subject: str
    actual: float = float("nan")
    limit: float = float("nan")

    def __str__(self) -> str:
        return f"{self.rule}[{self.subject}]: {self.actual:.6g} against {self.limit:.6g}"


def verify_plan(problem: PlacementProblem, plan: PlanSolution) -> list[Violation]:
    """Everything wrong with a plan, rule by rule. Plans without arrays worth checking have nothing wrong."""
    if not plan.has_plan:
        return []
    if plan.problem_sha256 != problem.content_hash():
        return [Violation("problem_hash", "the plan answers another problem")]
    broken = list(_sound_numbers(problem, plan))
    if broken:
        return broken
    checks = (
        _candidates_only, _demand_met_or_counted, _batch_work_counted, _nodes_within_group, _capacity, _padding,
        _reserved_floor, _sites_open, _power, _caps, _ledgers, _spread, _links, _graphs, _costs, _bounds,
    )  # fmt: skip
    return [violation for check in checks for violation in check(problem, plan)]


def verify_move_budget(problem: PlacementProblem, plan: PlanSolution) -> list[Violation]:
    """Services that change group in the first slot beyond the policy's budget, moves that nothing forced.

    Of each class as many move as leave groups or join others, whichever is less. Forced is what ran on pairs that are
    candidates no more, on groups whose nodes no longer hold what runs there, and on sites above their power limit.
    For plans that hold the budget (bulk plans); a horizon plan may buy moves beyond it at ten times their cost.
    """
    p = problem
    if p.terms.move_budget_count is None or not plan.has_plan:
        return []
    running = np.where(p.classes.work_replica_h[p.pairs.class_index] > 0, 0.0, p.pairs.running_count)
    free = np.ones(p.pair_count, dtype=bool)
    for pair in np.flatnonzero(running > 0):
        free[pair] = not pair_rule_broken(p, int(pair), site_allowed(p, int(p.pairs.class_index[pair])))
    held = p.groups.capacity * p.groups.node_count[:, :1]
    needed = _per_group(p, np.asarray(p.pairs.need * running[:, None], dtype=float))
    lost = np.asarray((needed > held).any(axis=1))
    work_kw = _per_site(p, _per_group(p, p.pairs.dynamic_w * running)) / 1000.0
    share = _per_group(p, _dominant_share(p) * running)
    idle_kw = _per_site(p, np.ceil(share - PRESENT) * p.groups.idle_w) / 1000.0
    hot = np.asarray(work_kw + idle_kw > p.sites.power_limit_kw[:, 0])
    free &= ~lost[p.pairs.group_index]
    free &= ~hot[p.pair_site]
    step = np.where(
        p.classes.work_replica_h[p.pairs.class_index] > 0, 0.0, plan.running_count[:, 0] - running
    )
    left = _per_class(p, np.where(free, np.maximum(-step, 0.0), 0.0))
    joined = _per_class(p, np.maximum(step, 0.0))
    moved, budget = float(np.minimum(left, joined).sum()), float(p.terms.move_budget_count)
    return list(_excesses("move_budget", np.array([moved]), budget, ("fleet",)))


# -- shared derivations ------------------------------------------------------------------------------------------


def _over(actual: npt.ArrayLike, limit: npt.ArrayLike) -> Bools:
    a, b = np.asarray(actual, dtype=float), np.asarray(limit, dtype=float)
    return np.asarray(a > b + RELATIVE * np.abs(b) + ABSOLUTE)


def _differ(a: npt.ArrayLike, b: npt.ArrayLike) -> Bools:
    return np.asarray(_over(a, b) | _over(b, a))


def _excesses(
    rule: str, actual: Floats, limit: npt.ArrayLike, *names: tuple[str, ...] | range
) -> Iterator[Violation]:
    """One violation per entry of `actual` above `limit`; `names` label the axes."""
    limits = np.broadcast_to(np.asarray(limit, dtype=float), actual.shape)
    for at in zip(*np.nonzero(_over(actual, limits)), strict=True):
        subject = ",".join(str(axis[i]) for axis, i in zip(names, at, strict=True))
        yield Violation(rule, subject, float(actual[at]), float(limits[at]))


def _differences(
    rule: str, stated: Floats, counted: Floats, *names: tuple[str, ...] | range
) -> Iterator[Violation]:
    for at in zip(*np.nonzero(_differ(stated, counted)), strict=True):
        subject = ",".join(str(axis[i]) for axis, i in zip(names, at, strict=True))
        yield Violation(rule, subject, float(stated[at]), float(counted[at]))


def site_allowed(problem: PlacementProblem, class_index: int) -> Bools:
    """[S] sites that a class may use by name, labels, RTT of its flows; path budgets depend on the pair."""
    p, c = problem, class_index
    allowed = np.ones(p.site_count, dtype=bool)
    for s in range(p.site_count):
        named = p.classes.allowed_site_ids[c]
        labels = p.sites.labels[s]
        alternatives = p.classes.require_any[c]
        fits = not alternatives or any(
            all(key in labels and labels[key] == value for key, value in wanted.items())
            for wanted in alternatives
        )
        allowed[s] = fits and (not named or p.sites.site_id[s] in named)
    for f in np.flatnonzero(p.flows.class_index == c):
        limit_ms = p.flows.rtt_p99_max_ms[f]
        if not np.isnan(limit_ms):
            rtt_ms = p.network.leg_rtt_p99_ms[p.flows.leg_index[f]]
            allowed &= ~np.isnan(rtt_ms) & (np.nan_to_num(rtt_ms, nan=np.inf) <= limit_ms)
    return allowed


def pair_rule_broken(problem: PlacementProblem, pair: int, allowed: Bools) -> str:
    """Name of the rule that forbids a pair (empty: none), given the sites its class may use."""
    p = problem
    c, g = int(p.pairs.class_index[pair]), int(p.pairs.group_index[pair])
    site = int(p.groups.site[g])
    if not allowed[site]:
        return "site_not_allowed"
    models = p.classes.gpu_milli_by_model[c]
    if models and p.groups.gpu_model[g] not in models:
        return "gpu_model"
    if p.classes.gpu_memory_mib[c] > 0 and p.classes.gpu_memory_mib[c] > p.groups.gpu_memory_mib[g]:
        return "gpu_memory"
    if any(p.pairs.need[pair, r] > p.groups.capacity[g, r] for r in range(len(RESOURCES))):
        return "node_too_small"
    for b in np.flatnonzero(p.paths.class_index == c):
        total = p.pairs.processing_p99_ms[pair]
        for leg in (p.paths.leg_in_index[b], p.paths.leg_out_index[b]):
            if leg >= 0:
                total += p.network.leg_rtt_p99_ms[leg, site]
        if not total <= p.paths.budget_ms[b] + 1e-9:
            return "path_budget"
    return ""


def _per_group(problem: PlacementProblem, per_pair: Floats) -> Floats:
    out = np.zeros((problem.group_count, *per_pair.shape[1:]))
    np.add.at(out, problem.pairs.group_index, per_pair)
    return out


def _per_class(problem: PlacementProblem, per_pair: Floats) -> Floats:
    out = np.zeros((problem.class_count, *per_pair.shape[1:]))
    np.add.at(out, problem.pairs.class_index, per_pair)
    return out


def _per_site(problem: PlacementProblem, per_group: Floats) -> Floats:
    out = np.zeros((problem.site_count, *per_group.shape[1:]))
    np.add.at(out, problem.groups.site, per_group)
    return out


def _dominant_share(problem: PlacementProblem) -> Floats:
    """[K] largest share of one node that a replica takes."""
    share = np.zeros(problem.pair_count)
    for r in range(len(RESOURCES)):
        capacity = problem.groups.capacity[problem.pairs.group_index, r]
        held = capacity > 0
        share[held] = np.maximum(share[held], problem.pairs.need[held, r] / capacity[held])
    return share


def _counted_share(problem: PlacementProblem) -> Floats:
    """[K] share of one node's idle power that useful load counts: of the group's scarce resource, if one is named."""
    if not problem.groups.scarce_resource:
        return _dominant_share(problem)
    share = np.zeros(problem.pair_count)
    for k, g in enumerate(problem.pairs.group_index.tolist()):
        r = problem.groups.scarce_resource[g]
        installed = problem.groups.capacity[g, r]
        share[k] = problem.pairs.need[k, r] / installed if installed > 0 else 0.0
    return share


def _wanted(problem: PlacementProblem) -> Floats:
    """[C,T] replicas wanted: services, and stages of graphs that are not fixed elsewhere."""
    wanted = np.array(problem.classes.demand_count)
    for graph in problem.graphs:
        for stage, c in enumerate(graph.stage_class):
            if not graph.fixed_site or graph.fixed_site[stage] < 0:
                wanted[c] += np.asarray(graph.count) * graph.stage_replicas[stage]
    return wanted


def _slots(problem: PlacementProblem) -> range:
    return range(problem.slot_count)


# -- 1. plans ----------------------------------------------------------------------------------------------------


def _sound_numbers(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Shapes as the problem's axes, all counts finite and not negative."""
    p = problem
    shapes = {
        "running_count": (p.pair_count, p.slot_count), "nodes_on": (p.group_count, p.slot_count),
        "site_on": (p.site_count, p.slot_count), "unserved_count": (p.class_count, p.slot_count),
        "unfinished_replica_h": (p.class_count,), "late_replica_h": (p.class_count,), "moved_count": (p.pair_count,),
        "it_kw": (p.site_count, p.slot_count), "facility_kw": (p.site_count, p.slot_count),
        "useful_it_kw": (p.site_count, p.slot_count), "cap_excess_kw": (p.site_count, p.slot_count),
        "ledger_debt_kwh": (p.site_count,), "price_yuan_per_unit_h": (p.group_count, len(RESOURCES), p.slot_count),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = getattr(plan, name)
        if values.shape != shape:
            yield Violation("shape", name, float(values.size), float(np.prod(shape)))
        elif not np.all(np.abs(values) <= LARGEST) or float(values.min(initial=0)) < -ABSOLUTE:
            yield Violation("not_a_count", name, float(values.min(initial=0)), 0.0)
    if plan.ledger_used_kwh.shape != (p.site_count,):
        yield Violation("shape", "ledger_used_kwh", float(plan.ledger_used_kwh.size), float(p.site_count))
    if not np.isfinite(plan.portfolio_debt_kwh) or not np.isfinite(plan.cost.total_yuan):
        yield Violation(
            "not_a_count", "portfolio_debt_kwh, cost", plan.portfolio_debt_kwh, plan.cost.total_yuan
        )
    for n, pattern in enumerate(plan.graph_patterns):
        if not _pattern_refers(p, pattern):
            yield Violation("reference", f"graph_patterns[{n}]")


def _pattern_refers(p: PlacementProblem, pattern: GraphPattern) -> bool:
    """A pattern names a graph, a site per stage and a finite count per slot."""
    if not 0 <= pattern.graph_index < len(p.graphs):
        return False
    stages = len(p.graphs[pattern.graph_index].stage_class)
    return (
        len(pattern.stage_site) == stages
        and all(0 <= s < p.site_count for s in pattern.stage_site)
        and len(pattern.stage_processing_ms) == stages
        and len(pattern.count) == p.slot_count
        and all(-ABSOLUTE <= n <= LARGEST for n in (*pattern.count, *pattern.stage_processing_ms))
    )


def _candidates_only(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Every pair in use passes site names, labels, RTT, GPU model and memory, node size and path budgets."""
    used = np.flatnonzero(plan.running_count.max(axis=1, initial=0.0) > PRESENT)
    allowed: dict[int, Bools] = {}
    for pair in used:
        c = int(problem.pairs.class_index[pair])
        if c not in allowed:
            allowed[c] = site_allowed(problem, c)
        rule = pair_rule_broken(problem, int(pair), allowed[c])
        if rule:
            group = problem.groups.group_id[problem.pairs.group_index[pair]]
            most = float(plan.running_count[pair].max())
            yield Violation(rule, f"{problem.classes.class_id[c]},{group}", most, 0.0)


def _demand_met_or_counted(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Placed + unserved = wanted for services; nothing runs that nobody wants."""
    wanted = _wanted(problem)
    is_batch = problem.classes.work_replica_h > 0
    placed = _per_class(problem, plan.running_count)
    stated = placed + plan.unserved_count
    yield from _differences(
        "demand", stated[~is_batch], wanted[~is_batch],
        tuple(i for i, b in zip(problem.classes.class_id, is_batch, strict=True) if not b), _slots(problem),
    )  # fmt: skip


def _batch_work_counted(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Done + unfinished = work, nothing before release, no more in parallel than allowed, lateness as stated."""
    c = problem.classes
    is_batch = c.work_replica_h > 0
    placed = _per_class(problem, plan.running_count)
    done = (placed * problem.slots.hours).sum(axis=1)
    ids = (*c.class_id,)
    yield from _differences(
        "work",
        np.where(is_batch, done + plan.unfinished_replica_h, 0.0),
        np.where(is_batch, c.work_replica_h, 0.0),
        ids,
    )
    slot = np.arange(problem.slot_count)
    early = np.where(is_batch[:, None] & (slot < c.release_slot[:, None]), placed, 0.0)
    yield from _excesses("release", early, 0.0, ids, _slots(problem))
    together = np.where(is_batch[:, None], placed, 0.0)
    yield from _excesses(
        "parallel", together, np.where(is_batch, c.max_parallel_count, 0.0)[:, None], ids, _slots(problem)
    )
    in_time = np.where(slot < c.deadline_slot[:, None], placed, 0.0) @ problem.slots.hours
    late = np.where(
        is_batch & (c.deadline_slot < problem.slot_count), np.maximum(c.work_replica_h - in_time, 0.0), 0.0
    )
    yield from _differences("lateness", plan.late_replica_h, late, ids)


def _nodes_within_group(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    yield from _excesses(
        "node_count", plan.nodes_on, problem.groups.node_count, problem.groups.group_id, _slots(problem)
    )


def _capacity(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Σ need·x ≤ capacity · packing yield · nodes on, per group, resource and slot, in shares of the group's nodes."""
    groups = problem.groups
    for r, resource in enumerate(RESOURCES):
        needed = _per_group(problem, problem.pairs.need[:, r, None] * plan.running_count)
        per_node = groups.capacity[:, r] * groups.packing_yield[:, r]
        nodes = needed / np.maximum(per_node, 1e-9)[:, None]
        nodes = np.where((per_node > 0)[:, None], nodes, np.where(needed > PRESENT, np.inf, 0.0))
        yield from _excesses(f"capacity_{resource}", nodes, plan.nodes_on, groups.group_id, _slots(problem))


def _padding(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Nodes on ≤ factor · Σ share of a node filled + nodes: nothing powered to please a ratio.

    A replica fills its largest share, or the whole node where no second one fits beside it.
    """
    capacity = problem.groups.capacity[problem.pairs.group_index]
    takes_all = (2 * problem.pairs.need > capacity).any(axis=1)
    share = np.where(takes_all, 1.0, _dominant_share(problem))
    filled = _per_group(problem, share[:, None] * plan.running_count)
    allowed = problem.terms.padding_factor * filled + problem.terms.padding_node_count
    yield from _excesses("padding", plan.nodes_on, allowed, problem.groups.group_id, _slots(problem))


def _reserved_floor(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Work ranked below public service leaves the reserved share of every group free."""
    floor = problem.sites.reserved_floor_frac[problem.groups.site]
    if not floor.any():
        return
    low = problem.classes.priority_rank[problem.pairs.class_index] >= 2
    for r, resource in enumerate(RESOURCES):
        needed = _per_group(problem, (problem.pairs.need[:, r] * low)[:, None] * plan.running_count)
        per_node = problem.groups.capacity[:, r] * problem.groups.packing_yield[:, r]
        room = (1 - floor)[:, None] * problem.groups.node_count * per_node[:, None]
        reserved = np.where((floor > 0)[:, None], room, np.inf)
        yield from _excesses(f"floor_{resource}", needed, reserved, problem.groups.group_id, _slots(problem))


def _sites_open(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """A closed site may close and has neither nodes nor work."""
    p = problem
    stays = ~p.sites.may_close[:, None] & ~plan.site_on
    for s, t in zip(*np.nonzero(stays), strict=True):
        yield Violation("closed_home", f"{p.sites.site_id[s]},{t}", 0.0, 1.0)
    nodes = _per_site(p, plan.nodes_on)
    yield from _excesses("closed_site", np.where(plan.site_on, 0.0, nodes), 0.0, p.sites.site_id, _slots(p))


def _power(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Stated IT, useful and facility power are those of the nodes and the work; IT power within the site's limit."""
    p, s = problem, problem.sites
    work_w = _per_group(p, p.pairs.dynamic_w[:, None] * plan.running_count)
    it_kw = _per_site(p, p.groups.idle_w[:, None] * plan.nodes_on + work_w) / 1000.0
    idle_share_w = _counted_share(p) * p.groups.idle_w[p.pairs.group_index]
    useful_kw = (
        _per_site(p, _per_group(p, (idle_share_w + p.pairs.dynamic_w)[:, None] * plan.running_count)) / 1000.0
    )
    fixed = np.where(plan.site_on, s.fixed_kw, s.off_kw)
    facility_kw = fixed + it_kw * (1 + s.loss_slope) + s.loss_square * it_kw**2 / s.rated_kw[:, None]
    yield from _differences("it_power", plan.it_kw, it_kw, s.site_id, _slots(p))
    yield from _differences("useful_power", plan.useful_it_kw, useful_kw, s.site_id, _slots(p))
    yield from _differences("facility_power", plan.facility_kw, facility_kw, s.site_id, _slots(p))
    yield from _excesses(
        "power_limit", it_kw, np.where(plan.site_on, s.power_limit_kw, 0.0), s.site_id, _slots(p)
    )


def _caps(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Excess over hourly caps is stated in full: max(0, P_fac − Π·P) of open sites."""
    s = problem.sites
    cap = s.ipue_cap_hourly[:, None]
    over = np.maximum(plan.facility_kw - np.where(np.isnan(cap), 0.0, cap) * plan.it_kw, 0.0)
    over = np.where(np.isnan(cap) | ~plan.site_on, 0.0, over)
    yield from _differences("cap_excess", plan.cap_excess_kw, over, s.site_id, _slots(problem))


def _ledgers(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Used and owed energy follow from the stated powers: Σ (P_fac − Π·P)·Δt and what exceeds β_H."""
    p, s = problem, problem.sites
    counted = plan.useful_it_kw if p.terms.ledger_load == "useful" else plan.it_kw
    for i in np.flatnonzero(np.isnan(s.pue_cap_annual)):
        if not np.isnan(plan.ledger_used_kwh[i]) or plan.ledger_debt_kwh[i] > ABSOLUTE:
            yield Violation("ledger_without_cap", s.site_id[i], float(plan.ledger_used_kwh[i]))
    for i in np.flatnonzero(~np.isnan(s.pue_cap_annual)):
        used = float(((plan.facility_kw[i] - s.pue_cap_annual[i] * counted[i]) * p.slots.hours).sum())
        if np.isnan(plan.ledger_used_kwh[i]) or _differ(plan.ledger_used_kwh[i], used):
            yield Violation("ledger_used", s.site_id[i], float(plan.ledger_used_kwh[i]), used)
        owed = max(0.0, used - float(s.ledger_beta_kwh[i]))
        if _differ(plan.ledger_debt_kwh[i], owed):
            yield Violation("ledger_debt", s.site_id[i], float(plan.ledger_debt_kwh[i]), owed)
    cap = p.terms.portfolio_pue_cap_annual
    owed = 0.0
    if cap is not None and s.is_edge.any():
        used = float(((plan.facility_kw - cap * counted) * p.slots.hours)[s.is_edge].sum())
        owed = max(0.0, used - p.terms.portfolio_beta_kwh)
    if _differ(plan.portfolio_debt_kwh, owed):
        yield Violation("portfolio_debt", "edge", plan.portfolio_debt_kwh, owed)


def _spread(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """A class that must lie on m sites has no more than an m-th of its placed replicas on one of them."""
    p = problem
    for c in np.flatnonzero(p.classes.spread_site_min > 1):
        of_class = p.pairs.class_index == c
        on_site = np.zeros((p.site_count, p.slot_count))
        np.add.at(on_site, p.pair_site[of_class], plan.running_count[of_class])
        wanted = _wanted(p)[c]
        share = np.divide(on_site, wanted, out=np.zeros_like(on_site), where=wanted > 0)
        least = int(p.classes.spread_site_min[c])
        name = (f"{p.classes.class_id[c]}@{s}" for s in p.sites.site_id)
        yield from _excesses("spread_sites", share, 1.0 / least, tuple(name), _slots(p))


def _links(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Traffic of zones and between stages on every link ≤ planning load · capacity, both directions together."""
    p, n = problem, problem.network
    if not len(n.link_id):
        return
    load = np.zeros((len(n.link_id), p.slot_count))
    on_site = np.zeros((p.class_count, p.site_count, p.slot_count))
    np.add.at(on_site, (p.pairs.class_index, p.pair_site), plan.running_count)
    links_of: dict[tuple[int, int], list[int]] = {}
    for origin, site, link in zip(n.route_origin, n.route_site, n.route_link, strict=True):
        links_of.setdefault((int(origin), int(site)), []).append(int(link))
    for c, leg, mbps in zip(p.flows.class_index, p.flows.leg_index, p.flows.mbps, strict=True):
        for s in np.flatnonzero(on_site[c].max(axis=1, initial=0.0) > PRESENT):
            for link in links_of.get((int(leg), int(s)), []):
                load[link] += mbps * on_site[c, s]
    for pattern in plan.graph_patterns:
        for flow in p.graphs[pattern.graph_index].flows:
            a, b = pattern.stage_site[flow.from_stage], pattern.stage_site[flow.to_stage]
            for link in links_of.get((len(n.leg_id) + a, b), []) if a != b else []:
                load[link] += flow.mbps * np.asarray(pattern.count)
    usable = (n.link_capacity_mbps * n.planning_load_frac)[:, None]
    yield from _excesses("link", load, usable, n.link_id, _slots(p))


def _graphs(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Patterns obey flows, colocation, fixed stages and path budgets, and agree with where the stages run."""
    p = problem
    for j, graph in enumerate(p.graphs):
        patterns = [pattern for pattern in plan.graph_patterns if pattern.graph_index == j]
        for pattern in patterns:
            rule = pattern_rule_broken(p, graph, pattern)
            if rule:
                yield Violation(rule, f"{graph.graph_id},{pattern.stage_site}")
        total = (
            np.sum([pattern.count for pattern in patterns], axis=0) if patterns else np.zeros(p.slot_count)
        )
        yield from _excesses(
            "graph_count", np.asarray(total, dtype=float), np.asarray(graph.count), _slots(p)
        )
        for stage in range(len(graph.stage_class)):
            if graph.fixed_site and graph.fixed_site[stage] >= 0:
                continue
            yield from _stage_agrees(p, plan, graph, stage, patterns)


def _stage_agrees(
    p: PlacementProblem, plan: PlanSolution, graph: Graph, stage: int, patterns: list[GraphPattern]
) -> Iterator[Violation]:
    """Replicas of a stage per (site, processing) are those of the patterns; stages without a path count per site."""
    c = graph.stage_class[stage]
    budgeted = any(stage in path.via for path in graph.paths)
    planned: dict[tuple[int, float], Floats] = {}
    for pattern in patterns:
        key = (pattern.stage_site[stage], round(pattern.stage_processing_ms[stage], 6) if budgeted else 0.0)
        count = np.asarray(pattern.count) * graph.stage_replicas[stage]
        planned[key] = planned.get(key, np.zeros(p.slot_count)) + count
    placed: dict[tuple[int, float], Floats] = {}
    for k in np.flatnonzero(p.pairs.class_index == c):
        processing = round(float(p.pairs.processing_p99_ms[k]), 6) if budgeted else 0.0
        if plan.running_count[k].max(initial=0.0) > PRESENT:
            key = (int(p.pair_site[k]), processing)
            placed[key] = placed.get(key, np.zeros(p.slot_count)) + plan.running_count[k]
    zero = np.zeros(p.slot_count)
    for key in sorted({*planned, *placed}):
        name = f"{graph.graph_id},{p.classes.class_id[c]},{p.sites.site_id[key[0]]}"
        yield from _differences(
            "graph_stage", placed.get(key, zero)[None], planned.get(key, zero)[None], (name,), _slots(p)
        )


def pattern_rule_broken(p: PlacementProblem, graph: Graph, pattern: GraphPattern) -> str:
    """Name of the graph rule that a pattern breaks; empty: none."""
    site = pattern.stage_site
    for flow in graph.flows:
        rtt_ms = p.network.site_rtt_p99_ms[site[flow.from_stage], site[flow.to_stage]]
        if flow.rtt_p99_max_ms is not None and not rtt_ms <= flow.rtt_p99_max_ms + 1e-9:
            return "stage_rtt"
    if any(site[a] != site[b] for a, b in graph.colocate):
        return "colocation"
    if any(fixed >= 0 and fixed != s for fixed, s in zip(graph.fixed_site, site, strict=False)):
        return "fixed_stage"
    for path in graph.paths:
        total_ms = sum(pattern.stage_processing_ms[i] for i in path.via if i >= 0)
        for a, b in zip(path.via[:-1], path.via[1:], strict=True):
            if a >= 0 and b >= 0:
                total_ms += float(p.network.site_rtt_p99_ms[site[a], site[b]])
            elif a >= 0 or b >= 0:
                leg, stage = (-1 - a, b) if a < 0 else (-1 - b, a)
                total_ms += float(p.network.leg_rtt_p99_ms[leg, site[stage]])
        if not total_ms <= path.budget_ms + 1e-9:
            return "path_budget"
    return ""


def _costs(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """Terms of the cost that follow from stated quantities; unfinished work and moves are the certificate's matter."""
    p, s, hours = problem, problem.sites, problem.slots.hours
    kwh = plan.facility_kw * hours
    soft = np.where(s.annual_is_hard, 0.0, s.debt_yuan_per_kwh)
    portfolio = 0.0 if p.terms.portfolio_is_hard else p.terms.portfolio_debt_yuan_per_kwh
    peaks = np.maximum(plan.facility_kw.max(axis=1) - s.demand_peak_kw, 0.0)
    unserved_h = (plan.unserved_count * hours).sum(axis=1)
    was_open = np.concatenate([s.initially_on[:, None], plan.site_on[:, :-1]], axis=1)
    were_on = np.concatenate([p.groups.initial_on_count[:, None], plan.nodes_on[:, :-1]], axis=1)
    soft_hourly = np.where(s.hourly_is_hard, 0.0, s.debt_yuan_per_kwh)
    counted = {
        "energy_yuan": float((kwh * s.price_yuan_per_kwh).sum()),
        "carbon_yuan": float((kwh * s.carbon_g_per_kwh).sum()) / 1000.0 * p.terms.carbon_yuan_per_kg,
        "debt_yuan": float(plan.ledger_debt_kwh @ soft) + plan.portfolio_debt_kwh * portfolio,
        "demand_charge_yuan": float(peaks @ s.demand_yuan_per_kw),
        "lateness_yuan": float(plan.late_replica_h @ p.classes.lateness_yuan_per_replica_h),
        "unserved_yuan": float(unserved_h @ p.classes.unserved_yuan_per_replica_h),
        "start_yuan": float((plan.site_on & ~was_open & s.may_close[:, None]).sum(axis=1) @ s.start_yuan),
        "wake_yuan": float((np.maximum(plan.nodes_on - were_on, 0.0) * p.groups.wake_yuan[:, None]).sum()),
        "other_yuan": float((plan.running_count * hours * p.pairs.other_yuan_per_replica_h[:, None]).sum())
        + _transfer_yuan(p, plan),
        "cap_excess_yuan": float((plan.cap_excess_kw * hours * soft_hourly[:, None]).sum()),
    }
    for name, value in counted.items():
        stated = float(getattr(plan.cost, name))
        if _differ(stated, value):
            yield Violation("cost", name, stated, value)


def _transfer_yuan(p: PlacementProblem, plan: PlanSolution) -> float:
    """Traffic between stages on different sites at the price of transfer: Mbps · h · 0.45 GB/h per Mbps · yuan/GB."""
    total = 0.0
    for pattern in plan.graph_patterns:
        graph_h = float(np.asarray(pattern.count) @ p.slots.hours)
        for flow in p.graphs[pattern.graph_index].flows:
            a, b = pattern.stage_site[flow.from_stage], pattern.stage_site[flow.to_stage]
            if a != b:
                total += float(p.network.transfer_yuan_per_gb[a, b]) * flow.mbps * 3600 / 8 / 1000 * graph_h
    return total


def _bounds(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """A bound is not above its objective, the gap is theirs, and what is called optimal has next to none."""
    del problem
    scopes = [bound.scope for bound in plan.bounds]
    if len(scopes) > len(set(scopes)) or not {*scopes} <= {"fleet", "edge"}:
        yield Violation("bound_scope", ", ".join(scopes))
    fleet = plan.bound("fleet")
    if plan.status is SolveStatus.OPTIMAL and fleet is not None:
        gap = float("nan") if fleet.gap_frac is None else fleet.gap_frac
        if not gap <= OPTIMAL_GAP_FRAC + 1e-9:
            yield Violation("called_optimal", fleet.model, gap, OPTIMAL_GAP_FRAC)
    for bound in plan.bounds:
        if bound.bound_yuan is None:
            continue
        if _over(bound.bound_yuan, bound.objective_yuan):
            yield Violation("bound", f"{bound.scope}: {bound.model}", bound.bound_yuan, bound.objective_yuan)
        gap = (bound.objective_yuan - bound.bound_yuan) / max(abs(bound.objective_yuan), 1e-9)
        if bound.gap_frac is None or abs(bound.gap_frac - gap) > 1e-6:
            yield Violation(
                "gap", bound.scope, float("nan") if bound.gap_frac is None else bound.gap_frac, gap
            )


# -- 2. placements -----------------------------------------------------------------------------------------------


def verify_placements(
    problem: PlacementProblem, placements: NodePlacements, slot: int = 0
) -> list[Violation]:
    """Everything wrong with replicas on nodes at one instant of a slot."""
    pair = _pair_of(problem, placements)
    undefined = np.flatnonzero(pair < 0)
    if len(undefined):
        return [Violation("need_undefined", _who(problem, placements, int(i))) for i in undefined]
    return [
        *_placed_where_allowed(problem, placements, pair, slot),
        *_node_capacity(problem, placements, pair),
        *_devices(problem, placements, pair),
        *_gangs(problem, placements),
        *_spread_of_workloads(problem, placements),
        *_site_limits(problem, placements, pair, slot),
    ]


def _who(p: PlacementProblem, n: NodePlacements, i: int) -> str:
    group = p.groups.group_id[n.group_index[i]]
    return f"{p.classes.class_id[n.class_index[i]]}#{n.workload_index[i]}@{group}/{n.node_index[i]}"


def _pair_of(p: PlacementProblem, n: NodePlacements) -> Ints:
    table = np.full((p.class_count, p.group_count), -1)
    table[p.pairs.class_index, p.pairs.group_index] = np.arange(p.pair_count)
    return np.asarray(table[n.class_index, n.group_index])


def _placed_where_allowed(
    p: PlacementProblem, n: NodePlacements, pair: Ints, slot: int
) -> Iterator[Violation]:
    allowed: dict[int, Bools] = {}
    verdict: dict[int, str] = {}
    for i, k in enumerate(pair.tolist()):
        c = int(n.class_index[i])
        if c not in allowed:
            allowed[c] = site_allowed(p, c)
        if k not in verdict:
            verdict[k] = pair_rule_broken(p, k, allowed[c])
        if verdict[k]:
            yield Violation(verdict[k], _who(p, n, i))
        usable = int(p.groups.node_count[n.group_index[i], slot])
        if not 0 <= n.node_index[i] < usable:
            yield Violation("node_index", _who(p, n, i), float(n.node_index[i]), float(usable))


def _node_capacity(p: PlacementProblem, n: NodePlacements, pair: Ints) -> Iterator[Violation]:
    """Σ need ≤ capacity on every node, exactly, in integers."""
    nodes, row = np.unique(np.stack([n.group_index, n.node_index]), axis=1, return_inverse=True)
    used = np.zeros((nodes.shape[1], len(RESOURCES)), dtype=np.int64)
    np.add.at(used, np.ravel(row), p.pairs.need[pair])
    capacity = p.groups.capacity[nodes[0]]
    for i, r in zip(*np.nonzero(used > capacity), strict=True):
        subject = f"{p.groups.group_id[nodes[0, i]]}/{nodes[1, i]}"
        yield Violation(f"node_{RESOURCES[r]}", subject, float(used[i, r]), float(capacity[i, r]))


def _devices(p: PlacementProblem, n: NodePlacements, pair: Ints) -> Iterator[Violation]:
    """Shares of a device add up to at most one device; whole devices are used by one replica alone."""
    filled: dict[tuple[int, int, int], int] = {}
    for i, k in enumerate(pair.tolist()):
        need, g = int(p.pairs.need[k, 2]), int(n.group_index[i])
        devices = n.gpu_ids[i]
        wanted = 0 if need == 0 else 1 if need < MILLI_PER_GPU else need // MILLI_PER_GPU
        count = int(p.groups.capacity[g, 2]) // MILLI_PER_GPU
        if len(set(devices)) != wanted or len(devices) != wanted or any(not 0 <= d < count for d in devices):
            yield Violation("gpu_ids", _who(p, n, i), float(len(devices)), float(wanted))
            continue
        for device in devices:
            key = (g, int(n.node_index[i]), device)
            filled[key] = filled.get(key, 0) + (need if need < MILLI_PER_GPU else MILLI_PER_GPU)
    for (g, node, device), milli in sorted(filled.items()):
        if milli > MILLI_PER_GPU:
            yield Violation(
                "gpu_share", f"{p.groups.group_id[g]}/{node}/gpu{device}", float(milli), MILLI_PER_GPU
            )


def _gangs(p: PlacementProblem, n: NodePlacements) -> Iterator[Violation]:
    """A gang is whole, on one site, and in one group or island where the class says so."""
    for c in np.flatnonzero(p.classes.gang_size > 1):
        of_class = np.flatnonzero(n.class_index == c)
        for workload in np.unique(n.workload_index[of_class]):
            members = of_class[n.workload_index[of_class] == workload]
            name = f"{p.classes.class_id[c]}#{workload}"
            size = int(p.classes.gang_size[c])
            if len(members) % size:
                yield Violation("gang_not_whole", name, float(len(members)), float(size))
            groups = n.group_index[members]
            if p.classes.single_site[c] and len(np.unique(p.groups.site[groups])) > 1:
                yield Violation("gang_on_several_sites", name)
            if p.classes.single_group[c] and len(np.unique(groups)) > 1:
                yield Violation("gang_in_several_groups", name)
            if p.classes.single_island[c] and len({_island(p, n, int(i)) for i in members}) > 1:
                yield Violation("gang_in_several_islands", name)


def _island(p: PlacementProblem, n: NodePlacements, i: int) -> tuple[int, int]:
    g = int(n.group_index[i])
    size = int(p.groups.island_node_count[g])
    return g, int(n.node_index[i]) // size if size > 0 else 0


def _spread_of_workloads(p: PlacementProblem, n: NodePlacements) -> Iterator[Violation]:
    """Replicas of one workload lie on at least so many sites or nodes (or on as many as it has replicas placed)."""
    for c in np.flatnonzero((p.classes.spread_site_min > 1) | (p.classes.spread_node_min > 1)):
        of_class = np.flatnonzero(n.class_index == c)
        for workload in np.unique(n.workload_index[of_class]):
            members = of_class[n.workload_index[of_class] == workload]
            name = f"{p.classes.class_id[c]}#{workload}"
            sites = len(np.unique(p.groups.site[n.group_index[members]]))
            nodes = len({(int(n.group_index[i]), int(n.node_index[i])) for i in members})
            for rule, found, least in (
                ("spread_sites", sites, int(p.classes.spread_site_min[c])),
                ("spread_nodes", nodes, int(p.classes.spread_node_min[c])),
            ):
                if found < min(least, len(members)):
                    yield Violation(rule, name, float(found), float(least))


def _site_limits(p: PlacementProblem, n: NodePlacements, pair: Ints, slot: int) -> Iterator[Violation]:
    """IT power of occupied nodes and their work ≤ the site's limit; zone traffic ≤ what links may carry."""
    nodes = np.unique(np.stack([n.group_index, n.node_index]), axis=1)
    power_w = np.zeros(p.site_count)
    np.add.at(power_w, p.groups.site[nodes[0]], p.groups.idle_w[nodes[0]])
    np.add.at(power_w, p.groups.site[n.group_index], p.pairs.dynamic_w[pair])
    yield from _excesses("power_limit", power_w / 1000.0, p.sites.power_limit_kw[:, slot], p.sites.site_id)
    on_site = np.zeros((p.class_count, p.site_count))
    np.add.at(on_site, (n.class_index, p.groups.site[n.group_index]), 1.0)
    load = np.zeros(len(p.network.link_id))
    routes = zip(p.network.route_origin, p.network.route_site, p.network.route_link, strict=True)
    links_of: dict[tuple[int, int], list[int]] = {}
    for origin, site, link in routes:
        links_of.setdefault((int(origin), int(site)), []).append(int(link))
    for c, leg, mbps in zip(p.flows.class_index, p.flows.leg_index, p.flows.mbps, strict=True):
        for s in np.flatnonzero(on_site[c]):
            load[links_of.get((int(leg), int(s)), [])] += mbps * on_site[c, s]
    usable = p.network.link_capacity_mbps * p.network.planning_load_frac
    yield from _excesses("link", load, usable, p.network.link_id)
