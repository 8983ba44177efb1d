"""Tiny single-source problems and their exact optimum by trying every assignment."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.assignment import Instance
from solvers.archive import IntArray
from solvers.assignment import AssignmentProblem


def random_instance(seed: int, *, fixed_costs: bool | None = None, whole_costs: bool = True) -> Instance:
    """1..4 bins, 1..6 jobs, capacities from hopeless to plenty; loads depend on the bin without fixed costs."""
    rng = np.random.default_rng(seed)
    bins, jobs = int(rng.integers(1, 5)), int(rng.integers(1, 7))
    with_fixed = bool(rng.random() < 0.5) if fixed_costs is None else fixed_costs
    load = np.tile(rng.integers(0, 10, jobs), (bins, 1)) if with_fixed else rng.integers(0, 10, (bins, jobs))
    room = rng.uniform(0.9, 2.5) * load.mean(axis=0).sum() / bins
    capacity = np.maximum(rng.uniform(0.5, 1.5, bins) * room, 0).astype(np.int64)
    cost = rng.integers(0, 30, (bins, jobs)).astype(float)
    fixed = rng.integers(0, 40, bins).astype(float) if with_fixed else np.zeros(bins)
    if not whole_costs:
        cost, fixed = cost + rng.random((bins, jobs)), fixed * rng.random(bins)
    return Instance(f"random-{seed}", cost, load.astype(np.int64), capacity, fixed)


def arrays_of(instance: Instance) -> AssignmentProblem:
    """The instance without the detour over a placement problem."""
    return AssignmentProblem(
        cost=instance.cost,
        load=instance.load,
        capacity=instance.capacity,
        fixed=instance.fixed,
        allowed=np.ones(instance.cost.shape, dtype=bool),
    )


def every_assignment(bins: int, jobs: int) -> IntArray:
    """[bins^jobs, jobs]."""
    return np.array(list(itertools.product(range(bins), repeat=jobs)), dtype=np.int64).reshape(-1, jobs)


def cheapest(p: AssignmentProblem) -> float:
    """Optimum by enumeration, from the model's text and not from the class's own methods; inf: none is feasible."""
    jobs = np.arange(p.job_count)
    best = np.inf
    for bin_of in every_assignment(p.bin_count, p.job_count):
        used = [int(p.load[i, jobs[bin_of == i]].sum()) for i in range(p.bin_count)]
        if not p.allowed[bin_of, jobs].all() or any(u > c for u, c in zip(used, p.capacity, strict=True)):
            continue
        opened = sum(float(p.fixed[i]) for i in range(p.bin_count) if (bin_of == i).any())
        best = min(best, float(p.cost[bin_of, jobs].sum()) + opened + p.offset)
    return best
