"""Which rules bind a plan, with value, limit, unit and, where a multiplier says so, the price of one more unit.

Derived from the facts and the plan's arrays alone, so that a checker finds the same list. A rule binds when its slack
is at most `TIGHT` of its limit, as exact as plans are checked; latency rules bind from `NEAR` on: RTTs come in steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from solvers.alone import alone_on_node
from solvers.dual_bound import filled_share, refutes, usable_pairs
from solvers.problem import NODE, NODE_COLUMNS, RESOURCES, PlacementProblem
from solvers.solution import BindingConstraint, Certificate, Multipliers, PlanSolution

Floats = npt.NDArray[np.float64]

TIGHT = 1e-5
NEAR = 0.02
PRESENT = 1e-6
ABSOLUTE = 1e-6
RESOURCE_UNITS = ("milli-CPU", "MiB", "milli-GPU", "GiB")


def binding_constraints(problem: PlacementProblem, plan: PlanSolution) -> list[BindingConstraint]:
    """All of them, in order of rule, subject and slot; nothing without a plan."""
    if not plan.has_plan:
        return []
    prices = plan.certificate.multipliers_at(plan.site_on) if plan.certificate is not None else None
    rules = (
        _node_capacity, _reserved_floor, _padding, _power_limit, _hourly_cap, _annual_ledger, _portfolio, _links,
        _demand_peak, _parallel, _spread, _move_budget, _window, _site_rules, _flow_rtt, _class_paths, _graph_rules,
        _gang_room,
    )  # fmt: skip
    return [found for rule in rules for found in rule(problem, plan, prices)]


def certified(problem: PlacementProblem, plan: PlanSolution, certificate: Certificate) -> PlanSolution:
    """The plan with a certificate of its objective and of the bound that its multipliers prove; what binds is added.

    As it is where nothing is proven, or more than the plan costs: such a proof is wrong. Above the objective by no more
    than plans are exact, the bound states the objective.
    """
    proven, objective = certificate.bound_yuan, certificate.objective_yuan
    if not np.isfinite(proven) or refutes(proven, objective):
        return plan
    certificate = replace(certificate, bound_yuan=min(proven, objective))
    binding = tuple(binding_constraints(problem, replace(plan, certificate=certificate)))
    return replace(plan, certificate=replace(certificate, binding=binding))


def _tight(value: Floats, limit: Floats) -> npt.NDArray[np.bool_]:
    slack = TIGHT * np.where(np.isfinite(limit), np.abs(limit), 0.0) + ABSOLUTE
    return np.asarray(value >= limit - slack)


def _needed(p: PlacementProblem, plan: PlanSolution, resource: int, rows: npt.ArrayLike = True) -> Floats:
    """[G,T] amount of a resource that the work of the pairs in `rows` takes."""
    needed = np.zeros((p.group_count, p.slot_count))
    keep = np.where(np.broadcast_to(np.asarray(rows), p.pair_count), p.pairs.need[:, resource], 0)
    np.add.at(needed, p.pairs.group_index, keep[:, None] * plan.running_count)
    return needed


def _node_capacity(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Work of a group fills what packing yields on all of its nodes, or takes each of them alone."""
    for r, unit in enumerate(RESOURCE_UNITS):
        needed = _needed(p, plan, r)
        room = (p.groups.capacity[:, r] * p.groups.packing_yield[:, r])[:, None] * p.groups.node_count
        for g, t in zip(*np.nonzero(_tight(needed, room) & (needed > PRESENT)), strict=True):
            subject = f"group={p.groups.group_id[g]},resource={RESOURCES[r]}"
            per_node = p.groups.capacity[g, r] * p.groups.packing_yield[g, r]
            price = None if m is None else float(m.capacity[g, r, t] / per_node)
            yield BindingConstraint(
                "node_capacity", subject, int(t), float(needed[g, t]), float(room[g, t]), unit, price
            )
    if m is None or not m.capacity[:, NODE].any():
        return
    taken = np.zeros((p.group_count, p.slot_count))
    np.add.at(taken, p.pairs.group_index, alone_on_node(p)[:, None] * plan.running_count)
    for g, t in zip(
        *np.nonzero(_tight(taken, p.groups.node_count.astype(float)) & (taken > PRESENT)), strict=True
    ):
        subject = f"group={p.groups.group_id[g]},resource={NODE_COLUMNS[NODE]}"
        price = float(m.capacity[g, NODE, t])
        yield BindingConstraint(
            "node_capacity",
            subject,
            int(t),
            float(taken[g, t]),
            float(p.groups.node_count[g, t]),
            "nodes",
            price,
        )


def _reserved_floor(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    floor = p.sites.reserved_floor_frac[p.groups.site]
    low = p.classes.priority_rank[p.pairs.class_index] >= 2
    for r, unit in enumerate(RESOURCE_UNITS):
        needed = _needed(p, plan, r, low)
        per_node = p.groups.capacity[:, r] * p.groups.packing_yield[:, r]
        room = ((1 - floor) * per_node)[:, None] * p.groups.node_count
        at_limit = _tight(needed, room) & (needed > PRESENT) & (floor > 0)[:, None]
        for g, t in zip(*np.nonzero(at_limit), strict=True):
            price = None if m is None else float(m.floor[g, r, t] / per_node[g])
            subject = f"group={p.groups.group_id[g]},resource={RESOURCES[r]}"
            yield BindingConstraint(
                "reserved_floor", subject, int(t), float(needed[g, t]), float(room[g, t]), unit, price
            )


def _padding(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    filled = np.zeros((p.group_count, p.slot_count))
    np.add.at(filled, p.pairs.group_index, filled_share(p)[:, None] * plan.running_count)
    limit = p.terms.padding_factor * filled + p.terms.padding_node_count
    for g, t in zip(*np.nonzero(_tight(plan.nodes_on, limit)), strict=True):
        price = None if m is None else float(m.padding[g, t])
        yield BindingConstraint(
            "padding", f"group={p.groups.group_id[g]}", int(t), float(plan.nodes_on[g, t]), float(limit[g, t]),
            "nodes", price,
        )  # fmt: skip


def _power_limit(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """IT power of open sites at the site's limit; a kW more is worth what the balance pays above its own cost."""
    s, hours = p.sites, p.slots.hours
    at_limit = _tight(plan.it_kw, s.power_limit_kw) & plan.site_on
    energy = s.price_yuan_per_kwh + s.carbon_g_per_kwh / 1000.0 * p.terms.carbon_yuan_per_kg
    marginal = (
        energy * hours * (1 + s.loss_slope + 2 * s.loss_square * s.power_limit_kw / s.rated_kw[:, None])
    )
    for i, t in zip(*np.nonzero(at_limit), strict=True):
        price = None if m is None else max(0.0, float(m.power[i, t] - marginal[i, t]))
        yield BindingConstraint(
            "power_limit", f"site={s.site_id[i]}", int(t), float(plan.it_kw[i, t]),
            float(s.power_limit_kw[i, t]), "kW", price,
        )  # fmt: skip


def _hourly_cap(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Facility power of an open site at or above Π times its IT power."""
    s = p.sites
    cap = np.broadcast_to(s.ipue_cap_hourly[:, None], plan.it_kw.shape)
    limit = np.where(np.isnan(cap), 0.0, cap) * plan.it_kw
    for i, t in zip(
        *np.nonzero(~np.isnan(cap) & plan.site_on & _tight(plan.facility_kw, limit)), strict=True
    ):
        price = None if m is None else float(m.hourly_cap[i, t])
        yield BindingConstraint(
            "ipue_cap_hourly", f"site={s.site_id[i]}", int(t), float(plan.facility_kw[i, t]),
            float(limit[i, t]), "kW", price,
        )  # fmt: skip


def _annual_ledger(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Σ (P_fac − Π·P)·Δt at or above what the ledger releases."""
    s = p.sites
    capped = ~np.isnan(s.pue_cap_annual)
    used = np.where(capped, plan.ledger_used_kwh, 0.0)
    size = (plan.facility_kw * p.slots.hours).sum(axis=1)
    # used is a difference of two energies: what counts as tight is measured by them, not by the difference
    tight = capped & (used >= s.ledger_beta_kwh - TIGHT * size - ABSOLUTE)
    for i in np.flatnonzero(tight).tolist():
        price = None if m is None else float(m.ledger[i])
        yield BindingConstraint(
            "pue_cap_annual",
            f"site={s.site_id[i]}",
            -1,
            float(used[i]),
            float(s.ledger_beta_kwh[i]),
            "kWh",
            price,
        )


def _portfolio(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    cap, edge = p.terms.portfolio_pue_cap_annual, p.sites.is_edge
    if cap is None or not edge.any():
        return
    counted = plan.useful_it_kw if p.terms.ledger_load == "useful" else plan.it_kw
    used = float(((plan.facility_kw - cap * counted) * p.slots.hours)[edge].sum())
    size = float((plan.facility_kw * p.slots.hours)[edge].sum())
    if used >= p.terms.portfolio_beta_kwh - TIGHT * size - ABSOLUTE:
        price = None if m is None else float(m.portfolio)
        yield BindingConstraint(
            "pue_cap_annual", "portfolio=edge", -1, used, p.terms.portfolio_beta_kwh, "kWh", price
        )


def _links(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    load = link_load_mbps(p, plan)
    limit = np.broadcast_to(
        (p.network.link_capacity_mbps * p.network.planning_load_frac)[:, None], load.shape
    )
    for i, t in zip(*np.nonzero(_tight(load, limit) & (load > PRESENT)), strict=True):
        price = None if m is None else float(m.link[i, t])
        yield BindingConstraint(
            "link_capacity", f"link={p.network.link_id[i]}", int(t), float(load[i, t]), float(limit[i, t]), "Mbps",
            price,
        )  # fmt: skip


def link_load_mbps(p: PlacementProblem, plan: PlanSolution) -> Floats:
    """[L,T] traffic of zones and between stages."""
    n = p.network
    load = np.zeros((len(n.link_id), p.slot_count))
    if not len(n.link_id):
        return load
    on_site = np.zeros((p.class_count, p.site_count, p.slot_count))
    np.add.at(on_site, (p.pairs.class_index, p.pair_site), plan.running_count)
    between = np.zeros((p.site_count, p.site_count, p.slot_count))
    for pattern in plan.graph_patterns:
        for flow in p.graphs[pattern.graph_index].flows:
            a, b = pattern.stage_site[flow.from_stage], pattern.stage_site[flow.to_stage]
            if a != b:
                between[a, b] += flow.mbps * np.asarray(pattern.count)
    legs = len(n.leg_id)
    from_leg = np.zeros((legs, p.site_count, p.slot_count))
    for c, leg, mbps in zip(p.flows.class_index, p.flows.leg_index, p.flows.mbps, strict=True):
        from_leg[leg] += mbps * on_site[c]
    for origin, site, link in zip(n.route_origin, n.route_site, n.route_link, strict=True):
        load[link] += from_leg[origin, site] if origin < legs else between[origin - legs, site]
    return load


def _parallel(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    del m  # the bound keeps this rule inside its small problems: it has no multiplier
    placed = np.zeros((p.class_count, p.slot_count))
    np.add.at(placed, p.pairs.class_index, plan.running_count)
    limit = np.broadcast_to(p.classes.max_parallel_count[:, None], placed.shape)
    batch = (p.classes.work_replica_h > 0)[:, None]
    for c, t in zip(*np.nonzero(batch & _tight(placed, limit) & (placed > PRESENT)), strict=True):
        yield BindingConstraint(
            "parallel",
            f"class={p.classes.class_id[c]}",
            int(t),
            float(placed[c, t]),
            float(limit[c, t]),
            "replicas",
        )


def _spread(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    """No site holds more than an m-th of a class that must lie on m sites."""
    for c in np.flatnonzero(p.classes.spread_site_min > 1).tolist():
        of_class = p.pairs.class_index == c
        on_site = np.zeros((p.site_count, p.slot_count))
        np.add.at(on_site, p.pair_site[of_class], plan.running_count[of_class])
        limit = np.broadcast_to(p.classes.demand_count[c] / p.classes.spread_site_min[c], on_site.shape)
        for s, t in zip(*np.nonzero(_tight(on_site, limit) & (on_site > PRESENT)), strict=True):
            subject = f"class={p.classes.class_id[c]},site={p.sites.site_id[s]}"
            price = (
                None
                if m is None
                else _spread_price(m, c, int(s), int(t), float(p.classes.demand_count[c, t]))
            )
            yield BindingConstraint(
                "spread_sites", subject, int(t), float(on_site[s, t]), float(limit[s, t]), "replicas", price
            )


def _spread_price(m: Multipliers, c: int, s: int, t: int, demand: float) -> float:
    """Per replica and block, from the multiplier per share of the class."""
    block = m.block_of_slot[t]
    held = (m.spread_class == c) & (m.spread_site == s) & (m.spread_block == block)
    return float(m.spread_yuan[held].sum()) / max(demand, 1e-9)


def _move_budget(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    budget = p.terms.move_budget_count
    if budget is None:
        return
    services = p.classes.work_replica_h[p.pairs.class_index] <= 0
    moved = float(plan.moved_count[services].sum())
    if moved >= budget - TIGHT * budget - ABSOLUTE and moved > PRESENT:
        price = None if m is None else float(m.move_budget)
        yield BindingConstraint("move_budget", "fleet", 0, moved, budget, "replicas", price)


def _demand_peak(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Facility power at, or at a price above, the month's peak so far, where peaks are charged for."""
    s = p.sites
    limit = np.broadcast_to(s.demand_peak_kw[:, None], plan.facility_kw.shape)
    charged = (s.demand_yuan_per_kw > 0)[:, None] & (plan.facility_kw > PRESENT)
    for i, t in zip(*np.nonzero(charged & _tight(plan.facility_kw, limit)), strict=True):
        price = None if m is None else float(m.peak[i, t])
        yield BindingConstraint(
            "demand_peak", f"site={s.site_id[i]}", int(t), float(plan.facility_kw[i, t]), float(limit[i, t]), "kW",
            price,
        )  # fmt: skip


def _window(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    """Batch work that runs in the first slot it may, or up to its deadline or beyond: hours since the plan's start."""
    del m  # windows are limits of single columns: they have no price in the bound
    ends_h = np.cumsum(p.slots.hours)
    starts_h = ends_h - p.slots.hours
    placed = np.zeros((p.class_count, p.slot_count))
    np.add.at(placed, p.pairs.class_index, plan.running_count)
    for c in np.flatnonzero(p.classes.work_replica_h > 0).tolist():
        runs = np.flatnonzero(placed[c] > PRESENT)
        if not len(runs):
            continue
        name = f"class={p.classes.class_id[c]}"
        first, last = int(runs[0]), int(runs[-1])
        release, deadline = int(p.classes.release_slot[c]), int(p.classes.deadline_slot[c])
        if 0 < release == first:
            yield BindingConstraint(
                "release", name, first, float(starts_h[first]), float(starts_h[release]), "h"
            )
        if deadline < p.slot_count and last + 1 >= deadline:
            limit = float(ends_h[deadline - 1]) if deadline > 0 else 0.0
            yield BindingConstraint("deadline", name, last, float(ends_h[last]), limit, "h")


def _site_rules(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Names and labels (residency, trust) that keep work off sites which have a pair for it; it uses all others."""
    del m  # they forbid pairs outright
    used = _sites_in_use(p, plan)
    for c in np.flatnonzero(used.any(axis=1)).tolist():
        named, wanted = p.classes.allowed_site_ids[c], p.classes.require_any[c]
        if not named and not wanted:
            continue
        has_pair = np.zeros(p.site_count, dtype=bool)
        has_pair[p.pair_site[p.pairs.class_index == c]] = True
        may = np.array([_fits_site(p, s, named, wanted) for s in range(p.site_count)])
        allowed = int((may & has_pair).sum())
        if (has_pair & ~may).any() and int(used[c].sum()) >= allowed:
            yield BindingConstraint(
                "site_rules",
                f"class={p.classes.class_id[c]}",
                -1,
                float(used[c].sum()),
                float(allowed),
                "sites",
            )


def _fits_site(
    p: PlacementProblem, site: int, named: Sequence[str], wanted: Sequence[Mapping[str, str]]
) -> bool:
    labels = p.sites.labels[site]
    labelled = not wanted or any(
        all(labels.get(key) == value for key, value in each.items()) for each in wanted
    )
    return labelled and (not named or p.sites.site_id[site] in named)


def _flow_rtt(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    """Flows of placed work whose RTT is within 2 % of its limit."""
    del m  # latency rules forbid pairs outright: they have no price in the bound
    sites = _sites_in_use(p, plan)
    for f in np.flatnonzero(~np.isnan(p.flows.rtt_p99_max_ms)).tolist():
        c, leg, limit = (
            int(p.flows.class_index[f]),
            int(p.flows.leg_index[f]),
            float(p.flows.rtt_p99_max_ms[f]),
        )
        for s in np.flatnonzero(sites[c]).tolist():
            rtt = float(p.network.leg_rtt_p99_ms[leg, s])
            if rtt >= (1 - NEAR) * limit:
                subject = (
                    f"class={p.classes.class_id[c]},leg={p.network.leg_id[leg]},site={p.sites.site_id[s]}"
                )
                yield BindingConstraint("flow_rtt", subject, -1, rtt, limit, "ms")


def _sites_in_use(p: PlacementProblem, plan: PlanSolution) -> npt.NDArray[np.bool_]:
    used = np.zeros((p.class_count, p.site_count), dtype=bool)
    pairs = np.flatnonzero(plan.running_count.max(axis=1, initial=0.0) > PRESENT)
    used[p.pairs.class_index[pairs], p.pair_site[pairs]] = True
    return used


def _class_paths(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """End-to-end budgets of placed single-stage work within 2 % of their limit."""
    del m
    used = plan.running_count.max(axis=1, initial=0.0) > PRESENT
    for b, c in enumerate(p.paths.class_index.tolist()):
        for k in np.flatnonzero(used & (p.pairs.class_index == c)).tolist():
            site, total = int(p.pair_site[k]), float(p.pairs.processing_p99_ms[k])
            for leg in (int(p.paths.leg_in_index[b]), int(p.paths.leg_out_index[b])):
                total += float(p.network.leg_rtt_p99_ms[leg, site]) if leg >= 0 else 0.0
            limit = float(p.paths.budget_ms[b])
            if total >= (1 - NEAR) * limit:
                subject = f"class={p.classes.class_id[c]},group={p.groups.group_id[p.pairs.group_index[k]]}"
                yield BindingConstraint("path_budget", subject, -1, total, limit, "ms")


def _graph_rules(
    p: PlacementProblem, plan: PlanSolution, m: Multipliers | None
) -> Iterator[BindingConstraint]:
    """Flows between stages and end-to-end budgets of the patterns in use within 2 % of their limit."""
    del m
    for pattern in plan.graph_patterns:
        graph, at = p.graphs[pattern.graph_index], pattern.stage_site
        where = f"graph={graph.graph_id},sites=" + "/".join(p.sites.site_id[s] for s in at)
        for flow in graph.flows:
            rtt = float(p.network.site_rtt_p99_ms[at[flow.from_stage], at[flow.to_stage]])
            if flow.rtt_p99_max_ms is not None and rtt >= (1 - NEAR) * flow.rtt_p99_max_ms:
                subject = f"{where},stages={flow.from_stage}-{flow.to_stage}"
                yield BindingConstraint("stage_rtt", subject, -1, rtt, flow.rtt_p99_max_ms, "ms")
        for n, path in enumerate(graph.paths):
            total = sum(pattern.stage_processing_ms[i] for i in path.via if i >= 0)
            for a, b in zip(path.via[:-1], path.via[1:], strict=True):
                if a >= 0 and b >= 0:
                    total += float(p.network.site_rtt_p99_ms[at[a], at[b]])
                elif a >= 0 or b >= 0:
                    leg, stage = (-1 - a, b) if a < 0 else (-1 - b, a)
                    total += float(p.network.leg_rtt_p99_ms[leg, at[stage]])
            if total >= (1 - NEAR) * path.budget_ms:
                yield BindingConstraint(
                    "path_budget", f"{where},path={n}", -1, float(total), path.budget_ms, "ms"
                )


def _gang_room(p: PlacementProblem, plan: PlanSolution, m: Multipliers | None) -> Iterator[BindingConstraint]:
    """Gangs kept in one group or island that fill it: the gang's size against the replicas that fit together."""
    del m
    gang = p.classes.gang_size[p.pairs.class_index] > 1
    kept = p.classes.single_island[p.pairs.class_index] | p.classes.single_group[p.pairs.class_index]
    used = plan.running_count.max(axis=1, initial=0.0) > PRESENT
    asked = np.flatnonzero(gang & kept & used)
    if not len(asked):
        return
    for k in asked[usable_pairs(p)[asked]].tolist():
        c, g = int(p.pairs.class_index[k]), int(p.pairs.group_index[k])
        nodes = int(p.groups.node_count[g].max(initial=0))
        island = int(p.groups.island_node_count[g])
        together = min(island, nodes) if p.classes.single_island[c] and island > 0 else nodes
        size, room = float(p.classes.gang_size[c]), float(_per_node(p, k) * together)
        if size >= room * (1 - TIGHT):
            subject = f"class={p.classes.class_id[c]},group={p.groups.group_id[g]}"
            yield BindingConstraint("gang_room", subject, -1, size, room, "replicas")


def _per_node(p: PlacementProblem, k: int) -> int:
    need, capacity = p.pairs.need[k], p.groups.capacity[p.pairs.group_index[k]]
    counts = [int(capacity[r] // need[r]) for r in range(len(RESOURCES)) if need[r] > 0]
    if 0 < need[2] < 1000:
        counts.append(int(capacity[2] // 1000) * (1000 // int(need[2])))
    return min(counts, default=10**9)
