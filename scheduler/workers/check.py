"""Judging what a solver answers before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from solvers.dual_bound import verify_certificate
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
    return _with_sound_certificate(problem, solution)


def _with_sound_certificate(problem: PlacementProblem, solution: PlanSolution) -> PlanSolution:
    """The plan, without its certificate if that claims more than it proves: a bound is valid or absent."""
    try:
        unsound: list[object] = list(verify_certificate(problem, solution))
    except Exception as error:
        # as above: what cannot be checked proves nothing
        unsound = [f"{type(error).__name__}: {error}"]
    if not unsound:
        return solution
    message = f"certificate dropped: {unsound[0]}"
    return replace(solution, certificate=None, bounds=(), message=message)
