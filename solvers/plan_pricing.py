"""The relaxation of the slow model: solved with weights for levels, columns priced in, cuts for sites open in part.

Whatever the round, `price_missing` says what the columns that are not in the program could still gain, so that every
solve bounds the model with all columns.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.clock import Clock
from solvers.linear import INFINITY, LpLimits, LpResult, LpStatus, Program
from solvers.lp_session import Session
from solvers.plan_master import Master, Routes
from solvers.plan_rules import (
    LEVEL_COUNT,
    LEVEL_HARD_CAPS,
    LEVEL_HARD_SAFETY,
    LEVEL_OF_RANK,
    NO_INDEX,
    OpenCuts,
    PlanModel,
    PlanSets,
    is_stage,
    largest_share_on_a_site,
    sum_over,
    with_cuts,
)

# Weights of the weighted solve, each level an order of magnitude above what the next can bring together in practice.
# They decide between choices of open sites; at the sites chosen the levels are then settled exactly.
HARD_SAFETY_YUAN = 1e5
HARD_CAP_YUAN_PER_KWH = 1e4
UNSERVED_YUAN_PER_KWH = (1e5, 0.0, 1000.0, 150.0, 25.0)
OPENING_FACTOR = 2.0
"""Unserved work costs so many times what a site opened for it alone would draw."""
LEVEL_TOLERANCE = 1e-6
CUT_TOLERANCE = 1e-3
CALM = 0.6
"""Weight of the best duals so far when they are mixed with those of a round."""
REDUCED_COST_NOISE = 1e-9
CALM_GAIN_FRAC = 1e-3
"""Before cuts, pricing stops when a round gains less than this share of the cost."""
GUESS_ITERATIONS = 1000
"""Simplex iterations of one such trial; those that improved a plan of songjiang-m took up to 813."""


@dataclass(frozen=True)
class PlanLimits:
    """Work limits of one plan. `wall_s` is a safety net that aborts; it never shapes an answer."""

    lp_iterations: int = 400_000
    pricing_rounds: int = 8
    pricing_gap_frac: float = 5e-5
    """Stop pricing when missing routes and patterns can gain less than this share of the objective."""
    bound_rounds: int = 12
    """Rounds of pricing for the bound where work stays unserved."""
    cut_rounds: int = 2
    site_trials: int = 6
    warm_site_trials: int = 2
    """Trials of other open sites when work is already running: the plan of an hour ago has looked already."""
    fleet_gap_frac: float = 2e-3
    edge_gap_frac: float = 0.029
    """As long as a gap is above its share, the search of open sites goes on, up to so many trials. Half the fleet's
    share costs half as much processor time again and lowers the cost of 16 plans of songjiang-s by 0.01 %."""
    edge_trials: int = 20
    pattern_columns: int = 80
    with_certificate: bool = True
    """Whether the plan carries its proof for `suanli verify`; its bounds are stated either way."""
    wall_s: float = 600.0


@dataclass
class Work:
    """Deterministic counters and, apart, wall clock by phase."""

    limits: PlanLimits
    counts: dict[str, float] = field(
        default_factory=lambda: {"lp_solves": 0, "lp_iterations": 0, "site_trials": 0, "pricing_rounds": 0}
    )
    clock: Clock = field(default_factory=Clock)
    deadline: float = math.inf
    session: Session = field(default_factory=Session)

    def solve(
        self, program: Program, column_key: IntArray, *, is_near: bool = False, is_feasible: bool = False
    ) -> LpResult:
        """One LP, counted; goes on from the last one. `PlanAborted` when limits end it without an optimum."""
        limits = LpLimits(iterations=self.limits.lp_iterations, is_near=is_near, is_feasible=is_feasible)
        result = self._counted(program, column_key, limits)
        if result.status is not LpStatus.OPTIMAL:
            raise PlanAborted(f"linear program ended {result.status.value} {result.message}".rstrip())
        return result

    def guess(self, program: Program, column_key: IntArray) -> LpResult | None:
        """As `solve`, for a few iterations; None when no optimum was found with them."""
        limits = LpLimits(iterations=min(GUESS_ITERATIONS, self.limits.lp_iterations), is_guess=True)
        result = self._counted(program, column_key, limits)
        return result if result.status is LpStatus.OPTIMAL else None

    def _counted(self, program: Program, column_key: IntArray, limits: LpLimits) -> LpResult:
        left = self.deadline - time.monotonic()
        budget = self.limits.lp_iterations - int(self.counts["lp_iterations"])
        if left <= 0 or budget <= 0:
            raise PlanAborted("limits are used up")
        limits = replace(limits, iterations=min(limits.iterations, budget), wall_s=left)
        result = self.session.solve(program, column_key, limits)
        self.counts["lp_solves"] += 1
        self.counts["lp_iterations"] += result.iterations
        return result


class PlanAborted(Exception):
    """A linear program did not end with an optimum."""


@dataclass(frozen=True, eq=False)
class Solved:
    """Optimum of the master. `fixed_on`: which sites are open, None where they may be so in part."""

    result: LpResult
    program: Program
    objective_yuan: float
    """What was minimised: cost + Σ weight·level, or cost alone once the levels are settled."""
    cost_yuan: float
    level_values: tuple[float, ...]
    fixed_on: FloatArray | None
    priced_cost: FloatArray | None = None
    """Cost per column with the levels' weights, as it was minimised; None once the levels are settled."""


def solve_weighted(master: Master, work: Work, on_bounds: tuple[FloatArray, FloatArray] | None) -> Solved:
    """Minimise cost + Σ weight·level with `on` within bounds (None: 0..1).

    One solve that is lexicographic whenever all levels come out at zero.
    """
    program = with_bounds(master, master.program(), on_bounds)
    weights = level_weights(master)
    amounts = master.all_level_amounts()
    penalty = weights @ amounts
    result = work.solve(replace_cost(program, program.cost + penalty), master.column_key())
    values = tuple(max(0.0, float(a @ result.x)) for a in amounts)
    cost_yuan = result.objective - float(np.dot(weights, values))
    return Solved(result, program, result.objective, cost_yuan, values, None, program.cost + penalty)


def price_in(solved: Solved, master: Master, work: Work, *, until_calm: bool = False) -> tuple[Solved, float]:
    """Let routes, batch columns and patterns of negative reduced cost join until they can gain next to nothing.

    `until_calm`: also stop once a round has gained next to nothing, whatever is left for the bound.

    Returns a bound in any case. At duals π the missing columns of a class can lower the objective by no more than its
    cheapest route (shares of a class add up to 1), batch work by its cheapest column per hour times its work, a graph
    by its cheapest pattern. So LP objective + those gains bounds the model with *all* columns from below.
    """
    bound = -math.inf
    centre: FloatArray | None = None
    for _ in range(work.limits.pricing_rounds):
        missing = price_missing(solved, master)
        before_centre, own_bound = centre, solved.objective_yuan + missing.gain_yuan
        if own_bound > bound:
            bound, centre = own_bound, solved.result.duals
        enough_yuan = work.limits.pricing_gap_frac * abs(solved.cost_yuan)
        if solved.objective_yuan - bound <= enough_yuan:
            break
        work.counts["pricing_rounds"] += 1
        found = [missing]
        if before_centre is not None:
            calm = with_duals(solved, CALM * before_centre + (1 - CALM) * solved.result.duals)
            found.append(price_missing(calm, master))
            calm_bound = lagrangian(calm, master, found[-1])
            if calm_bound > bound:
                bound, centre = calm_bound, calm.result.duals
        pauses = master.pauses(solved.result.x)
        if not join(master, found) + master.add_routes(pauses):
            break
        before_yuan = solved.objective_yuan
        solved = solve_weighted(master, work, None)
        if until_calm and before_yuan - solved.objective_yuan <= CALM_GAIN_FRAC * abs(solved.cost_yuan):
            break
    gain = price_missing(solved, master).gain_yuan
    return solved, max(bound, solved.objective_yuan + gain)


def join(master: Master, found: list[Missing]) -> int:
    """Let columns join that pay; returns how many were new."""
    return sum(master.add_routes(f.routes) + master.add_columns(f.columns) for f in found)


def with_used_columns(master: Master, work: Work) -> Master:
    """The master without the columns that no optimum so far has had in its basis.

    They are two of three, and every solve pays for all; those that are good elsewhere, the next pricing finds.
    """
    key = master.column_key()
    thin = master.only_used(work.session.was_basic(key))
    work.session.leave_out_others(thin.program(), thin.column_key())
    return thin


def with_duals(solved: Solved, duals: FloatArray) -> Solved:
    """The same, at other row duals."""
    return replace(solved, result=replace(solved.result, duals=duals))


def lagrangian(priced: Solved, master: Master, missing: Missing) -> float:
    """Dual function of the model with all columns, at any duals: rows and columns at their better sides.

    Duals of one round swing where capacity is scarce; a mean of two rounds is calmer and often bounds much better, but
    is no optimum of a program, so its bound is worked out here.
    """
    program, duals = priced.program, priced.result.duals
    assert priced.priced_cost is not None
    used = duals != 0.0
    sides = np.where(duals[used] > 0, program.row_lower[used], program.row_upper[used])
    kept = len(master.kept_column)
    reduced = priced.priced_cost[:kept] - program.matrix[:, :kept].T @ duals
    # what is basic in both rounds has reduced cost zero but for rounding
    reduced[np.abs(reduced) <= REDUCED_COST_NOISE * (1.0 + np.abs(priced.priced_cost[:kept]))] = 0.0
    moved = np.flatnonzero(reduced)
    ends = np.where(reduced[moved] > 0, program.lower[moved], program.upper[moved])
    total = program.offset + float(duals[used] @ sides) + float(reduced[moved] @ ends)
    total += missing.least_routes_yuan + missing.pattern_gain_yuan + missing.run_gain_yuan
    return total if math.isfinite(total) else -math.inf


@dataclass(frozen=True, eq=False)
class Missing:
    """Columns that would pay at some duals, and the most that all columns not in the program can gain (≤ 0)."""

    routes: Routes
    columns: IntArray
    """Batch columns and patterns."""
    least_routes_yuan: float
    """Σ over classes of the cheapest route's reduced cost, be it negative or not."""
    pattern_gain_yuan: float
    run_gain_yuan: float

    @property
    def gain_yuan(self) -> float:
        """At the optimum of a program, where no route in use has a positive reduced cost."""
        return min(self.least_routes_yuan, 0.0) + self.pattern_gain_yuan + self.run_gain_yuan


def price_missing(solved: Solved, master: Master, nothing_yuan: FloatArray | None = None) -> Missing:
    """Price every route, batch column and pattern at the duals of a solve, exactly.

    `nothing_yuan`[C,B] is what nothing in a block costs there; by default as in the weighted solve.
    """
    nothing = nothing_yuan_at_weights(master) if nothing_yuan is None else nothing_yuan
    routes = master.cheapest_routes(solved.result.duals, nothing)
    pays = routes.reduced_cost < -LEVEL_TOLERANCE
    patterns, pattern_gain = master.cheapest_patterns(solved.result.duals)
    runs, run_gain = master.cheapest_runs(solved.result.duals)
    return Missing(
        routes=Routes(routes.routes.class_index[pays], routes.routes.unit[pays]),
        columns=np.concatenate([runs, patterns]),
        least_routes_yuan=float(routes.least.sum()),
        pattern_gain_yuan=pattern_gain,
        run_gain_yuan=run_gain,
    )


def level_weights(master: Master) -> FloatArray:
    """[levels] weight of each level's sum, in yuan per yuan of penalty (per kWh for hard caps).

    One weight for a whole level, so that a plan whose levels are no worse has no larger weighted sum. Unserved
    work costs at least `UNSERVED_YUAN_PER_KWH` times what it would draw and more than a site opened for it alone,
    hard safety 100 000 per replica-hour.
    """
    if master.level_weights is None:
        master.level_weights = _level_weights(master)
    return master.level_weights.copy()


def _level_weights(master: Master) -> FloatArray:
    sets, p = master.model.sets, master.model.sets.problem
    most_kw = np.zeros(p.class_count)
    np.maximum.at(most_kw, p.pairs.class_index, np.where(sets.passes, sets.useful_kw, 0.0))
    level = np.array(LEVEL_OF_RANK)[p.classes.priority_rank]
    penalty = p.classes.unserved_yuan_per_replica_h
    wanted = (sets.demand.max(axis=1, initial=0.0) > 0) & (penalty > 0)
    floor_yuan = np.array(UNSERVED_YUAN_PER_KWH)[level] * most_kw + OPENING_FACTOR * _opening_yuan(sets)
    floor_yuan = np.where(level == LEVEL_HARD_SAFETY, np.maximum(floor_yuan, HARD_SAFETY_YUAN), floor_yuan)
    ratio = np.divide(floor_yuan, penalty, out=np.zeros(len(penalty)), where=wanted)
    weights = np.zeros(LEVEL_COUNT)
    np.maximum.at(weights, level, ratio)
    weights[LEVEL_HARD_CAPS] = HARD_CAP_YUAN_PER_KWH
    return weights


def _opening_yuan(sets: PlanSets) -> FloatArray:
    """[C] overhead of the cheapest site that could open for a class alone, yuan per replica-hour that it wants."""
    p, hours = sets.problem, sets.problem.slots.hours
    yuan_per_h = (sets.energy_yuan_per_kwh * (p.sites.fixed_kw - p.sites.off_kw)).max(axis=1)
    yuan_per_h = np.where(sets.may_close, np.maximum(yuan_per_h, 0.0), 0.0)
    cheapest = np.full(p.class_count, np.inf)
    np.minimum.at(cheapest, p.pairs.class_index[sets.passes], yuan_per_h[p.pair_site[sets.passes]])
    wanted_h = sum_over(sets.block_of_slot, sets.demand * hours)
    open_h = np.where(wanted_h > 0, sum_over(sets.block_of_slot, hours), 0.0).sum(axis=1)
    cost = np.where(np.isfinite(cheapest), cheapest, 0.0) * open_h
    return np.asarray(np.divide(cost, wanted_h.sum(axis=1), out=np.zeros(p.class_count), where=open_h > 0))


def nothing_yuan_at_weights(master: Master) -> FloatArray:
    """[C,B] what leaving a class unserved in a block adds to the weighted objective."""
    level = np.array(LEVEL_OF_RANK)[master.model.sets.problem.classes.priority_rank]
    return np.asarray(level_weights(master)[level][:, None] * master.penalty_yuan)


@dataclass(frozen=True, eq=False)
class Priced:
    """A relaxation at its optimum or at other duals, and what unserved work costs at these."""

    solved: Solved
    nothing_yuan: FloatArray
    """[C,B] what nothing in a block costs at the duals."""
    level_yuan: FloatArray
    """[levels] multipliers of the levels."""


def replace_cost(program: Program, cost: FloatArray, offset: float | None = None) -> Program:
    """The same program with another objective."""
    return replace(program, cost=cost, offset=program.offset if offset is None else offset)


def with_bounds(master: Master, program: Program, on_bounds: tuple[FloatArray, FloatArray] | None) -> Program:
    """The program with `on` within bounds."""
    if on_bounds is None:
        return program
    on = master.position(master.model.columns_of("on"))
    program = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
    program.lower[on], program.upper[on] = on_bounds
    return program


def broken_open_cuts(solved: Solved, model: PlanModel, master: Master) -> OpenCuts:
    """(class, site, slot) where more of what may lie on a site does so than the site is open.

    Of the slots of a block (and of an era, for stages of graphs) the first in which the class has demand.
    """
    if not len(model.columns_of("on")):
        return NO_INDEX, NO_INDEX, NO_INDEX
    s, p = model.sets, model.sets.problem
    values = master.base_values(solved.result.x)
    share = np.zeros((p.class_count, p.site_count, p.slot_count))
    for name, span_of_slot in (("place", s.block_of_slot), ("stage_place", s.era_of_slot)):
        pair, span = model.keys[name]
        of_span = np.zeros((p.class_count, p.site_count, int(span_of_slot[-1]) + 1))
        np.add.at(
            of_span, (p.pairs.class_index[pair], p.pair_site[pair], span), values[model.columns_of(name)]
        )
        share += of_span[:, :, span_of_slot]
    share /= largest_share_on_a_site(p)[:, None, None]
    on = np.where(model.on_column >= 0, values[model.on_column], INFINITY)
    broken = (share > on + CUT_TOLERANCE) & _first_demand(s)[:, None, :]
    c, site, slot = np.nonzero(broken)
    return c, site, slot


def _first_demand(s: PlanSets) -> BoolArray:
    """[C,T] first slot with demand in each block and era; for services, which have no eras, in each block."""
    span = np.where(
        is_stage(s.problem)[:, None], s.block_of_slot * s.era_count + s.era_of_slot, s.block_of_slot
    )
    wanted = s.demand > 0
    first = np.zeros_like(wanted)
    for t in range(s.problem.slot_count):
        same = span[:, :t] == span[:, t, None]
        first[:, t] = wanted[:, t] & ~(same & wanted[:, :t]).any(axis=1)
    return first


def with_open_cuts(
    model: PlanModel, master: Master, cuts: OpenCuts, work: Work
) -> tuple[Solved, PlanModel, Master]:
    """The model with more cuts, solved again."""
    fresh = with_more_cuts(master, cuts, work)
    return solve_weighted(fresh, work, None), fresh.model, fresh


def with_more_cuts(master: Master, cuts: OpenCuts, work: Work) -> Master:
    """The master of the model with more cuts, whose rows come after all others; its columns are the same."""
    work.counts["open_cuts"] = work.counts.get("open_cuts", 0) + len(cuts[0])
    old = master.model.sets.open_cuts
    joined = (
        np.concatenate([old[0], cuts[0]]),
        np.concatenate([old[1], cuts[1]]),
        np.concatenate([old[2], cuts[2]]),
    )
    return master.with_model(with_cuts(master.model, joined))
