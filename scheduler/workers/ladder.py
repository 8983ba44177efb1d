"""The ladder of plans: full → coarse → greedy → none, always in this order; every step down is told and counted.

A rung that hangs, crashes, runs out of memory or answers nonsense costs its plan and never the round: the greedy rung
is arithmetic inside the service and needs no solver. Without any plan the one before stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scheduler.workers.check import Verify, judged
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution, SolveStatus, no_plan

Observe = Callable[[str, str], None]
"""Called with (rung, cause) for every rung that failed, and with (rung, "answered") for the one that answered."""
Solve = Callable[[PlacementProblem, float], PlanSolution]

ANSWERED = "answered"
CANCELLED = "cancelled"
NONE = "none"
LATER_RUNG_FRAC = 0.25
"""Share of the wall limit that a rung after the first one gets: the round has waited for the first already."""


@dataclass(frozen=True)
class Rung:
    """One way to plan: its name and the function that does it within a wall limit."""

    name: str
    solve: Solve


def ignore(rung: str, cause: str) -> None:
    """Observer of who does not count."""
    del rung, cause


def descend(
    problem: PlacementProblem, rungs: Sequence[Rung], wall_limit_s: float, observe: Observe
) -> PlanSolution:
    """The answer of the first rung that has a sound plan; its message tells what the rungs above it failed of.

    Rungs answer, they do not raise. Infeasible stays infeasible: a smaller model of the same rules says no more.
    """
    failures: list[str] = []
    answer = no_plan(problem, SolveStatus.UNKNOWN, "no way to plan was given")
    for i, rung in enumerate(rungs):
        answer = rung.solve(problem, wall_limit_s * (LATER_RUNG_FRAC if i else 1.0))
        if answer.has_plan:
            observe(rung.name, ANSWERED)
            return replace(answer, message="; ".join(failures)) if failures else answer
        cause = cause_of(answer)
        observe(rung.name, cause)
        failures.append(f"{rung.name}: {answer.message or answer.status.value}")
        if cause == CANCELLED:
            break
    observe(NONE, ANSWERED)
    return replace(answer, message="; ".join(failures)) if failures else answer


def in_process(name: str, function: Callable[[PlacementProblem], PlanSolution], verify: Verify) -> Rung:
    """A rung that runs where it is called; what it raises becomes an answer, and every answer is judged."""

    def solve(problem: PlacementProblem, wall_limit_s: float) -> PlanSolution:
        del wall_limit_s  # work limits end it
        try:
            solution = function(problem)
        except Exception as error:
            # a defect of a fallback must not cost the round either; its cause is told and counted
            return no_plan(
                problem, SolveStatus.UNKNOWN, f"the solver failed: {type(error).__name__}: {error}"
            )
        return judged(problem, solution, verify)

    return Rung(name, solve)


CAUSES = (
    ("was cut off", "hang"),
    ("cancelled", CANCELLED),
    ("pool is closed", CANCELLED),
    ("MemoryError", "memory"),
    ("bad_alloc", "memory"),
    ("was killed", "crash"),
    ("ended with exit code", "crash"),
    ("closed its pipe", "crash"),
    ("limits are used up", "work_limit"),
    ("linear program ended", "work_limit"),
    ("the solver failed", "error"),
)


def cause_of(answer: PlanSolution) -> str:
    """Closed list of why there is no plan: hang, memory, crash, error, work_limit, nonsense, cancelled, infeasible."""
    if answer.status is SolveStatus.INVALID:
        return "nonsense"
    if answer.status is SolveStatus.INFEASIBLE:
        return "infeasible"
    return next((cause for text, cause in CAUSES if text in answer.message), "error")
