"""One plan of a large fleet down to the node: how fast, how near to its proven bound, and is it right.

    python -m benchmarks.bulk [--replicas 100000] [--nodes 10000] [--sites 50] [--classes 300] [--seed 7] [--json]
    python -m benchmarks.bulk --replicas 1000000 --nodes 100000 --sites 1000 --classes 2000 --ray [--workers 2] [--json]

Fleets are those of `benchmarks.fleet`. The plan and its placements go through the independent verifier before any figure
is printed; hard caps that do not hold and work left out count as violations too. Beside it stands the greedy plan
(cheapest site, best fit, no relaxation) on the same problem. `seconds` is the solver alone, from problem to counted plan;
verification and the listing of placements are timed apart. With --ray the problem is decomposed (`solvers.decompose`).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.common import EXIT_FAILED, machine_line, positive_int, print_json, print_table, refuse
from benchmarks.fleet import fleet_problem
from solvers.bulk import BulkPlan, greedy_bulk, solve_bulk
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution
from solvers.verify import Violation, verify_placements, verify_plan

BAR_SECONDS, BAR_GAP = 2.0, 0.005
TOLERANCE = 1e-4


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, verify, print."""
    options = _options(arguments)
    try:
        problem = fleet_problem(options.replicas, options.nodes, options.sites, options.classes, options.seed)
    except ValueError as error:
        return refuse(str(error))
    print(machine_line())
    print(fleet_line(problem))
    plan = solve_bulk(problem)
    broken = violations(problem, plan)
    greedy = greedy_bulk(problem)
    wrong_greedy = violations(problem, greedy)
    print("binding: " + binding_line(problem, plan))
    print_table(
        ("plan", "seconds", "yuan", "gap %", "violations", "unserved", "nodes on"),
        [_row("bulk", plan.solution, len(broken)), _row("greedy", greedy.solution, len(wrong_greedy))],
    )
    bound = plan.solution.bounds[0]
    for violation in broken[:10]:
        print(f"violation: {violation}")
    if options.json:
        print_json(
            {
                "seconds": plan.solution.seconds["total"],
                "gap": bound.gap_frac,
                "violations": len(broken),
                "objective": bound.objective_yuan,
                "bound": bound.bound_yuan,
                "baseline_objective": greedy.solution.objective_yuan,
                "baseline_seconds": greedy.solution.seconds["total"],
                "phases": dict(plan.solution.seconds),
                **sizes(problem),
            }
        )
    return EXIT_FAILED if broken else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=positive_int, default=100_000)
    parser.add_argument("--nodes", type=positive_int, default=10_000)
    parser.add_argument("--sites", type=positive_int, default=50)
    parser.add_argument("--classes", type=positive_int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


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
        f"{t['replicas']} replicas of {t['classes']} classes on {t['nodes']} nodes in {t['groups']} groups of {t['sites']} "
        f"sites; {int((c.gang_size > 1).sum())} gang classes, {len(problem.flows.mbps)} flows, "
        f"{len(problem.paths.budget_ms)} path budgets, {int((c.spread_site_min > 1).sum())} spread over sites, "
        f"{int((~np.isnan(s.ipue_cap_hourly)).sum())} hourly caps, {int((~np.isnan(s.pue_cap_annual)).sum())} ledgers, "
        f"{int(s.may_close.sum())} sites that may close"
    )


def binding_line(problem: PlacementProblem, plan: BulkPlan) -> str:
    """Rules that bind at the plan's prices, with how many of their members; closed sites."""
    model, duals = plan.relaxation.model, plan.relaxation.duals
    parts = {
        name: int((np.abs(model.duals(name, duals)) > 1e-7).sum())
        for name in ("capacity", "power_limit", "hourly_cap", "ledger", "portfolio", "floor", "spread", "links")
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
            found.append(Violation("hard_hourly_cap", problem.sites.site_id[s], float(solution.cap_excess_kw[s, 0]), 0.0))
        if problem.sites.annual_is_hard[s] and solution.ledger_debt_kwh[s] > TOLERANCE:
            found.append(Violation("hard_ledger", problem.sites.site_id[s], float(solution.ledger_debt_kwh[s]), 0.0))
    unserved = solution.unserved_count[:, 0]
    found += [Violation("unserved", problem.classes.class_id[c], float(unserved[c]), 0.0) for c in np.flatnonzero(unserved)]
    return found


def _agree(problem: PlacementProblem, solution: PlanSolution, class_index: np.ndarray) -> list[Violation]:  # type: ignore[type-arg]
    """As many replicas lie on nodes as the plan says run."""
    planned = np.bincount(problem.pairs.class_index, weights=solution.running_count[:, 0], minlength=problem.class_count)
    placed = np.bincount(class_index, minlength=problem.class_count)
    wrong = np.flatnonzero(np.abs(planned - placed) > TOLERANCE)
    return [Violation("placed", problem.classes.class_id[c], float(placed[c]), float(planned[c])) for c in wrong]


def _row(name: str, solution: PlanSolution, broken: int) -> list[str]:
    gap = solution.bounds[0].gap_frac if solution.bounds else None
    return [
        name, f"{solution.seconds['total']:.2f}", f"{solution.objective_yuan:.0f}",
        "-" if gap is None else f"{100 * gap:.2f}", str(broken), f"{solution.unserved_count.sum():.0f}",
        f"{solution.nodes_on.sum():.0f}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
