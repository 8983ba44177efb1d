"""A plan in parts is the same inline and on Ray, with any number of workers, one Ray after the other in one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLANS = """
import hashlib, json
from benchmarks.fleet import fleet_problem
from solvers.decompose import RayRunner, solve_large

def told(large):
    plan = large.plan
    nodes = plan.placements.node_index.tobytes() + repr(plan.placements.gpu_ids).encode()
    bound = plan.solution.bounds[0]
    return [hashlib.sha256(nodes).hexdigest(), bound.objective_yuan, bound.bound_yuan, large.part_count]

problem = fleet_problem(replicas=4_000, nodes=400, sites=12, classes=60, seed=7)
plans = [told(solve_large(problem, part_sites=4))]
for workers in (1, 2):
    with RayRunner(workers) as runner:
        plans.append(told(solve_large(problem, runner, part_sites=4)))
print(json.dumps(plans))
"""


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_parts_on_ray_give_the_plan_that_parts_inline_give():
    # a process of its own: Ray keeps the first token that a process shows it, and other tests start Ray too
    run = subprocess.run([sys.executable, "-c", PLANS], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    inline, one_worker, two_workers = json.loads(run.stdout.splitlines()[-1])
    assert inline[3] >= 3
    assert one_worker == inline
    assert two_workers == inline
