"""Plans for when the full one does not come: a coarse one here, then one that needs no solver (`solvers.greedy`).

The ladder, always in this order: full → coarse → greedy → the plan before stays in force. `scheduler.workers` walks it
and counts every step.
"""

from __future__ import annotations

from dataclasses import replace

from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution

COARSE_PATTERNS = 40
COARSE_ITERATIONS = 60_000


def coarse_plan(problem: PlacementProblem) -> PlanSolution:
    """The same model made small: one block a day, two chords, two rounds of pricing, no search over open sites."""
    # the solver engine loads only where a plan is made
    from solvers.plan_model import PlanLimits, solve_plan
    from solvers.plan_rules import PlanOptions

    limits = PlanLimits(
        lp_iterations=COARSE_ITERATIONS, pricing_rounds=2, cut_rounds=0, site_trials=0, warm_site_trials=0,
        pattern_columns=COARSE_PATTERNS,
    )  # fmt: skip
    plan = solve_plan(problem, limits=limits, options=PlanOptions(blocks_per_day=1, chord_count=2))
    return replace(plan, method="coarse")
