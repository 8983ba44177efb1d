"""What the solver adds to the command line: `solve` a dumped problem, `verify` a plan with no solver installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from solvers.archive import ArchiveError
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2

ProblemFile = Annotated[
    Path, typer.Argument(help="Problem file that `PlacementProblem.save` wrote.", metavar="PROBLEM")
]


def solve(
    problem: ProblemFile,
    out: Annotated[Path | None, typer.Option(help="Where the plan goes; else PROBLEM.plan.")] = None,
) -> None:
    """Solve a dumped placement problem; equal problems give equal plans, byte for byte.

    Exit codes: 0 a plan was found, 1 none was, 2 bad input.

    Examples:
        suanli solve plan-1784066400.problem
    """
    loaded = _problem(problem)
    # ortools loads only where something is solved
    from solvers.plan_model import solve_plan

    solution = solve_plan(loaded)
    typer.echo(f"{solution.status.value}  {loaded.content_hash()[:12]}  {solution.message}".rstrip())
    for bound in solution.bounds:
        gap = "no bound" if bound.gap_frac is None else f"gap {bound.gap_frac:.4%}"
        typer.echo(f"  {bound.scope}: {bound.objective_yuan:.2f} yuan, {gap} ({bound.model})")
    if not solution.has_plan:
        raise typer.Exit(EXIT_FAILED)
    target = out or problem.with_suffix(problem.suffix + ".plan")
    solution.save(target)
    typer.echo(f"  written to {target}")


def verify(
    problem: ProblemFile,
    plan: Annotated[Path, typer.Argument(help="Plan file that `suanli solve` wrote.", metavar="PLAN")],
) -> None:
    """Check a plan against its problem with the independent checker; needs no solver.

    Exit codes: 0 no violation, 1 violations (listed), 2 bad input.

    Examples:
        suanli verify plan-1784066400.problem plan-1784066400.problem.plan
    """
    from solvers.verify import verify_plan

    loaded = _problem(problem)
    try:
        solution = PlanSolution.load(plan)
    except (OSError, ArchiveError, ValueError) as error:
        _refuse(plan, error)
    violations = verify_plan(loaded, solution)
    for violation in violations:
        typer.echo(str(violation))
    typer.echo(f"verify: {len(violations)} violations")
    if violations:
        raise typer.Exit(EXIT_FAILED)


def _problem(path: Path) -> PlacementProblem:
    try:
        return PlacementProblem.load(path)
    except (OSError, ArchiveError, ValueError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: Exception) -> NoReturn:
    typer.echo(f"{path}: {error}", err=True)
    raise typer.Exit(EXIT_BAD_INPUT)
