"""Everything a plan file claims, checked with numpy alone: rules, objective, bound, what binds. See `suanli verify`."""

from __future__ import annotations

from collections.abc import Iterator

from solvers.binding import binding_constraints
from solvers.dual_bound import verify_certificate
from solvers.problem import PlacementProblem
from solvers.solution import BULK_MODEL, BindingConstraint, PlanSolution
from solvers.verify import Violation, verify_move_budget, verify_plan

RELATIVE, ABSOLUTE = 1e-6, 1e-6
UNREADABLE = ("problem_hash", "shape", "not_a_count", "reference", "blocks")


def verify_proof(problem: PlacementProblem, plan: PlanSolution) -> list[Violation]:
    """All violations of the plan and of its certificate in one answer; [] also for an answer without a plan.

    Nothing can prove or refute what a search says of itself: its prices (duals), counters, message and method. A wrong
    multiplier that proves no more than the bound stated is no fault.
    """
    broken = verify_plan(problem, plan)
    if any(v.rule in UNREADABLE for v in broken):
        return broken  # nothing more can be said of arrays that do not fit the problem
    if any(b.model == BULK_MODEL for b in plan.bounds):
        broken += verify_move_budget(problem, plan)
    broken += verify_certificate(problem, plan)
    return broken if any(v.rule in UNREADABLE for v in broken) else broken + list(_binding(problem, plan))


def _binding(problem: PlacementProblem, plan: PlanSolution) -> Iterator[Violation]:
    """The binding constraints stated are those that the plan's arrays give, with the same values and prices."""
    if plan.certificate is None or not plan.has_plan:
        return
    stated = {_key(b): b for b in plan.certificate.binding}
    if len(stated) < len(plan.certificate.binding):
        yield Violation("binding_twice", "certificate", len(plan.certificate.binding), len(stated))
    found = {_key(b): b for b in binding_constraints(problem, plan)}
    for key in sorted({*stated, *found}):
        name = f"{key[0]}[{key[1]},slot={key[2]}]"
        if key not in found:
            yield Violation("binding_not_tight", name, stated[key].value, stated[key].limit)
        elif key not in stated:
            yield Violation("binding_left_out", name, found[key].value, found[key].limit)
        else:
            if stated[key].unit != found[key].unit:
                yield Violation("binding_unit", f"{name}: {stated[key].unit}, not {found[key].unit}")
            for field in ("value", "limit", "price_yuan_per_unit"):
                said, is_now = getattr(stated[key], field), getattr(found[key], field)
                if _differ(said, is_now):
                    yield Violation(f"binding_{field}", name, _number(said), _number(is_now))


def _key(b: BindingConstraint) -> tuple[str, str, int]:
    return b.rule, b.subject, b.slot


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _differ(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is not b
    return not abs(a - b) <= RELATIVE * max(abs(a), abs(b)) + ABSOLUTE
