"""Exchange annealing: capacity is enforced by a price that rises slowly, while jobs change places in large exchanges.

One exchange takes at most one job from every bin, at random, and deals them out again at most one to a bin, at least
total cost: a linear assignment problem, solved exactly. So a step chooses among up to m! neighbours and costs tens of
microseconds. Load above capacity costs `scale · bin price` per unit; `scale` grows geometrically from below 1, where
the relaxed solution is overloaded but cheap, to where overload no longer pays. The slower it grows, the better the
answer: that, and not temperature, is what anneals (a small uniform noise only breaks ties). Measured in
docs/assignment.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.assignment import AssignmentProblem
from solvers.assignment_bounds import Relaxation

FIRST_SCALE, LAST_SCALE = 0.8, 60.0
"""Below 1 overload is cheaper than its shadow price; at 60 one unit costs more than any exchange gains (type D)."""
NOISE = 0.2
"""Amplitude of the noise in units of the median third-smallest reduced cost; 0.05 to 0.5 measured alike, 1.5 worse."""
STAY_FRAC = 0.25
"""Share of bins that give no job in an exchange, so that jobs can also simply move; 0.25 and 0.5 measured alike."""
FEWEST_PRICE_FRAC = 0.3
"""Bins whose shadow price is (nearly) 0 are given this share of the mean, so that overload is never free."""
FEASIBLE_STEPS = 400
"""Feasible steps after which the price has done its work."""
STEPS_BETWEEN_LOOKS = 32


@dataclass(frozen=True, eq=False)
class Found:
    """Best feasible assignment of a run (None: none) and the exchanges it took."""

    bin_of: IntArray | None
    objective: float
    exchanges: int


def anneal(
    problem: AssignmentProblem,
    relaxation: Relaxation,
    seed: int,
    exchanges: int,
    progress: Callable[[int], float] | None = None,
) -> Found:
    """One run from the relaxation's rounding. All bins are taken to be open: fixed costs play no part.

    `progress(step)` tells how much of the run is over (0..1, the run ends at 1); by default step / exchanges, which
    is deterministic. Equal arguments give equal answers.
    """
    # 0.2 s of loading that small problems, solved without annealing, do without
    from scipy.optimize import linear_sum_assignment

    p, jobs = problem, np.arange(problem.job_count)
    generator = np.random.default_rng(seed)
    reduced = np.maximum(relaxation.reduced_cost(p), 0.0)
    cost, load, capacity = _dense_cost(p).T.copy(), p.load.T.astype(float), p.capacity.astype(float)
    price = _overload_price(p, relaxation.bin_price, reduced)
    noise = NOISE * _typical(reduced)
    bin_of = np.where(p.allowed, relaxation.fraction, -1.0).argmax(axis=0)
    used = np.bincount(bin_of, weights=load[jobs, bin_of], minlength=p.bin_count)
    best, best_cost, feasible_steps, step, done = None, np.inf, 0, 0, 0.0
    over_price = price * FIRST_SCALE
    while feasible_steps < FEASIBLE_STEPS:
        if step % STEPS_BETWEEN_LOOKS == 0:
            done = step / max(exchanges, 1) if progress is None else progress(step)
            if done >= 1.0:
                break
            over_price = price * (FIRST_SCALE * (LAST_SCALE / FIRST_SCALE) ** done)
        step += 1
        shuffled = generator.permutation(p.job_count)
        given = np.full(p.bin_count, -1)
        given[bin_of[shuffled]] = shuffled
        moving = given[(given >= 0) & (generator.random(p.bin_count) >= STAY_FRAC)]
        if not len(moving):
            continue
        without = used.copy()
        without[bin_of[moving]] -= load[moving, bin_of[moving]]
        overload = np.maximum(without + load[moving] - capacity, 0.0) - np.maximum(without - capacity, 0.0)
        dealt = cost[moving] + over_price * overload + noise * generator.random((len(moving), p.bin_count))
        _, to = linear_sum_assignment(dealt)
        bin_of[moving] = to
        used = without
        used[to] += load[moving, to]
        if (used <= capacity).all():
            feasible_steps += 1
            now = float(cost[jobs, bin_of].sum())
            if now < best_cost and p.allowed[bin_of, jobs].all():
                best, best_cost = bin_of.copy(), now
    return Found(best, np.inf if best is None else p.objective(best), step)


def _dense_cost(p: AssignmentProblem) -> FloatArray:
    """Cost with forbidden pairs dearer than any complete assignment of allowed ones."""
    spread = float(np.ptp(p.cost[p.allowed])) if p.allowed.any() else 0.0
    return np.where(p.allowed, p.cost, float(np.abs(p.cost).max()) + 10.0 * (spread + 1.0))


def _overload_price(p: AssignmentProblem, bin_price: FloatArray, reduced: FloatArray) -> FloatArray:
    """[m] yuan per unit of load above capacity at scale 1."""
    mean = float(bin_price.mean())
    if mean <= 0.0:
        mean = _typical(reduced) / max(float(p.load.mean()), 1.0)
    return np.maximum(bin_price, FEWEST_PRICE_FRAC * mean)


def _typical(reduced: FloatArray) -> float:
    """Median over the jobs of the third-smallest reduced cost: what a detour costs; never 0."""
    third = np.sort(reduced, axis=0)[min(2, len(reduced) - 1)]
    finite = third[np.isfinite(third)]
    typical = float(np.median(finite)) if len(finite) else 0.0
    positive = reduced[np.isfinite(reduced) & (reduced > 0)]
    return typical if typical > 0 else (float(positive.mean()) if len(positive) else 1.0)
