"""A plan in parts is the same inline and on Ray, with any number of workers, one Ray after the other in one process."""

from __future__ import annotations

import numpy as np

from benchmarks.fleet import fleet_problem
from solvers.decompose import LargePlan, RayRunner, solve_large


def test_parts_on_ray_give_the_plan_that_parts_inline_give():
    problem = fleet_problem(replicas=4_000, nodes=400, sites=12, classes=60, seed=7)
    plans: list[LargePlan] = [solve_large(problem, part_sites=4)]
    for workers in (1, 2):
        with RayRunner(workers) as runner:
            plans.append(solve_large(problem, runner, part_sites=4))
    first = plans[0].plan
    for other in plans[1:]:
        assert other.plan.solution.objective_yuan == first.solution.objective_yuan
        assert other.plan.solution.bounds == first.solution.bounds
        np.testing.assert_array_equal(other.plan.placements.node_index, first.placements.node_index)
        assert other.plan.placements.gpu_ids == first.placements.gpu_ids
