"""One plan of a large fleet down to the node: how fast, how near to its proven bound, and is it right.

    python -m benchmarks.bulk [--replicas 100000] [--nodes 10000] [--sites 50] [--classes 300] [--seed 7] [--json]
    python -m benchmarks.bulk --replicas 1000000 --nodes 100000 --sites 1000 --ray [--workers 1,2] [--json]

Fleets are those of `benchmarks.fleet`. The plan and its placements go through the independent verifier before any
figure is printed; hard caps that do not hold and work left out count as violations too. Beside it stands the greedy
plan (cheapest site, best fit, no relaxation) on the same problem. `seconds` is the solver alone, from problem to
counted plan, on the wall clock; verification and the listing of placements are not in it. With --ray the problem is
decomposed (`solvers.decompose`) and its parts are solved as Ray tasks, once for every number of workers: `seconds` is
that of the last, and Ray's own start is told apart. With --parts it is decomposed in this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table, refuse
from benchmarks.fleet import fleet_problem
from solvers.archive import IntArray
from solvers.bulk import BulkPlan, greedy_bulk, solve_bulk
from solvers.decompose import LargePlan, RayRunner, solve_large
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from solvers.verify import Violation, verify_placements, verify_plan

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Measured:
    """A plan with its time; `run` names the way it was made."""

    run: str
    plan: BulkPlan
    seconds: float
    cpu_seconds: float
    """Of this process; Ray's workers are not in it."""
    large: LargePlan | None = None
    ray_start_seconds: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, verify, print."""
    options = _options(arguments)
    try:
        problem = fleet_problem(options.replicas, options.nodes, options.sites, options.classes, options.seed)
    except ValueError as error:
        return refuse(str(error))
    print(machine_line())
    print(fleet_line(problem))
    runs = _runs(problem, options)
    best = runs[-1]
    greedy = greedy_bulk(problem)
    broken = {run.run: violations(problem, run.plan) for run in runs}
    print("binding: " + binding_line(problem, best.plan))
    print_table(
        ("plan", "seconds", "CPU", "yuan", "gap %", "violations", "unserved", "nodes on"),
        [_row(r.run, r.plan.solution, r.seconds, r.cpu_seconds, len(broken[r.run])) for r in runs]
        + [_row("greedy", greedy.solution, greedy.solution.seconds["total"], None, len(violations(problem, greedy)))],
    )  # fmt: skip
    for run in runs:
        for violation in broken[run.run][:10]:
            print(f"violation of {run.run}: {violation}")
    if options.json:
        print_json({**figures(best, len(broken[best.run]), greedy), **_of_workers(runs), **sizes(problem)})
    return EXIT_FAILED if any(broken.values()) else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=positive_int, default=100_000)
    parser.add_argument("--nodes", type=positive_int, default=10_000)
    parser.add_argument("--sites", type=positive_int, default=50)
    parser.add_argument("--classes", type=positive_int, help="300, and two per site beyond 150 sites")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--parts", action="store_true", help="decompose, in this process")
    parser.add_argument("--ray", action="store_true", help="decompose, parts as Ray tasks")
    parser.add_argument(
        "--workers",
        type=lambda text: [positive_int(n) for n in text.split(",")],
        default=[1, 2],
        help="with --ray: numbers of workers to run with, 1,2 unless told",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.classes = options.classes or max(300, 2 * options.sites)
    return options


def _runs(problem: PlacementProblem, options: argparse.Namespace) -> list[Measured]:
    """One plan, or with --ray one per number of workers."""
    if options.ray:
        return [_on_ray(problem, workers) for workers in options.workers]
    wall, cpu = time.perf_counter(), time.process_time()
    large = solve_large(problem) if options.parts else None
    plan = large.plan if large else solve_bulk(problem)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return [Measured("bulk", plan, seconds, cpu_seconds, large)]


def _on_ray(problem: PlacementProblem, workers: int) -> Measured:
    begun = time.perf_counter()
    with RayRunner(workers) as runner:
        started = time.perf_counter() - begun
        wall, cpu = time.perf_counter(), time.process_time()
        large = solve_large(problem, runner)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(f"ray, {workers} workers", large.plan, seconds, cpu_seconds, large, started)


def figures(run: Measured, violation_count: int, greedy: BulkPlan) -> dict[str, object]:
    """What the last line says of a plan."""
    bound = run.plan.solution.bounds[0]
    out: dict[str, object] = {
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "gap": bound.gap_frac,
        "violations": violation_count,
        "objective": bound.objective_yuan,
        "bound": bound.bound_yuan,
        "baseline_objective": greedy.solution.objective_yuan,
        "baseline_seconds": greedy.solution.seconds["total"],
        "phases": dict(run.plan.solution.seconds),
    }
    if run.large is not None:
        out |= {"parts": run.large.part_count, "part_seconds": list(run.large.part_seconds)}
    return out


def _of_workers(runs: list[Measured]) -> dict[str, object]:
    """Seconds and speed-up per number of workers, where Ray ran more than once."""
    if runs[0].ray_start_seconds == 0.0:
        return {}
    return {
        "workers": {r.run: r.seconds for r in runs},
        "ray_start_seconds": [r.ray_start_seconds for r in runs],
        "speedup": runs[0].seconds / runs[-1].seconds,
        "parts_speedup": runs[0].plan.solution.seconds["parts"] / runs[-1].plan.solution.seconds["parts"],
        "objectives_equal": len({r.plan.solution.objective_yuan for r in runs}) == 1,
    }


def sizes(problem: PlacementProblem) -> dict[str, int]:
    """What every last line says about the problem."""
    return {
        "replicas": int(problem.classes.demand_count.sum()),
        "nodes": int(problem.groups.node_count.sum()),
        "sites": problem.site_count,
        "classes": problem.class_count,
        "groups": problem.group_count,
    }


def fleet_line(problem: PlacementProblem) -> str:
    """Sizes and rules in one line."""
    s, c, t = problem.sites, problem.classes, sizes(problem)
    return (
        f"{t['replicas']} replicas of {t['classes']} classes on {t['nodes']} nodes in {t['groups']} groups of "
        f"{t['sites']} sites; {int((c.gang_size > 1).sum())} gang classes, {len(problem.flows.mbps)} flows, "
        f"{len(problem.paths.budget_ms)} path budgets, {int((c.spread_site_min > 1).sum())} spread over sites, "
        f"{int((~np.isnan(s.ipue_cap_hourly)).sum())} hourly caps, {int((~np.isnan(s.pue_cap_annual)).sum())} ledgers, "
        f"{int(s.may_close.sum())} sites that may close"
    )


def binding_line(problem: PlacementProblem, plan: BulkPlan) -> str:
    """Rules that bind at the plan's prices, with how many of their members; closed sites."""
    model, duals = plan.relaxation.model, plan.relaxation.duals
    parts = {
        name: int((np.abs(model.duals(name, duals)) > 1e-7).sum())
        for name in (
            "capacity",
            "power_limit",
            "hourly_cap",
            "ledger",
            "portfolio",
            "floor",
            "spread",
            "links",
        )
    }
    closed = problem.site_count - int(plan.solution.site_on.sum())
    return ", ".join(f"{name} {count}" for name, count in parts.items()) + f", closed sites {closed}"


def violations(problem: PlacementProblem, plan: BulkPlan) -> list[Violation]:
    """What the verifier finds in plan and placements, hard caps that do not hold, and work left out."""
    placements = plan.placements
    return [
        *verify_plan(problem, plan.solution),
        *verify_placements(problem, placements),
        *caps_and_service(problem, plan.solution),
        *_agree(problem, plan.solution, placements.class_index),
    ]


def caps_and_service(problem: PlacementProblem, solution: PlanSolution) -> list[Violation]:
    """Hard hourly caps and hard ledgers hold, and everything is served."""
    found = []
    for s in range(problem.site_count):
        if problem.sites.hourly_is_hard[s] and solution.cap_excess_kw[s, 0] > TOLERANCE:
            found.append(
                Violation(
                    "hard_hourly_cap", problem.sites.site_id[s], float(solution.cap_excess_kw[s, 0]), 0.0
                )
            )
        if problem.sites.annual_is_hard[s] and solution.ledger_debt_kwh[s] > TOLERANCE:
            found.append(
                Violation("hard_ledger", problem.sites.site_id[s], float(solution.ledger_debt_kwh[s]), 0.0)
            )
    unserved = solution.unserved_count[:, 0]
    found += [
        Violation("unserved", problem.classes.class_id[c], float(unserved[c]), 0.0)
        for c in np.flatnonzero(unserved)
    ]
    return found


def _agree(problem: PlacementProblem, solution: PlanSolution, class_index: IntArray) -> list[Violation]:
    """As many replicas lie on nodes as the plan says run."""
    planned = np.bincount(
        problem.pairs.class_index, weights=solution.running_count[:, 0], minlength=problem.class_count
    )
    placed = np.bincount(class_index, minlength=problem.class_count)
    wrong = np.flatnonzero(np.abs(planned - placed) > TOLERANCE)
    return [
        Violation("placed", problem.classes.class_id[c], float(placed[c]), float(planned[c])) for c in wrong
    ]


def _row(name: str, solution: PlanSolution, seconds: float, cpu: float | None, broken: int) -> list[str]:
    gap = solution.bounds[0].gap_frac if solution.bounds else None
    return [
        name, f"{seconds:.2f}", "-" if cpu is None else f"{cpu:.2f}", f"{solution.objective_yuan:.0f}",
        "-" if gap is None else f"{100 * gap:.2f}", str(broken), f"{solution.unserved_count.sum():.0f}",
        f"{solution.nodes_on.sum():.0f}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
