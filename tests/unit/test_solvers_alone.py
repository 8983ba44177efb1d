"""Replicas that never share a node: two of more than half a node take two, whatever their sum says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.alone import alone_on_node
from solvers.plan_model import solve_plan
from solvers.plan_rules import PlanOptions
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from tests.plan_problems import Town

NODE_CPUS, NODE_GIB = 16, 64


def town_of(*needs: tuple[float, float], demand: int = 1) -> PlacementProblem:
    town = Town().site("e04", fixed_kw=0.5)
    town.group("g", "e04")
    for i, (cpu, gib) in enumerate(needs):
        town.work(f"w{i}", demand=demand, cpu=cpu, memory_gib=gib)
    return town.problem()


def test_three_replicas_of_nine_cores_take_three_nodes_and_small_work_fills_them():
    problem = town_of((9, 1), (1, 1), demand=3)
    plan = solve_plan(problem, options=PlanOptions(whole_nodes=True))
    assert plan.nodes_on[0] == pytest.approx(3.0)
    assert verify_proof(problem, plan) == []


def test_a_replica_of_half_a_node_shares_it_with_another():
    problem = town_of((8, 1), demand=4)
    assert not alone_on_node(problem).any()
    assert solve_plan(problem).nodes_on[0] == pytest.approx(4 * 8 / 16 / problem.groups.packing_yield[0, 0])


def test_work_full_of_cores_and_work_full_of_memory_share_a_node():
    problem = town_of((14, 2), (2, 60))
    assert alone_on_node(problem).sum() == 1, "each is alone of its kind, but not beside the other"


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, NODE_CPUS), st.integers(1, NODE_GIB)), min_size=1, max_size=8, unique=True
    )
)
def test_no_two_replicas_of_the_set_fit_one_node(needs: list[tuple[int, int]]):
    problem = town_of(*needs)
    kept = problem.pairs.need[alone_on_node(problem)]
    for i, a in enumerate(kept):
        for b in kept[i:]:
            assert (a + b > problem.groups.capacity[0]).any()
    # and every pair left out fits a node with some member, or with its own like
    for need in problem.pairs.need[~alone_on_node(problem)]:
        others = np.vstack([kept, need[None]])
        assert (need + others <= problem.groups.capacity[0]).all(axis=1).any()
