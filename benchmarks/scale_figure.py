"""Quality against time at scale, drawn: bulk plans of several seeds, re-plans, and the very large fleet in parts.

    python -m benchmarks.scale_figure [--seeds 7-10] [--changes 20] [--large] --out docs/figures

Writes scale-quality.json and scale-quality.svg. Time is processor time of the solver, as fleets are planned on shared
machines; every plan goes through the verifier first, and a violation ends the run. Without --large the very large
fleet (1 000 000 replicas, 100 000 nodes, 1 000 sites: a minute, two gigabytes) keeps the figure that the JSON has.
What others publish is drawn as ranges of quality over the whole width: their times are of other machines and problems.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.bulk import violations
from benchmarks.common import EXIT_FAILED, positive_int, print_json, seed_range
from benchmarks.fleet import fleet_problem
from benchmarks.replan import a_change
from benchmarks.svg import curves
from solvers.bulk import solve_bulk
from solvers.decompose import solve_large
from solvers.problem import PlacementProblem
from solvers.replan import Repricer, replan

Line = tuple[str, list[tuple[float, float]]]
BULK, REPLAN, LARGE = (
    (100_000, 10_000, 50, 300),
    (150_000, 12_500, 50, 300),
    (1_000_000, 100_000, 1_000, 2_000),
)
MOVES = 100
FLOOR_PERCENT = 0.1
PUBLISHED = (("CvxCluster: within 3 %, its own times", 2.9, 3.1), ("POP, COpter: within 1.5 %", 1.45, 1.55))


class Broken(RuntimeError):
    """A plan broke a rule: its time and gap mean nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Plan, verify, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=seed_range, default=(7, 8, 9, 10))
    parser.add_argument("--changes", type=positive_int, default=20)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    store = options.out / "scale-quality.json"
    kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    try:
        lines = [bulk_line(seed) for seed in options.seeds]
        lines.append(replan_line(options.changes))
        large = large_line() if options.large else kept.get("large")
    except Broken as broken:
        print(broken, file=sys.stderr)
        return EXIT_FAILED
    facts = {"lines": lines, "large": large}
    store.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (options.out / "scale-quality.svg").write_text(figure(lines, large), encoding="utf-8")
    print_json(facts)
    return 0


def figure(lines: list[Line], large: Line | None) -> str:
    """The SVG."""
    every = [*lines, *([large] if large else [])]
    times = [x for _, points in every for x, _ in points]
    ranges = [(name, min(times), max(times), low, high) for name, low, high in PUBLISHED]
    title = "Gap to the proven bound against time, measured on nodes"
    return curves(title, "processor seconds", "gap %", every, ranges, FLOOR_PERCENT)


def bulk_line(seed: int) -> Line:
    """The best plan after each filling."""
    problem = fleet_problem(*BULK, seed=seed)
    plan = solve_bulk(problem)
    _check(problem, violations(problem, plan))
    return f"bulk, seed {seed}", [(seconds, 100 * gap) for seconds, gap in plan.progress if gap < 1]


def replan_line(changes: int) -> Line:
    """Every re-plan of a run of changes, by its time."""
    first = problem = fleet_problem(*REPLAN, seed=7)
    rng = np.random.default_rng(7)
    plan = solve_bulk(first)
    repricer = Repricer(plan)
    points = []
    for number in range(changes):
        problem = a_change(first, problem, plan, 0.01, rng, number)
        begun = time.process_time()
        plan = replan(plan, problem, repricer, most_moves=MOVES)
        points.append((time.process_time() - begun, 100 * (plan.solution.bounds[0].gap_frac or 0.0)))
        _check(problem, violations(problem, plan))
    return "re-plan, 1 %", sorted(points)


def large_line() -> Line:
    """One plan in parts, all in this process."""
    problem = fleet_problem(*LARGE)
    begun = time.process_time()
    plan = solve_large(problem).plan
    seconds = time.process_time() - begun
    _check(problem, violations(problem, plan))
    return "very large", [(seconds, 100 * (plan.solution.bounds[0].gap_frac or 0.0))]


def _check(problem: PlacementProblem, broken: Sequence[object]) -> None:
    if broken:
        raise Broken(f"{problem.problem_id}: {broken[0]}")


if __name__ == "__main__":
    sys.exit(main())
