"""What the solver adds to the command line: `solve` a dumped problem, `verify` a plan with no solver installed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from solvers.archive import ArchiveError
from solvers.binding import binding_constraints
from solvers.problem import PlacementProblem
from solvers.proof import UNREADABLE, verify_proof
from solvers.solution import BindingConstraint, PlanSolution
from solvers.verify import Violation

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NO_PLAN = 3
PLAN_SUFFIX = ".plan"
MOST_SHOWN = 12
"""Binding constraints told to people, dearest first; `--json` tells all."""


class Method(StrEnum):
    """Which solver makes the plan."""

    PLAN = "plan"
    BULK = "bulk"
    ASSIGNMENT = "assignment"


ProblemFile = Annotated[
    Path, typer.Argument(help="Problem file that `PlacementProblem.save` wrote.", metavar="PROBLEM")
]


def solve(
    problem: ProblemFile,
    out: Annotated[Path | None, typer.Option(help="Where the plan goes; else PROBLEM.plan.")] = None,
    by: Annotated[
        Method,
        typer.Option(
            help="plan: over all slots; bulk: one slot, replicas onto nodes; assignment: every class whole on one site."
        ),
    ] = Method.PLAN,
) -> None:
    """Solve a dumped placement problem; equal problems give equal plans, byte for byte, certificate included.

    Exit codes: 0 a plan was found, 1 none was, 2 bad input.

    Examples:
        suanli solve plan-1784066400.problem
        suanli solve fleet.problem --by bulk
    """
    loaded = _problem(problem)
    try:
        solution = _solved(loaded, by)
    except ValueError as error:  # a problem with rules that the method named does not know
        typer.echo(f"{problem}: not a problem for --by {by.value}: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    typer.echo(f"{solution.status.value}  {loaded.content_hash()[:12]}  {solution.message}".rstrip())
    for bound in solution.bounds:
        gap = "no bound" if bound.gap_frac is None else f"gap {bound.gap_frac:.4%}"
        typer.echo(f"  {bound.scope}: {bound.objective_yuan:.2f} yuan, {gap} ({bound.model})")
    if not solution.has_plan:
        raise typer.Exit(EXIT_FAILED)
    if solution.certificate is not None:
        c = solution.certificate
        typer.echo(f"  certified: {c.objective_yuan:.2f} yuan, gap {c.gap_frac:.4%} ({c.model})")
    target = out or problem.with_suffix(problem.suffix + PLAN_SUFFIX)
    solution.save(target)
    typer.echo(f"  written to {target}")


def _solved(problem: PlacementProblem, by: Method) -> PlanSolution:
    """By work limits only, so that a file gives the same bytes everywhere; ortools loads only here."""
    if by is Method.BULK:
        from solvers.bulk import solve_bulk

        return solve_bulk(problem).solution
    if by is Method.ASSIGNMENT:
        from solvers.single_source import solve_single_source

        return solve_single_source(problem).plan
    from solvers.plan_model import solve_plan

    return solve_plan(problem)


def verify(
    file: Annotated[Path, typer.Argument(help="Problem, or plan beside its problem.", metavar="FILE")],
    plan: Annotated[
        Path | None, typer.Argument(help="Plan file; else the one beside the problem.", metavar="[PLAN]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check a plan and its certificate with numpy alone: rules, objective, bound, what binds. Needs no solver.

    FILE is a problem with its plan beside it (FILE.plan), or that plan. Every problem found is told in one answer.

    Exit codes: 0 nothing is wrong, 1 something is (listed), 2 bad input, 3 the file says that no plan was found.

    Examples:
        suanli verify plan-1784066400.problem
    """
    problem_file, plan_file = _pair_of_files(file, plan)
    loaded, solution = _problem(problem_file), _plan(plan_file)
    violations = verify_proof(loaded, solution)
    if as_json:
        typer.echo(json.dumps(_as_json(loaded, solution, violations)))
    else:
        _tell(loaded, solution, violations)
    if violations:
        raise typer.Exit(EXIT_FAILED)
    if not solution.has_plan:
        raise typer.Exit(EXIT_NO_PLAN)


def _pair_of_files(file: Path, plan: Path | None) -> tuple[Path, Path]:
    if plan is not None:
        return file, plan
    if file.suffix == PLAN_SUFFIX:
        return file.with_suffix(""), file
    return file, file.with_suffix(file.suffix + PLAN_SUFFIX)


def _tell(problem: PlacementProblem, plan: PlanSolution, violations: list[Violation]) -> None:
    typer.echo(
        f"problem {problem.content_hash()[:12]}, policy revision {problem.policy_revision}: {plan.status.value}"
    )
    certificate = plan.certificate
    if certificate is not None:
        typer.echo(
            f"  objective {certificate.objective_yuan:.2f} yuan, bound {certificate.bound_yuan:.2f}, "
            f"gap {certificate.gap_frac:.4%} ({certificate.model}; {len(certificate.leaves)} leaves)"
        )
        _tell_binding(certificate.binding)
        for own in plan.bounds:
            if own.bound_yuan is not None and own.gap_frac is not None:
                typer.echo(
                    f"  the search's own bound, not certified: {own.scope} {own.bound_yuan:.2f}, "
                    f"gap {own.gap_frac:.4%} ({own.model})"
                )
    elif plan.has_plan:
        typer.echo("  no certificate: nothing about the best possible plan is proven here")
        if _is_readable(violations):
            _tell_binding(binding_constraints(problem, plan))
    for violation in violations:
        typer.echo(f"  wrong: {violation}")
    typer.echo(f"verify: {len(violations)} violations")


def _tell_binding(binding: Sequence[BindingConstraint]) -> None:
    dearest = sorted(binding, key=lambda b: -(b.price_yuan_per_unit or 0.0))
    for b in dearest[:MOST_SHOWN]:
        slot = "" if b.slot < 0 else f",slot={b.slot}"
        price = "" if b.price_yuan_per_unit is None else f", {b.price_yuan_per_unit:.4g} yuan per {b.unit}"
        typer.echo(f"  binds {b.rule}[{b.subject}{slot}]: {b.value:.6g} of {b.limit:.6g} {b.unit}{price}")
    if len(dearest) > MOST_SHOWN:
        typer.echo(f"  and {len(dearest) - MOST_SHOWN} more that bind (--json tells all)")


def _is_readable(violations: Sequence[Violation]) -> bool:
    """Whether the plan's arrays fit the problem, so that what binds can be told."""
    return not any(v.rule in UNREADABLE for v in violations)


def _as_json(problem: PlacementProblem, plan: PlanSolution, violations: list[Violation]) -> dict[str, Any]:
    certificate = plan.certificate
    binding: Sequence[BindingConstraint] = ()
    if certificate is not None:
        binding = certificate.binding
    elif _is_readable(violations):
        binding = binding_constraints(problem, plan)
    return {
        "problem_sha256": problem.content_hash(),
        "policy_revision": problem.policy_revision,
        "base_revision": problem.base_revision,
        "status": plan.status.value,
        "method": plan.method,
        "bounds": [dataclasses.asdict(b) for b in plan.bounds],
        "certificate": None
        if certificate is None
        else {
            "model": certificate.model,
            "objective_yuan": certificate.objective_yuan,
            "bound_yuan": certificate.bound_yuan,
            "gap_frac": certificate.gap_frac,
            "leaves": len(certificate.leaves),
        },
        "binding": [{**dataclasses.asdict(b), "slack": b.slack} for b in binding],
        "violations": [
            {"rule": v.rule, "subject": v.subject, "actual": _or_none(v.actual), "limit": _or_none(v.limit)}
            for v in violations
        ],
    }


def _or_none(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def _plan(path: Path) -> PlanSolution:
    try:
        return PlanSolution.load(path)
    except (OSError, ArchiveError, ValueError) as error:
        _refuse(path, error)


def _problem(path: Path) -> PlacementProblem:
    try:
        return PlacementProblem.load(path)
    except (OSError, ArchiveError, ValueError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: Exception) -> NoReturn:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    typer.echo(f"{path}: {said}", err=True)
    raise typer.Exit(EXIT_BAD_INPUT)
