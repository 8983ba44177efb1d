"""How fast and how good is one fast round: waiting replicas of a city's day placed exactly on nodes.

    python -m benchmarks.round [--nodes 5000] [--pending 1000] [--scenario songjiang-m] [--seed 42] [--plan] [--json]

The city is a scenario's, its node groups, power limits and links scaled to `--nodes`. First its opening round places
all that waits at the start of the day; then the next arrivals of the day, up to `--pending` replicas, wait for the
round that is measured. `--plan` lets both follow a horizon plan (some ten seconds more). Times are CPU seconds, the
least of seven runs on the same state, from snapshot to decisions; the log that commits them is what is audited. As in
the service, what a round computed of nodes that did not change since serves the next one; `seconds_first` is the first
run, which also sees shapes for the first time and, where the mix has grown by an eighth, builds the packing model.

Before any figure is printed, an audit that shares nothing with the planner judges the log; its violations make the exit
code 1. Beside the round stand two baselines on the same state: every replica by itself over all nodes (the same scores,
no tiers), and first fit (the first node with room; it ignores gangs, spread and stage graphs).

`objective`: energy of the placed replicas and of the nodes woken for them, yuan per hour at the prices the round
follows. `bound`: the least any placement of the same replicas could cost if capacity added up over the nodes of a
group, but for work that takes more than half the GPUs of a node (linear program with power limits and links; no gangs,
no latency or traffic between stages). `gap`: how far the objective lies above it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table
from cluster_sim.audit import audit_log
from cluster_sim.day import WINDOW_S, day_of, forecasts
from cluster_sim.driver import SUBMIT_BATCH
from cluster_sim.in_process import InProcessGateway
from cluster_sim.scenarios.loader import load_scenario
from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import SpecView, Views
from scheduler.planner.horizon import HorizonStrategy
from scheduler.planner.queue import heads, in_order
from scheduler.planner.round import PatternCache, Placed, RoundResult, place_all
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot, gpus_for
from scheduler.workers import InlineSolverPool
from suanli.model import Fleet, TelemetryReport, Workload
from suanli.model.words import grouped

RUNS = 7
Answer = TypeVar("Answer")


class _Strategy(HorizonStrategy):
    """The product's, with a plan only when the benchmark says so."""

    may_plan = False

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        return self.may_plan and super().plan_due(state, now_s)


class _HeadByHead:
    """The product's scores, told node by node and for one replica at a time."""

    chunk = 1

    def __init__(self, inner: Scorer) -> None:
        self._inner = inner

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,)"""
        return self._inner.group_cost(view, snapshot)

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,)"""
        return self._inner.energy_yuan_per_hour(view, snapshot)

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """(S,)"""
        return self._inner.open_sites(snapshot)

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,)"""
        return self._inner.node_cost(view, snapshot)

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """The plan's."""
        return self._inner.quota(spec, snapshot)

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """The plan's."""
        return self._inner.may_start_deferred(spec, snapshot)


@dataclass(frozen=True)
class Judged:
    """One way of placing the same pending work."""

    name: str
    seconds: float
    considered: int
    placed: int
    objective_yuan_per_hour: float

    @property
    def decisions_per_s(self) -> float:
        """Placements a second; what is left waiting does not count."""
        return self.placed / self.seconds if self.seconds else 0.0


def scaled(fleet: Fleet, node_count: int) -> Fleet:
    """The fleet with about `node_count` nodes: groups, rated power, power limits and links keep their proportions."""
    installed = sum(g.node_count for s in fleet.sites for g in s.groups)
    factor = node_count / installed
    sites = tuple(
        s.model_copy(
            update={
                "rated_it_kw": s.rated_it_kw * factor,
                "power_limit_kw": s.power_limit_kw * factor,
                "groups": tuple(
                    g.model_copy(update={"node_count": max(1, round(g.node_count * factor))})
                    for g in s.groups
                ),
            }
        )
        for s in fleet.sites
    )
    links = tuple(
        link.model_copy(update={"capacity_gbps": link.capacity_gbps * factor}) for link in fleet.network.links
    )
    network = fleet.network.model_copy(update={"links": links})
    return fleet.model_copy(update={"sites": sites, "network": network})


def next_arrivals(arrivals: Sequence[tuple[int, Workload]], after_s: int, replicas: int) -> list[Workload]:
    """Workloads that arrive after an instant, due at once, until they have so many replicas; a short day repeats."""
    later = [w for at_s, w in arrivals if at_s > after_s]
    out: list[Workload] = []
    count, lap = 0, 0
    while count < replicas:
        for w in later:
            if count >= replicas:
                break
            if any(s.shared_with for s in w.stages):
                continue  # its owner may not have arrived yet
            name = w.name if not lap else f"{w.name}-{lap}"
            out.append(w.model_copy(update={"name": name, "not_before_at": None}))
            count += sum(s.replicas for s in w.stages)
        lap += 1
    return out


def timed(action: Callable[[], Answer]) -> tuple[list[float], Answer]:
    """CPU seconds of some runs, and the last answer. The least says most: other work on the machine only ever adds."""
    seconds = []
    for _ in range(RUNS):
        begun = time.process_time()
        answer = action()
        seconds.append(time.process_time() - begun)
    return seconds, answer


# ---------------------------------------------------------------------- what a placement costs, and the least it could


def objective(state: ClusterState, views: Views, scorer: Scorer, result: RoundResult) -> float:
    """Yuan per hour of the placed replicas and of the nodes that were asleep before."""
    before = _as_decided(state, views, result)
    topology = views.topology
    total = 0.0
    cost: dict[int, NDArray[np.float64]] = {}
    woken: set[int] = set()
    for p in result.placed:
        spec = int(state.replicas["spec"][p.row])
        if spec not in cost:
            cost[spec] = scorer.group_cost(views[spec], before)
        total += float(cost[spec][topology.node_group[p.node]])
        if before.empty_node[p.node]:
            woken.add(p.node)
    if woken:
        total += float(scorer.node_cost(views[0], before)[np.array(sorted(woken))].sum())
    return total


def _as_decided(state: ClusterState, views: Views, result: RoundResult) -> Snapshot:
    """The state on which the round's placements stand: without what it preempts."""
    before = Snapshot.take(state, views)
    for p in result.preempted:
        view = views[int(state.replicas["spec"][p.row])]
        before.take_node(view, int(state.replicas["node"][p.row]), int(state.replicas["gpu_mask"][p.row]), -1)
    return before


def fluid_bound(state: ClusterState, views: Views, scorer: Scorer, result: RoundResult) -> float:
    """Least cost of as many replicas of each spec, with the capacity of each group as one number per resource.

    min Σ c[s,g]·x[s,g] + Σ w[g]·y[g]   subject to   Σ_g x[s,g] = placed[s],   y[g] ≤ nodes asleep in g,
    Σ_s need[s,g,r]·x[s,g] ≤ free[g,r] on nodes that are on + capacity[g,r]·y[g],
    Σ_s {x[s,g]: need[s,g,gpu] ≥ m} ≤ nodes on with m free + y[g]   for every m above half the GPUs of a node,
    Σ_{g at site} (Σ_s watts[s,g]·x[s,g] + idle[g]·y[g]) ≤ power left at the site,   Σ Mbps·x ≤ what each link has left
    """
    before = _as_decided(state, views, result)
    topology, nodes = views.topology, before.nodes
    groups = len(topology.group_ids)
    usable = nodes.up & ~nodes.cordoned
    gpu_free = np.maximum(nodes.gpu_milli, 0).sum(axis=1)
    free = np.stack([nodes.cpu_milli, nodes.memory_mib, gpu_free, nodes.storage_gib], axis=1).astype(float)
    on = usable & ~before.empty_node
    free_on = np.zeros((groups, free.shape[1]))
    np.add.at(free_on, topology.node_group, np.where(on[:, None], free, 0.0))
    asleep = np.bincount(topology.node_group, usable & before.empty_node, groups)
    idle = np.zeros(groups)
    np.maximum.at(idle, topology.node_group, scorer.node_cost(views[0], before))
    count = Counter(int(state.replicas["spec"][p.row]) for p in result.placed)
    specs = sorted(count)
    pairs = [(i, s, g) for i, s in enumerate(specs) for g in views[s].candidate_groups.tolist()]
    cost = [float(scorer.group_cost(views[s], before)[g]) for _, s, g in pairs] + idle.tolist()
    rows: list[dict[int, float]] = []
    limits: list[float] = []
    for g in range(groups):
        here = [(column, views[s].need[g]) for column, (_, s, h) in enumerate(pairs) if h == g]
        for r, installed in enumerate(topology.group_capacity[g].tolist()):
            if installed:  # as shares of one node, so that the numbers stay near 1
                rows.append({column: need[r] / installed for column, need in here} | {len(pairs) + g: -1.0})
                limits.append(free_on[g, r] / installed)
        half = topology.group_capacity[g, 2] / 2
        in_group = on & (topology.node_group == g)
        for m in sorted({int(need[2]) for _, need in here if need[2] > half}):
            rows.append({c: 1.0 for c, need in here if need[2] >= m} | {len(pairs) + g: -1.0})
            limits.append(float((gpu_free[in_group] >= m).sum()))
    for site in range(topology.site_count):
        spare_w = max(float(before.spare_w()[site]), 1.0)
        here_w = {
            c: float(views[s].watts[g]) / spare_w
            for c, (_, s, g) in enumerate(pairs)
            if topology.group_site[g] == site
        }
        wake_w = {
            len(pairs) + int(g): float(topology.group_idle_w[g]) / spare_w
            for g in np.flatnonzero(topology.group_site == site)
        }
        rows.append(here_w | wake_w)
        limits.append(1.0)
    spare_mbps = before.spare_mbps()
    for link, spare in enumerate(spare_mbps.tolist()):
        load = {}
        for c, (_, s, g) in enumerate(pairs):
            if views[s].has_traffic:
                mbps = float(views.link_mbps_per_replica(s)[topology.group_site[g], link])
                if mbps:
                    load[c] = mbps / max(spare, 1.0)
        if load:
            rows.append(load)
            limits.append(spare / max(spare, 1.0))
    entries = [(i, c, v) for i, row in enumerate(rows) for c, v in row.items()]
    at_row, at_column, value = (np.array(x) for x in zip(*entries, strict=True))
    # Any: the stubs of linprog know dense matrices only
    room: Any = coo_matrix((value, (at_row, at_column)), shape=(len(rows), len(cost))).tocsr()
    each: Any = coo_matrix(
        (np.ones(len(pairs)), (np.array([i for i, _, _ in pairs]), np.arange(len(pairs)))),
        shape=(len(specs), len(cost)),
    ).tocsr()
    solved = linprog(
        np.array(cost),
        A_ub=room,
        b_ub=np.array(limits) + 1e-6,
        A_eq=each,
        b_eq=np.array([float(count[s]) for s in specs]),
        bounds=[(0.0, np.inf)] * len(pairs) + [(0.0, float(a)) for a in asleep],
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"the bound's linear program: {solved.message}")
    return float(np.asarray(solved.fun))


def first_fit(state: ClusterState, views: Views, now_s: int) -> tuple[RoundResult, int]:
    """Every waiting replica on the first node with room."""
    snapshot = Snapshot.take(state, views)
    result = RoundResult()
    rows = heads(state, now_s)
    for block in in_order(state, rows, now_s):
        for row in block.tolist():
            view = views[int(state.replicas["spec"][row])]
            at = snapshot.nodes_of(view.group_ok)
            fits = np.flatnonzero(snapshot.fit(view, at) > 0)
            if not len(fits):
                continue
            node = int(at[fits[0]])
            need_milli = int(view.need[views.topology.node_group[node], 2])
            mask = gpus_for(snapshot.nodes.gpu_milli[node], need_milli)
            snapshot.take_node(view, node, mask)
            result.placed.append(Placed(row, node, mask))
    return result, len(rows)


# ---------------------------------------------------------------------- one run


def run(scenario_id: str, node_count: int, pending: int, seed: int, with_plan: bool) -> dict[str, Any]:
    """Figures of one city; raises SystemExit when the audit finds a violation."""
    scenario = load_scenario(scenario_id)
    day, _ = day_of(scenario, seed, WINDOW_S)
    strategy = _Strategy()
    gateway = InProcessGateway(strategy, InlineSolverPool())
    gateway.open_run(day.run_id, day.seed, day.start_s, scaled(day.fleet, node_count), day.policy)
    forecast = forecasts(scenario, seed)(day.start_s)
    gateway.report(TelemetryReport(at_s=day.start_s, forecast=forecast), "r")
    state = gateway.state
    _submit(gateway, [w for at_s, w in day.arrivals if at_s <= day.start_s])
    strategy.may_plan = with_plan

    assert state.topology is not None
    views = Views(state.topology, state.shapes)
    patterns = PatternCache(views)
    opening_scorer = strategy.scorer(state, {}, day.start_s)
    opening_runs_s, (opening, _) = timed(
        lambda: place_all(state, views, patterns, opening_scorer, day.start_s)
    )
    gateway.advance(day.run_id, day.start_s, "a")
    strategy.may_plan = False

    _submit(gateway, next_arrivals(day.arrivals, day.start_s, pending))
    now_s = day.start_s + WINDOW_S
    scorer = strategy.scorer(state, state.guide.body, now_s)

    def judged(name: str, runs_s: Sequence[float], result: RoundResult, considered: int) -> Judged:
        cost = objective(state, views, scorer, result)
        return Judged(name, min(runs_s), considered, len(result.placed), cost)

    runs_s, (ours, _) = timed(lambda: place_all(state, views, patterns, scorer, now_s))
    rows = [judged("round", runs_s, ours, ours.considered)]
    single = _HeadByHead(scorer)
    seconds_each, (each, _) = timed(lambda: place_all(state, views, patterns, single, now_s))
    rows.append(judged("head by head", seconds_each, each, each.considered))
    seconds_plain, (plain, considered) = timed(lambda: first_fit(state, views, now_s))
    rows.append(judged("first fit", seconds_plain, plain, considered))
    bound = fluid_bound(state, views, scorer, ours)

    revision = state.revision
    gateway.advance(day.run_id, now_s, "b")
    ordered = sum(e.kind.value == "replica.start_ordered" for e in gateway.log if e.revision > revision)
    if ordered != len(ours.placed):
        raise SystemExit(f"measured {len(ours.placed)} placements, committed {ordered}")
    audit, opening_s = audit_log(gateway.log, state.topology.fleet), min(opening_runs_s)
    figures: dict[str, Any] = {
        "scenario": scenario_id,
        "nodes": state.topology.node_count,
        "sites": state.topology.site_count,
        "groups": len(state.topology.group_ids),
        "running": len(opening.placed),
        "pending": ours.considered,
        "placed": len(ours.placed),
        "shapes": len(np.unique(state.replicas["spec"][[p.row for p in ours.placed]])),
        "seconds": round(min(runs_s), 4),
        "seconds_first": round(runs_s[0], 4),
        "decisions_per_s": round(rows[0].decisions_per_s),
        "considered_per_s": round(ours.considered / min(runs_s)),
        "seconds_opening": round(opening_s, 4),
        "opening_pending": opening.considered,
        "opening_placed": len(opening.placed),
        "opening_decisions_per_s": round(len(opening.placed) / opening_s),
        "objective": round(rows[0].objective_yuan_per_hour, 4),
        "bound": round(bound, 4),
        "gap": round(rows[0].objective_yuan_per_hour / bound - 1.0, 6) if bound > 0 else None,
        "violations": len(audit.violations),
        "checks": audit.checked_count,
    }
    for r in rows[1:]:
        key = r.name.replace(" ", "_")
        figures[f"{key}_decisions_per_s"] = round(r.decisions_per_s)
        figures[f"{key}_placed"] = r.placed
        figures[f"{key}_objective"] = round(r.objective_yuan_per_hour, 4)
    _print(figures, rows, bound, ours)
    for violation in audit.violations[:10]:
        print(violation)
    return figures


def _submit(gateway: InProcessGateway, workloads: Sequence[Workload]) -> None:
    for i in range(0, len(workloads), SUBMIT_BATCH):
        gateway.submit(workloads[i : i + SUBMIT_BATCH], str(i))


def _print(figures: dict[str, Any], rows: Sequence[Judged], bound: float, ours: RoundResult) -> None:
    print(machine_line())
    print(
        f"{figures['scenario']}: {figures['nodes']} nodes, {figures['groups']} groups, {figures['sites']} sites; "
        f"opening round {figures['opening_placed']} of {figures['opening_pending']} replicas in "
        f"{figures['seconds_opening']:.3f} s; then {figures['pending']} waiting"
    )
    print_table(
        ("way", "CPU s", "placed", "decisions/s", "¥/h"),
        [
            (
                r.name,
                f"{r.seconds:.3f}",
                str(r.placed),
                grouped(r.decisions_per_s),
                f"{r.objective_yuan_per_hour:.2f}",
            )
            for r in rows
        ],
    )
    waiting = ", ".join(f"{n} {code.value}" for code, n in sorted(ours.waiting.items()) if n)
    print(f"left waiting: {waiting or 'nothing'}")
    print(f"bound {bound:.2f} ¥/h; audit: {figures['violations']} violations in {figures['checks']} checks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 when the audit finds a violation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=positive_int, default=5000)
    parser.add_argument("--pending", type=positive_int, default=1000)
    parser.add_argument("--scenario", default="songjiang-m")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--plan", action="store_true", help="follow a horizon plan made at the start of the day"
    )
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    given = parser.parse_args(arguments)
    figures = run(given.scenario, given.nodes, given.pending, given.seed, given.plan)
    if given.json:
        print_json(figures)
    return EXIT_FAILED if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
