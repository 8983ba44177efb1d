"""Large-neighbourhood search with CP-SAT around any feasible assignment: free some bins, solve them exactly, repeat.

A round splits the bins at random into blocks. Jobs stay within their block, so blocks are independent programs, solved
side by side on `workers` threads, and their gains add up. A block's program is that of solvers/assignment.py on its
bins and jobs, with the present cost as an upper limit, so no round makes things worse. Blocks grow while they are
solved to optimality within their share of work and shrink when they are not.

Work is counted in CP-SAT's deterministic time: equal arguments give equal answers, whatever the machine's load, unless
`go_on` ends the search by the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.assignment import AssignmentProblem

COST_STEPS = 10**7
"""Costs are handed to CP-SAT as integers; fractional ones in so many steps over the block's present cost."""
FIRST_JOBS, FEWEST_JOBS, GROWTH = 30, 12, 1.15
"""Jobs of a block: at first, at least, and the factor by which the size follows its success."""
MOST_CANDIDATES = 5
"""Bins that a job may move to within its block, cheapest by reduced cost first; its present one is always kept.

On d20100 from 6256, two seeds, 12 s of CPU each: 3 to 5 candidates 6231..6243, 8 candidates 6247..6249."""


@dataclass(frozen=True)
class ImproveLimits:
    """How much work: rounds of blocks, and deterministic time (CP-SAT's seconds) for one block."""

    rounds: int
    block_work: float = 0.25
    workers: int = 2


@dataclass(frozen=True, eq=False)
class Improved:
    """The better (or the same) assignment, its objective, and what was solved for it."""

    bin_of: IntArray
    objective: float
    blocks: int
    optimal_blocks: int
    rounds: int


def improve(
    problem: AssignmentProblem,
    incumbent: IntArray,
    reduced_cost: FloatArray,
    limits: ImproveLimits,
    seed: int = 0,
    go_on: Callable[[], bool] = lambda: True,
) -> Improved:
    """Search around a feasible `incumbent` ([n] bin of every job; ValueError when it is not feasible).

    `reduced_cost` [m, n] (lower is more promising) picks the candidates of a job; plain costs serve, too.
    """
    if not problem.is_feasible(incumbent):
        raise ValueError("the incumbent is not feasible")
    generator = np.random.default_rng(seed)
    bin_of, size = np.array(incumbent), float(FIRST_JOBS)
    blocks = optimal = rounds = 0
    with ThreadPoolExecutor(limits.workers) as pool:
        while rounds < limits.rounds and go_on():
            order = generator.permutation(problem.bin_count)
            per_block = int(max(2, round(size * problem.bin_count / problem.job_count)))
            chunks = [order[i : i + per_block] for i in range(0, len(order), per_block)]
            seeds = generator.integers(1, 2**30, len(chunks))
            answers = pool.map(
                lambda chunk, s: (
                    _solve_block(problem, bin_of, np.sort(chunk), reduced_cost, limits.block_work, int(s))
                    if go_on()
                    else None
                ),
                chunks, seeds,
            )  # fmt: skip
            done = [a for a in answers if a is not None]
            for answer in done:
                bin_of[answer.jobs] = answer.bin_of
            solved = sum(a.is_optimal for a in done)
            blocks, optimal, rounds = blocks + len(done), optimal + solved, rounds + 1
            if done:
                solved_frac = solved / len(done)
                size = max(FEWEST_JOBS, size * GROWTH if solved_frac > 0.7 else size / GROWTH)
                size = min(size, float(problem.job_count))
    return Improved(bin_of, problem.objective(bin_of), blocks, optimal, rounds)


@dataclass(frozen=True, eq=False)
class _Block:
    jobs: IntArray
    bin_of: IntArray
    is_optimal: bool


def _solve_block(
    p: AssignmentProblem, bin_of: IntArray, bins: IntArray, reduced: FloatArray, work: float, seed: int
) -> _Block:
    """The best assignment of the jobs on these bins among these bins, or the present one."""
    # it brings pandas along, 0.3 s that small problems do without
    from ortools.sat.python import cp_model

    jobs = np.flatnonzero(np.isin(bin_of, bins))
    present = _Block(jobs, bin_of[jobs], False)
    if len(jobs) == 0 or len(bins) < 2:
        return present
    at = np.searchsorted(bins, bin_of[jobs])
    local = np.ix_(bins, jobs)
    allowed = p.allowed[local].copy()
    rank = np.argsort(
        np.argsort(np.where(allowed, reduced[local], np.inf), axis=0, kind="stable"), axis=0, kind="stable"
    )
    allowed &= rank < MOST_CANDIDATES
    allowed[at, np.arange(len(jobs))] = True
    cost, fixed = p.cost[local], p.fixed[bins]
    now = cost[at, np.arange(len(jobs))].sum() + fixed[np.unique(at)].sum()
    whole = np.array_equal(cost, np.rint(cost)) and np.array_equal(fixed, np.rint(fixed))
    per_yuan = 1.0 if whole else COST_STEPS / max(abs(now), 1e-9)

    model = cp_model.CpModel()
    row, column = np.nonzero(allowed)
    x = [model.new_bool_var("") for _ in row]
    for k, variable in enumerate(x):
        model.add_hint(variable, bool(at[column[k]] == row[k]))
    for j in range(len(jobs)):
        model.add_exactly_one([x[k] for k in np.flatnonzero(column == j)])
    terms, weights = list(x), np.rint(cost[row, column] * per_yuan).astype(np.int64).tolist()
    for i in range(len(bins)):
        of_bin = np.flatnonzero(row == i)
        load = cp_model.LinearExpr.weighted_sum(
            [x[k] for k in of_bin], p.load[bins[i], jobs[column[of_bin]]].tolist()
        )
        capacity = int(p.capacity[bins[i]])
        if fixed[i] > 0:
            opened = model.new_bool_var("")
            model.add_hint(opened, bool((at == i).any()))
            model.add(load <= capacity * opened)
            for column_at in of_bin:
                model.add_implication(x[column_at], opened)
            terms.append(opened)
            weights.append(int(np.rint(fixed[i] * per_yuan)))
        else:
            model.add(load <= capacity)
    total = cp_model.LinearExpr.weighted_sum(terms, weights)
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = work
    solver.parameters.random_seed = seed
    solver.parameters.linearization_level = 2
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return present
    chosen = np.array([solver.boolean_value(variable) for variable in x])
    moved = np.empty(len(jobs), dtype=np.int64)
    moved[column[chosen]] = row[chosen]
    after = cost[moved, np.arange(len(jobs))].sum() + fixed[np.unique(moved)].sum()
    if after > now:
        return _Block(jobs, bin_of[jobs], status == cp_model.OPTIMAL)
    return _Block(jobs, bins[moved], status == cp_model.OPTIMAL)
