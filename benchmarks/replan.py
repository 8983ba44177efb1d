"""Re-planning after a small change: how fast, how far from the bound after many of them, and is every plan right.

    python -m benchmarks.replan [--replicas 150000] [--nodes 12500] [--sites 50] [--classes 300] [--changes 100]
                                [--change-frac 0.01] [--moves 100] [--aging] [--seed 7] [--json]

Each change takes `change-frac` of the replicas: half of them leave, as many others arrive, spread over all classes, and
a few nodes fail or return. Changes follow on each other, so that errors would add up. `seconds` is the 99th
percentile of `solvers.replan.replan` alone, with prices renewed (`Repricer`) and at most `moves` replicas moved to
improve. Every plan goes through the independent verifier (not timed); moves of replicas whose node stayed are counted.
The gap is the last one; `gap_most` is the largest on the way. The baseline is a whole new bulk plan for the last
problem. With --aging prices stay those of the first plan and nothing is moved to improve.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import numpy as np

from benchmarks.bulk import fleet_line, sizes, violations
from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table, refuse
from benchmarks.fleet import changed, fleet_problem
from solvers.bulk import BulkPlan, solve_bulk
from solvers.problem import PlacementProblem
from solvers.replan import Repricer, replan

FAILING_FRAC = 0.001
"""Of the nodes, per change; as many return."""


def main(arguments: list[str] | None = None) -> int:
    """Plan once, then change and re-plan."""
    options = _options(arguments)
    try:
        first = fleet_problem(options.replicas, options.nodes, options.sites, options.classes, options.seed)
    except ValueError as error:
        return refuse(str(error))
    print(machine_line())
    print(fleet_line(first))
    rng = np.random.default_rng(options.seed)
    plan = solve_bulk(first)
    problem, broken, moved = first, violations(first, plan), 0
    repricer, moves = (None, 0) if options.aging else (Repricer(plan), options.moves)
    seconds, cpu_seconds, gaps = [], [], [plan.solution.bounds[0].gap_frac or 0.0]
    for number in range(options.changes):
        problem = a_change(first, problem, plan, options.change_frac, rng, number)
        before = plan
        begun, begun_cpu = time.perf_counter(), time.process_time()
        plan = replan(before, problem, repricer, most_moves=moves)
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - begun_cpu)
        gaps.append(plan.solution.bounds[0].gap_frac or 0.0)
        broken += violations(problem, plan)
        moved += moved_count(before, plan)
    afresh = solve_bulk(problem)
    p50, p99 = (float(np.percentile(seconds, q)) for q in (50, 99))
    cpu99 = float(np.percentile(cpu_seconds, 99))
    print_table(
        ("plan", "seconds p50", "p99", "CPU p99", "yuan", "gap %", "violations", "moved"),
        [
            ["re-plan", f"{p50:.3f}", f"{p99:.3f}", f"{cpu99:.3f}", f"{plan.solution.objective_yuan:.0f}",
             f"{100 * gaps[-1]:.2f}", str(len(broken)), str(moved)],
            ["afresh", f"{afresh.solution.seconds['total']:.3f}", "-", "-", f"{afresh.solution.objective_yuan:.0f}",
             f"{100 * (afresh.solution.bounds[0].gap_frac or 0.0):.2f}", "-", "-"],
        ],
    )  # fmt: skip
    print(f"largest gap % on the way: {100 * max(gaps):.2f}")
    print(
        f"gap % after 0, 1, 10, … changes: {', '.join(f'{100 * gaps[i]:.2f}' for i in _milestones(len(gaps)))}"
    )
    for violation in broken[:10]:
        print(f"violation: {violation}")
    if options.json:
        bound = plan.solution.bounds[0]
        print_json(
            {
                "seconds": p99, "seconds_p50": p50, "cpu_seconds_p99": cpu99, "gap": bound.gap_frac,
                "gap_most": max(gaps), "violations": len(broken), "moved": moved, "objective": bound.objective_yuan,
                "bound": bound.bound_yuan, "baseline_objective": afresh.solution.objective_yuan,
                "baseline_seconds": afresh.solution.seconds["total"], "changes": options.changes,
                "change_frac": options.change_frac, "phases": dict(plan.solution.seconds), **sizes(problem),
            }
        )  # fmt: skip
    return EXIT_FAILED if broken else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=positive_int, default=150_000)
    parser.add_argument("--nodes", type=positive_int, default=12_500)
    parser.add_argument("--sites", type=positive_int, default=50)
    parser.add_argument("--classes", type=positive_int, default=300)
    parser.add_argument("--changes", type=positive_int, default=100)
    parser.add_argument(
        "--moves", type=positive_int, default=100, help="most replicas moved to improve, per change"
    )
    parser.add_argument("--aging", action="store_true", help="old prices, no improvement")
    parser.add_argument("--change-frac", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def a_change(
    first: PlacementProblem,
    now: PlacementProblem,
    plan: BulkPlan,
    share: float,
    rng: np.random.Generator,
    number: int,
) -> PlacementProblem:
    """Half of the share leaves, half arrives, around each class's first demand; some nodes fail, failed ones return."""
    demand = now.classes.demand_count[:, 0]
    gang = now.classes.gang_size
    count = round(float(share * demand.sum()) / 2)
    leaving = rng.multinomial(count, demand / demand.sum())
    usual = first.classes.demand_count[:, 0]
    arriving = rng.multinomial(count, usual / usual.sum())
    new = np.where(gang > 1, demand, np.maximum(demand + arriving - leaving, 1.0))
    whole = np.flatnonzero((gang > 1) & (demand > gang))
    some = rng.choice(whole, min(2, len(whole)), replace=False)
    step = rng.choice((-1, 1), len(some))
    new[some] = np.clip(demand[some] + step * gang[some], gang[some], usual[some] + gang[some])
    nodes = first.groups.node_count[:, 0]
    failed = rng.multinomial(round(float(FAILING_FRAC * nodes.sum())), nodes / nodes.sum())
    return changed(
        now,
        classes={"demand_count": new[:, None]},
        groups={"node_count": np.maximum(nodes - failed, 0)[:, None]},
        pairs={"running_count": plan.solution.running_count[:, 0]},
    )


def moved_count(before: BulkPlan, after: BulkPlan) -> int:
    """Replicas taken off a node that stayed, of classes that did not shrink: moves for the padding rule, for spread or
    to make room. Gangs are not counted.
    """
    old, new = (_on_nodes(p) for p in (before, after))
    sets, fleet = after.filling.sets, after.filling.fleet
    shrunk = before.filling.sets.demand > sets.demand
    free = sets.problem.classes.gang_size > 1
    missing = old - new
    return sum(
        count for (c, g, n), count in missing.items() if n < fleet.count[g] and not shrunk[c] and not free[c]
    )


def _on_nodes(plan: BulkPlan) -> Counter[tuple[int, int, int]]:
    filling = plan.filling
    booked = filling.all_booked()
    keys = np.stack(
        [
            filling.sets.pair_class[booked.pair],
            filling.fleet.group[booked.node],
            filling.fleet.index[booked.node],
        ]
    )
    rows, counts = np.unique(keys, axis=1, return_counts=True)
    return Counter({(int(c), int(g), int(n)): int(k) for (c, g, n), k in zip(rows.T, counts, strict=True)})


def _milestones(count: int) -> list[int]:
    return sorted({0, 1, 10, 50, count - 1} & set(range(count)))


if __name__ == "__main__":
    sys.exit(main())
