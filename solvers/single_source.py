"""Single-source placement: every class of one replica on one site, with fixed site costs; a plan with a proven bound.

`solve_single_source` is the public function. Its steps:

1. `assignment_of`: the problem as arrays, or the reasons why this model does not fit it.
2. Sites that cost something to open (`assign_and_open`): small problems go to branch and bound at once. Else a rough
   Lagrangian bound and a search over sets of open sites give an incumbent; penalties strike out pairs that no better
   solution uses, and what is left of a medium problem is branched on. Otherwise more search, a sharper bound, and
   step 3 within the incumbent's sites.
3. Open sites given, or free of charge (`assign_open`): linear relaxation, Lagrangian bound, exchange annealing beside
   HiGHS on the columns that can still improve the incumbent, then large-neighbourhood search with CP-SAT.

With `WorkLimits` equal arguments give equal answers. With a wall limit the same steps share the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.assignment import AssignmentProblem, assignment_of, placements_of, plan_of
from solvers.assignment_bounds import (
    Relaxation,
    ascend,
    fewest_bins,
    lagrangian,
    linear_relaxation,
    promising_pairs,
    rounded_up,
)
from solvers.assignment_certificate import with_certificate
from solvers.assignment_search import Found, anneal
from solvers.assignment_tree import assignment_program, branch
from solvers.improve import ImproveLimits, improve
from solvers.integer import IntegerLimits, IntegerResult, solve_integer
from solvers.linear import LpLimits
from solvers.problem import PlacementProblem
from solvers.site_search import SiteSearch
from solvers.solution import NodePlacements, PlanSolution, SolveStatus, no_plan

MODEL = "single source: one site per class, fixed site cost, one capacity"
EASY_PAIRS, EASY_S = 2_500, 1.0
"""Problems with fixed costs of at most so many pairs are branched on at once, for so long where the clock limits:
files of the OR-Library with 50 × 50 pairs take 0.01 to 0.4 s, and what takes longer gains from step 1."""
SMALL_PAIRS = 6_000
"""Problems with fixed costs with at most so many promising pairs are branched on; a node takes 2 to 20 ms."""
COLUMNS_PER_JOB = 12
"""Columns that HiGHS is given for each job; more only slow it down where it cannot finish anyway."""
FIRST_SETS, SETS, SET_EXCHANGES = 3, 20, 3_000
"""Sets of sites that get a short annealing run at first and later, and its exchanges (0.05 s with a few open sites)."""
BETTER_SETS = 2
"""Sets that look better than the incumbent's and get a longer search for an assignment, one after the other."""
ASCENT_TARGET_FRAC = 0.01
"""Room above the bound that the ascent aims at while no solution is known."""
UNLIMITED = 10**9
"""Steps of a search that ends by the clock."""
PRICE_CELLS = 20_000_000
"""Table of the exact knapsacks by which prices of jobs are compared for the certificate: 0.2 s."""
LEAST_WALL_S = 1e-3
"""A limit of nothing is this: shares of it are times, and every step looks at the clock once."""
SAME = 1e-9
"""Relative difference of two objectives that counts as none."""


@dataclass(frozen=True)
class WorkLimits:
    """Deterministic limits of each step, or wall clock for all together (`wall_s`, then the others are ignored)."""

    wall_s: float | None = None
    ascent_steps: int = 150
    anneal_runs: int = 4
    exchanges_per_job: int = 200
    integer_nodes: int = 500
    improve_rounds: int = 10
    site_trials: int = 300


@dataclass(frozen=True, eq=False)
class SingleSourcePlan:
    """A plan with its assignment: `bin_of[c]` is the site (and node group) of class c; None without a plan."""

    plan: PlanSolution
    bin_of: IntArray | None

    @property
    def placements(self) -> NodePlacements | None:
        """The assignment as replicas on nodes."""
        return None if self.bin_of is None else placements_of(self.bin_of)


def solve_single_source(
    problem: PlacementProblem,
    limits: WorkLimits = WorkLimits(),
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> SingleSourcePlan:
    """The cheapest assignment found and the proven bound; NotSingleSource when the problem has other rules."""
    budget = Budget(limits.wall_s, clock)
    core = assignment_of(problem)
    answer = solve_assignment(core, limits, seed, budget)
    if answer.bin_of is None:
        message = {
            SolveStatus.INFEASIBLE: "no assignment within the capacities exists",
            SolveStatus.UNKNOWN: "no assignment was found within the limits",
        }[answer.status]
        return SingleSourcePlan(no_plan(problem, answer.status, message), None)
    plan = plan_of(problem, answer.bin_of, answer.bound, answer.status, MODEL)
    if answer.job_price is not None:
        plan = with_certificate(problem, core, answer.job_price, plan)
    return SingleSourcePlan(replace(plan, work=answer.work, seconds={"solve": budget.spent_s}), answer.bin_of)


class Budget:
    """Wall clock shared by the steps; without a limit it never ends, and the steps' own limits count."""

    def __init__(self, wall_s: float | None, clock: Callable[[], float]) -> None:
        self._clock, self._started = clock, clock()
        self.wall_s = None if wall_s is None else max(wall_s, LEAST_WALL_S)

    @property
    def spent_s(self) -> float:
        """Since the start."""
        return self._clock() - self._started

    def until(self, share: float) -> Callable[[], bool]:
        """Whether less than this share of the time is spent."""
        return lambda: self.wall_s is None or self.spent_s < share * self.wall_s

    def seconds_to(self, share: float) -> float | None:
        """Seconds left until this share of the time is spent; None: no wall limit."""
        return None if self.wall_s is None else max(share * self.wall_s - self.spent_s, 0.0)

    def parts_until(self, share: float) -> Callable[[float], float]:
        """Function of a part (0..1) of the time from now to `share`: the share of all time at its end."""
        begin = 0.0 if self.wall_s is None else self.spent_s / self.wall_s
        return lambda part: begin + (share - begin) * part

    def progress_to(self, share: float) -> Callable[[int], float] | None:
        """How much of the time from now to this share is over; None: no wall limit."""
        if self.wall_s is None:
            return None
        begin, length = self.spent_s, max(share * self.wall_s - self.spent_s, 1e-9)
        return lambda _step: (self.spent_s - begin) / length


@dataclass(frozen=True, eq=False)
class Assigned:
    """Answer for the arrays alone."""

    status: SolveStatus
    bin_of: IntArray | None
    bound: float | None
    work: dict[str, float]
    job_price: FloatArray | None = None
    """[n] prices of the jobs whose relaxed bound is the highest known; None: none were found."""


class _Best:
    """The incumbent and the proven bound of one solve."""

    def __init__(self, problem: AssignmentProblem) -> None:
        self.problem = problem
        self.bin_of: IntArray | None = None
        self.objective, self.bound = np.inf, -np.inf
        self.work: dict[str, float] = {}
        self._job_price: FloatArray | None = None
        self._proven_by_price = -np.inf

    def note_prices(self, job_price: FloatArray) -> None:
        """Keep these prices if they prove more than those before."""
        proven = lagrangian(self.problem, job_price, fewest_bins(self.problem), PRICE_CELLS).bound
        self.raise_bound(proven)
        if proven > self._proven_by_price:
            self._job_price, self._proven_by_price = job_price, proven

    def offer(self, bin_of: IntArray | None) -> None:
        """Take the assignment if it is feasible and better."""
        if bin_of is None or not self.problem.is_feasible(bin_of):
            return
        objective = self.problem.objective(bin_of)
        if objective < self.objective - SAME * abs(objective):
            self.bin_of, self.objective = np.array(bin_of), objective

    def raise_bound(self, bound: float) -> None:
        """Take a higher proven bound; never above the incumbent, which differs then by rounding only."""
        if np.isfinite(bound):
            self.bound = min(max(self.bound, rounded_up(self.problem, bound)), self.objective)

    @property
    def is_proven(self) -> bool:
        """Bound and incumbent meet."""
        return self.bin_of is not None and self.objective - self.bound <= 1e-7 * max(1.0, abs(self.objective))

    def count(self, name: str, amount: float) -> None:
        """Add to a work counter."""
        self.work[name] = self.work.get(name, 0.0) + amount

    def answer(self, status_without: SolveStatus = SolveStatus.UNKNOWN) -> Assigned:
        """What is known at the end."""
        if self.bin_of is None:
            return Assigned(status_without, None, None, self.work)
        status = SolveStatus.OPTIMAL if self.is_proven else SolveStatus.FEASIBLE
        bound = self.bound if np.isfinite(self.bound) else None
        return Assigned(status, self.bin_of, bound, self.work, self._job_price)


def solve_assignment(problem: AssignmentProblem, limits: WorkLimits, seed: int, budget: Budget) -> Assigned:
    """The same for arrays: bound and assignment, fixed costs included."""
    best = _Best(problem)
    if problem.job_count == 0:
        best.offer(np.zeros(0, dtype=np.int64))
        best.raise_bound(problem.offset)
        return best.answer()
    if not problem.allowed.any(axis=0).all():
        return best.answer(SolveStatus.INFEASIBLE)
    if not (problem.fixed > 0).any():
        return assign_open(best, limits, seed, budget, share=1.0)
    return assign_and_open(best, limits, seed, budget)


# -- open sites given --------------------------------------------------------------------------------------------


def assign_open(best: _Best, limits: WorkLimits, seed: int, budget: Budget, share: float) -> Assigned:
    """Generalised assignment on bins that cost nothing to open, until `share` of the time is spent."""
    p, at = best.problem, budget.parts_until(share)
    relaxation = linear_relaxation(p, LpLimits())
    if relaxation is None:
        result, bin_of = _solve_whole(p, p.allowed, limits, budget.seconds_to(at(0.9)))
        best.offer(bin_of)
        best.raise_bound(result.bound)
        nowhere = result.status is SolveStatus.INFEASIBLE
        return best.answer(SolveStatus.INFEASIBLE if nowhere else SolveStatus.UNKNOWN)
    best.raise_bound(relaxation.bound)
    _anneal_until(best, relaxation, limits, seed, budget, at(0.1))
    _ascend_until(best, relaxation, limits, budget, at(0.2))
    if not best.is_proven:
        _anneal_beside_program(best, relaxation, limits, seed, budget, at(0.4))
    if best.bin_of is not None and not best.is_proven:
        rounds = UNLIMITED if budget.wall_s is not None else limits.improve_rounds
        reduced, go_on = relaxation.reduced_cost(p), budget.until(at(0.96))
        better = improve(p, best.bin_of, reduced, ImproveLimits(rounds), seed, go_on)
        best.count("blocks", better.blocks)
        best.offer(better.bin_of)
        best.raise_bound(best.bound)
    return best.answer()


def _ascend_until(
    best: _Best, relaxation: Relaxation, limits: WorkLimits, budget: Budget, share: float
) -> None:
    """The Lagrangian bound, from the prices of the linear relaxation towards the incumbent."""
    target = best.objective
    if best.bin_of is None:
        target = relaxation.bound + ASCENT_TARGET_FRAC * abs(relaxation.bound)
    steps = UNLIMITED if budget.wall_s is not None else limits.ascent_steps
    dual, prices = ascend(best.problem, relaxation.job_price, target, steps, budget.until(share))
    best.raise_bound(dual.bound)
    best.note_prices(prices)


def _anneal_beside_program(
    best: _Best, relaxation: Relaxation, limits: WorkLimits, seed: int, budget: Budget, share: float
) -> None:
    """HiGHS on the promising columns in one thread, annealing from other seeds in this one."""
    columns, complete = _promising(best.problem, relaxation, best.objective)
    in_time, runs = budget.until(share), 1
    with ThreadPoolExecutor(1) as pool:
        program = pool.submit(_solve_whole, best.problem, columns, limits, budget.seconds_to(share))
        while (
            (in_time() and not program.done()) if budget.wall_s is not None else (runs < limits.anneal_runs)
        ):
            _anneal_until(best, relaxation, limits, seed + runs, budget, share)
            runs += 1
        result, bin_of = program.result()
    best.count("anneal_runs", runs)
    _take_program(best, result, bin_of, complete)


def _anneal_until(
    best: _Best, relaxation: Relaxation, limits: WorkLimits, seed: int, budget: Budget, share: float
) -> Found:
    """One annealing run, ended by its exchanges or, if that is sooner, by the share of time."""
    exchanges = limits.exchanges_per_job * best.problem.job_count
    by_time = budget.progress_to(share)
    progress = None if by_time is None else lambda step: max(step / exchanges, by_time(step))
    found = anneal(best.problem, relaxation, seed, exchanges, progress)
    best.count("exchanges", found.exchanges)
    best.offer(found.bin_of)
    return found


def _promising(p: AssignmentProblem, relaxation: Relaxation, objective: float) -> tuple[BoolArray, bool]:
    """Columns that may be part of something better than `objective`, and whether that is all of them."""
    reduced = relaxation.reduced_cost(p)
    room = objective - relaxation.bound
    useful = p.allowed & (reduced <= (room if np.isfinite(room) else np.inf))
    if useful.sum() <= COLUMNS_PER_JOB * p.job_count:
        return useful, True
    rank = np.argsort(np.argsort(reduced, axis=0, kind="stable"), axis=0, kind="stable")
    return useful & (rank < COLUMNS_PER_JOB), False


def _take_program(best: _Best, result: IntegerResult, bin_of: IntArray | None, complete: bool) -> None:
    """What the integer program adds: a solution, and a bound where nothing better than the incumbent was left out."""
    before = best.objective
    best.offer(bin_of)
    if complete:
        best.raise_bound(min(result.bound, before))
    else:
        best.raise_bound(best.bound)


def _solve_whole(
    p: AssignmentProblem, columns: BoolArray, limits: WorkLimits, wall_s: float | None
) -> tuple[IntegerResult, IntArray | None]:
    """The integer program with these columns, x ≤ y where opening costs something."""
    model = assignment_program(p, columns)
    nodes = None if wall_s is not None else limits.integer_nodes
    result = solve_integer(
        model.program, np.ones(len(model.program.cost), dtype=bool), IntegerLimits(nodes, wall_s)
    )
    if result.x is None:
        return result, None
    bin_of = model.bin_of(result.x, p.job_count)
    return result, bin_of if (bin_of >= 0).all() else None


# -- which sites to open -----------------------------------------------------------------------------------------


def assign_and_open(best: _Best, limits: WorkLimits, seed: int, budget: Budget) -> Assigned:
    """Single-source facility location: which sites to open, and who serves whom."""
    p, wall = best.problem, budget.wall_s is not None

    # 0. easy ones are proven before a search would have begun
    if p.allowed.sum() <= EASY_PAIRS:
        in_time = budget.until(0.85 if budget.wall_s is None else min(0.85, EASY_S / budget.wall_s))
        if _branch_on(best, p.allowed, limits, seed, in_time):
            return best.answer(SolveStatus.INFEASIBLE)

    # 1. a bound, a good set of open sites, and an assignment within it
    at = budget.parts_until(1.0)
    search, tried = SiteSearch(p, limits.ascent_steps, seed), set[bytes]()
    search.begin(budget.until(at(0.3)))
    best.raise_bound(search.dual.bound)
    best.note_prices(search.prices)
    search.exchange(limits.site_trials // 3, budget.until(at(0.35)))
    _assign_sets(best, search, tried, FIRST_SETS, limits, seed, budget.until(at(0.4)))

    # 2. what is left of a medium problem is branched on: at the end proven, at least with a sharp bound
    columns = promising_pairs(p, search.prices, search.dual, best.objective)
    is_small = bool(columns.sum() <= SMALL_PAIRS)
    if is_small:
        best.count("program_pairs", float(columns.sum()))
        if _branch_on(best, columns, limits, seed, budget.until(at(0.6))):
            return best.answer(SolveStatus.INFEASIBLE)

    # 3. more sets of sites, then a sharper bound and the best assignment within the best set
    search.exchange(
        UNLIMITED if wall else 4 * limits.site_trials, budget.until(at(0.62 if is_small else 0.45))
    )
    _assign_sets(best, search, tried, SETS, limits, seed, budget.until(at(0.66 if is_small else 0.5)))
    best.count("site_trials", search.judge.trials)
    best.count("site_programs", search.judge.programs)
    sharp, prices = search.sharpened(budget.until(at(0.68 if is_small else 0.55)))
    best.raise_bound(sharp)
    best.note_prices(prices)
    begin, end = (0.68, 0.78) if is_small else (0.55, 0.85)
    better_sets = _sets_before_incumbent(best, search)
    for i, sites in enumerate(better_sets):
        part = (i + 1) / (len(better_sets) + 1)
        _finish_within(best, sites, limits, seed, budget, at(begin + part * (end - begin)))
    sites = search.sites if best.bin_of is None else np.unique(best.bin_of)
    _finish_within(best, sites, limits, seed, budget, at(end))
    if best.bin_of is None:
        # the cheapest sets are the fullest ones: any assignment is better than none
        _finish_within(best, np.arange(p.bin_count), limits, seed, budget, at(0.93))
    if best.bin_of is not None and not best.is_proven:
        rounds = UNLIMITED if wall else limits.improve_rounds
        reduced = np.where(
            p.allowed, p.cost + p.fixed[:, None] * p.load / np.maximum(p.capacity, 1)[:, None], np.inf
        )
        better = improve(p, best.bin_of, reduced, ImproveLimits(rounds), seed, budget.until(at(0.96)))
        best.count("blocks", better.blocks)
        best.offer(better.bin_of)
    best.raise_bound(best.bound)
    return best.answer()


def _branch_on(
    best: _Best, columns: BoolArray, limits: WorkLimits, seed: int, go_on: Callable[[], bool]
) -> bool:
    """Branch and bound on the columns that something better than the incumbent may use; whether that settles it."""
    before = best.objective
    nodes = limits.integer_nodes if limits.wall_s is None else UNLIMITED

    def assign(sites: IntArray) -> IntArray | None:
        return _anneal_within(best, sites, limits, seed)

    found = branch(best.problem, columns, best.bin_of, nodes, go_on, assign)
    best.count("nodes", found.nodes)
    best.offer(found.bin_of)
    best.raise_bound(min(found.bound, before))
    if found.job_price is not None:
        best.note_prices(found.job_price)
    return best.is_proven or (found.bin_of is None and found.bound == np.inf)


def _assign_sets(
    best: _Best,
    search: SiteSearch,
    tried: set[bytes],
    most: int,
    limits: WorkLimits,
    seed: int,
    go_on: Callable[[], bool],
) -> None:
    """A short annealing run within each of the best sets not tried yet, while their relaxed value is below the
    incumbent; the first one runs whatever the time."""
    fresh = [(value, sites) for value, sites in search.judge.best_sets() if sites.tobytes() not in tried]
    for value, sites in fresh[:most]:
        if value >= best.objective or (not go_on() and best.bin_of is not None):
            break
        tried.add(sites.tobytes())
        best.offer(_anneal_within(best, sites, limits, seed))


def _anneal_within(best: _Best, sites: IntArray, limits: WorkLimits, seed: int) -> IntArray | None:
    """A short annealing run with these sites open."""
    within = best.problem.within(sites)
    relaxation = linear_relaxation(within, LpLimits()) if within.allowed.any(axis=0).all() else None
    if relaxation is None:
        return None
    found = anneal(within, relaxation, seed, min(limits.exchanges_per_job * within.job_count, SET_EXCHANGES))
    best.count("exchanges", found.exchanges)
    return None if found.bin_of is None else sites[found.bin_of]


def _sets_before_incumbent(best: _Best, search: SiteSearch) -> list[IntArray]:
    """Sets with a lower relaxed value than the incumbent's: full ones, where a short annealing run found nothing."""
    own = np.inf if best.bin_of is None else search.judge.value(np.unique(best.bin_of))
    return [sites for value, sites in search.judge.best_sets()[:BETTER_SETS] if value < own]


def _finish_within(
    best: _Best, sites: IntArray, limits: WorkLimits, seed: int, budget: Budget, share: float
) -> None:
    """The generalised assignment problem on these sites, from the incumbent where it uses no others."""
    within = _Best(best.problem.within(sites))
    if best.bin_of is not None and np.isin(best.bin_of, sites).all():
        within.offer(np.searchsorted(sites, best.bin_of))
    found = assign_open(within, limits, seed, budget, share)
    if found.bin_of is not None:
        best.offer(sites[found.bin_of])
    for name, amount in found.work.items():
        best.count(name, amount)
