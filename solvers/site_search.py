"""Which sites to open: Lagrangian prices propose, exchanges of sites improve.

A set of open sites is judged by its fixed costs and the linear relaxation of the assignment within it. That is below
its true cost by little, as at most one job per site is split between sites.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.assignment import AssignmentProblem
from solvers.assignment_bounds import (
    Lagrangian,
    ascend,
    fewest_bins,
    lagrangian,
    linear_relaxation,
)
from solvers.linear import LpLimits

NEIGHBOUR_SITES = 25
"""Closed sites that a set's neighbours may open, cheapest at the Lagrangian prices first."""
KICKED = 2
"""Sites exchanged at random when no single move is left."""
QUICK_STEPS = 40
"""Subgradient steps that judge a set of open sites before its linear program is solved."""
SHARP_STEPS, SHARP_CELLS = 40, 2_000_000
"""Last ascent steps with exact knapsacks of at most so many cells, which take 10 to 100 times as long as bounds."""
SAME = 1e-9
"""Relative difference of two values that counts as none."""


class SiteSearch:
    """Search over sets of open sites; `sites` is the best set known and `value` what the judge says of it."""

    def __init__(self, problem: AssignmentProblem, ascent_steps: int, seed: int) -> None:
        self._problem, self._steps = problem, ascent_steps
        self._generator = np.random.default_rng(seed)
        self.judge = Judge(problem)
        even = problem.cost + problem.fixed[:, None] * problem.load / np.maximum(problem.capacity, 1)[:, None]
        self.prices: FloatArray = np.where(problem.allowed, even, np.inf).min(axis=0)
        """Prices of the jobs that gave `dual`."""
        self.dual: Lagrangian = lagrangian(problem, self.prices, fewest_bins(problem), cells=0)
        """The best Lagrangian bound so far; knapsacks by Dantzig's bound, which is quick."""
        self.sites = _enough(problem, self.dual)
        self.value = self.judge.value(self.sites)

    def begin(self, go_on: Callable[[], bool]) -> None:
        """Ascend towards the value of the best set, descend from the set the prices propose; twice."""
        self._descend_from(self.sites, go_on)
        for _ in range(2):
            if not np.isfinite(self.value):
                return
            self.dual, self.prices = ascend(
                self._problem, self.prices, self.value, self._steps, go_on, cells=0
            )
            self._descend_from(_enough(self._problem, self.dual), go_on)
            self._descend_from(self.sites, go_on)

    def exchange(self, trials: int, go_on: Callable[[], bool]) -> None:
        """Descents from the best set with some sites exchanged at random, for so many sets tried."""
        end = self.judge.trials + trials

        def more() -> bool:
            return self.judge.trials < end and go_on()

        while more():
            self._descend_from(self._kicked(), more)

    def sharpened(self, go_on: Callable[[], bool]) -> tuple[float, FloatArray]:
        """The bound at the best prices and after a few more steps, with exact knapsacks; and its prices."""
        target = self.value if np.isfinite(self.value) else self.dual.bound * 1.01
        dual, prices = ascend(self._problem, self.prices, target, SHARP_STEPS, go_on, SHARP_CELLS)
        return max(self.dual.bound, dual.bound), prices

    def _descend_from(self, sites: IntArray, go_on: Callable[[], bool]) -> None:
        """Take the first better neighbour until there is none; keep the end if it is the best set so far."""
        value, moved = self.judge.value(sites), True
        while moved and go_on():
            moved = False
            for candidate in _neighbours(sites, self.dual.opening, self._problem):
                if not go_on():
                    break
                now = self.judge.value(candidate, below=value)
                if now < value - SAME * abs(value):
                    sites, value, moved = candidate, now, True
                    break
        if value < self.value:
            self.sites, self.value = sites, value

    def _kicked(self) -> IntArray:
        """The best set with KICKED sites exchanged at random for promising closed ones."""
        promising = np.argsort(self.dual.opening, kind="stable")[: len(self.sites) + NEIGHBOUR_SITES]
        closed = np.setdiff1d(promising, self.sites)
        out = self._generator.choice(self.sites, min(KICKED, len(self.sites)), replace=False)
        new = self._generator.choice(closed, min(KICKED, len(closed)), replace=False)
        return np.asarray(np.union1d(np.setdiff1d(self.sites, out), new).astype(np.int64))


class Judge:
    """Values of sets of open sites. A quick dual bound spares the linear program of most sets that are too dear."""

    def __init__(self, problem: AssignmentProblem) -> None:
        self._problem, self._known = problem, dict[bytes, float]()
        self._load = np.where(problem.allowed, problem.load, 0).astype(float)
        self._cost = np.where(problem.allowed, problem.cost, np.inf)
        self._bin_price = np.zeros(problem.bin_count)
        self.trials = self.programs = 0

    def value(self, sites: IntArray, below: float = np.inf) -> float:
        """Fixed costs and relaxed assignment of these sites; inf: they cannot hold all jobs, or not `below` that."""
        key = sites.tobytes()
        self.trials += 1  # known ones too, so that a search among few sets ends
        if key not in self._known:
            if not self._holds(sites):
                self._known[key] = np.inf
            elif np.isfinite(below) and self._bound(sites, below) >= below:
                return np.inf
            else:
                self._known[key] = self._relaxed(sites)
        return self._known[key]

    def best_sets(self) -> list[tuple[float, IntArray]]:
        """Values and sets of all that were judged by their linear program and hold all jobs, cheapest first."""
        sets = [(v, np.frombuffer(k, dtype=np.int64)) for k, v in self._known.items() if np.isfinite(v)]
        return sorted(sets, key=lambda s: s[0])

    def _holds(self, sites: IntArray) -> bool:
        """Every job is allowed somewhere, and the least loads fit in all capacities together."""
        p = self._problem
        if not p.allowed[sites].any(axis=0).all():
            return False
        least = np.where(p.allowed[sites], p.load[sites], np.iinfo(np.int64).max).min(axis=0)
        return bool(least.sum() <= p.capacity[sites].sum())

    def _relaxed(self, sites: IntArray) -> float:
        self.programs += 1
        relaxation = linear_relaxation(self._problem.within(sites), LpLimits())
        if relaxation is None:
            return np.inf
        self._bin_price[sites] = relaxation.bin_price
        return relaxation.bound

    def _bound(self, sites: IntArray, limit: float) -> float:
        """Highest of QUICK_STEPS dual bounds on the value, from the last known capacity prices of the sites."""
        p = self._problem
        cost, load, capacity = self._cost[sites], self._load[sites], p.capacity[sites]
        jobs = np.arange(p.job_count)
        constant = p.offset + float(p.fixed[sites].sum())
        price, theta, highest = self._bin_price[sites], 1.0, -np.inf
        for _ in range(QUICK_STEPS):
            dear = cost + price[:, None] * load
            to = dear.argmin(axis=0)
            bound = constant + float(dear[to, jobs].sum()) - float(price @ capacity)
            if bound > highest:
                highest = bound
            else:
                theta *= 0.7
            if highest >= limit:
                break
            over = np.bincount(to, weights=load[to, jobs], minlength=len(sites)) - capacity
            over[(price <= 0) & (over < 0)] = 0.0
            norm = float(over @ over)
            if norm == 0.0:
                break
            price = np.maximum(price + theta * (1.001 * limit - bound) / norm * over, 0.0)
        return highest


def _enough(p: AssignmentProblem, dual: Lagrangian) -> IntArray:
    """The sites open at the prices, and the next ones until their capacity holds the least load of all jobs."""
    least = int(np.where(p.allowed, p.load, np.iinfo(np.int64).max).min(axis=0).sum())
    order = np.lexsort((dual.opening, ~dual.is_open))
    enough = int((np.cumsum(p.capacity[order]) < least).sum()) + 1
    return np.sort(order[: max(enough, int(dual.is_open.sum()))])


def _neighbours(sites: IntArray, opening: FloatArray, p: AssignmentProblem) -> list[IntArray]:
    """Sets one move away: dearest open ones close first, cheapest closed ones open first."""
    closed = np.setdiff1d(np.arange(p.bin_count), sites)
    closed = closed[np.argsort(opening[closed], kind="stable")][:NEIGHBOUR_SITES]
    leaving = sites[np.argsort(-opening[sites], kind="stable")]
    drops = [np.setdiff1d(sites, [out]) for out in leaving] if len(sites) > 1 else []
    adds = [np.union1d(sites, [new]) for new in closed]
    swaps = [np.union1d(np.setdiff1d(sites, [out]), [new]) for new in closed for out in leaving]
    return [*drops, *adds, *swaps]
