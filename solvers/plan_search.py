"""Which sites are open in which block: branch and bound on a relaxation of the slow model.

The relaxation is either that with weights for levels (`AtWeights`) or the one in which a row per level keeps it no
worse than a plan's (`plan_levels.AtLevels`). Every part of the choices has its own rounds of pricing, so its bound
counts the columns it lacks; what is left of the tree when the trials are used up still bounds all choices.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.certify import Duals
from solvers.plan_master import Master
from solvers.plan_pricing import (
    LEVEL_TOLERANCE,
    Priced,
    Solved,
    Work,
    join,
    level_weights,
    nothing_yuan_at_weights,
    price_missing,
    solve_weighted,
)
from solvers.plan_report import edge_yuan
from solvers.plan_rules import PlanModel
from solvers.solution import PlanSolution

INTEGRAL = 1e-6
OPEN_BY_MORE = 0.2
"""The second guess opens what the relaxation opens by more than this part: what is open by less can do without."""
SMALL_ROWS, SMALL_ITERATIONS = 1000, 1000
OPEN_SITES_GAP_FRAC = 1e-6
"""Choices of open sites closer than this to the best plan are not looked at."""
LEAST_OVERHEAD_YUAN = 1e-9
"""So that a site without overhead can be branched on."""
ROUNDS_PER_PART = 3
"""Rounds of pricing of one part of the choices."""
TIGHT_ENOUGH = 0.1
"""A part's columns gain little when its bound is closer to its optimum than this share of what the search aims at."""


class Relaxation(Protocol):
    """What the search knows of the program it works on."""

    def relax(self, master: Master, work: Work, on_bounds: tuple[FloatArray, FloatArray]) -> Priced | None:
        """Optimum with `on` within bounds; None: not found within the work of one trial."""

    def plan(self, master: Master, work: Work, on: FloatArray, relaxed: Solved) -> Solved | None:
        """The best plan with these sites open, where `relaxed` has come out with them; None: there is none."""


class AtWeights:
    """Levels by their weights in the objective."""

    def relax(self, master: Master, work: Work, on_bounds: tuple[FloatArray, FloatArray]) -> Priced | None:
        """As `solve_weighted`."""
        solved = solve_weighted(master, work, on_bounds)
        return Priced(solved, nothing_yuan_at_weights(master), level_weights(master))

    def plan(self, master: Master, work: Work, on: FloatArray, relaxed: Solved) -> Solved | None:
        """The relaxation itself."""
        return replace(relaxed, fixed_on=on)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the choices of open sites: bounds on `on`, its relaxation, a bound that counts missing columns."""

    lower: FloatArray
    upper: FloatArray
    relaxed: Solved
    bound_yuan: float
    proof: Duals
    """Duals that bound it."""
    bookmark: str
    """The session's, of the relaxation's optimum."""


@dataclass(frozen=True, eq=False)
class OpenSites:
    """Outcome of the search: the best plan with sites fixed, and a bound over all choices of open sites."""

    best: Solved
    bound_yuan: float
    """Of the relaxation's objective."""
    leaves: tuple[Part, ...] = ()
    """Parts of the choices that together are all of them; none: the search did not branch."""


@dataclass(frozen=True)
class Effort:
    """How long a search goes on: until the choice is proven or so many trials are used up; with a gap above what is
    enough until `most_trials` are."""

    trials: int
    most_trials: int
    enough_yuan: float
    spent: int = 0
    """Trials used before."""


def choose_open_sites(
    relaxed: Solved,
    bound_yuan: float,
    model: PlanModel,
    master: Master,
    work: Work,
    warm_start: PlanSolution | None,
) -> tuple[OpenSites, Master]:
    """(outcome, master with the columns that joined): roundings of the relaxation at weights, then branch and bound.

    With few sites that may close the tree is worked through and the choice is proven.
    """
    on_columns = master.position(model.columns_of("on"))
    if is_integral(relaxed, on_columns):
        best = replace(relaxed, fixed_on=np.rint(relaxed.result.x[on_columns]))
        work.session.remember("plan")
        return OpenSites(best, bound_yuan), master
    guesses = _first_guesses(relaxed.result.x[on_columns], model, warm_start)
    # what is opened at all serves whatever the relaxation serves: looked at when the others leave work out
    most_open = (relaxed.result.x[on_columns] > INTEGRAL).astype(float)
    best = replace(relaxed, objective_yuan=math.inf)
    for guess in [*guesses, most_open]:
        if guess is most_open and not _leaves_more_out(best, relaxed):
            break
        work.counts["site_trials"] += 1
        work.session.go_back("relaxation")
        found = replace(solve_weighted(master, work, (guess, guess)), fixed_on=guess)
        if found.objective_yuan < best.objective_yuan:
            best = found
            work.session.remember("plan")
    running = model.sets.problem.pairs.running_count.max(initial=0.0) > 0
    trials = work.limits.warm_site_trials if running else work.limits.site_trials
    # where work stays unserved, the search at the plan's own levels goes on from here
    all_served = max(best.level_values) <= LEVEL_TOLERANCE
    most = max(trials, work.limits.edge_trials) if all_served else trials
    effort = Effort(trials, most, enough_yuan(best, master, work), len(guesses))
    root = whole(
        Priced(relaxed, nothing_yuan_at_weights(master), level_weights(master)), relaxed, bound_yuan, master
    )
    chosen, master_of_best, grown = branch_and_bound(root, best, AtWeights(), effort, master, work)
    if grown.column_count > master_of_best.column_count:
        on = chosen.best.fixed_on
        assert on is not None
        work.session.go_back("plan")
        best = replace(solve_weighted(grown, work, (on, on)), fixed_on=on)
        work.session.remember("plan")
        chosen = replace(chosen, best=best, bound_yuan=min(chosen.bound_yuan, best.objective_yuan))
    return chosen, grown


def enough_yuan(plan: Solved, master: Master, work: Work) -> float:
    """How far from the bound a plan may be: a share of what its edge sites cost, and of what all do."""
    assert plan.fixed_on is not None
    of_all = work.limits.fleet_gap_frac * abs(plan.cost_yuan)
    if not master.model.sets.problem.sites.is_edge.any():
        return of_all
    at_edges = work.limits.edge_gap_frac * edge_yuan(master, plan.result, plan.fixed_on)
    return min(of_all, max(at_edges, OPEN_SITES_GAP_FRAC * abs(plan.cost_yuan)))


def whole(at_duals: Priced, relaxed: Solved, bound_yuan: float, master: Master) -> Part:
    """All choices, at the duals that bound them."""
    count = len(master.model.columns_of("on"))
    lower, upper = np.zeros(count), np.ones(count)
    proof = proof_at(at_duals, lower, upper, master.model)
    return Part(lower, upper, relaxed, bound_yuan, proof, "relaxation")


def proof_at(priced: Priced, lower: FloatArray, upper: FloatArray, model: PlanModel) -> Duals:
    """What bounds a part of the choices."""
    return Duals(priced.solved.result.duals, priced.level_yuan, lower, upper, model.sets.open_cuts)


def branch_and_bound(
    root: Part, best: Solved, relaxation: Relaxation, effort: Effort, given: Master, work: Work
) -> tuple[OpenSites, Master, Master]:
    """(outcome, master of the best plan, master with all columns that joined): the part with the least bound is divided
    until effort is spent, where most overhead is open in part.

    A plan is never below the bound of its own part; parts that cannot beat the best plan are kept as they are.
    """
    master, master_of_best = given.with_own_columns(), given
    if is_integral(root.relaxed, master.position(master.model.columns_of("on"))):
        plan = _plan_of(root, best, relaxation, master, work)
        found = best if plan is None else plan
        return OpenSites(found, min(root.bound_yuan, found.objective_yuan), (root,)), master_of_best, master
    on_columns = master.position(master.model.columns_of("on"))
    overhead_yuan = np.abs(master.base.cost[master.model.columns_of("on")]) + LEAST_OVERHEAD_YUAN
    begun = work.counts["site_trials"], work.counts["lp_iterations"]
    heap: list[tuple[float, int, Part]] = [(root.bound_yuan, 0, root)]
    settled: list[Part] = []
    least_settled = np.inf
    while heap and not _is_spent(heap[0][0], best, effort, work, begun):
        _, _, part = heapq.heappop(heap)
        on = part.relaxed.result.x[on_columns]
        branch = int(np.argmax(np.minimum(on, 1.0 - on) * overhead_yuan))
        for value in (np.rint(on[branch]), 1.0 - np.rint(on[branch])):
            lower, upper = part.lower.copy(), part.upper.copy()
            lower[branch] = upper[branch] = value
            work.session.go_back(part.bookmark)
            enough = best.objective_yuan - effort.enough_yuan
            child, is_optimum = _bound_part(part, lower, upper, relaxation, enough, effort, master, work)
            is_whole = is_optimum and is_integral(child.relaxed, on_columns)
            plan = _plan_of(child, best, relaxation, master, work) if is_whole else None
            if plan is not None:
                best, master_of_best = plan, master.with_own_columns()
                work.session.remember("plan")
            if is_whole or not is_optimum or child.bound_yuan >= best.objective_yuan:
                settled.append(child)
                least_settled = min(least_settled, child.bound_yuan)
            else:
                heapq.heappush(heap, (child.bound_yuan, int(work.counts["site_trials"]), child))
    left = min((bound for bound, _, _ in heap), default=np.inf)
    leaves = (*settled, *(part for _, _, part in heap))
    outcome = OpenSites(best, min(least_settled, left, best.objective_yuan), leaves)
    return outcome, master_of_best, master


def _plan_of(part: Part, best: Solved, relaxation: Relaxation, master: Master, work: Work) -> Solved | None:
    """The plan that a part's relaxation has come out with, if it is better than the best."""
    if part.relaxed.objective_yuan >= best.objective_yuan:
        return None
    on = np.rint(part.relaxed.result.x[master.position(master.model.columns_of("on"))])
    plan = relaxation.plan(master, work, on, part.relaxed)
    return plan if plan is not None and plan.objective_yuan < best.objective_yuan else None


def _is_spent(
    bound_yuan: float, best: Solved, effort: Effort, work: Work, begun: tuple[float, float]
) -> bool:
    """Proven, close enough or used up; small programs, whose trials cost next to nothing, get ten times as many."""
    gap = best.objective_yuan - bound_yuan
    if gap <= OPEN_SITES_GAP_FRAC * abs(best.cost_yuan):
        return True
    used = work.counts["site_trials"] - begun[0] + effort.spent
    is_small = (
        work.counts["rows"] <= SMALL_ROWS and work.counts["lp_iterations"] - begun[1] < SMALL_ITERATIONS
    )
    trials = effort.trials if gap <= effort.enough_yuan else effort.most_trials
    return used >= (10 * trials if is_small else trials)


def _bound_part(
    parent: Part, lower: FloatArray, upper: FloatArray, relaxation: Relaxation, enough_yuan: float, effort: Effort,
    master: Master, work: Work,
) -> tuple[Part, bool]:  # fmt: skip
    """(the part, whether its relaxation was solved), with rounds of pricing until its bound is tight or nothing in it
    is looked for; a part left with its parent's bound says nothing of which part to divide next."""
    work.counts["site_trials"] += 1
    part = Part(
        lower,
        upper,
        parent.relaxed,
        parent.bound_yuan,
        replace(parent.proof, on_lower=lower, on_upper=upper),
        parent.bookmark,
    )
    bookmark = f"part {work.counts['site_trials']:.0f}"
    is_optimum = False
    for left in range(ROUNDS_PER_PART - 1, -1, -1):
        priced = relaxation.relax(master, work, (lower, upper))
        if priced is None:
            break
        is_optimum = True
        work.session.remember(bookmark)
        missing = price_missing(priced.solved, master, priced.nothing_yuan)
        optimum = priced.solved.objective_yuan
        bound = optimum + missing.gain_yuan
        proof = proof_at(priced, lower, upper, master.model) if bound > part.bound_yuan else part.proof
        part = Part(lower, upper, priced.solved, max(bound, part.bound_yuan), proof, bookmark)
        is_tight = optimum - part.bound_yuan <= TIGHT_ENOUGH * effort.enough_yuan
        if part.bound_yuan >= enough_yuan or is_tight:
            break
        # only what is solved again at once may join: the dual simplex of the next part wants columns that are priced
        if not left or not join(master, [missing]):
            break
    return part, is_optimum


def is_integral(solved: Solved, on_columns: IntArray) -> bool:
    """Whether every site is open or closed."""
    on = solved.result.x[on_columns]
    return bool(np.all(np.abs(on - np.rint(on)) <= INTEGRAL))


def _leaves_more_out(plan: Solved, relaxed: Solved) -> bool:
    """Whether some level of a plan is above the relaxation's."""
    pairs = zip(plan.level_values, relaxed.level_values, strict=True)
    return any(own > least + LEVEL_TOLERANCE for own, least in pairs)


def _first_guesses(
    relaxed_on: FloatArray, model: PlanModel, warm_start: PlanSolution | None
) -> list[FloatArray]:
    guesses = [np.rint(relaxed_on), (relaxed_on > OPEN_BY_MORE).astype(float)]
    if warm_start is not None and warm_start.site_on.shape == model.on_column.shape:
        site, block = model.keys["on"]
        first = np.searchsorted(model.sets.block_of_slot, block)
        guesses.insert(0, warm_start.site_on[site, first].astype(float))
    distinct = {guess.tobytes(): guess for guess in guesses}
    return list(distinct.values())
