"""The lexicographic levels of a plan: settled one by one, then held by rows while cost and bound improve.

Where work stays unserved, the weights that stand for "served first" price it far above what serving is worth at the
margin. So with every level held by a row, columns are priced in once more, and the search of open sites goes on there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from solvers.archive import FloatArray
from solvers.certify import Duals
from solvers.linear import Program, TemporaryRow
from solvers.plan_master import Master
from solvers.plan_pricing import (
    CALM,
    LEVEL_TOLERANCE,
    Priced,
    Solved,
    Work,
    broken_open_cuts,
    join,
    lagrangian,
    level_weights,
    price_missing,
    replace_cost,
    with_bounds,
    with_duals,
    with_more_cuts,
    with_used_columns,
)
from solvers.plan_rules import LEVEL_COUNT, LEVEL_OF_RANK
from solvers.plan_search import Effort, branch_and_bound, enough_yuan, whole

SETTLE_ROUNDS = 2
"""Rounds of pricing for a level that is minimised by itself."""
SETTLE_FACTOR = 100.0
"""A level that is settled counts so many times its weight, which is itself far above what serving it costs."""
SETTLED_FRAC = 1e-4
"""A level is settled when no routes could lower it by more than this share."""
TIGHT = 1e-4
"""There, a bound this close to the relaxation is not improved further."""
OPEN_BY_MORE_THAN = (0.37, 0.1, 1e-6)
"""There, sites are tried that the relaxation opens by more than each of these parts, as long as the gap is too wide. Of
eleven plans of songjiang-m the first is the optimal choice in nine (open by 0.354 at most, or by 0.371 at least)."""
BREAK_FACTOR = 100.0
"""There, breaking a level costs so many times its weight: the last of it that is served may be dear."""
PLAN_ROUNDS = 5
"""There, rounds of pricing of the plan itself, its sites fixed."""
PLAN_GAIN_FRAC = 1e-5
"""As long as a round brings more than this share."""
LEAST_GAIN_FRAC = 1e-6
"""There, a plan is replaced when another costs this much less."""


def settle_levels(given: Master, solved: Solved, work: Work) -> tuple[Solved, Master]:
    """The lexicographic optimum at the open sites of a weighted one; columns that lower a level join the master.

    Zero levels cannot be improved, and among plans with zero levels the weights add nothing: then there is nothing to
    do. Otherwise each level that is not zero is minimised far above all that follows and held by a row, then the next,
    then cost. What follows still counts a little: minimised all alone, a level's optimum says nothing of it, and the
    next program would begin far from its own.
    """
    if max(solved.level_values) <= LEVEL_TOLERANCE:
        return solved, given
    work.session.go_back("plan")
    master = with_used_columns(given, work)
    on = solved.fixed_on
    assert on is not None
    weights = level_weights(master)
    scales = tuple(float(most) for most in master.all_level_amounts().max(axis=1, initial=0.0))
    values, reached = solved.level_values, list[float]()

    def settled() -> Program:
        program, rows = with_bounds(master, master.program(), (on, on)), []
        for level, (value, amount) in enumerate(zip(reached, master.all_level_amounts(), strict=False)):
            if value <= LEVEL_TOLERANCE:
                program.upper[np.flatnonzero(amount)] = 0.0
            else:
                rows.append(_level_held(level, amount, scales[level], value * (1 + 1e-7), weights))
        return program.with_rows(rows)

    for level in range(LEVEL_COUNT):
        for left in range(SETTLE_ROUNDS, -1, -1):
            if values[level] <= LEVEL_TOLERANCE:
                break
            amounts, program = master.all_level_amounts(), settled()
            first = weights.copy()
            first[:level] = 0.0
            first[level] = SETTLE_FACTOR * max(1.0, weights[level])
            program_first = replace_cost(program, program.cost + first @ amounts)
            stage = work.solve(program_first, master.column_key())
            values = tuple(max(0.0, float(value)) for value in amounts @ stage.x)
            at_optimum = replace(solved, result=stage, program=program)
            nothing_yuan = _nothing_yuan(at_optimum, first, scales, reached, master)
            missing = price_missing(at_optimum, master, nothing_yuan)
            if not left or missing.gain_yuan >= -SETTLED_FRAC * first[level] * values[level]:
                break
            if not join(master, [missing]):
                break
        reached.append(values[level])
    program = settled()
    last = work.solve(program, master.column_key(), is_near=True)
    work.session.remember("plan")
    return Solved(last, program, last.objective, last.objective, tuple(reached), on), master


def _nothing_yuan(
    solved: Solved, first: FloatArray, scales: tuple[float, ...], reached: list[float], master: Master
) -> FloatArray:
    """[C,B] what nothing in a block costs while a level is settled: that level and those after it by `first`, those
    before it what their rows say; where one of these is zero, nothing is forbidden."""
    level_yuan = first.copy()
    row = len(solved.program.row_lower) - len(solved.program.temporary)
    for level, value in enumerate(reached):
        if value <= LEVEL_TOLERANCE:
            level_yuan[level] = math.inf
        else:
            level_yuan[level] = max(0.0, -solved.result.duals[row]) / scales[level]
            row += 1
    rank = master.model.sets.problem.classes.priority_rank
    of_class = level_yuan[np.array(LEVEL_OF_RANK)[rank]][:, None]
    return np.where(master.penalty_yuan > 0, of_class, 0.0) * master.penalty_yuan


@dataclass(frozen=True, eq=False)
class Improved:
    """A plan at its levels, its master, and a bound on the cost of plans whose levels are no worse."""

    plan: Solved
    master: Master
    bound_yuan: float
    everywhere: Duals
    """Duals that bound all choices of open sites at once."""
    parts: tuple[Duals, ...]
    """Of parts of the choices that together are all; none: the search did not branch."""


def improve_at_levels(final: Solved, given: Master, work: Work) -> Improved:
    """The plan and its bound from the relaxation with levels held by rows.

    Its duals price unserved work otherwise than the weights do, so columns and cuts join here too until they gain
    little; the plan, its sites fixed, is solved again with them, and with the open sites that this relaxation suggests;
    then the choices of open sites are searched.
    """
    master = given.with_own_columns()
    levels = AtLevels.of(final, master)
    root, rounds = None, 0
    # the last programs had fixed sites; with open ones the weighted relaxation is nearer
    work.session.go_back("relaxation")
    while True:
        relaxed, at_duals, own_bound, used = _price_at_levels(levels, master, work, rounds)
        rounds += used
        if root is None or own_bound > root.bound_yuan:
            root = whole(at_duals, relaxed, own_bound, master)
        root = replace(root, relaxed=relaxed)
        cuts = broken_open_cuts(relaxed, master.model, master)
        is_tight = final.objective_yuan - root.bound_yuan <= TIGHT * abs(root.bound_yuan)
        if is_tight or rounds >= work.limits.bound_rounds or not len(cuts[0]):
            break
        master = with_more_cuts(master, cuts, work)
    work.session.remember("relaxation")
    better = _best_open_sites(final, relaxed, root.bound_yuan, levels, master, work)
    effort = Effort(0, work.limits.edge_trials, enough_yuan(better, master, work))
    chosen, master_of_best, _ = branch_and_bound(root, better, levels, effort, master, work)
    gain_yuan = final.objective_yuan - chosen.best.objective_yuan
    # without columns that gain anything, the plan that was settled level by level is the more exact one
    is_better = gain_yuan > LEAST_GAIN_FRAC * abs(final.objective_yuan)
    plan, its_master = (chosen.best, master_of_best) if is_better else (final, given)
    parts = tuple(part.proof for part in chosen.leaves)
    return Improved(plan, its_master, chosen.bound_yuan, root.proof, parts if len(parts) > 1 else ())


def _price_at_levels(
    levels: AtLevels, master: Master, work: Work, spent: int
) -> tuple[Solved, Priced, float, int]:
    """(relaxation at its last optimum, duals that bound best, that bound, rounds used)."""
    bound, best, used = -math.inf, None, 0
    while True:
        used += 1
        relaxed = levels.solve(master, work, None)
        assert relaxed is not None
        held = levels.at_duals(relaxed, master)
        missing = price_missing(held.solved, master, held.nothing_yuan)
        found, before = [missing], best
        own_bound = held.solved.objective_yuan + missing.gain_yuan
        if best is None or own_bound > bound:
            bound, best = own_bound, held
        if before is not None:
            duals = CALM * before.solved.result.duals + (1 - CALM) * held.solved.result.duals
            calm = levels.at_duals(with_duals(held.solved, duals), master)
            found.append(price_missing(calm.solved, master, calm.nothing_yuan))
            calm_bound = lagrangian(calm.solved, master, found[-1])
            if calm_bound > bound:
                bound, best = calm_bound, calm
        is_tight = held.solved.objective_yuan - bound <= TIGHT * abs(bound)
        if is_tight or spent + used >= work.limits.bound_rounds or not join(master, found):
            return held.solved, best, bound, used


def _best_open_sites(
    final: Solved, relaxed: Solved, bound_yuan: float, levels: AtLevels, master: Master, work: Work
) -> Solved:
    """The plan with its own open sites, or with those that the relaxation at its levels has open by more than a part.

    The search of open sites knew the levels only by their weights; which sites serve best at these levels is another
    question. Each choice gets columns of its own before it is judged: without them a good one looks worse than it is
    by as much as the gap.
    """
    own = final.fixed_on
    assert own is not None
    share_open = relaxed.result.x[master.position(master.model.columns_of("on"))]
    first, *others = ((share_open > part).astype(float) for part in OPEN_BY_MORE_THAN)
    choices = {on.tobytes(): on for on in (first, own, *others)} | {own.tobytes(): own}
    best, its_master = None, master
    for on in choices.values():
        gap_yuan = math.inf if best is None else best.objective_yuan - bound_yuan
        if (
            best is not None
            and best.objective_yuan <= final.objective_yuan
            and gap_yuan <= enough_yuan(best, its_master, work)
        ):
            break
        found = _plan_at_levels(final, on, levels, master, work)
        if found is None or (best is not None and found.objective_yuan - best.objective_yuan > gap_yuan):
            continue
        found = _with_own_columns(found, levels, master, work, may_break=on is not own)
        if found is not None and (best is None or found.objective_yuan < best.objective_yuan):
            best, its_master = found, master.with_own_columns()
    assert best is not None  # the plan's own choice has an answer
    return replace(best, result=replace(best.result, x=master.widened(best.result.x, its_master)))


def _plan_at_levels(
    final: Solved, on: FloatArray, levels: AtLevels, master: Master, work: Work
) -> Solved | None:
    """The plan with these sites open, with the columns at hand; None: not found within the work of a guess.

    At other sites than the plan's own the columns at hand may not be enough to hold the levels: there they may break.
    """
    if on is final.fixed_on:
        work.session.go_back("plan")
        return levels.solve(master, work, (on, on), is_feasible=True)
    work.counts["site_trials"] += 1
    work.session.go_back("relaxation")
    return levels.solve(master, work, (on, on), is_guess=True, may_break=True)


def _with_own_columns(
    plan: Solved, levels: AtLevels, master: Master, work: Work, *, may_break: bool
) -> Solved | None:
    """The plan, after the columns that pay with its sites fixed have joined; those of a relaxation are others.

    None: it broke levels, and does so with them too.
    """
    on = plan.fixed_on
    assert on is not None
    for _ in range(PLAN_ROUNDS):
        missing = price_missing(plan, master, levels.nothing_yuan_fixed(plan, master))
        if not join(master, [missing]):
            break
        better = levels.solve(master, work, (on, on), may_break=may_break)
        assert better is not None
        gain_yuan, plan = plan.objective_yuan - better.objective_yuan, better
        if gain_yuan <= PLAN_GAIN_FRAC * abs(plan.objective_yuan):
            break
    return levels.solve(master, work, (on, on), is_guess=True) if may_break else plan


@dataclass(frozen=True, eq=False)
class AtLevels:
    """The relaxation with a row per level that keeps it no worse than a plan's.

    The rows are divided by `scales`, which stay the same from round to round, so that they remain the same rows.
    """

    level_values: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, plan: Solved, master: Master) -> AtLevels:
        """At the levels of a plan."""
        scales = tuple(float(most) for most in master.all_level_amounts().max(axis=1, initial=0.0))
        return cls(plan.level_values, scales)

    def relax(self, master: Master, work: Work, on_bounds: tuple[FloatArray, FloatArray]) -> Priced | None:
        """A part of the choices, in which a level may be broken at the price of its weight: none is without answer."""
        solved = self.solve(master, work, on_bounds, is_guess=True, may_break=True)
        return None if solved is None else self.at_duals(solved, master)

    def plan(self, master: Master, work: Work, on: FloatArray, relaxed: Solved) -> Solved | None:
        """The best plan with these sites open and no level broken."""
        return self.solve(master, work, (on, on), is_guess=True)

    def solve(
        self,
        master: Master,
        work: Work,
        on_bounds: tuple[FloatArray, FloatArray] | None,
        *,
        is_guess: bool = False,
        is_feasible: bool = False,
        may_break: bool = False,
    ) -> Solved | None:
        """Least cost with every level held. None: a guess that led to no optimum.

        What is zero in the plan stays exactly zero in the next one: the least tolerance may be much in a short slot.
        """
        program = with_bounds(master, master.program(), on_bounds)
        fixed_on = on_bounds[0] if on_bounds is not None and np.array_equal(*on_bounds) else None
        weights = level_weights(master)
        amounts, rows = master.all_level_amounts(), []
        for level, (value, scale) in enumerate(zip(self.level_values, self.scales, strict=True)):
            if fixed_on is not None and not may_break and value <= LEVEL_TOLERANCE:
                program.upper[np.flatnonzero(amounts[level])] = 0.0
            if scale > 0:
                most = value * (1 + 1e-7) + LEVEL_TOLERANCE
                rows.append(_level_held(level, amounts[level], scale, most, weights, may_break=may_break))
        program = program.with_rows(rows)
        key = master.column_key()
        if is_guess:
            result = work.guess(program, key)
        else:
            result = work.solve(program, key, is_near=is_feasible, is_feasible=is_feasible)
        if result is None:
            return None
        cost = result.objective
        return Solved(result, program, cost, cost, self.level_values, fixed_on, program.cost)

    def at_duals(self, solved: Solved, master: Master) -> Priced:
        """What the levels cost at the duals of their rows."""
        level_of_class = np.array(LEVEL_OF_RANK)[master.model.sets.problem.classes.priority_rank]
        level_yuan, nothing_yuan = level_weights(master), np.zeros(master.penalty_yuan.shape)
        row = len(solved.program.row_lower) - len(solved.program.temporary)
        for level, scale in enumerate(self.scales):
            if scale > 0:
                level_yuan[level] = max(0.0, -solved.result.duals[row]) / scale
                at_level = level_of_class == level
                nothing_yuan[at_level] = level_yuan[level] * master.penalty_yuan[at_level]
                row += 1
        return Priced(solved, nothing_yuan, level_yuan)

    def nothing_yuan_fixed(self, plan: Solved, master: Master) -> FloatArray:
        """[C,B] what nothing in a block costs at a plan's duals: where a level is zero, nothing is forbidden."""
        level_of_class = np.array(LEVEL_OF_RANK)[master.model.sets.problem.classes.priority_rank]
        nothing_yuan = self.at_duals(plan, master).nothing_yuan
        is_zero = np.array(self.level_values)[level_of_class] <= LEVEL_TOLERANCE
        nothing_yuan[is_zero[:, None] & (master.penalty_yuan > 0)] = math.inf
        return nothing_yuan


def _level_held(
    level: int, amount: FloatArray, scale: float, most: float, weights: FloatArray, *, may_break: bool = False
) -> TemporaryRow:
    """A level's sum ≤ `most`, divided by `scale`; one row for all programs of a plan that hold the level.

    Where it may be broken, what is above `most` costs its weight.
    """
    used = np.flatnonzero(amount)
    return TemporaryRow(
        f"level {level}", used, amount[used] / scale, most / scale,
        excess_yuan=BREAK_FACTOR * weights[level] * scale, most_excess=math.inf if may_break else 0.0,
    )  # fmt: skip
