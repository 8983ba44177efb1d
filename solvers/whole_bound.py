"""A second proof for plans in which every class is one replica on one site: prices of classes, a knapsack per site.

For any price u[c] of "class c is served once", no plan that serves every class, whole, costs less than

    Σ_s base[s] + Σ_c u[c] + min over sets S of sites, |S| ≥ k, of  Σ_{s ∈ S} (extra[s] − K_s(u))
    K_s(u) = max Σ_c (u[c] − cost[c,s])·x[c]  with  Σ_c need[c,s]·x[c] ≤ capacity[s],  x binary

    base   a site without work: open or closed, whatever costs less, where it may close
    extra  what having work adds: overhead, start, its node on
    cost   energy of the replica on the linear part of the facility curve, and other money
    k      the fewest sites that hold the least needs of all classes

Everything left out (curvature of the plant, caps, ledgers, peaks, limits on power, links and other resources) only
forbids plans or adds cost. The prices need not be trusted. numpy alone; nothing shared with the model that plans.
Source: Geoffrion (1974); the knapsack is the usual dynamic program over whole capacities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from solvers.problem import PlacementProblem
from solvers.rounding import lowered
from solvers.solution import PlanSolution

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_CELLS = 200_000_000
"""Items times capacity of one knapsack; beyond that it is bounded by Dantzig's bound, which is larger (0.5 s)."""

WHOLE = 1e-6
"""A count so near to a whole number is one."""


def misfits(problem: PlacementProblem, plan: PlanSolution) -> list[str]:
    """Why this proof says nothing about a plan; empty: it does."""
    p = problem
    tests = {
        "more than one slot": p.slot_count != 1,
        "a class that is not one replica": bool((p.classes.demand_count != 1).any()),
        "batch work": bool((p.classes.work_replica_h > 0).any()),
        "stage graphs": bool(p.graphs),
        "a site with other than one node": bool((p.groups.node_count != 1).any())
        or not np.array_equal(np.sort(p.groups.site), np.arange(p.site_count)),
        "classes that may be left out for free": bool((p.classes.unserved_yuan_per_replica_h <= 0).any()),
        # the plant's curvature is left out, which adds to the cost only where energy costs something
        "energy that pays": bool((_yuan_per_kw(p) < 0).any()),
        "classes left out": bool((plan.unserved_count > 0).any()),
        "classes in parts": bool((np.abs(plan.running_count - np.rint(plan.running_count)) > WHOLE).any()),
    }
    return [name for name, is_so in tests.items() if is_so]


def whole_bound_yuan(problem: PlacementProblem, may_use: Bools, class_yuan: Sequence[float]) -> float:
    """What prices [C] of the classes prove; `may_use` [K] marks pairs that no rule forbids. −inf: nothing.

    Only for problems without `misfits`.
    """
    p = problem
    price = np.nan_to_num(np.asarray(class_yuan, dtype=float), nan=0.0, posinf=0.0, neginf=0.0)
    if price.shape != (p.class_count,):
        return -np.inf
    resource = int(p.pairs.need.any(axis=0).argmax()) if p.pair_count else 0
    need = p.pairs.need[:, resource]
    capacity = p.groups.capacity[:, resource]
    base, extra, yuan_per_kw = _site_yuan(p)
    pair_yuan = p.pairs.dynamic_w / 1000.0 * (yuan_per_kw * (1 + p.sites.loss_slope[:, 0]))[p.pair_site]
    pair_yuan = pair_yuan + p.pairs.other_yuan_per_replica_h * p.slots.hours[0]
    # no less than what it is worth: it is taken off
    worth = np.where(may_use, -(lowered(-price[p.pairs.class_index]) + lowered(pair_yuan)), 0.0)
    opening = lowered(extra)
    for g in range(p.group_count):
        here = np.flatnonzero((p.pairs.group_index == g) & (worth > 0) & (need <= capacity[g]))
        opening[p.groups.site[g]] -= knapsack_value(worth[here], need[here], int(capacity[g]))
    used = np.sort(opening)
    fewest = _fewest_sites(p, may_use, need, capacity)
    count = max(fewest, int((used < 0).sum()))
    return float(lowered(base).sum() + lowered(price).sum() + used[:count].sum())


def knapsack_value(worth: Floats, size: Ints, capacity: int) -> float:
    """Most worth (> 0) of items whose whole sizes add up to at most the capacity; or an upper bound on it."""
    free = size <= 0
    total, worth, size = float(worth[free].sum()), worth[~free], size[~free]
    if size.sum() <= capacity:
        return total + float(worth.sum())
    if len(size) * (capacity + 1) > MOST_CELLS:
        return total + _dantzig(worth, size, capacity)
    best = np.zeros(capacity + 1)
    for w, s in zip(worth.tolist(), size.tolist(), strict=True):
        np.maximum(best[s:], best[:-s] + w, out=best[s:])
    return total + float(best[capacity])


def _dantzig(worth: Floats, size: Ints, capacity: int) -> float:
    """The same with items that may be cut."""
    order = np.argsort(-worth / size, kind="stable")
    worth, size = worth[order], size[order]
    taken = np.clip(capacity - (np.cumsum(size) - size), 0, size)
    return float((worth * taken / size).sum())


def _yuan_per_kw(p: PlacementProblem) -> Floats:
    """[S] of facility power over the slot, carbon included."""
    carbon = p.sites.carbon_g_per_kwh[:, 0] / 1000.0 * p.terms.carbon_yuan_per_kg
    return np.asarray((p.sites.price_yuan_per_kwh[:, 0] + carbon) * p.slots.hours[0])


def _site_yuan(p: PlacementProblem) -> tuple[Floats, Floats, Floats]:
    """[S] what a site costs without work, what having work adds, and a kW of facility power over the slot."""
    s = p.sites
    yuan_per_kw = _yuan_per_kw(p)
    start = np.where(s.initially_on | ~s.may_close, 0.0, s.start_yuan)
    is_open = s.fixed_kw[:, 0] * yuan_per_kw + start
    closed = np.where(s.may_close, s.off_kw[:, 0] * yuan_per_kw, np.inf)
    base = np.minimum(is_open, closed)
    wake = p.groups.wake_yuan * np.maximum(1.0 - p.groups.initial_on_count, 0.0)
    idle = p.groups.idle_w / 1000.0 * (yuan_per_kw * (1 + s.loss_slope[:, 0]))[p.groups.site]
    node = np.zeros(p.site_count)
    np.add.at(node, p.groups.site, idle + wake)
    return base, is_open - base + node, yuan_per_kw


def _fewest_sites(p: PlacementProblem, may_use: Bools, need: Ints, capacity: Ints) -> int:
    """No fewer sites than this hold the least needs of all classes: the largest first."""
    least = np.full(p.class_count, np.inf)
    np.minimum.at(least, p.pairs.class_index[may_use], need[may_use])
    room = np.cumsum(np.sort(capacity)[::-1])
    enough = np.flatnonzero(room >= least.sum())
    return int(enough[0]) + 1 if len(enough) else p.group_count
