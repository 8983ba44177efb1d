"""Digital twins as stage graphs: whole twins placed by patterns, against brute force (small) and two greedies (large).

    python -m benchmarks.pipelines [--sites 16] [--graphs 24] [--twins 600] [--small 20] [--json]

Small: towns of three sites and up to four twins, one stage of which two graphs share; every choice of sites for every
twin is tried, and its cost counted like any plan's. Large: a seeded city with end-to-end budgets in which room is
short. The bound is that of the plan's certificate (twins may be split). The greedies: `patterns` takes the cheapest
whole pattern with room twin by twin and knows no prices of room; `stages` puts one stage after the other on the
cheapest site with room from which the rest can still keep every budget. An answer that the independent verifier
refuses is an error, not a result.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import numpy as np

from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table
from solvers.candidates import candidates
from solvers.greedy import Room, count_plan, greedy_plan
from solvers.pipelines import stage_options, valid_patterns
from solvers.plan_model import solve_plan
from solvers.problem import (
    RANK_PUBLIC_SERVICE,
    RESOURCES,
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
)
from solvers.proof import verify_proof
from solvers.solution import GraphPattern, PlanSolution
from solvers.twins import whole_twins
from solvers.verify import verify_plan

STAGES = ("ingest", "sync", "simulate", "render")
NO_CAP = np.nan
_NONE = np.zeros(0, dtype=int)
PENALTY_YUAN = 500.0
KM_MS = 0.05
HOP_MS = 0.6


def twin_city(sites: int, graphs: int, twins: int, seed: int, fill: float = 0.9) -> PlacementProblem:
    """Sites on a square of 30 km with one GPU group and one CPU group each; twins of four stages around their zones.

    `fill`: share of all GPUs that the twins together need. Budgets let a twin lie on the third or so of the sites
    nearest to its zone; close sites are dear and small, far ones cheap and large.
    """
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 30, (sites, 2))
    size = rng.permutation(np.linspace(1.0, 4.0, sites))
    distance = np.linalg.norm(at[:, None] - at[None], axis=2)
    rtt = np.where(distance > 0, HOP_MS + KM_MS * distance * 2, 0.0)
    zone_at = rng.uniform(0, 30, (graphs, 2))
    legs = 3.0 + KM_MS * 2 * np.linalg.norm(zone_at[:, None] - at[None], axis=2)
    count = np.maximum(1, np.round(twins * rng.dirichlet(np.full(graphs, 4.0)))).astype(int)
    needs = np.array(
        [[2000, 4096, 0, 20], [4000, 16384, 0, 100], [8000, 32768, 500, 50], [4000, 16384, 250, 20]]
    )
    kinds = rng.integers(0, 3, graphs)  # small, middle and large twins
    scale = np.array([1, 2, 4])[kinds]
    gpus = float((count * scale * (needs[2, 2] * 1 + needs[3, 2] * 2)).sum()) / 1000 / fill
    node_count = np.maximum(1, np.round(gpus * size / size.sum() / 4)).astype(int)
    group_site = np.repeat(np.arange(sites), 2)
    is_gpu = np.tile([True, False], sites)
    nodes = np.where(is_gpu, np.repeat(node_count, 2), np.repeat(node_count, 2) * 2)
    classes = graphs * len(STAGES)
    pair_class, pair_group = [], []
    for c in range(classes):
        for g in range(2 * sites):
            if is_gpu[g] or needs[c % 4, 2] == 0:
                pair_class.append(c)
                pair_group.append(g)
    k_class, k_group = np.array(pair_class), np.array(pair_group)
    need = needs[k_class % 4] * scale[k_class // 4, None]
    dynamic = need[:, 2] * 0.25 + need[:, 0] * 0.004
    found = tuple(
        Graph(
            graph_id=f"twin-{j}",
            count=(float(count[j]),),
            stage_class=tuple(4 * j + i for i in range(4)),
            stage_replicas=(1, 1, 1, 2),
            flows=(GraphFlow(0, 1, 60.0, 4.0), GraphFlow(1, 2, 20.0, 4.0), GraphFlow(2, 3, 40.0, 4.0)),
            paths=(GraphPath((-1 - j, 0, 1, 2, 3, -1 - j), float(16.0 + 8.0 + rng.uniform(0.8, 3.5))),),
        )
        for j in range(graphs)
    )
    price = np.clip(1.1 - 0.2 * size + rng.uniform(-0.05, 0.05, sites), 0.2, None)
    return PlacementProblem(
        problem_id=f"twins-{seed}",
        slots=Slots(np.zeros(1, dtype=int), np.ones(1)),
        sites=_sites(sites, price, node_count),
        groups=Groups(
            group_id=tuple(f"s{s}/{'gpu' if gpu else 'cpu'}" for s, gpu in zip(group_site, is_gpu, strict=True)),
            gpu_model=tuple("l20" if gpu else "" for gpu in is_gpu),
            site=group_site,
            node_count=nodes[:, None],
            capacity=np.where(is_gpu[:, None], [64_000, 256 * 1024, 4000, 4000], [64_000, 256 * 1024, 0, 4000]),
            gpu_memory_mib=np.where(is_gpu, 48 * 1024, 0),
            idle_w=np.where(is_gpu, 500.0, 150.0),
            wake_yuan=np.zeros(2 * sites),
            initial_on_count=np.zeros(2 * sites),
            island_node_count=np.zeros(2 * sites, dtype=int),
            packing_yield=np.full((2 * sites, len(RESOURCES)), 0.95),
        ),
        classes=_classes(graphs),
        pairs=Pairs(
            class_index=k_class, group_index=k_group, need=need, dynamic_w=dynamic,
            processing_p99_ms=np.full(len(k_class), 4.0), running_count=np.zeros(len(k_class)),
            other_yuan_per_replica_h=np.zeros(len(k_class)),
        ),
        flows=Flows(_NONE, _NONE, np.zeros(0), np.zeros(0)),
        paths=Paths(_NONE, _NONE, _NONE, np.zeros(0)),
        network=Network(
            leg_id=tuple(f"z{j}/pon" for j in range(graphs)), link_id=(), leg_rtt_p99_ms=legs, site_rtt_p99_ms=rtt,
            link_capacity_mbps=np.zeros(0), route_origin=_NONE, route_site=_NONE, route_link=_NONE,
            transfer_yuan_per_gb=np.where(distance > 0, 0.002, 0.0),
        ),
        graphs=found,
    )  # fmt: skip


def _sites(sites: int, price: np.ndarray[Any, Any], node_count: np.ndarray[Any, Any]) -> Sites:
    one = np.ones((sites, 1))
    rated = node_count * 4.0
    return Sites(
        site_id=tuple(f"s{i}" for i in range(sites)), labels=({},) * sites, is_edge=np.ones(sites, dtype=bool),
        may_close=np.zeros(sites, dtype=bool), initially_on=np.ones(sites, dtype=bool), start_yuan=np.zeros(sites),
        rated_kw=rated, power_limit_kw=rated[:, None], fixed_kw=0.05 * rated[:, None], off_kw=0.005 * rated[:, None],
        loss_slope=0.15 * one, loss_square=0.02 * one, price_yuan_per_kwh=price[:, None], carbon_g_per_kwh=0 * one,
        ipue_cap_hourly=np.full(sites, NO_CAP), hourly_is_hard=np.zeros(sites, dtype=bool),
        pue_cap_annual=np.full(sites, NO_CAP), annual_is_hard=np.zeros(sites, dtype=bool),
        ledger_beta_kwh=np.zeros(sites), debt_yuan_per_kwh=np.full(sites, 5.0), demand_yuan_per_kw=np.zeros(sites),
        demand_peak_kw=np.zeros(sites), reserved_floor_frac=np.zeros(sites),
    )  # fmt: skip


def _classes(graphs: int) -> Classes:
    count = graphs * len(STAGES)
    zeros, none, no = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count, dtype=bool)
    return Classes(
        class_id=tuple(f"twin-{j}-{stage}" for j in range(graphs) for stage in STAGES), require_any=((),) * count,
        allowed_site_ids=((),) * count,
        gpu_milli_by_model=tuple({"l20": 1} if i >= 2 else {} for _ in range(graphs) for i in range(4)),
        gpu_memory_mib=none, priority_rank=np.full(count, RANK_PUBLIC_SERVICE), demand_count=np.zeros((count, 1)),
        unserved_yuan_per_replica_h=np.full(count, PENALTY_YUAN), work_replica_h=zeros, release_slot=none,
        deadline_slot=np.ones(count, dtype=int), max_parallel_count=zeros, lateness_yuan_per_replica_h=zeros,
        gang_size=np.ones(count, dtype=int), single_site=no, single_group=no, single_island=no, spread_site_min=none,
        spread_node_min=none, migration_yuan=zeros,
    )  # fmt: skip


# -- what it is compared with ---------------------------------------------------------------------------------------


def stage_greedy(problem: PlacementProblem) -> PlanSolution:
    """Twin by twin, stage by stage: the cheapest pair with room from which a valid pattern can be completed."""
    room = Room(problem)
    placed: dict[tuple[int, tuple[int, ...]], int] = {}
    one = np.ones(problem.slot_count)
    for j, graph in enumerate(problem.graphs):
        options = stage_options(problem, graph, room.passes)
        allowed = {
            tuple(int(o.site[i]) for o, i in zip(options, row, strict=True))
            for row in valid_patterns(problem, graph, options).option
        }
        prefixes = {sites[:n] for sites in allowed for n in range(1, len(sites) + 1)}
        for _ in range(round(graph.count[0])):
            taken, sites = _stage_by_stage(room, graph, prefixes)
            if len(taken) == len(graph.stage_class):
                placed[j, sites] = placed.get((j, sites), 0) + 1
            else:
                for k, n in taken:
                    room.take(k, -n * one)
    patterns = tuple(
        GraphPattern(j, sites, _processing(problem, problem.graphs[j], sites), (float(n),))
        for (j, sites), n in sorted(placed.items())
    )
    return count_plan(problem, room.running, patterns)


def _stage_by_stage(
    room: Room, graph: Graph, prefixes: set[tuple[int, ...]]
) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    problem, one = room.problem, np.ones(room.problem.slot_count)
    taken: list[tuple[int, int]] = []
    sites: list[int] = []
    for c, n in zip(graph.stage_class, graph.stage_replicas, strict=True):
        mine = np.flatnonzero((problem.pairs.class_index == c) & room.passes)
        for k in mine[np.argsort(room.pair_yuan[mine], kind="stable")].tolist():
            site = int(problem.pair_site[k])
            if (*sites, site) in prefixes and (room.most(k) >= n).all():
                room.take(k, n * one)
                taken.append((k, n))
                sites.append(site)
                break
        else:
            break
    return taken, tuple(sites)


def _processing(problem: PlacementProblem, graph: Graph, sites: tuple[int, ...]) -> tuple[float, ...]:
    budgeted = {i for path in graph.paths for i in path.via if i >= 0}
    found = []
    for i, (c, s) in enumerate(zip(graph.stage_class, sites, strict=True)):
        here = (problem.pairs.class_index == c) & (problem.pair_site == s)
        found.append(float(problem.pairs.processing_p99_ms[here][0]) if i in budgeted else 0.0)
    return tuple(found)


def brute_force(problem: PlacementProblem) -> tuple[float, float]:
    """(penalty of unserved twins, cost) of the best of all choices: every multiset of patterns for every graph.

    Stages take the cheapest group of their site with room, tried in every order of groups: at these sizes one group
    per site and kind makes that exact.
    """
    choices = []
    for j, graph in enumerate(problem.graphs):
        options = stage_options(problem, graph, candidates(problem).passes)
        rows = valid_patterns(problem, graph, options).option
        sites = [tuple(int(o.site[i]) for o, i in zip(options, row, strict=True)) for row in rows]
        fixed = tuple(o.is_fixed for o in options)
        most = round(graph.count[0])
        choices.append(
            [
                (j, fixed, combination)
                for n in range(most + 1)
                for combination in itertools.combinations_with_replacement(sites, n)
            ]
        )
    best = (np.inf, np.inf)
    for choice in itertools.product(*choices):
        plan = _plan_of(problem, choice)
        if plan is not None:
            cost = (plan.cost.unserved_yuan, plan.cost.total_yuan - plan.cost.unserved_yuan)
            best = min(best, cost)
    return best


def _plan_of(problem: PlacementProblem, choice: Any) -> PlanSolution | None:
    """The plan that a choice of sites per twin is; None when it does not fit."""
    room, patterns = Room(problem), []
    one = np.ones(problem.slot_count)
    for j, fixed, twins in choice:
        graph = problem.graphs[j]
        for sites in twins:
            for c, n, s, is_fixed in zip(graph.stage_class, graph.stage_replicas, sites, fixed, strict=True):
                if is_fixed:
                    continue
                here = np.flatnonzero(
                    (problem.pairs.class_index == c) & room.passes & (problem.pair_site == s)
                )
                fits = [k for k in here.tolist() if (room.most(k) >= n * (1 - 1e-6)).all()]
                if not fits:
                    return None
                room.take(min(fits, key=lambda k: room.pair_yuan[k]), n * one)
            patterns.append(GraphPattern(j, sites, _processing(problem, graph, sites), (1.0,)))
    return count_plan(problem, room.running, tuple(patterns))


# -- runs -----------------------------------------------------------------------------------------------------------


def small_town(seed: int) -> PlacementProblem:
    """Three sites, two graphs of two stages each with up to two twins; GPU stages on one group per site."""
    from dataclasses import replace

    whole = twin_city(3, 2, 4, seed, fill=0.7)
    rng = np.random.default_rng(1000 + seed)
    graphs = tuple(
        replace(
            g, count=(float(rng.integers(1, 3)),), stage_class=g.stage_class[1:3], stage_replicas=(1, 1),
            flows=(GraphFlow(0, 1, 20.0, 4.0),), paths=(GraphPath((-1 - j, 0, 1), float(rng.uniform(13.0, 17.0))),),
        )
        for j, g in enumerate(whole.graphs)
    )  # fmt: skip
    return replace(whole, graphs=graphs)


def run_small(towns: int) -> dict[str, Any]:
    """Whole twins against brute force; plans around a shared stage, at every site where that may lie."""
    gaps, shared_right, bounds_right = [], 0, 0
    for seed in range(towns):
        problem = small_town(seed)
        unserved, cost = brute_force(problem)
        plan = solve_plan(problem)
        whole = whole_twins(problem, plan)
        _demand_sound(problem, whole)
        if whole.cost.unserved_yuan > unserved + 1e-6:
            gaps.append(np.inf)
        else:
            gaps.append((whole.cost.total_yuan - whole.cost.unserved_yuan) / cost - 1)
        assert plan.certificate is not None
        # with less unserved the plan may cost more: the bound speaks of plans that serve as much
        bounds_right += plan.certificate.bound_yuan <= cost * (1 + 1e-9) or plan.cost.unserved_yuan < unserved
        shared_right += _plans_around_store(problem)
    return {
        "towns": towns, "gap_mean": float(np.mean(gaps)), "gap_max": float(np.max(gaps)),
        "optimal": int(np.sum(np.array(gaps) < 1e-6)), "shared_right": shared_right, "bounds_right": bounds_right,
    }  # fmt: skip


def with_store_at(problem: PlacementProblem, site: int) -> PlacementProblem:
    """Stage 0 of the second graph is the first one's (one store for both), which lies at that site."""
    import dataclasses

    owner, sharer, *others = problem.graphs
    named = list(problem.classes.allowed_site_ids)
    named[owner.stage_class[0]] = (problem.sites.site_id[site],)
    fixed = dataclasses.replace(sharer, fixed_site=(site, *(-1 for _ in sharer.stage_class[1:])))
    classes = dataclasses.replace(problem.classes, allowed_site_ids=tuple(named))
    return dataclasses.replace(problem, classes=classes, graphs=(owner, fixed, *others))


def _plans_around_store(problem: PlacementProblem) -> bool:
    """Wherever the shared stage lies, the plan around it serves as many as brute force and its bound is below that."""
    for site in range(problem.site_count):
        fixed = with_store_at(problem, site)
        unserved, cost = brute_force(fixed)
        plan = solve_plan(fixed)
        _demand_sound(fixed, plan)
        assert plan.certificate is not None
        serves_less = plan.cost.unserved_yuan > unserved + 1e-6
        if serves_less or (
            plan.cost.unserved_yuan >= unserved - 1e-6 and plan.certificate.bound_yuan > cost * (1 + 1e-9)
        ):
            return False
    return True


def _demand_sound(problem: PlacementProblem, plan: PlanSolution) -> None:
    if violations := verify_plan(problem, plan):
        raise SystemExit(f"the verifier refuses the twins: {[str(v) for v in violations[:5]]}")


def run_large(sites: int, graphs: int, twins: int, seed: int) -> dict[str, Any]:
    """One city: plan with its bound, whole twins, two greedies."""
    problem = twin_city(sites, graphs, twins, seed)
    wanted = sum(g.count[0] for g in problem.graphs)
    begun = time.process_time()
    plan = solve_plan(problem)
    seconds_plan = time.process_time() - begun
    begun = time.process_time()
    whole = whole_twins(problem, plan)
    seconds_whole = time.process_time() - begun
    if violations := verify_proof(problem, plan):
        raise SystemExit(f"the verifier refuses the plan: {[str(v) for v in violations[:5]]}")
    assert plan.certificate is not None
    answers = {
        "patterns": whole,
        "greedy_patterns": greedy_whole(problem),
        "greedy_stages": stage_greedy(problem),
    }
    figures: dict[str, Any] = {
        "sites": sites, "graphs": graphs, "twins": int(wanted), "pairs": problem.pair_count, "seed": seed,
        "seconds_plan": round(seconds_plan, 3), "seconds_whole": round(seconds_whole, 3),
        "bound": plan.certificate.bound_yuan, "plan_served": _served(plan),
        "objective": whole.cost.total_yuan - whole.cost.unserved_yuan,
    }  # fmt: skip
    for name, answer in answers.items():
        _demand_sound(problem, answer)
        cost = answer.cost.total_yuan - answer.cost.unserved_yuan
        figures[f"{name}_served"] = _served(answer)
        figures[f"{name}_yuan_per_twin"] = cost / max(_served(answer), 1e-9)
        figures[f"{name}_total_yuan"] = answer.cost.total_yuan
    # the bound speaks of placements that serve as many twins as the plan, which may split them
    as_many = whole.cost.unserved_yuan <= plan.cost.unserved_yuan + 1e-6
    figures["gap"] = figures["objective"] / plan.certificate.bound_yuan - 1 if as_many else None
    figures["violations"] = 0
    return figures


def greedy_whole(problem: PlacementProblem) -> PlanSolution:
    """Whole patterns, cheapest first, knowing no prices of room: whole twins of an empty plan."""
    import dataclasses

    nothing = greedy_plan(problem)
    empty = dataclasses.replace(
        nothing,
        running_count=np.zeros_like(nothing.running_count),
        graph_patterns=(),
        cost=type(nothing.cost)(),
    )
    return whole_twins(problem, empty)


def _served(plan: PlanSolution) -> float:
    return float(sum(pattern.count[0] for pattern in plan.graph_patterns))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=positive_int, default=16)
    parser.add_argument("--graphs", type=positive_int, default=24)
    parser.add_argument("--twins", type=positive_int, default=600)
    parser.add_argument("--small", type=positive_int, default=20, help="small towns against brute force")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    small = run_small(arguments.small)
    large = run_large(arguments.sites, arguments.graphs, arguments.twins, arguments.seed)
    seconds = round(time.perf_counter() - begun, 2)
    right = small["shared_right"] == small["bounds_right"] == small["towns"] and np.isfinite(small["gap_max"])
    if arguments.json:
        print_json({"small": small, **large, "seconds": seconds})
    else:
        print(machine_line())
        print(
            f"small: {small['towns']} towns; whole twins optimal in {small['optimal']}, mean {small['gap_mean']:.3%} "
            f"and at most {small['gap_max']:.3%} above brute force; plans around a shared stage right in "
            f"{small['shared_right']}"
        )
        print(
            f"large: {large['sites']} sites, {large['graphs']} graphs, {large['twins']} twins, {large['pairs']} pairs"
        )
        rows = [
            [
                name,
                f"{large[f'{name}_served']:.0f}",
                f"{large[f'{name}_yuan_per_twin']:.3f}",
                f"{large[f'{name}_total_yuan']:.0f}",
            ]
            for name in ("patterns", "greedy_patterns", "greedy_stages")
        ]  # fmt: skip
        print_table(("placed by", "twins served", "yuan per twin-hour", "with penalties"), rows)
        gap = "none, for fewer twins are served" if large["gap"] is None else f"{large['gap']:.3%}"
        print(
            f"bound {large['bound']:.2f} yuan for {large['plan_served']:.1f} twins (may be split), ours "
            f"{large['objective']:.2f}: gap {gap}; plan {large['seconds_plan']} s, whole twins "
            f"{large['seconds_whole']} s of processor time"
        )
    return 0 if right else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
