"""Judging what a solver answers before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan
from solvers.verify import verify_plan

__all__ = ["Verify", "judged", "verify_plan"]

Verify = Callable[[PlacementProblem, PlanSolution], Sequence[object]]
# violations quoted in the message; the rest are counted
QUOTED = 3


def judged(problem: PlacementProblem, solution: PlanSolution, verify: Verify) -> PlanSolution:
    """The solution itself if it answers this problem and the checker finds nothing, else an INVALID one saying why."""
    if solution.problem_sha256 != problem.content_hash():
        return no_plan(problem, SolveStatus.INVALID, "the solver answered another problem")
    if not solution.has_plan:
        return solution
    try:
        violations = verify(problem, solution)
    except Exception as error:
        # arrays of the wrong shape make the checker itself stumble; that is a verdict too
        message = f"the answer cannot be checked: {type(error).__name__}: {error}"
        return no_plan(problem, SolveStatus.INVALID, message)
    if violations:
        quoted = "; ".join(str(v) for v in violations[:QUOTED])
        message = f"{len(violations)} violations, e.g. {quoted}"
        return no_plan(problem, SolveStatus.INVALID, message)
    return solution
