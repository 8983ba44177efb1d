"""Lower bounds of the single-source model: its linear relaxation, and Lagrangian relaxation of "every job once".

With a price u[j] per job the problem falls apart into one knapsack per bin:

    L(u) = offset + Σ_j u[j] + min over sets S of open bins, |S| ≥ k, of  Σ_{i ∈ S} (fixed[i] − K_i(u))
    K_i(u) = max Σ_j (u[j] − cost[i,j])·x[j]  with  Σ_j load[i,j]·x[j] ≤ capacity[i],  x binary

where k bins are the fewest that can hold all jobs. Every L(u) is a proven bound. Knapsacks are solved exactly, all
bins at once, by dynamic programming over the items that Dantzig's bound leaves undecided; where that table would be
large the bound itself takes their place (larger K, so L stays valid). Source: Geoffrion (1974); Martello and Toth,
Knapsack Problems (1990), 2.2 and 2.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.assignment import AssignmentProblem
from solvers.linear import LinearModel, LpLimits, LpStatus, solve_patiently

TABLE_CELLS = 20_000_000
"""Largest table of the exact knapsack (items · bins · capacity): about 0.2 s and 20 MB."""
PATIENCE = 20
"""Ascent steps without a better bound before the step length is halved."""
SHORTEST_STEP = 0.005
ROUNDING = 1e-6
"""Relative room for floating point when a bound is rounded up to whole costs."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Bound and prices. `job_price[j]`: u; `bin_price[i]`: yuan per unit of capacity; reduced costs are ≥ 0."""

    bound: float
    job_price: FloatArray
    bin_price: FloatArray
    fraction: FloatArray
    """[m, n] the relaxed assignment (of the linear relaxation: fractional; of knapsacks: the last one taken)."""

    def reduced_cost(self, problem: AssignmentProblem) -> FloatArray:
        """[m, n] cost + bin price · load − job price; inf where not allowed."""
        reduced = problem.cost + self.bin_price[:, None] * problem.load - self.job_price
        return np.where(problem.allowed, reduced, np.inf)


def linear_relaxation(problem: AssignmentProblem, limits: LpLimits) -> Relaxation | None:
    """The linear relaxation without fixed costs (all bins open); None: it has no solution, or none was found."""
    p = problem
    bins, jobs = np.nonzero(p.allowed)
    model = LinearModel(offset=p.offset)
    x = model.add_columns("assign", len(bins), cost=p.cost[bins, jobs])
    once = model.add_rows("once", p.job_count, lower=1.0, upper=1.0)
    room = model.add_rows("capacity", p.bin_count, upper=p.capacity)
    model.add_entries(once.start + jobs, x.index, 1.0)
    model.add_entries(room.start + bins, x.index, p.load[bins, jobs])
    result = solve_patiently(model.program(), limits)
    if result.status is not LpStatus.OPTIMAL:
        return None
    fraction = np.zeros(p.cost.shape)
    fraction[bins, jobs] = result.x
    bin_price = np.maximum(-result.duals[room.slice], 0.0)
    return priced(problem, bin_price, fraction)


def priced(problem: AssignmentProblem, bin_price: FloatArray, fraction: FloatArray) -> Relaxation:
    """The bound that any bin prices ≥ 0 prove: Σ_j min_i (cost + price·load) − Σ price·capacity + offset."""
    p = problem
    job_price = np.where(p.allowed, p.cost + bin_price[:, None] * p.load, np.inf).min(axis=0)
    bound = p.offset + float(job_price.sum()) - float(bin_price @ p.capacity)
    return Relaxation(bound, job_price, bin_price, fraction)


@dataclass(frozen=True, eq=False)
class Knapsacks:
    """Answers of all bins for one vector of prices."""

    value: FloatArray
    """[m] K, or an upper bound on it."""
    take: BoolArray
    """[m, n] the items taken (of Dantzig's solution without its broken item, where K is only bounded)."""
    price: FloatArray
    """[m] value per unit of capacity at the margin."""


def knapsacks(profit: FloatArray, load: IntArray, capacity: IntArray, cells: int = TABLE_CELLS) -> Knapsacks:
    """Best subset of the n items for every bin; items of no profit or larger than the bin are left out."""
    bins = np.arange(len(capacity))
    useful = (profit > 0) & (load <= capacity[:, None])
    worth = np.where(useful, profit, 0.0)
    size = np.where(useful, load, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(useful, np.where(size > 0, worth / size, np.inf), -np.inf)
    order = np.argsort(-density, axis=1, kind="stable")
    worth, size = np.take_along_axis(worth, order, 1), np.take_along_axis(size, order, 1)
    useful = np.take_along_axis(useful, order, 1)

    # Dantzig: fill in order of density; the first item that does not fit sets the price of capacity
    fits = np.cumsum(size, axis=1) <= capacity[:, None]
    breaks = ~fits & useful
    broken = np.where(breaks.any(axis=1), breaks.argmax(axis=1), -1)
    has_break = broken >= 0
    whole = fits & useful
    low = (worth * whole).sum(axis=1)
    left = capacity - (size * whole).sum(axis=1)
    price = np.where(has_break, worth[bins, broken] / np.maximum(size[bins, broken], 1), 0.0)
    high = low + price * left
    take = np.zeros(profit.shape, dtype=bool)

    # what can neither enter nor leave without falling below `low` is decided
    swing = worth - price[:, None] * size
    gap = (high - low)[:, None] + 1e-9
    open_items = useful & (np.abs(swing) <= gap) & has_break[:, None]
    sure = useful & ~open_items & (swing > 0)
    room = capacity - (size * sure).sum(axis=1)
    count = int(open_items.sum(axis=1).max(initial=0))
    if count == 0 or count * len(capacity) * (int(room.max()) + 1) > cells:
        np.put_along_axis(take, order, whole, 1)
        return Knapsacks(high, take, price)

    chosen_order = np.argsort(~open_items, axis=1, kind="stable")[:, :count]
    is_open = np.take_along_axis(open_items, chosen_order, 1)
    widest = int(room.max())
    item_worth = np.where(is_open, np.take_along_axis(worth, chosen_order, 1), 0.0)
    item_size = np.where(is_open, np.take_along_axis(size, chosen_order, 1), widest + 1)
    best = np.full((len(capacity), 2 * widest + 2), -np.inf)
    best[:, widest + 1 :] = 0.0
    table, flat = best[:, widest + 1 :], best.ravel()
    position = (bins * best.shape[1] + widest + 1)[:, None] + np.arange(widest + 1)
    taken = np.zeros((count, len(capacity), widest + 1), dtype=bool)
    for k in range(count):
        with_item = flat[position - np.minimum(item_size[:, k], widest + 1)[:, None]] + item_worth[:, k, None]
        np.greater(with_item, table, out=taken[k])
        np.maximum(table, with_item, out=table)
    value = (worth * sure).sum(axis=1) + table[bins, room]
    rest = room.copy()
    picks = np.zeros((len(capacity), count), dtype=bool)
    for k in range(count - 1, -1, -1):
        picks[:, k] = taken[k, bins, rest]
        rest -= np.where(picks[:, k], item_size[:, k], 0)
    in_order = sure
    np.put_along_axis(in_order, chosen_order, picks | np.take_along_axis(sure, chosen_order, 1), 1)
    np.put_along_axis(take, order, in_order, 1)
    return Knapsacks(value, take, price)


def dantzig_prices(problem: AssignmentProblem, job_price: FloatArray) -> FloatArray:
    """[m] value per unit of capacity at the margin of every bin's knapsack, at these prices of the jobs."""
    profit = np.where(problem.allowed, job_price - problem.cost, -1.0)
    return knapsacks(profit, problem.load, problem.capacity, cells=0).price


def fewest_bins(problem: AssignmentProblem) -> int:
    """No fewer bins than this can hold the least load of all jobs: the largest capacities first."""
    least = int(np.where(problem.allowed, problem.load, np.iinfo(np.int64).max).min(axis=0).sum())
    enough = np.cumsum(np.sort(problem.capacity)[::-1]) >= least
    return int(enough.argmax()) + 1 if enough.any() else problem.bin_count


@dataclass(frozen=True, eq=False)
class Lagrangian:
    """One evaluation of L(u)."""

    bound: float
    opening: FloatArray
    """[m] fixed − K: what opening the bin costs at these prices; negative: it pays."""
    is_open: BoolArray
    times_served: IntArray
    """[n] how many open bins take the job."""
    knapsacks: Knapsacks


def lagrangian(
    problem: AssignmentProblem, job_price: FloatArray, fewest: int, cells: int = TABLE_CELLS
) -> Lagrangian:
    """L(u) for one vector of prices; knapsacks of more than `cells` are bounded by Dantzig's bound."""
    p = problem
    profit = np.where(p.allowed, job_price - p.cost, -1.0)
    answer = knapsacks(profit, p.load, p.capacity, cells)
    opening = p.fixed - answer.value
    is_open = opening < 0
    missing = fewest - int(is_open.sum())
    if missing > 0:
        is_open[np.argsort(np.where(is_open, np.inf, opening), kind="stable")[:missing]] = True
    bound = p.offset + float(job_price.sum()) + float(opening[is_open].sum())
    return Lagrangian(bound, opening, is_open, (answer.take & is_open[:, None]).sum(axis=0), answer)


def ascend(
    problem: AssignmentProblem,
    job_price: FloatArray,
    target: float,
    steps: int,
    go_on: Callable[[], bool] = lambda: True,
    cells: int = TABLE_CELLS,
) -> tuple[Lagrangian, FloatArray]:
    """The best L(u) of a subgradient ascent from `job_price` towards `target` (an objective value), and its prices.

    Step length θ·(target − L)/‖g‖² with g = 1 − times served; θ halves after PATIENCE steps without improvement
    (Held, Wolfe and Crowder 1974). The direction is smoothed with the last one (Camerini, Fratta and Maffioli 1975).
    """
    fewest = fewest_bins(problem)
    best, best_price = lagrangian(problem, job_price, fewest, cells), job_price
    now, price, theta, stale = best, job_price, 1.0, 0
    direction = np.zeros(problem.job_count)
    for _ in range(steps):
        slope = 1.0 - now.times_served
        if not slope.any() or theta < SHORTEST_STEP or not go_on():
            break
        direction = slope + 0.3 * direction
        norm = float(direction @ direction)
        if norm == 0.0:
            break
        length = theta * max(target - now.bound, 1e-6 * abs(target)) / norm
        price = price + length * direction
        now = lagrangian(problem, price, fewest, cells)
        if now.bound > best.bound + 1e-9 * abs(best.bound):
            best, best_price, stale = now, price, 0
        else:
            stale += 1
        if stale >= PATIENCE:
            theta, stale = theta / 2, 0
            now, price, direction = best, best_price, np.zeros(problem.job_count)
    return best, best_price


def promising_pairs(
    problem: AssignmentProblem, job_price: FloatArray, dual: Lagrangian, limit: float
) -> BoolArray:
    """[m, n] pairs that a solution below `limit` may use; by penalties on L(u) = `dual.bound`.

    With capacity price λ a knapsack that must take j is worth at most λ·capacity + Σ_k (profit_k − λ·load_k)⁺ plus the
    negative part of j's own term. Forcing a closed bin open adds its opening cost; where bins were opened only to reach
    the fewest number, the dearest open one may close in return.
    """
    p, k = problem, dual.knapsacks
    profit = np.where(p.allowed, job_price - p.cost, 0.0)
    swing = np.where(p.allowed, profit - k.price[:, None] * p.load, -np.inf)
    most = k.price * p.capacity + np.maximum(np.where(p.load <= p.capacity[:, None], swing, 0.0), 0.0).sum(
        axis=1
    )
    in_return = max(0.0, float(dual.opening[dual.is_open].max(initial=0.0)))
    others = np.where(dual.is_open, dual.bound - dual.opening, dual.bound - in_return)
    with_bin = others + p.fixed - k.value
    with_pair = others[:, None] + (p.fixed - most)[:, None] - np.minimum(swing, 0.0)
    fits = p.load <= p.capacity[:, None]
    return np.asarray(p.allowed & fits & (with_pair < limit) & (with_bin < limit)[:, None])


def rounded_up(problem: AssignmentProblem, bound: float) -> float:
    """With whole costs no solution lies strictly between two whole numbers."""
    if not problem.has_whole_costs:
        return bound
    return float(np.ceil(bound - ROUNDING * max(1.0, abs(bound))))
